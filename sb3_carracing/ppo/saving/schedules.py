"""Schedules as data: how a learning rate or clip range that is a function is written into a file and read again."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

N_SAMPLES = 1001


class ProportionalSchedule:
    """A value that falls linearly to 0: what rl-zoo3's `lin_0.0003` stands for.

    Args:
        initial_value: the value at the start of the training.
    """

    def __init__(self, initial_value: float):
        self.initial_value = float(initial_value)

    def __call__(self, progress_remaining: float) -> float:
        """Return the value when `progress_remaining` of the training remains."""
        return progress_remaining * self.initial_value

    def __repr__(self) -> str:
        return f"ProportionalSchedule({self.initial_value})"


class SampledSchedule:
    """A function of the remaining progress that is known at equally spaced points, with straight lines between them.

    Args:
        values: the values from progress 0 (the end of the training) to 1 (its start).
    """

    def __init__(self, values: list[float]):
        self.values = [float(value) for value in values]

    def __call__(self, progress_remaining: float) -> float:
        """Return the value when `progress_remaining` of the training remains."""
        return float(np.interp(progress_remaining, np.linspace(0.0, 1.0, len(self.values)), self.values))


def schedule_as_data(name: str, schedule: Schedule) -> dict[str, Any]:
    """Return a schedule as JSON data.

    A function is written as the straight line that it is, or else as its values at 1,001 points. That this differs from
    the function between the points is warned of.
    """
    if isinstance(schedule, FloatSchedule):
        return {"kind": "float", "of": schedule_as_data(name, schedule.value_schedule)}
    # rl-zoo3's class is known by its name, since importing rl_zoo3 changes gymnasium.
    if isinstance(schedule, ProportionalSchedule) or _is_rl_zoos(schedule):
        return {"kind": "proportional", "initial_value": float(schedule.initial_value)}  # type: ignore[attr-defined]
    if type(schedule) is ConstantSchedule:
        return {"kind": "constant", "value": float(schedule.val)}
    if type(schedule) is LinearSchedule:
        return {"kind": "linear", **{key: float(getattr(schedule, key)) for key in ("start", "end", "end_fraction")}}
    if isinstance(schedule, SampledSchedule):
        return {"kind": "sampled", "values": schedule.values}
    return _function_as_data(name, schedule)


def _is_rl_zoos(schedule: Any) -> bool:
    return (type(schedule).__module__, type(schedule).__name__) == ("rl_zoo3.utils", "SimpleLinearSchedule")


def _function_as_data(name: str, function: Callable[[float], float]) -> dict[str, Any]:
    points = np.linspace(0.0, 1.0, N_SAMPLES)
    between = (points[1:] + points[:-1]) / 2
    values, checks = [_value(function, point) for point in points], [_value(function, point) for point in between]
    start, end = values[-1], values[0]
    for line, data in (
        (ConstantSchedule(start), {"kind": "constant", "value": start}),
        (ProportionalSchedule(start), {"kind": "proportional", "initial_value": start}),
        (LinearSchedule(start, end, 1.0), {"kind": "linear", "start": start, "end": end, "end_fraction": 1.0}),
    ):
        if [line(point) for point in (*points.tolist(), *between.tolist())] == [*values, *checks]:
            return data
    sampled = SampledSchedule(values)
    difference = max(abs(sampled(point) - check) for point, check in zip(between, checks, strict=True))
    if not difference <= 1e-6 * max(map(abs, values)):
        warnings.warn(
            f"{name} is a function, of which the saved agent keeps {N_SAMPLES} values and straight lines between them (they "
            f"differ from it by up to {difference:.2g}); to train on with the function itself, pass it: load(..., {name}=...)",
            stacklevel=2,
        )
    return {"kind": "sampled", "values": values}


def _value(function: Callable[[float], float], progress: float) -> float:
    try:
        value = float(function(float(progress)))
    except ArithmeticError:  # 1 / progress at the very end
        return 0.0
    return value if math.isfinite(value) else 0.0


def schedule_from_data(data: dict[str, Any]) -> Schedule:
    """Return the schedule that `schedule_as_data` described.

    Raises:
        ValueError, TypeError, KeyError: the data describe none.
    """
    fields = dict(data)
    kind = fields.pop("kind")
    if kind == "float":
        return FloatSchedule(schedule_from_data(fields.pop("of")))
    kinds: dict[str, tuple[type, tuple[str, ...]]] = {
        "constant": (ConstantSchedule, ("value",)),
        "proportional": (ProportionalSchedule, ("initial_value",)),
        "linear": (LinearSchedule, ("start", "end", "end_fraction")),
        "sampled": (SampledSchedule, ("values",)),
    }
    if kind not in kinds or set(fields) != set(kinds[kind][1]):
        raise ValueError(f"unknown schedule {data!r:.80}")
    cls, names = kinds[kind]
    arguments = [fields[name] for name in names]
    for number in arguments[0] if kind == "sampled" else arguments:
        if isinstance(number, bool) or not isinstance(number, int | float) or math.isnan(number):
            raise ValueError(f"a schedule needs numbers, got {number!r:.80}")
    schedule: Schedule = cls(*arguments)
    return schedule
