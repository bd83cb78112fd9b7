"""`load_agent`: an agent with the environment that it drives in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack
from stand_ins import write_run

from sb3_carracing import BetaPPO, load_agent
from sb3_carracing.evaluation import evaluate

ENV_ID = "Pendulum-v1"
OBSERVATION = np.array([[1.0, 0.0, 0.5]], np.float32)
SMALL: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "device": "cpu", "policy_kwargs": {"net_arch": [4]}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = write_run(tmp_path, {}, env=ENV_ID)
    BetaPPO("MlpPolicy", ENV_ID, seed=1, **SMALL).save(run / f"{ENV_ID}.zip")
    BetaPPO("MlpPolicy", ENV_ID, seed=2, **SMALL).save(run / "best_model.zip")
    return run


def test_the_shipped_agent_and_its_environment_belong_together() -> None:
    model, make_env = load_agent("CarRacingFast-v3")
    env = make_env()
    assert env.observation_space == model.observation_space
    assert env.action_space == model.action_space
    rules = env.unwrapped.rules  # type: ignore[attr-defined]
    assert not rules.act_on_frames
    assert not rules.act_after_steps
    observation, _ = env.reset(seed=0)
    action, _ = model.predict(observation, deterministic=True)
    info = env.step(action)[4]
    assert info["frames"] == 4
    env.close()


@pytest.mark.slow
def test_four_lines_drive_and_score() -> None:
    model, make_env = load_agent("CarRacingFast-v3")
    (result,) = evaluate(model, make_env, seeds=[1_000_000])
    assert result.lap_finished
    assert result.score > 900


def test_a_run_gives_its_best_agent_and_a_zip_in_it_that_agent(run: Path) -> None:
    best = BetaPPO.load(run / "best_model.zip", device="cpu").predict(OBSERVATION, deterministic=True)[0]
    last = BetaPPO.load(run / f"{ENV_ID}.zip", device="cpu").predict(OBSERVATION, deterministic=True)[0]
    assert best != last
    for source, action in ((run, best), (str(run / f"{ENV_ID}.zip"), last)):
        model, make_env = load_agent(source)
        assert model.predict(OBSERVATION, deterministic=True)[0] == action
        assert str(make_env().unwrapped.spec.id) == ENV_ID  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"algo is 'ppo', and .* is a run of 'beta_ppo'"):
        load_agent(run, algo="ppo")


def test_a_zip_alone_needs_its_environments_id(tmp_path: Path) -> None:
    PPO("MlpPolicy", ENV_ID, **SMALL).save(tmp_path / "agent.zip")
    model, make_env = load_agent(tmp_path / "agent.zip", algo="ppo")
    assert isinstance(model, PPO)
    with pytest.raises(ValueError, match="does not say which environment it drives in: pass env_id"):
        make_env()
    _, make_env = load_agent(tmp_path / "agent.zip", algo="ppo", env_id=ENV_ID)
    assert make_env().observation_space.shape == (3,)


def test_evaluate_stacks_what_the_run_stacked(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"frame_stack": 2}, env=ENV_ID)
    venv = VecFrameStack(make_vec_env(ENV_ID), 2)
    BetaPPO("MlpPolicy", venv, **SMALL).save(run / f"{ENV_ID}.zip")
    model, make_env = load_agent(run)
    assert [result.steps for result in evaluate(model, make_env, [0, 1])] == [200, 200]


@pytest.mark.parametrize("source", ["CarRacingFats-v3", "missing"])
def test_what_is_not_there_is_named_with_what_is(source: str) -> None:
    with pytest.raises(
        ValueError, match=f"no run folder {source}, and no shipped agent of that id; shipped: CarRacingFast-v3"
    ):
        load_agent(source)
