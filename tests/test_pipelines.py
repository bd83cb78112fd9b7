"""Pipelines: what a run put between environment and agent is put there again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.box2d import car_racing as stock
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)
from stand_ins import REPEAT_4, Walk

from sb3_carracing.envs.counts import Counts, counts_of
from sb3_carracing.envs.wrappers import ActionRepeat
from sb3_carracing.pipelines import (
    Pipeline,
    RawScore,
    WrapperCall,
    frames_per_step,
    import_by_path,
    not_repeated,
    pipeline_env,
    wrap_alike,
    wrapper_calls,
)

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
    normalized.obs_rms.mean[:] = [1.0, 2.0, 3.0]  # type: ignore[attr-defined]
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
    np.testing.assert_array_equal(venv.venv.obs_rms.mean, [1.0, 2.0, 3.0])  # type: ignore[attr-defined]


class TakesNoops(Walk):
    """Another environment whose keyword has the name of a training rule of ours."""

    def __init__(self, noop_frames: int) -> None:
        super().__init__()
        self.noop_frames = noop_frames


def test_keywords_of_other_environments_are_theirs() -> None:
    gym.register("SB3CarRacingNoops-v0", TakesNoops)  # type: ignore[arg-type]
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


class Images(gym.Env[Any, np.ndarray]):
    """Observations with an image and a vector, or the image alone."""

    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, parts: bool = False) -> None:
        image = spaces.Box(0, 255, (40, 48, 3), np.uint8)
        self.observation_space = spaces.Dict({"image": image, "vector": spaces.Box(-9.0, 9.0, (4, 7))}) if parts else image

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 1.0, False, False, {}


def vector(venv: VecEnv) -> VecEnv:
    return VecExtractDictObs(venv, "vector")


VEC_WRAPPERS: dict[str, tuple[bool, Callable[[VecEnv], VecEnv]]] = {
    "stack": (False, lambda venv: VecFrameStack(venv, 3)),
    "stack of channels first": (False, lambda venv: VecFrameStack(VecTransposeImage(venv), 3)),
    "stack along the first axis": (True, lambda venv: VecFrameStack(vector(venv), 3, channels_order="first")),
    "stack along the last axis": (True, lambda venv: VecFrameStack(vector(venv), 3, channels_order="last")),
    "stack of parts": (True, lambda venv: VecFrameStack(venv, 2, channels_order={"image": "first", "vector": "last"})),
    "one key": (True, vector),
    "image as it is": (False, lambda venv: VecTransposeImage(venv, skip=True)),
    "image turned": (False, VecTransposeImage),
    "normalised part": (True, lambda venv: VecNormalize(venv, norm_obs_keys=["vector"], clip_obs=0.5, epsilon=1e-2)),
    "monitored": (False, lambda venv: VecFrameStack(VecMonitor(VecCheckNan(venv)), 2)),
}


@pytest.mark.parametrize("name", VEC_WRAPPERS)
def test_vectorised_wrappers_are_repeated_with_their_arguments(name: str) -> None:
    parts, wrap = VEC_WRAPPERS[name]
    training = wrap(DummyVecEnv([lambda: Images(parts)] * 2))
    assert not_repeated(training) == []
    repeated = wrap_alike(training, DummyVecEnv([lambda: Images(parts)]))
    expected = wrap(DummyVecEnv([lambda: Images(parts)]))
    for venv in (repeated, expected):
        venv.seed(3)
        if isinstance(venv, VecNormalize):
            venv.training = False
    assert repeated.observation_space == expected.observation_space
    for seen, wanted in ((repeated.reset(), expected.reset()), (repeated.step([[0.0]])[0], expected.step([[0.0]])[0])):  # type: ignore[arg-type]
        if isinstance(wanted, dict):
            assert isinstance(seen, dict)
            for key, part in wanted.items():
                np.testing.assert_array_equal(seen[key], part)
        else:
            np.testing.assert_array_equal(seen, wanted)


class MyStack(VecFrameStack):
    """What it does beyond its parent is not known."""


class MyWrapper(VecEnvWrapper):
    def __init__(self, venv: VecEnv, factor: float) -> None:
        super().__init__(venv)
        self.factor = factor

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        return self.venv.step_wait()


def test_vectorised_wrappers_of_others_are_named_or_known_by_their_call() -> None:
    training = MyWrapper(VecMonitor(MyStack(DummyVecEnv([Images]), 2)), factor=3.0)
    assert not_repeated(training) == ["MyWrapper", "MyStack"]
    calls = wrapper_calls({f"{__name__}.MyWrapper": {"factor": 3.0}})
    assert not_repeated(training, calls) == ["MyStack"]
    repeated = wrap_alike(training, DummyVecEnv([Images]), calls)
    assert isinstance(repeated, MyWrapper)
    assert repeated.factor == 3.0


class Swallowing(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps the infos to itself."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        return (*self.env.step(action)[:4], {})


def test_raw_score_counts_where_nobody_else_does_and_leaves_the_infos_of_others() -> None:
    class Told(Images):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return self.observation_space.sample(), 2.0, False, False, {"score": "3:1", "frames": 5, "lap_finished": True}

    for env in (RawScore(Told()), RawScore(Swallowing(RawScore(Told())))):
        env.reset(seed=0)
        env.step(None)
        info = env.step(None)[4]
        assert counts_of(info) == Counts(4.0, 2, False, False)
    told = RawScore(Told())
    told.reset()
    info = told.step(None)[4]
    assert (info["score"], info["frames"]) == ("3:1", 5)
    # Around a repeat, the inner one's counts stand.
    inner = RawScore(ActionRepeat(RawScore(Told()), frame_skip=4))
    inner.reset()
    assert counts_of(inner.step(None)[4]) == Counts(8.0, 4, False, False)


@pytest.mark.parametrize(
    ("pipeline", "frames"),
    [
        (Pipeline("CarRacingFast-v3", wrappers=(REPEAT_4,)), 4),
        (Pipeline("CarRacingFast-v3", {"frame_skip": 3, "off_road_frames": 5}), 3),
        (Pipeline("CarRacingBlog-v3"), 8),
        (Pipeline("Pendulum-v1", wrappers=(REPEAT_4,)), 4),
        (Pipeline("Pendulum-v1"), 1),
    ],
)
def test_frames_of_a_step(pipeline: Pipeline, frames: int) -> None:
    assert frames_per_step(pipeline) == frames
