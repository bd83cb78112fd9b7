"""Counts of an episode, and how they reach the wrappers and callbacks above.

Any environment may put its own `score` or `frames` into `info`, so those keys cannot be trusted. The counts use a key that no
other library uses. Only our CarRacing and `RawScore` write it.
"""

from typing import Any, NamedTuple

KEY = "sb3_carracing.counts"


class Counts(NamedTuple):
    """Counts of an episode up to now.

    Attributes:
        score: sum of the environment's own rewards, before training rules and wrappers change them.
        frames: frames played.
        over: whether the environment itself has ended the episode, regardless of wrappers.
        lap_finished: whether a lap of CarRacing was finished; False in other environments.
    """

    score: float
    frames: int
    over: bool
    lap_finished: bool


def put_counts(info: dict[str, Any], score: float, frames: int, over: bool, lap_finished: bool) -> None:
    """Store counts in the `info` of a step; see `Counts`."""
    # As a plain tuple: it is cheaper to make, to copy and to send to another process.
    info[KEY] = score, frames, over, lap_finished


def counts_of(info: dict[str, Any]) -> Counts | None:
    """Return the counts in the `info` of a step, None if no wrapper or environment below counts."""
    counts = info.get(KEY)
    return None if counts is None else Counts(*counts)
