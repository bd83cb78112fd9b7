"""How far a car has come on its lap, and which tiles it has missed."""

from collections.abc import Sequence
from typing import Any


class Lap:
    """Progress of a car along its lap, and the tiles that it has missed.

    A tile counts as missed when no wheel has touched it and the foremost wheel is `_LAG` tiles further. Until then a rear
    wheel may still touch it. Adjacent missed tiles form one gap. After the first missed tile the lap cannot be finished;
    further ones only cost their own points.

    Args:
        road: The tiles in driving order, each with `idx` and `road_visited`. The car starts on the first.
    """

    _LAG = 5
    _LONGEST_CUT = 60  # A tile further ahead than this belongs to a road section that runs alongside.

    def __init__(self, road: Sequence[Any]) -> None:
        self._road = road
        self._front = 0
        self._passed = 0
        self._in_gap = False
        self.came_round = False
        """Whether the car has reached the last tile, or one at the start from there."""

    def advance(self, car: Any) -> int:
        """Update from the tiles under the car's wheels and return the number of new gaps."""
        front, furthest = self._front, self._front + self._LONGEST_CUT
        at_the_start = False
        for wheel in car.wheels:
            for tile in wheel.tiles:
                if front < tile.idx <= furthest:
                    front = tile.idx
                at_the_start |= tile.idx < self._LONGEST_CUT
        self._front = front
        last = len(self._road) - 1
        self.came_round = front == last or (at_the_start and front > last - self._LONGEST_CUT)
        passed = last + 1 if self.came_round else front - self._LAG
        gaps = 0
        while self._passed < passed:
            missed = not self._road[self._passed].road_visited
            gaps += missed and not self._in_gap
            self._in_gap = missed
            self._passed += 1
        return gaps
