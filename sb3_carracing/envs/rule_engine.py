"""The machinery of training rules: how to declare a rule, what it sees of a frame and when it acts."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, dataclass_transform

import numpy as np
from numpy.typing import NDArray

from sb3_carracing.errors import UserError

RETIRED = {"retry_rate": "repeating unfinished tracks did not improve the agents"}
"""Options of earlier versions, and why they were removed. Old runs may still name them."""

Drive = Callable[[float, float, float], bool]
"""Plays one frame with a steering, gas and brake that earns the agent nothing. Returns whether the episode goes on."""


class Frame:
    """The latest frame: what gymnasium returned for it, as changed by the rules.

    Attributes:
        car: The car, a gymnasium `Car`.
        road: The tiles of the road in driving order.
        number: Frames since reset, this one included.
        reward: Its reward.
        terminated: Whether it terminated the episode.
        truncated: Whether it truncated the episode.
        info: Its `info`.
        over_in_gymnasium: Whether gymnasium itself terminated the episode here.
        excused: Reasons to stop that no longer apply in this episode.

    Args:
        draw: Returns the frame as an RGB observation.
        skip_opening: Ends the zoom with which gymnasium opens an episode.
    """

    car: Any
    road: Sequence[Any]
    number: int
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]
    over_in_gymnasium: bool
    excused: set[str]

    def __init__(self, draw: Callable[[], NDArray[np.uint8]], skip_opening: Callable[[], None] = lambda: None) -> None:
        self.observation = draw
        self.skip_opening = skip_opening

    def start(self, car: Any, road: Sequence[Any]) -> None:
        """Begin an episode."""
        self.car, self.road, self.number, self.excused = car, road, 0, set()
        self.terminated = self.truncated = False

    @property
    def over(self) -> bool:
        """Whether the episode has ended."""
        return self.terminated or self.truncated

    @property
    def off_road(self) -> bool:
        """Whether no wheel touches the road."""
        return off_road(self.car)

    def stop(self, reason: str) -> None:
        """Terminate the episode with `info["stopped_by"]`, unless gymnasium has done so or the reason is excused."""
        if not self.over_in_gymnasium and reason not in self.excused:
            self.terminated = True
            self.info["stopped_by"] = reason


def off_road(car: Any) -> bool:
    """Return whether no wheel of a gymnasium `Car` touches a tile of the road."""
    one, two, three, four = car.wheels  # Called in every frame, and any() takes four times as long.
    return not (one.tiles or two.tiles or three.tiles or four.tiles)


def option(default: Any, check: Callable[[str, Any], Any], meaning: str) -> Any:
    """Declare an option of a rule.

    Args:
        default: Its value if none is given.
        check: Called with the option's name and value. Returns the value to use or raises `UserError`.
        meaning: What it means, for the documentation.
    """
    return field(default=default, metadata={"check": check, "meaning": meaning})


@dataclass
class TrainingRule:
    """Base of all rules. A rule overrides the methods it needs.

    The fields are the rule's options. The rule is on where the first one is truthy.
    """

    @property
    def is_on(self) -> bool:
        """Whether the rule does anything."""
        return bool(getattr(self, fields(self)[0].name))

    @property
    def needs_observations(self) -> bool:
        """Whether the rule needs the observation of every frame."""
        return False

    @property
    def idle_frames(self) -> int:
        """Frames without action after reset. They count in `frames` and `score`, and no rule sees them."""
        return 0

    def check(self, *, continuous: bool) -> None:
        """Raise `UserError` if the rule does not support such actions."""

    def first_tile(self, n_tiles: int, random: np.random.Generator) -> int:
        """Return the tile where the lap starts and ends, from 0 to `n_tiles` - 1 of the new track."""
        return 0

    def begin(self, frame: Frame, random: np.random.Generator) -> None:
        """Reset the rule's own state for a new episode. The car stands on the first tile."""

    def change_reward(self, frame: Frame) -> float:
        """Return what to add to the frame's reward."""
        return 0.0

    def end(self, frame: Frame) -> None:
        """End the episode by `frame.stop`, or by setting `frame.terminated` and `frame.truncated`."""

    def after_step(self, frame: Frame, drive: Drive) -> None:
        """Drive before the agent's next decision."""


RuleClass = TypeVar("RuleClass", bound=type[TrainingRule])
_RULES: dict[str, type[TrainingRule]] = {}


@dataclass_transform(field_specifiers=(option,))
def training_rule(cls: RuleClass) -> RuleClass:
    """Register a rule. Its options become keyword arguments of every `CarRacing` made from now on.

    Raises:
        ValueError: Another rule has an option of the same name, or had one in an earlier version.
    """
    rule: Any = dataclass(cls)
    others = {one for name, other in _RULES.items() if name != cls.__name__ for one in _options(other)}
    taken = (others | RETIRED.keys()) & _options(rule).keys()
    if taken:
        raise ValueError(f"{cls.__name__} has options that are taken already: {', '.join(sorted(taken))}")
    _RULES[cls.__name__] = rule
    return rule  # type: ignore[no-any-return]


