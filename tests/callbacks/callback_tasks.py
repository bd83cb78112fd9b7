"""What the tests of the callbacks share."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_carracing.callbacks import ValidationCallback
from sb3_carracing.envs.counts import put_counts
from sb3_carracing.evaluation import EpisodeResult

N_STEPS = 16


class Toy(gym.Env[np.ndarray, np.ndarray]):
    """Ten steps of three frames each, counted as CarRacing does; the raw score is the seedable start, rewards are not."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = spaces.Box(-10.0, 10.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, bonus: float = 0.0) -> None:
        self.bonus = bonus

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.frames, self.start = 0, self.np_random.uniform(0, 100)
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.frames += 3
        over = self.frames == 30
        info: dict[str, Any] = {"score": self.start + self.frames}
        put_counts(info, info["score"], self.frames, over, False)
        observation = np.array([self.frames / 10, action[0]], np.float32)
        return observation, self.bonus - abs(float(action[0])), over, False, info


gym.register("SB3CarRacingToy-v0", Toy)  # type: ignore[arg-type]


def agent(n_envs: int = 2, cls: type[Any] = PPO, **kwargs: Any) -> Any:
    env = make_vec_env("SB3CarRacingToy-v0", n_envs=n_envs, seed=0)
    kwargs = {"n_steps": N_STEPS, "batch_size": 16, "n_epochs": 1, "seed": 0, "device": "cpu"} | kwargs
    return cls("MlpPolicy", env, **kwargs)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def in_folder(callback: Any, folder: Path) -> Any:
    callback.run_dir = folder
    return callback


class Watch(BaseCallback):
    """Notes what every environment says at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.scores: list[float] = []
        self.frames = 0

    def _on_step(self) -> bool:
        self.frames += 3 * len(self.locals["infos"])
        self.scores += [i["score"] for i, done in zip(self.locals["infos"], self.locals["dones"], strict=True) if done]
        return True


class CtrlC(BaseCallback):
    """Presses it in the second rollout."""

    def _on_step(self) -> bool:
        if self.num_timesteps > 3 * N_STEPS:
            raise KeyboardInterrupt
        return True


def make_run_of(folder: Path, callbacks_: Sequence[Any]) -> Sequence[Any]:
    """Give callbacks that read a run's config an environment instead."""
    for callback in callbacks_:
        if isinstance(callback, ValidationCallback):
            callback._make_env = Toy
    return callbacks_


def scripted(scores: Sequence[float]) -> Callable[..., list[EpisodeResult]]:
    remaining = iter(scores)
    return lambda *_, **__: [EpisodeResult(0, next(remaining), 1, 1, False)]


class Paying(gym.Env[np.ndarray, np.ndarray]):
    """Any environment: it pays 1.0 a step for 20 steps, and puts what it likes into its infos."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space: spaces.Space[Any] = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, info: dict[str, Any] | None = None, discrete: bool = False) -> None:
        self.info = info or {}
        if discrete:
            self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return np.zeros(2, np.float32), 1.0, False, self.time >= 20, dict(self.info)


FOREIGN_INFOS: list[dict[str, Any]] = [
    {},
    {"score": 7},
    {"score": "3:1"},
    {"score": None, "frames": None},
    {"frames": 5},
    {"frames": np.zeros((2, 2))},
    {"episode_over": True},
    {"episode_over": False, "lap_finished": True},
    {"counts": (1, 2), "result": "draw"},
]
"""Infos of environments that mean something else by the names in CarRacing's."""
