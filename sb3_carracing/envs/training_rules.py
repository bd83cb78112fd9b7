"""The training rules: what training may change about the rewards, starts and ends of CarRacing's episodes.

A rule is one class with its options and its own state. The options become keyword arguments of `CarRacing`. They are off by
default, and an evaluation drops them. This is a complete rule, here or in a user's own module::

    @training_rule
    class SteeringCost(TrainingRule):
        steering_cost: float = option(0.0, at_least_0, "Cost per frame at full lock.")

        def change_reward(self, frame: Frame) -> float:
            return -self.steering_cost * abs(frame.car.wheels[0].steer)

Rules act in the order of their definition: first all of them change the frame's reward, then all of them may end the
episode.
"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sb3_carracing.checks import finite_number, one_of, whole_number
from sb3_carracing.envs.lap import Lap
from sb3_carracing.envs.rule_engine import (
    Drive,
    Frame,
    TrainingRule,
    TrainingRules,
    describe_options,
    evaluation_kwargs,
    off_road,
    option,
    training_rule,
    without_retired,
)
from sb3_carracing.errors import UserError

__all__ = [
    "GRASS_RULES",
    "MAX_FRAMES",
    "Drive",
    "Frame",
    "TrainingRule",
    "TrainingRules",
    "at_least_0",
    "describe_options",
    "evaluation_kwargs",
    "mostly_green",
    "off_road",
    "option",
    "share",
    "training_rule",
    "true_or_false",
    "without_retired",
]

MAX_FRAMES = 1000
"""Frames after which an episode is truncated, as in gymnasium's registration of `CarRacing-v3`."""

GRASS_RULES = ("wheels", "green")

at_least_0 = partial(finite_number, low=0.0)
share = partial(finite_number, low=0.0, high=1.0)


def true_or_false(name: str, value: Any) -> bool:
    """Return `value` as a bool.

    Raises:
        UserError: It is neither true nor false.
    """
    if not isinstance(value, bool | np.bool_ | int) or value not in (0, 1):
        raise UserError(f"{name} must be true or false, got {value!r}")
    return bool(value)


def mostly_green(rgb: NDArray[np.uint8], threshold: float) -> bool:
    """Return whether the mean of the green channel of an RGB observation (H, W, 3) lies above `threshold` (0 to 255)."""
    return bool(np.mean(rgb[:, :, 1]) > threshold)


@training_rule
class NoopFrames(TrainingRule):
    """Let the car stand idle before the agent's first decision."""

    noop_frames: int = option(
        0,
        partial(whole_number, low=0, high=MAX_FRAMES - 1),
        "Frames without action after reset. Their reward counts only toward `score`.",
    )

    @property
    def idle_frames(self) -> int:
        """Frames without action after reset."""
        return self.noop_frames


@training_rule
class RollingStart(TrainingRule):
    """Start some episodes anywhere on the track, with the car rolling along the road.

    At first an agent leaves the road within a few seconds. With stock starts it then sees little but the opening zoom and the
    first turn. Rolling starts skip the zoom.
    """

    rolling_start_rate: float = option(0.0, share, "Fraction of the episodes that start at a random tile, with a rolling car.")
    rolling_start_speed: float = option(
        60.0, partial(finite_number, low=0.0, high=100.0), "Maximum speed of a rolling start [units/s]; it is drawn uniformly."
    )

    def first_tile(self, n_tiles: int, random: np.random.Generator) -> int:
        """Draw whether the episode starts rolling, and where."""
        self._is_rolling = bool(random.random() < self.rolling_start_rate)
        return int(random.integers(n_tiles)) if self._is_rolling else 0

    def begin(self, frame: Frame, random: np.random.Generator) -> None:
        """Let the car roll, with wheels that do not slip."""
        if not self._is_rolling:
            return
        frame.skip_opening()
        speed = random.uniform(0.0, self.rolling_start_speed)
        hull, wheels = frame.car.hull, frame.car.wheels
        for body in (hull, *wheels):
            body.linearVelocity = speed * hull.GetWorldVector((0, 1))
        for wheel in wheels:
            wheel.omega = speed / wheel.wheel_rad


