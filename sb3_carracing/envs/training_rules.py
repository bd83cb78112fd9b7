"""What training may change of CarRacing: its rules' settings, and what they have to remember from frame to frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sb3_carracing.checks import finite_number, one_of, whole_number

MAX_FRAMES = 1000
"""Frames after which an episode is truncated; gymnasium's registration of `CarRacing-v3` says the same."""

GRASS_RULES = ("wheels", "green")


@dataclass(frozen=True)
class TrainingRules:
    """What only training changes. See `CarRacing` for the meaning of each; ValueError names one that is out of range."""

    noop_frames: int
    grass_penalty: float
    grass_rule: str
    green_threshold: float
    end_bonus: float
    no_progress_frames: int
    no_progress_reward: float
    off_road_frames: int
    gap_penalty: float
    truncate_lap: bool
    standstill_rate: float
    retry_rate: float

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {"noop_frames": whole_number("noop_frames", self.noop_frames, 0, MAX_FRAMES - 1)}
        for name in ("no_progress_frames", "off_road_frames"):
            checked[name] = whole_number(name, getattr(self, name), 0)
        for name in ("grass_penalty", "gap_penalty"):
            checked[name] = finite_number(name, getattr(self, name), 0.0)
        for name in ("green_threshold", "end_bonus", "no_progress_reward"):
            checked[name] = finite_number(name, getattr(self, name))
        for name in ("standstill_rate", "retry_rate"):
            checked[name] = finite_number(name, getattr(self, name), 0.0, 1.0)
        one_of("grass_rule", self.grass_rule, GRASS_RULES)
        # Python's own numbers, whatever was given: a float32 would make float32 of rewards.
        for name, value in (checked | {"truncate_lap": bool(self.truncate_lap)}).items():
            object.__setattr__(self, name, value)

    @property
    def see_green(self) -> bool:
        """Whether a rule looks at every frame's picture."""
        return self.grass_rule == "green" and self.grass_penalty > 0

    @property
    def shape_frames(self) -> bool:
        """Whether a rule changes the reward or the end of single frames."""
        return bool(
            self.grass_penalty
            or self.end_bonus
            or self.no_progress_frames
            or self.off_road_frames
            or self.gap_penalty
            or self.truncate_lap
        )


class Standstill:
    """Once in an episode the car is steered at random and then braked until it stands: when and how, from `random`.

    A good driver who loses the car in a hard turn brakes, and then stands where no training episode has ever stood: a
    policy knows nothing of pictures that it has not seen, and this one keeps the brake pressed.
    """

    EARLIEST, LATEST = 50, 700
    """Frames of the episode between which it begins."""
    LONGEST_TURN = 25
    """Most frames of steering before the brakes lock."""
    LONGEST_STOP = 120
    """Frames of braking after which the driver gets the car back even if it still rolls."""
    STANDS = 1.0
    """Speed, in the physics' units (a fast car has about 90), below which a car stands."""

    def __init__(self, random: np.random.Generator) -> None:
        self.begins = int(random.integers(self.EARLIEST, self.LATEST))
        self.turn_frames = int(random.integers(self.LONGEST_TURN + 1))
        self.steering = float(random.uniform(-1.0, 1.0))


class Progress:
    """Mean of the last `n_frames` rewards, over a history that starts at zeros (the blog's `reward_memory`)."""

    def __init__(self, n_frames: int) -> None:
        self._history = np.zeros(n_frames)
        self._next = 0

    def mean_with(self, reward: float) -> float:
        """Put `reward` in the place of the oldest and return the mean.

        The array is circular, not shifted: the seed's threshold of -0.1 is met or missed by the last bit of a sum of
        100 times -0.1, so the terms have to stand in the seed's order.
        """
        self._history[self._next] = reward
        self._next = (self._next + 1) % len(self._history)
        return float(np.mean(self._history))


class Lap:
    """How far a car has come along its lap, and where it has left out tiles.

    A tile counts as left out when the foremost wheel is `_LAG` tiles further and no wheel has touched it: until then a
    rear wheel may. Neighbouring tiles left out are one gap: the first missed tile costs a lap its finish, the next
    ones only their own points.

    Args:
        road: the tiles in the order of the lap, each with `idx` and `road_visited`; the car starts on the first.
    """

    _LAG = 5
    _LONGEST_CUT = 60  # A tile further ahead than this is not the road driven on but one that runs beside it.

    def __init__(self, road: Sequence[Any]) -> None:
        self._road = road
        self._front = 0
        self._passed = 0
        self._in_gap = False
        self.came_round = False
        """Whether the car has reached the last tile, or one at the start from there."""

    def advance(self, car: Any) -> int:
        """Take note of the tiles under the car's wheels; return how many gaps have opened since the last call."""
        touched = {tile.idx for wheel in car.wheels for tile in wheel.tiles}
        self._front = max((idx for idx in touched if 0 <= idx - self._front <= self._LONGEST_CUT), default=self._front)
        last = len(self._road) - 1
        near_the_end = self._front > last - self._LONGEST_CUT
        self.came_round = self._front == last or (near_the_end and any(idx < self._LONGEST_CUT for idx in touched))
        gaps = 0
        passed = last + 1 if self.came_round else self._front - self._LAG
        for tile in self._road[self._passed : max(passed, self._passed)]:
            gaps += not tile.road_visited and not self._in_gap
            self._in_gap = not tile.road_visited
        self._passed = max(passed, self._passed)
        return gaps
