"""What the plan's runs use beside the package: mirrored views, limited gas and a smoothed target speed."""

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np

from sb3_carracing.checks import finite_number
from sb3_carracing.envs.wrappers import TargetSpeed

ROAD = slice(0, 84)  # rows
# Columns of the dashboard with the bars of steering and rotation. Each grows from its middle to the left or the right.
BARS = (slice(36, 60), slice(60, 84))


def mirrored(obs: Any) -> Any:
    """Return observations (..., 96, 96) of CarRacing with left and right exchanged, in the dashboard as well."""
    result = np.array(obs)
    result[..., ROAD, :] = obs[..., ROAD, ::-1]
    for bar in BARS:
        result[..., ROAD.stop :, bar] = np.flip(obs[..., ROAD.stop :, bar], axis=-1)
    return result


class MirroredView(gym.Wrapper[Any, Any, Any, Any]):
    """Show mirrored observations and negate the steering, as long as `is_mirrored` is set."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.is_mirrored = False

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        obs, *others = self.env.step(np.array([-action[0], *action[1:]], action.dtype) if self.is_mirrored else action)
        return self.seen(obs), *others

    def seen(self, obs: Any) -> Any:
        """Return what the agent sees."""
        return mirrored(obs) if self.is_mirrored else obs


class Mirror(MirroredView):
    """Mirror some episodes.

    Args:
        env: CarRacing with observations (..., 96, 96).
        rate: Share of the episodes.
    """

    def __init__(self, env: gym.Env[Any, Any], rate: float) -> None:
        super().__init__(env)
        self.rate = finite_number("rate", rate, 0.0, 1.0)
        self._random = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self.is_mirrored = bool(self._random.random() < self.rate)
        obs, info = self.env.reset(seed=seed, options=options)
        return self.seen(obs), info


class RoadToTheLeft(MirroredView):
    """Mirror every observation in which more road lies to the right, so that the agent needs to learn one side only.

    Args:
        env: CarRacing with stacked gray observations (frames, 96, 96), the newest last.
    """

    # Grass is brighter than road: positive products mean that the road lies to the left.
    _WEIGHTS = np.arange(96) - 47.5

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return self.seen(obs), info

    def seen(self, obs: Any) -> Any:
        self.is_mirrored = bool(obs[-1, ROAD].sum(axis=0, dtype=np.float64) @ self._WEIGHTS < 0.0)
        return super().seen(obs)


class LimitedGas(gym.ActionWrapper[Any, Any, Any]):
    """Limit the gas to `straight * (1 - slope * |steering|)`, or to `least` where that is more.

    Args:
        env: CarRacing with actions (steering, gas, brake).
        straight: The most gas without steering, 0 to 1.
        slope: Share of it that full steering takes away; 2 takes away all from a steering of one half on.
        least: The limit never falls below, 0 to 1.
    """

    def __init__(self, env: gym.Env[Any, Any], straight: float, slope: float, least: float) -> None:
        super().__init__(env)
        self.straight = finite_number("straight", straight, 0.0, 1.0)
        self.slope = finite_number("slope", slope, 0.0)
        self.least = finite_number("least", least, 0.0, 1.0)

    def action(self, action: Any) -> Any:
        steering, gas, brake = action
        limit = max(self.least, self.straight * (1.0 - self.slope * abs(float(steering))))
        return np.array([steering, min(gas, limit), brake], np.float32)


class SmoothedSpeed(TargetSpeed):
    """`TargetSpeed` whose controller follows a running mean of the target speed, which begins at the car's speed.

    Args:
        env: as for `TargetSpeed`.
        share: How much of the way to a new target the mean goes in one step, above 0 to 1. With 1 it is `TargetSpeed`.
        **keywords: as for `TargetSpeed`.
    """

    def __init__(self, env: gym.Env[Any, Any], share: float, **keywords: float) -> None:
        super().__init__(env, **keywords)
        self.share = finite_number("share", share, 0.001, 1.0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        result = super().reset(seed=seed, options=options)
        self._mean = 2.0 * (self._speed - self.slowest) / (self.fastest - self.slowest) - 1.0  # as an action
        return result

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        steering, wanted = action
        self._mean += self.share * (float(wanted) - self._mean)
        return super().step(np.array([steering, self._mean]))
