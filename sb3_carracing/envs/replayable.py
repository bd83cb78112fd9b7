"""`Replayable`: brings an environment back to where it was in the middle of an episode, by playing the episode again.

A physics engine cannot be copied to the last bit, but an episode can be repeated: from the same random generators, the same
actions lead to the same state.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, SupportsFloat, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.utils.env_checker import data_equivalence

from sb3_carracing.errors import UserError

REPLAY = "sb3_carracing.replay"
"""Key in the options of `reset` for the state to return to, and in its info for whether that succeeded."""

OUTERMOST = "sb3_carracing_outermost"
"""Attribute that `VecEnv.set_attr` sets on the outermost wrapper, see `Replayable.is_outermost`."""

MAX_STEPS = 10_000
"""Steps of the longest episode that is kept."""

_Env: TypeAlias = gym.Env[Any, Any]
_Values: TypeAlias = dict[str, Any]
_NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)
_DEPTH = 2
"""How many objects deep below a layer values are looked for: `rules._random` of a `CarRacing` is one deep."""

# Wrappers that keep no observation of an earlier step and do not use any. By name, since importing SB3's would load torch.
_KEEP_NOTHING = {
    "gymnasium.wrappers.common.PassiveEnvChecker",
    "gymnasium.wrappers.common.OrderEnforcing",
    "stable_baselines3.common.monitor.Monitor",
    "sb3_carracing.envs.pedals.SignedPedals",
    *(
        f"sb3_carracing.envs.wrappers.{name}"
        for name in ("FrameLimit", "ActionRepeat", "ScaleReward", "Grayscale", "Contrast", "Crop")
    ),
}


@dataclass
class _Episode:
    """An episode up to now.

    Attributes:
        before: What the layers held before the reset, see `_places`.
        seed: Given to `reset`.
        options: Given to `reset`.
        actions: One per step.
        total: The sum of the rewards.
        observation: The latest one.
    """

    before: _Values
    seed: int | None
    options: dict[str, Any] | None
    actions: Any = field(default_factory=list)
    total: float = 0.0
    observation: Any = None


class Replayable(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Record each episode, so that the environment can be brought back to its latest step in another process.

    It must be the outermost wrapper, around `Monitor` as well. Before each reset it notes all generators of the layers below
    and the numbers and arrays in their attributes that have changed since they were built. It then records the actions.

    `episode_state` returns this as data. `reset(options={REPLAY: state})` plays the episode again and returns its latest
    observation. `info[REPLAY]` says whether observation and return equal those of the first time. They differ if the
    environment is not deterministic, or if it keeps more than generators, numbers and arrays from episode to episode.

    Around this package's `CarRacing`, the replay draws only the first observation and those that a wrapper keeps, unless a
    wrapper such as `TargetSpeed` uses the observation of every step.

    Args:
        env: The environment with all its other wrappers.

    Example:
        >>> env = Replayable(gym.make("Pendulum-v1"))
        >>> _ = env.reset(seed=0)
        >>> there = env.step(np.array([1.0], np.float32))[0]
        >>> other = Replayable(gym.make("Pendulum-v1"))
        >>> back, info = other.reset(options={REPLAY: env.episode_state()})
        >>> info[REPLAY], np.array_equal(back, there)
        (True, True)
    """

    def __init__(self, env: _Env) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._built_with = _values(env)
        self._episode: _Episode | None = None
        self._asked = getattr(env.unwrapped, "asked", None)
        self._n_kept = _kept_observations(env) if self._asked is not None else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode, or return to the state in `options[REPLAY]`."""
        if options and REPLAY in options:
            return self._replay(options[REPLAY])
        _ = self.np_random  # made on the first use, from then on it has a state
        built_with, before = self._built_with, _values(self.env)
        changed = {path: value for path, value in before.items() if _has_changed(value, built_with.get(path))}
        self._episode = _Episode(changed, seed, options)
        # Like SB3, for environments whose reset has no options.
        observation, info = self.env.reset(seed=seed, options=options) if options else self.env.reset(seed=seed)
        self._episode.observation = observation
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step and record the action."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._episode is not None:
            self._episode.actions.append(np.array(action))
            self._episode.total += float(reward)
            self._episode.observation = observation
            if len(self._episode.actions) > MAX_STEPS:
                self._episode = None
        return observation, reward, terminated, truncated, info

    def episode_state(self) -> dict[str, Any] | None:
        """Return the episode as data, or None if none has begun or it is longer than `MAX_STEPS`."""
        if self._episode is None:
            return None
        actions = self._episode.actions
        return {**vars(self._episode), "actions": np.stack(actions) if actions else np.zeros(0)}

    def is_outermost(self) -> bool:
        """Return whether no wrapper is around this one; call `VecEnv.set_attr(OUTERMOST, True)` before."""
        return OUTERMOST in vars(self)

    def _replay(self, state: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Play an episode again; `state` has passed `check_episode_state`."""
        given, actions = {"seed": state["seed"], "options": state["options"]}, state["actions"]
        # The first observation that a wrapper still holds at the end, counted from that of the reset, which is 0.
        first_kept = 0 if self._n_kept is None else len(actions) + 1 - self._n_kept
        # An environment may build what belongs to its numbers (a window, a client) in the first reset.
        self._play(False, self.reset, **given)
        _put(self.env, {**self._built_with, **state["before"]})
        # Drawn in any case, since the renderer goes on using what it prepares for the first observation.
        observation, info = self.reset(**given)
        over = False
        for number, action in enumerate(actions, 1):
            if over:
                break
            observation, _, terminated, truncated, info = self._play(number >= first_kept, self.step, action)
            over = terminated or truncated
        episode = self._episode
        same = episode is not None and not over and episode.total == state["total"]
        return observation, {**info, REPLAY: same and data_equivalence(observation, state["observation"], exact=True)}

    def _play(self, is_drawn: bool, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the result of `call`; this package's `CarRacing` draws only if `is_drawn`."""
        if is_drawn or self._n_kept is None:
            return call(*args, **kwargs)
        assert self._asked is not None
        return self._asked.during("drawn", False, call, *args, **kwargs)


def check_episode_state(file: str, state: Any, action_space: spaces.Space[Any]) -> None:
    """Raise `UserError` unless `state` is one that `episode_state` returns for this action space.

    Args:
        file: What the error calls the state's file.
        state: The state.
        action_space: That of the environment.
    """
    names = set(_Episode.__dataclass_fields__)
    if not isinstance(state, dict) or set(state) != names:
        raise UserError(f"{file}: the state of an environment must hold {', '.join(sorted(names))}")
    before, actions, seed, total = (state[name] for name in ("before", "actions", "seed", "total"))
    if not isinstance(before, dict) or not all(isinstance(key, str) and _is_value(before[key]) for key in before):
        raise UserError(f"{file}: the state of an environment must hold numbers, arrays and generators only")
    options = state["options"]
    is_given = options is None or (isinstance(options, dict) and REPLAY not in options)
    if not is_given or not isinstance(seed, int | None) or not isinstance(total, float):
        raise UserError(f"{file}: the seed, options or total of an environment are damaged")
    if not isinstance(actions, np.ndarray) or actions.dtype.kind not in "biuf" or len(actions) > MAX_STEPS:
        raise UserError(f"{file}: an environment's actions must be an array of at most {MAX_STEPS} numbers")
    if not all(action_space.contains(action.astype(action_space.dtype)) for action in actions):
        raise UserError(f"{file}: an environment's actions do not lie in its action space {action_space}")


def _places(env: _Env) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield path, holder and name of each value that the layers of an environment hold, or objects within them."""
    layers = [env]
    while isinstance(layers[-1], gym.Wrapper):
        layers.append(layers[-1].env)
    visited = {id(layer) for layer in layers}

    def within(path: str, owner: Any, depth: int) -> Iterator[tuple[str, dict[str, Any], str]]:
        for name, value in list(vars(owner).items()):
            # The bounds of a space do not change.
            if _is_value(value) and (name == "_np_random" or not isinstance(owner, spaces.Space)):
                yield f"{path}.{name}", vars(owner), name
        for name, value in _parts(owner):
            if depth < _DEPTH and id(value) not in visited and hasattr(value, "__dict__") and not callable(value):
                visited.add(id(value))
                yield from within(f"{path}.{name}", value, depth + 1)

    for number, layer in enumerate(layers):
        yield from within(f"{number} {type(layer).__name__}", layer, 0)


def _parts(owner: Any) -> list[tuple[Any, Any]]:
    """Return by name the objects that one object holds."""
    if isinstance(owner, spaces.Dict):
        return list(owner.spaces.items())
    if isinstance(owner, spaces.Tuple):
        return list(enumerate(owner.spaces))
    of_class = [(name, getattr(owner, name)) for name in ("action_space", "observation_space") if isinstance(owner, gym.Env)]
    return [*vars(owner).items(), *of_class]


def _is_value(value: Any) -> bool:
    is_array = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    return value is None or is_array or isinstance(value, (*_NUMBERS, np.random.Generator))


def _values(env: _Env) -> _Values:
    """Return copies of the values that an environment holds, by path."""
    return {path: copy.deepcopy(holder[name]) for path, holder, name in _places(env)}


def _put(env: _Env, values: _Values) -> None:
    """Set values where the environment has a value of the same kind; generators that are shared stay shared."""
    for path, holder, name in list(_places(env)):
        current = holder[name]
        value = values.get(path, current)
        if not _is_alike(value, current):
            continue
        if isinstance(value, np.random.Generator) and current is not None:
            current.bit_generator.state = value.bit_generator.state
        else:
            holder[name] = copy.deepcopy(value)


def _is_alike(value: Any, current: Any) -> bool:
    if isinstance(value, np.random.Generator) and isinstance(current, np.random.Generator):
        return type(value.bit_generator) is type(current.bit_generator)
    is_number = isinstance(value, (*_NUMBERS, np.ndarray)) and isinstance(current, (*_NUMBERS, np.ndarray))
    # Arithmetic turns an array of no dimensions into a number.
    return current is None or (is_number and np.shape(value) == np.shape(current))


def _has_changed(value: Any, built_with: Any) -> bool:
    """Return whether a value may differ from the one in a new environment; the seed of a generator is never known."""
    if isinstance(value, np.random.Generator):
        return True
    return not (type(value) is type(built_with) and np.array_equal(value, built_with))


def _kept_observations(env: _Env) -> int | None:
    """Return of how many steps the wrappers keep the observations, None if that is unknown."""
    n_kept = 1
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.FrameStackObservation):
            n_kept += env.stack_size - 1
        elif f"{type(env).__module__}.{type(env).__qualname__}" not in _KEEP_NOTHING:
            return None
        env = env.env
    return n_kept
