"""Small environments for tests of `SharedMemoryVecEnv`, and what checks its processes."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_carracing.vec_env import SharedMemoryVecEnv

SPACES: dict[str, spaces.Space[Any]] = {
    "picture": spaces.Box(0, 255, (2, 6, 5), np.uint8),
    "float64": spaces.Box(-1.0, 1.0, (3,), np.float64),
    "scalar": spaces.Box(-1.0, 1.0, (), np.float32),
    "discrete": spaces.Discrete(7),
    "multi_discrete": spaces.MultiDiscrete([3, 4]),
    "multi_binary": spaces.MultiBinary(4),
    "dict": spaces.Dict({"z": spaces.Box(0, 255, (4, 4, 1), np.uint8), "a": spaces.Discrete(3)}),
    "tuple": spaces.Tuple((spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,), np.float32))),
}


class Toy(gym.Env[Any, Any]):
    """Random observations, from the seed and the actions; ends by either way; does on demand what goes wrong."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012

    def __init__(self, space: str = "picture", number: int = 0, render_mode: str | None = None, slow: float = 0.0) -> None:
        self.observation_space = SPACES[space]
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.number = number
        self.render_mode = render_mode
        self.slow = slow
        self.unpicklable = lambda: None
        self.n_calls = 0

    def observe(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if options and options.get("raise"):
            raise OSError("no more tracks")
        self.n_steps = 0
        return self.observe(), {"options": options, "start": float(self.np_random.random())}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(self.slow)
        if self.number >= 100:
            self.fail()
        self.n_steps += 1
        chance = self.np_random.random()
        terminated, truncated = bool(chance < 0.1), bool(chance < 0.05 or chance > 0.9)
        return self.observe(), float(np.sum(action) + chance), terminated, truncated, {"action": action, "n": self.n_steps}

    def fail(self) -> None:
        if self.number == 100:
            raise ZeroDivisionError(f"environment with number {self.number}")
        if self.number == 101:
            raise Unpicklable(threading.Lock())
        if self.number == 102:
            os._exit(3)

    def render(self) -> Any:
        return np.full((4, 4, 3), self.number, np.uint8)

    def count(self, by: int = 1) -> tuple[int, int]:
        self.n_calls += by
        return self.number, self.n_calls

    def draw_globally(self) -> float:
        return float(np.random.rand())  # noqa: NPY002

    def complain(self) -> None:
        raise KeyError("complaint")


class Unpicklable(Exception):
    pass


class SameArray(Toy):
    """Writes every observation into one array."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.array = np.zeros((2, 6, 5), np.uint8)
        return self.array, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.array += 1
        return self.array, 0.0, False, bool(self.array[0, 0, 0] == 3), {}


class Rescaling(gym.Wrapper[Any, Any, Any, Any]):
    scale = 2.0


def toys(n_envs: int, space: str = "picture", render_mode: str | None = None) -> list[Callable[[], gym.Env[Any, Any]]]:
    return [partial(Toy, space, i, render_mode) for i in range(n_envs)]


@contextmanager
def opened(env_fns: list[Callable[[], gym.Env[Any, Any]]], **kwargs: Any) -> Iterator[SharedMemoryVecEnv]:
    env = SharedMemoryVecEnv(env_fns, **kwargs)
    try:
        yield env
    finally:
        env.close()
        assert_gone([process.pid for process in env.processes])


def alive(pid: int | None) -> bool:
    """Whether the process exists and is no zombie that merely nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def assert_gone(pids: list[int | None], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while remaining := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < deadline, f"processes {remaining} are still there"
        time.sleep(0.02)


def assert_same(first: Any, second: Any) -> None:
    """Equal in type, dtype, shape and value, all the way down."""
    assert type(first) is type(second) or (isinstance(first, dict) and isinstance(second, dict))  # SB3 has both kinds
    if isinstance(first, np.ndarray):
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first.keys() - {"t"}:  # Monitor's wall clock
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
    else:
        assert first == second


def assert_same_trajectories(first: VecEnv, second: VecEnv, n_steps: int) -> int:
    """Play the same in both and return how many episodes have ended."""
    first.action_space.seed(5)
    for env in (first, second):
        env.seed(11)
    assert_same(first.reset(), second.reset())
    assert_same(list(first.reset_infos), list(second.reset_infos))
    n_ended = 0
    for _ in range(n_steps):
        actions = np.stack([first.action_space.sample() for _ in range(first.num_envs)])
        results = [env.step(actions) for env in (first, second)]
        assert_same(*results)
        assert_same(list(first.reset_infos), list(second.reset_infos))
        n_ended += int(results[0][2].sum())
    return n_ended
