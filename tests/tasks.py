"""Small environments that the learner's tests play."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class AnySpaces(gym.Env[Any, Any]):
    """Random observations and rewards of any spaces; it refuses actions that its space does not hold."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], length: int = 7) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
        self.length = length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise AssertionError(f"{action} is not in {self.action_space}")
        self.steps += 1
        return self.observation_space.sample(), float(self.np_random.normal()), self.steps == self.length, False, {}


class ConstantTarget(gym.Env[Any, Any]):
    """One step an episode; the reward is minus the squared distance to one best action, in shares of the range."""

    TARGET = np.array([0.7, -2.0], dtype=np.float32)

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (1,))
        self.action_space = spaces.Box(np.array([0.0, -3.0], dtype=np.float32), np.array([2.0, 1.0], dtype=np.float32))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        error = (action - self.TARGET) / (self.action_space.high - self.action_space.low)  # type: ignore[attr-defined]
        return np.zeros(1, dtype=np.float32), -float(np.sum(error**2)), True, False, {}


class Paid(gym.Env[Any, Any]):
    """Pays the given rewards, one a step, then terminates (or goes on: a TimeLimit's matter)."""

    def __init__(self, rewards: tuple[float, ...], terminates: bool = True) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (1,))
        self.action_space = spaces.Box(-1.0, 1.0, (1,))
        self.rewards = rewards
        self.terminates = terminates

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = self.rewards[self.steps % len(self.rewards)]
        self.steps += 1
        return np.zeros(1, dtype=np.float32), reward, self.terminates and self.steps == len(self.rewards), False, {}
