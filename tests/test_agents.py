"""Agents: files are read back, what is no agent is named, the random baseline fills its space."""

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN, PPO

from sb3_carracing import BetaPPO
from sb3_carracing.agents import ALGORITHMS, RandomPolicy, read_agent
from sb3_carracing.pipelines import env_spec, import_by_path

ENV_ID = "Pendulum-v1"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_is_there(name: str) -> None:
    assert callable(import_by_path(ALGORITHMS[name]).load)


@pytest.mark.parametrize(("algo", "cls"), [("ppo", PPO), ("beta_ppo", BetaPPO)])
def test_agents_come_back(tmp_path: Path, algo: str, cls: type[PPO]) -> None:
    saved = cls("MlpPolicy", ENV_ID, n_steps=8, batch_size=8, clip_range_vf=0.2, device="cpu")
    saved.save(tmp_path / "agent.zip")
    loaded = read_agent(tmp_path / "agent.zip", algo)
    observation = np.array([[1.0, 0.0, 0.5]], np.float32)
    assert type(loaded) is cls
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0], saved.predict(observation, deterministic=True)[0]
    )


def test_an_agent_with_replay_memory_comes_back_without_it(tmp_path: Path) -> None:
    DQN("MlpPolicy", "CartPole-v1", buffer_size=50_000, device="cpu").save(tmp_path / "agent.zip")
    loaded = read_agent(tmp_path / "agent.zip", "dqn")
    assert loaded.predict(np.zeros((1, 4), np.float32))[0].shape == (1,)


def test_what_is_no_agent_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip archive")
    with pytest.raises(ValueError, match=r"text\.zip is not an agent that 'ppo' can load"):
        read_agent(tmp_path / "text.zip", "ppo")
    with pytest.raises(ValueError, match=r"no agent .*missing\.zip; .* holds text\.zip"):
        read_agent(tmp_path / "missing.zip", "ppo")
    with pytest.raises(ValueError, match="unknown algorithm 'pp0'; valid"):
        read_agent(tmp_path / "text.zip", "pp0")


@pytest.mark.slow
def test_loading_does_not_import_rl_zoo3(tmp_path: Path) -> None:
    """A schedule of rl-zoo3 in the file would; importing rl-zoo3 patches gymnasium for the whole process."""
    pytest.importorskip("sb3_contrib")
    file = str(tmp_path / "agent.zip")
    save = (
        "from rl_zoo3.utils import SimpleLinearSchedule; from stable_baselines3 import PPO\n"
        "falling = SimpleLinearSchedule(1e-3)\n"
        f"PPO('MlpPolicy', {ENV_ID!r}, falling, clip_range=falling, clip_range_vf=falling, device='cpu').save({file!r})"
    )
    load = (
        "import sys; from sb3_carracing.agents import read_agent\n"
        f"read_agent({file!r}, 'ppo')\n"
        "assert 'rl_zoo3' not in sys.modules"
    )
    for program in (save, load):
        subprocess.run([sys.executable, "-c", program], check=True)


def test_random_baseline_fills_the_space() -> None:
    box = spaces.Box(np.array([-1, 0, 5], np.float32), np.array([1, 1, 9], np.float32))
    actions = np.concatenate([RandomPolicy(box).predict(None)[0] for _ in range(2000)])
    assert actions.dtype == np.float32
    assert all(box.contains(action) for action in actions)
    np.testing.assert_allclose(actions.mean(axis=0), [0.0, 0.5, 7.0], atol=0.1)
    discrete = RandomPolicy(spaces.Discrete(5))
    assert {int(discrete.predict(None)[0][0]) for _ in range(200)} == set(range(5))
    with pytest.raises(ValueError, match="need a Box or Discrete"):
        RandomPolicy(spaces.MultiBinary(3))


def test_the_random_driver_has_the_pipelines_actions() -> None:
    discrete = gym.make(env_spec("CarRacingIurin-v3"))
    assert RandomPolicy(discrete.action_space).predict(None)[0].shape == (1,)
    discrete.close()