@training_rule
class SlipperyRoad(TrainingRule):
    """Give the road of each episode its own friction, so that the agent learns to keep a margin."""

    lowest_friction: float = option(
        1.0,
        partial(finite_number, low=0.6, high=1.0),
        "Each episode draws the road's friction uniformly between this and 1, which is gymnasium's. Grass has 0.6.",
    )

    @property
    def is_on(self) -> bool:
        """Whether the rule does anything."""
        return self.lowest_friction < 1.0

    def begin(self, frame: Frame, random: np.random.Generator) -> None:
        """Draw the friction."""
        friction = float(random.uniform(self.lowest_friction, 1.0))
        for tile in frame.road:
            tile.road_friction = friction


@training_rule
class UnlimitedGas(TrainingRule):
    """Let the rear wheels spin in training, where `TargetSpeed` would limit the gas.

    So a spin keeps its price for an agent that learns. Evaluations drop the rule, and there the limit lets the car drive on.
    """

    unlimited_gas: bool = option(False, true_or_false, "The wrapper `TargetSpeed` does not limit the gas.")


@training_rule
class SpeedPenalty(TrainingRule):
    """Subtract a penalty for speed above a limit."""

    speed_penalty: float = option(0.0, at_least_0, "Subtracted for every frame and each unit/s above `speed_limit`.")
    speed_limit: float = option(
        60.0, at_least_0, "See `speed_penalty`. With full gas on a straight the car reaches about 100."
    )

    def change_reward(self, frame: Frame) -> float:
        """Subtract the penalty if the car is too fast."""
        speed: float = frame.car.hull.linearVelocity.length
        return -self.speed_penalty * max(0.0, speed - self.speed_limit)


@training_rule
class EndBonus(TrainingRule):
    """Add a bonus at the end of the stock episode."""

    end_bonus: float = option(
        0.0, finite_number, "Added on the frame that ends the stock episode, even after a crash. The blog uses 100."
    )

    def change_reward(self, frame: Frame) -> float:
        """Return the bonus if the episode is over."""
        return self.end_bonus if frame.over else 0.0


@training_rule
class GrassPenalty(TrainingRule):
    """Subtract a penalty for every frame on the grass."""

    grass_penalty: float = option(0.0, at_least_0, "Subtracted for every frame on the grass.")
    grass_rule: str = option(
        "wheels",
        partial(one_of, choices=GRASS_RULES),
        '"wheels": no wheel touches the road. "green": the mean green of the frame\'s observation is above '
        "`green_threshold`, as in both source projects; this draws every frame.",
    )
    green_threshold: float = option(180.0, finite_number, "0 to 255.")

    @property
    def needs_observations(self) -> bool:
        """Whether the rule needs the observation of every frame."""
        return self.grass_rule == "green"

    def change_reward(self, frame: Frame) -> float:
        """Subtract the penalty if the car is on the grass."""
        green = self.grass_rule == "green"
        on_grass = mostly_green(frame.observation(), self.green_threshold) if green else frame.off_road
        return -self.grass_penalty if on_grass else 0.0


@training_rule
class OffRoad(TrainingRule):
    """End the episode when the car stays off the road."""

    off_road_frames: int = option(
        0, partial(whole_number, low=0), "End after this many consecutive frames with no wheel on the road."
    )

    def begin(self, frame: Frame, random: np.random.Generator) -> None:
        """Start counting."""
        self._n_off_road = 0

    def end(self, frame: Frame) -> None:
        """Stop after too many frames off the road."""
        self._n_off_road = self._n_off_road + 1 if frame.off_road else 0
        if self._n_off_road >= self.off_road_frames:
            frame.stop("off_road")


@training_rule
class NoProgress(TrainingRule):
    """End the episode when the rewards of the last frames are low."""

    no_progress_frames: int = option(
        0,
        partial(whole_number, low=0),
        "End when the mean shaped reward of this many frames is at most `no_progress_reward`. The history starts at zeros.",
    )
    no_progress_reward: float = option(-0.1, finite_number, "See `no_progress_frames`.")

    def begin(self, frame: Frame, random: np.random.Generator) -> None:
        """Start with a history of zeros."""
        self._progress = Progress(self.no_progress_frames)

    def end(self, frame: Frame) -> None:
        """Stop if the mean reward is too low."""
        if self._progress.mean_with(frame.reward) <= self.no_progress_reward:
            frame.stop("no_progress")


