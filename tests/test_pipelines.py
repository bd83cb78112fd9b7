"""Pipelines: what a run put between environment and agent is put there again."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.box2d import car_racing as stock
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from stand_ins import Walk

from sb3_carracing.pipelines import Pipeline, WrapperCall, import_by_path, pipeline_env, wrapper_calls

ENV_ID = "Pendulum-v1"


@pytest.mark.parametrize(
    ("entry", "calls"),
    [
        (None, ()),
        ("m.W", (WrapperCall("m.W"),)),
        ({"m.W": {"k": 1}}, (WrapperCall("m.W", {"k": 1}),)),
        (["m.W", {"m.V": None}], (WrapperCall("m.W"), WrapperCall("m.V"))),
    ],
)
def test_wrapper_forms(entry: Any, calls: tuple[WrapperCall, ...]) -> None:
    assert wrapper_calls(entry) == calls


@pytest.mark.parametrize("entry", [3, [3], {"m.W": {}, "m.V": {}}])
def test_other_wrapper_forms_are_refused(entry: Any) -> None:
    with pytest.raises(ValueError, match="must be a dotted path"):
        wrapper_calls(entry)


def test_names_that_cannot_be_imported() -> None:
    for path in ("NoDots", "no.such.module.Name", "gymnasium.wrappers.NoSuchWrapper"):
        with pytest.raises(ValueError, match=f"cannot import '{path}'"):
            import_by_path(path)


def test_vec_env_is_wrapped_in_rl_zoo3s_order(tmp_path: Path) -> None:
    def make() -> DummyVecEnv:
        return DummyVecEnv([lambda: gym.make(ENV_ID)])

    normalized = VecNormalize(make())
    normalized.obs_rms.mean[:] = [1.0, 2.0, 3.0]  # type: ignore[union-attr]
    file = tmp_path / "vecnormalize.pkl"
    pipeline = Pipeline(ENV_ID, normalize=file, frame_stack=2)
    with pytest.raises(ValueError, match=r"statistics .*vecnormalize\.pkl are missing"):
        pipeline.wrap_vec_env(make())
    normalized.save(str(file))
    venv = pipeline.wrap_vec_env(make())
    assert isinstance(venv, VecFrameStack)
    assert isinstance(venv.venv, VecNormalize)
    assert not venv.venv.training
    assert not venv.venv.norm_reward
    np.testing.assert_array_equal(venv.venv.obs_rms.mean, [1.0, 2.0, 3.0])  # type: ignore[union-attr]


class TakesNoops(Walk):
    """Another environment whose keyword has the name of a training rule of ours."""

    def __init__(self, noop_frames: int) -> None:
        super().__init__()
        self.noop_frames = noop_frames


def test_keywords_of_other_environments_are_theirs() -> None:
    gym.register("SB3CarRacingNoops-v0", TakesNoops)
    try:
        env = pipeline_env(Pipeline("SB3CarRacingNoops-v0", {"noop_frames": 3}), renderer=None)()
        assert env.unwrapped.noop_frames == 3  # type: ignore[attr-defined]
    finally:
        del gym.registry["SB3CarRacingNoops-v0"]


@pytest.mark.parametrize("env_id", ["CarRacingBlog-v3", "CarRacingIurin-v3"])
def test_the_stock_pipeline_shows_what_the_id_shows(env_id: str) -> None:
    original, rebuilt = gym.make(env_id), pipeline_env(Pipeline(env_id))()
    assert rebuilt.observation_space == original.observation_space
    assert rebuilt.action_space == original.action_space
    assert type(rebuilt.unwrapped) is stock.CarRacing
    rebuilt.action_space.seed(0)
    np.testing.assert_array_equal(rebuilt.reset(seed=3)[0], original.reset(seed=3)[0])
    for _ in range(5):
        action = rebuilt.action_space.sample()
        np.testing.assert_array_equal(rebuilt.step(action)[0], original.step(action)[0])


@pytest.mark.usefixtures("cheap")
def test_keywords_of_the_view_become_wrappers_around_stock() -> None:
    kwargs = {"frame_skip": 4, "grayscale": True, "continuous": False}
    env = pipeline_env(Pipeline("CarRacingFast-v3", kwargs))()
    env.reset(seed=0)
    info = env.step(0)[4]
    assert env.observation_space == spaces.Box(0, 255, (96, 96), np.uint8)
    assert env.action_space == spaces.Discrete(5)
    assert info["frames"] == 4


def test_training_rules_of_a_registered_id_are_left_out_too() -> None:
    gym.register(
        "SB3CarRacingStrict-v0", "sb3_carracing.envs.car_racing:CarRacing", kwargs={"off_road_frames": 5, "frame_skip": 2}
    )
    try:
        env = pipeline_env(Pipeline("SB3CarRacingStrict-v0"), renderer=None)()
        assert env.unwrapped.rules.options["off_road_frames"] == 0  # type: ignore[attr-defined]
        assert env.unwrapped.frame_skip == 2  # type: ignore[attr-defined]
        env.close()
    finally:
        del gym.registry["SB3CarRacingStrict-v0"]


def test_bad_ids_and_renderers() -> None:
    with pytest.raises(ValueError, match=r"unknown environment 'CarRacng-v3'.*CarRacing"):
        pipeline_env(Pipeline("CarRacng-v3"))
    with pytest.raises(ValueError, match="'Pendulum-v1' is another environment"):
        pipeline_env(Pipeline("Pendulum-v1"))
    with pytest.raises(ValueError, match="renderer must be one of 'stock', 'fast', got 'Stock'"):
        pipeline_env(Pipeline("CarRacing-v3"), renderer="Stock")  # type: ignore[arg-type]
