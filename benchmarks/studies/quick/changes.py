"""What the plan's runs use beside the package: a mirrored view."""

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np

from sb3_carracing.checks import finite_number

DASHBOARD = 12  # rows at the bottom, which stay as they are


class Mirror(gym.Wrapper[Any, Any, Any, Any]):
    """Mirror some episodes: the road in the observations is flipped, and steering is negated.

    Args:
        env: CarRacing with observations (..., height, width).
        rate: Share of the episodes.
    """

    def __init__(self, env: gym.Env[Any, Any], rate: float) -> None:
        super().__init__(env)
        self.rate = finite_number("rate", rate, 0.0, 1.0)
        self._random = np.random.default_rng()
        self._is_mirrored = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self._is_mirrored = bool(self._random.random() < self.rate)
        obs, info = self.env.reset(seed=seed, options=options)
        return self._seen(obs), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        if self._is_mirrored:
            action = np.array([-action[0], *action[1:]], action.dtype)
        obs, *others = self.env.step(action)
        return self._seen(obs), *others

    def _seen(self, obs: Any) -> Any:
        if not self._is_mirrored:
            return obs
        obs = np.array(obs)
        obs[..., :-DASHBOARD, :] = obs[..., :-DASHBOARD, ::-1]
        return obs