class Progress:
    """Mean of the last `n_frames` rewards over a history that starts at zeros (the blog's `reward_memory`)."""

    def __init__(self, n_frames: int) -> None:
        self._history = np.zeros(n_frames)
        self._next = 0

    def mean_with(self, reward: float) -> float:
        """Replace the oldest reward by `reward` and return the mean.

        The array is circular, as in the blog. The last bit of a sum of 100 times -0.1 decides whether the threshold of -0.1 is
        met, so the terms have to be added in the blog's order.
        """
        self._history[self._next] = reward
        self._next = (self._next + 1) % len(self._history)
        return float(np.mean(self._history))


@training_rule
class LapRule(TrainingRule):
    """Penalize missed tiles and truncate the episode at the end of the lap."""

    gap_penalty: float = option(
        0.0, at_least_0, "Subtracted for every gap: a stretch of tiles that the car has passed without touching."
    )
    truncate_lap: bool = option(
        False,
        true_or_false,
        "Truncate the episode at the end of the lap instead of terminating it, even if tiles were missed. The observations do "
        "not show where a lap ends, and a learner that bootstraps truncated episodes then does not need to know.",
    )

    @property
    def is_on(self) -> bool:
        """Whether the rule does anything."""
        return self.gap_penalty > 0 or self.truncate_lap

    def begin(self, frame: Frame, random: np.random.Generator) -> None:
        """Start with all tiles untouched."""
        self._lap = Lap(frame.road)

    def change_reward(self, frame: Frame) -> float:
        """Subtract the penalty for every new gap."""
        return -self.gap_penalty * self._lap.advance(frame.car)

    def end(self, frame: Frame) -> None:
        """Truncate at the end of the lap, unless another rule has stopped the episode."""
        if not self.truncate_lap or "stopped_by" in frame.info:
            return
        if self._lap.came_round and "lap_finished" not in frame.info:
            frame.info["stopped_by"] = "came_round"
        if self._lap.came_round or frame.info.get("lap_finished"):
            frame.terminated, frame.truncated = False, True


@training_rule
class Standstills(TrainingRule):
    """Stop the car once, anywhere on the track, in a fraction of the episodes.

    A good policy brakes when it loses the car in a hard turn. The car then stands in a place where it never stood in training.
    The policy has not learned what to do there and keeps the brake pressed.
    """

    standstill_rate: float = option(
        0.0,
        share,
        "Fraction of the episodes in which the car is once steered at random and braked until it stands. This happens within "
        "one step and gives no reward. From then on leaving the road does not end the episode. Continuous actions only.",
    )

    def check(self, *, continuous: bool) -> None:
        """Raise `UserError` for discrete actions."""
        if not continuous:
            raise UserError(f"standstill_rate is for continuous actions, got {self.standstill_rate!r} with continuous=False")

    def begin(self, frame: Frame, random: np.random.Generator) -> None:
        """Draw whether and when to stop the car."""
        self.coming = Standstill(random) if random.random() < self.standstill_rate else None

    def after_step(self, frame: Frame, drive: Drive) -> None:
        """Steer, then brake until the car stands or the episode ends."""
        how = self.coming
        if how is None or frame.number < how.begins:
            return
        self.coming = None
        frame.excused.add("off_road")
        for turn in range(how.turn_frames + how.LONGEST_STOP):
            goes_on = drive(how.steering, 0.0, float(turn >= how.turn_frames))
            if not goes_on or frame.car.hull.linearVelocity.length < how.STANDS:
                break


class Standstill:
    """When and how the car is stopped, drawn from `random`."""

    EARLIEST, LATEST = 50, 700
    """Range of frames in which it begins."""
    LONGEST_TURN = 25
    """Maximum number of frames of steering before the brakes lock."""
    LONGEST_STOP = 120
    """Maximum number of frames of braking; then the agent takes over even if the car still rolls."""
    STANDS = 1.0
    """Speed below which the car counts as standing, in units of the physics (a fast car has about 90)."""

    def __init__(self, random: np.random.Generator) -> None:
        self.begins = int(random.integers(self.EARLIEST, self.LATEST))
        self.turn_frames = int(random.integers(self.LONGEST_TURN + 1))
        self.steering = float(random.uniform(-1.0, 1.0))
