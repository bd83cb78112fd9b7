"""Privileged drivers: they read the track and the car, so that a test gets a lap, or a crash, on any seed."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRIP = 110.0  # sideways acceleration in bends [units/s^2]; at 150 it slides off
BRAKING = 60.0  # [units/s^2]
TOP_SPEED = 100.0  # [units/s]


class CentreLineDriver:
    """Follows the middle of the road, as fast as the next bends allow; a lap of some 800 frames on nearly every track."""

    def __init__(self, env: Any) -> None:
        self.car_racing = env.unwrapped
        self.points = np.array([tile[2:4] for tile in self.car_racing.track])
        steps = np.roll(self.points, -1, axis=0) - self.points
        self.spacing = float(np.mean(np.hypot(*steps.T)))
        headings = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
        turns = np.abs(np.angle(np.exp(1j * (np.roll(headings, -1) - headings))))
        bend = np.convolve(np.concatenate([turns[-2:], turns, turns[:2]]), np.ones(5) / 5, "valid") / self.spacing
        self.speeds = np.minimum(np.sqrt(GRIP / np.maximum(bend, 1e-6)), TOP_SPEED)
        for i in range(2 * len(self.speeds), 0, -1):  # twice round: the last bend slows the straight before it
            here, ahead = (i - 1) % len(self.speeds), i % len(self.speeds)
            limit = math.sqrt(self.speeds[ahead] ** 2 + 2 * BRAKING * self.spacing)
            self.speeds[here] = min(self.speeds[here], limit)

    def __call__(self) -> NDArray[np.float32]:
        """Return the continuous action (steering, gas, brake) for the car's present state."""
        hull = self.car_racing.car.hull
        position = np.array(hull.position)
        speed = math.hypot(*hull.linearVelocity)
        nearest = int(np.argmin(np.hypot(*(self.points - position).T)))
        ahead = nearest + max(2, round((4.0 + 0.15 * speed) / self.spacing))
        to_target = self.points[ahead % len(self.points)] - position
        # The hull's own y axis points forward.
        wanted = math.atan2(to_target[1], to_target[0]) - (hull.angle + math.pi / 2)
        error = math.atan2(math.sin(wanted), math.cos(wanted))
        steering = float(np.clip(-2.0 * error + 0.1 * hull.angularVelocity, -1.0, 1.0))
        target = self.speeds[(nearest + 1) % len(self.points)]
        gas = float(np.clip(0.2 * (target - speed), 0.0, 1.0))
        brake = float(np.clip(0.03 * (speed - target - 2.0), 0.0, 0.6))
        return np.array([steering, gas, brake], dtype=np.float32)


class OutwardDriver:
    """Turns away from the middle of the field and leaves it: the crash of -100."""

    def __init__(self, env: Any) -> None:
        self.car_racing = env.unwrapped

    def __call__(self) -> NDArray[np.float32]:
        """Return the continuous action (steering, gas, brake) for the car's present state."""
        hull = self.car_racing.car.hull
        wanted = math.atan2(hull.position[1], hull.position[0]) - (hull.angle + math.pi / 2)
        error = math.atan2(math.sin(wanted), math.cos(wanted))
        gas = 0.3 if abs(error) > 0.3 else 1.0
        return np.array([np.clip(-error, -1.0, 1.0), gas, 0.0], dtype=np.float32)


def five_actions(action: NDArray[np.float32], frame: int) -> int:
    """Return one of CarRacing's five discrete actions: steering on odd frames where it matters, else a pedal."""
    steering, gas, brake = action
    if frame % 2 and abs(steering) > 0.1:
        return 1 if steering > 0 else 2
    if brake > 0.1:
        return 4
    return 3 if gas > 0 else 0


_PATTERN = np.random.default_rng(0).integers(0, 256, (96, 96, 3)).astype(np.uint8)


def cheap_render(car_racing: Any, mode: str) -> NDArray[np.uint8] | None:
    """Stand in for gymnasium's `CarRacing._render`, 50 times as fast: whole episodes in a fraction of a second.

    The observation depends on all that a real one depends on (time, car, score), so that one drawn a moment too late, or
    on another frame, differs. Its green mean goes up and down across the thresholds of both source projects (180 and 185).
    """
    if "t" not in vars(car_racing):
        return None
    hull = car_racing.car.hull
    x, y = hull.position
    shown = (car_racing.t, car_racing.reward, x, y)
    observation = _PATTERN + np.frombuffer(np.array(shown).tobytes(), np.uint8).repeat(3)[:, None]
    observation[:, :, 1] = round(160 + (x + y + 3 * car_racing.t) % 50)
    return observation