def _options(*rules: type[TrainingRule]) -> dict[str, Any]:
    """Return the declarations of the rules' options by name."""
    return {one.name: one for rule in rules for one in fields(rule)}


class TrainingRules:
    """The training rules of one environment.

    Attributes:
        options: Value of every option, given or not.
        active: The rules that are on, in the order in which they act.
        idle_frames: Frames without action after reset.
        needs_observations: Whether any rule needs the observation of every frame.
        act_on_frames: Whether `after_frame` does anything.
        act_after_steps: Whether `after_step` does anything.

    Args:
        given: Values of options by name.
        continuous: Whether the environment's actions are continuous.

    Raises:
        UserError: An option has an invalid value, does not fit the actions, or is retired.
        TypeError: There is no option of this name.
    """

    def __init__(self, given: Mapping[str, Any], *, continuous: bool) -> None:
        self.options = _checked(given)
        rules = [rule(**{name: self.options[name] for name in _options(rule)}) for rule in _RULES.values()]
        self.active = [rule for rule in rules if rule.is_on]
        for rule in self.active:
            rule.check(continuous=continuous)
        self.idle_frames = sum(rule.idle_frames for rule in self.active)
        self.needs_observations = any(rule.needs_observations for rule in self.active)
        self._reward_changes = [rule.change_reward for rule in self.active if _overrides(rule, "change_reward")]
        self._ends = [rule.end for rule in self.active if _overrides(rule, "end")]
        self._drivers = [rule.after_step for rule in self.active if _overrides(rule, "after_step")]
        self.act_on_frames = bool(self._reward_changes or self._ends)
        self.act_after_steps = bool(self._drivers)
        self._random = np.random.default_rng()

    def seed(self, seed: int | None) -> None:
        """Seed the rules' generator, which is their own, so that they do not change the tracks. None leaves it alone."""
        if seed is not None:
            self._random = np.random.default_rng(seed)

    def first_tile(self, n_tiles: int) -> int:
        """Return the tile of a new track where the lap starts and ends."""
        return sum(rule.first_tile(n_tiles, self._random) for rule in self.active) % n_tiles

    def begin(self, frame: Frame) -> None:
        """Begin an episode on the new track."""
        for rule in self.active:
            rule.begin(frame, self._random)

    def after_frame(self, frame: Frame, reward: float) -> float:
        """Let the rules change the frame's reward and end the episode.

        Args:
            frame: The frame as gymnasium and the time limit have left it.
            reward: Gymnasium's.

        Returns:
            The frame's reward under the rules.
        """
        frame.reward, frame.over_in_gymnasium = reward, frame.terminated
        for change in self._reward_changes:
            frame.reward += change(frame)
        for end in self._ends:
            end(frame)
        return frame.reward

    def after_step(self, frame: Frame, drive: Drive) -> None:
        """Let the rules drive before the agent's next decision."""
        for drive_on in self._drivers:
            if not frame.over:
                drive_on(frame, drive)


def _overrides(rule: TrainingRule, method: str) -> bool:
    return getattr(type(rule), method) is not getattr(TrainingRule, method)


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of every option, checked."""
    known = _options(*_RULES.values())
    for name in given:
        if name in RETIRED:
            raise UserError(f"{name} is no longer a training rule of CarRacing: {RETIRED[name]}. Remove it from env_kwargs")
        if name not in known:
            message = f"CarRacing.__init__() got an unexpected keyword argument {name!r}"
            raise TypeError(f"{message}; its training rules have {', '.join(known)}")
    return {name: one.metadata["check"](name, given.get(name, one.default)) for name, one in known.items()}


def evaluation_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of CarRacing that an evaluation keeps.

    It drops the options of the training rules, retired options (with a warning) and `max_episode_steps`.
    """
    training_only = _options(*_RULES.values()).keys() | {"max_episode_steps"}
    return {name: value for name, value in without_retired(kwargs).items() if name not in training_only}


def without_retired(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments without retired options, which a warning names."""
    for name in sorted(RETIRED.keys() & kwargs.keys()):
        warnings.warn(f"ignoring {name}, which is no longer a training rule: {RETIRED[name]}", stacklevel=3)
    return {name: value for name, value in kwargs.items() if name not in RETIRED}


def describe_options(indent: str) -> str:
    """Return an entry of a docstring's `Args:` for each option."""
    known = _options(*_RULES.values()).values()
    return "\n".join(f"{indent}{one.name}: Training only. {one.metadata['meaning']}" for one in known)
