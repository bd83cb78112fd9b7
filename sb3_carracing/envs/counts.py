"""What is counted in an episode, and how it reaches whoever is above.

Any environment may put a `score` or `frames` of its own into `info`, so those names cannot be trusted there. The counts
travel under a key that no other library uses. Only our CarRacing and `RawScore` write it.
"""

from typing import Any, NamedTuple

KEY = "sb3_carracing.counts"


class Counts(NamedTuple):
    """Counts of an episode up to now.

    Attributes:
        score: sum of the environment's own rewards, whatever training rules and wrappers make of them.
        frames: frames played.
        over: whether the environment has ended the episode, whatever a wrapper makes of it.
        lap_finished: whether a lap of CarRacing was finished; False in other environments.
    """

    score: float
    frames: int
    over: bool
    lap_finished: bool


def put_counts(info: dict[str, Any], counts: Counts) -> None:
    """Store counts in the `info` of a step."""
    # As a plain tuple: it is cheaper to copy and to send to another process.
    info[KEY] = tuple(counts)


def counts_of(info: dict[str, Any]) -> Counts | None:
    """Return the counts in the `info` of a step, None if nobody below counts."""
    counts = info.get(KEY)
    return None if counts is None else Counts(*counts)
