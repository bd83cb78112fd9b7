"""Wrappers that let an agent drive CarRacing with two actions instead of three. `sb3_carracing.envs.wrappers` exports them."""

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.box2d.car_dynamics import SIZE, WHEEL_R
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from sb3_carracing.checks import finite_number
from sb3_carracing.envs.fast.car import ENGINE_POWER, FRICTION_LIMIT, SLIP_FORCE
from sb3_carracing.envs.fast.dashboard import ROWS, shown_speed
from sb3_carracing.errors import UserError

Env = gym.Env[Any, Any]
Step = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]


def _check_pedals(env: Env, wrapper: str) -> None:
    """Raise UserError if the environment does not take the actions (steering, gas, brake)."""
    if not isinstance(env.action_space, spaces.Box) or env.action_space.shape != (3,):
        raise UserError(f"{wrapper} needs three continuous actions, got the action space {env.action_space}")


class SignedPedals(gym.ActionWrapper[Any, NDArray[np.float32], Any], RecordConstructorArgs):
    """Drive CarRacing with two actions in [-1, 1]: steering, and one pedal with gas above zero and brake below.

    On average an untrained policy then neither brakes nor accelerates. With three actions its mean brake is one half.

    Example:
        >>> env = SignedPedals(gym.make("CarRacing-v3"))
        >>> env.action_space.shape
        (2,)
    """

    def __init__(self, env: Env) -> None:
        RecordConstructorArgs.__init__(self)
        _check_pedals(env, "SignedPedals")
        super().__init__(env)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def action(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn (steering, pedal) into (steering, gas, brake)."""
        steering, pedal = action
        return np.array([steering, max(pedal, 0.0), max(-pedal, 0.0)], dtype=np.float32)


def gripping_gas(speed: float) -> float:
    """Return the most gas at which the rear wheels of gymnasium's car grip a straight road at a steady speed.

    A wheel pushes the car with a limited force. The engine's torque falls as the wheel turns faster, so a fast car may press
    more: the result rises linearly, from 0.08 for a standing car to 1 at 92 units/s.

    Args:
        speed: of the car [units/s].
    """
    radius = WHEEL_R * SIZE
    slip = FRICTION_LIMIT / SLIP_FORCE  # [units/s] at which a wheel pushes hardest
    turns = (speed + slip) / radius  # [rad/s]
    return float(FRICTION_LIMIT * radius * (turns + 5.0) / ENGINE_POWER)


class TargetSpeed(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Drive CarRacing with two actions in [-1, 1]: steering, and the speed to drive at.

    A proportional controller presses gas or brake once per step. It reads the car's speed from the white bar on the dashboard
    of the latest observation, exact to 1.5 units/s, so it knows only what the agent sees. Apply this wrapper after
    `ActionRepeat` and `Grayscale`, and before wrappers that change gray levels, crop or stack.

    The controller limits the gas so that the rear wheels do not spin. Spinning wheels do not hold the car sideways: at full
    gas, a car that has spun keeps turning on the spot. The training rule `unlimited_gas` switches the limit off.

    Noise of the target slows the car, since CarRacing raises the gas by at most 0.1 per frame and lowers it at once.

    Args:
        env: CarRacing with actions (steering, gas, brake) and observations (96, 96) or (96, 96, 3).
        slowest: Target speed for action -1 [units/s].
        fastest: Target speed for action 1 [units/s]. At full gas the car drives at about 100.
        band: Distance below the target at which the gas is full [units/s]. The brake rises at the same rate, up to `brake`.
        brake: The most that the controller brakes, 0 to 1. From 0.9 on the wheels lock.
        traction: The limit of the gas, as a share of what the wheels grip at this speed. From 13.2 on there is no limit.

    Example:
        >>> env = TargetSpeed(gym.make("CarRacing-v3"))
        >>> observation, info = env.reset(seed=0)
        >>> for _ in range(100):
        ...     observation, *_ = env.step(np.array([0.0, 0.0], np.float32))
        >>> bool(50 < np.hypot(*env.unwrapped.car.hull.linearVelocity) < 65)
        True
    """

    def __init__(
        self,
        env: Env,
        slowest: float = 30.0,
        fastest: float = 90.0,
        band: float = 20.0,
        brake: float = 0.25,
        traction: float = 1.0,
    ) -> None:
        RecordConstructorArgs.__init__(self, slowest=slowest, fastest=fastest, band=band, brake=brake, traction=traction)
        _check_pedals(env, "TargetSpeed")
        space = env.observation_space
        if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or space.shape not in ((96, 96), (96, 96, 3)):
            raise UserError(
                "TargetSpeed reads the dashboard and needs uint8 observations of shape (96, 96) or (96, 96, 3), got the "
                f"observation space {space}"
            )
        super().__init__(env)
        self.slowest = finite_number("slowest", slowest, 0.0)
        self.fastest = finite_number("fastest", fastest, self.slowest)
        self.band = finite_number("band", band, 1.0)
        self.brake = finite_number("brake", brake, 0.0, 1.0)
        self.traction = finite_number("traction", traction, 0.1)
        rules = getattr(env.unwrapped, "rules", None)
        if rules is not None and rules.options["unlimited_gas"]:
            self.traction = np.inf
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._speed = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Return what `env` returns."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._speed = shown_speed(observation[-ROWS:])
        return observation, info

    def step(self, action: NDArray[np.float32]) -> Step:
        """Return what `env` returns for the pedals that bring the car to the target speed."""
        steering, wanted = action
        target = self.slowest + (self.fastest - self.slowest) * (float(wanted) + 1.0) / 2.0
        pedal = (target - self._speed) / self.band
        most_gas = min(1.0, self.traction * gripping_gas(self._speed))
        pedals = [steering, np.clip(pedal, 0.0, most_gas), np.clip(-pedal, 0.0, self.brake)]
        observation, reward, terminated, truncated, info = self.env.step(np.array(pedals, np.float32))
        self._speed = shown_speed(observation[-ROWS:])
        return observation, reward, terminated, truncated, info
