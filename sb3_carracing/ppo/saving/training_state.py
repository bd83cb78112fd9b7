"""What a training holds beyond its agent: generators, environments, vectorized wrappers, callbacks, log.

`entries` returns them as entries of an agent's file, and `sb3_carracing.resume` brings them back. What it brings back has come
from a file: each function that sets something raises one of `plain_data.UNREADABLE` for what does not fit.
"""

import json
import random
import re
from collections import deque
from collections.abc import Iterator
from numbers import Real
from typing import Any

import numpy as np
import safetensors.numpy
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EventCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from sb3_carracing.ppo.saving.named_classes import dotted_name
from sb3_carracing.ppo.saving.plain_data import Encoder, NotDataError

FORMAT = "sb3-carracing training"
FORMAT_VERSION = 1

ENTRY = re.compile(r"training(\.[1-9][0-9]{0,4})?\.(json|safetensors)")
"""Names of the entries of all ranks."""
LAST = ("_last_obs", "_last_original_obs", "_last_episode_starts")
"""Attributes of a model from which the next rollout begins. An agent's file holds those of rank 0, and `load` ignores them."""

Values = list[dict[str, Any]]
"""For each object its `class` and its `values`."""

_OF_WRAPPER: dict[type, tuple[str, ...]] = {
    VecNormalize: ("returns",),
    VecMonitor: ("episode_returns", "episode_lengths", "episode_count"),
    **dict.fromkeys((VecFrameStack, VecTransposeImage, VecCheckNan, VecExtractDictObs), ()),
}
"""The vectorized wrappers that are known, and their attributes that a reset would change."""
_OF_CALLBACK = ("n_calls", "best_mean_reward", "last_mean_reward")
"""What SB3's callbacks count, and the scores that its EvalCallback compares with; `KEPT` of a callback names more."""
_OF_LOG: dict[str, Any] = {"name_to_value": Real, "name_to_count": int, "name_to_excluded": tuple | str | None}


def entry(rank: int) -> str:
    """Return the name of a rank's entries, without their endings `.json` and `.safetensors`."""
    return f"training.{rank}" if rank else "training"


def entries(model: Any, rank: int = 0) -> dict[str, bytes]:
    """Return the entries of an agent's file that hold the state of one rank's training by BetaPPO."""
    encode = Encoder()
    values = {
        "generators": generators(model),
        "wrappers": wrappers(model.env),
        "callbacks": callbacks(model._callback()),
        "log": log(getattr(model, "_logger", None)),
        **({"last": {name: getattr(model, name) for name in LAST}} if rank else {}),
    }
    document = {
        **{"format": FORMAT, "version": FORMAT_VERSION, "environments": _environments(model.env, encode)},
        **{name: encode(name, value) for name, value in values.items()},
    }
    return {
        f"{entry(rank)}.json": json.dumps(document, allow_nan=False).encode(),
        f"{entry(rank)}.safetensors": safetensors.numpy.save(encode.arrays),
    }


def _environments(venv: VecEnv, encode: Encoder) -> Any:
    """Return the states of the environments, None if one of them cannot be played again."""
    try:
        if not venv.has_attr("episode_state"):
            return None
    except NotImplementedError:  # a VecEnv that does not support the question
        return None
    states = venv.env_method("episode_state")
    try:
        return None if any(state is None for state in states) else encode("environments", states)
    except NotDataError:  # options or observations of an unusual kind
        return None


def generators(model: BaseAlgorithm) -> dict[str, Any]:
    """Return the states of all generators of this process that a training draws from."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
        "torch": th.get_rng_state(),
        "device": th.cuda.get_rng_state(model.device) if model.device.type == "cuda" else None,
        "actions": model.action_space._np_random,
    }


def check_generators(state: dict[str, Any]) -> None:
    """Raise an error if these are no states of generators."""
    random.Random().setstate(state["python"])
    np.random.RandomState().set_state(state["numpy"])
    th.Generator().set_state(state["torch"])
    of_kind("the generator of the device", state["device"], th.Tensor | None)
    of_kind("the generator of actions", state["actions"], np.random.Generator | None)


def set_generators(model: BaseAlgorithm, state: dict[str, Any]) -> None:
    """Set all generators to the states that `generators` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    th.set_rng_state(state["torch"])
    if model.device.type == "cuda":
        th.cuda.set_rng_state(state["device"], model.device)
    model.action_space._np_random = state["actions"]


def log(logger: Logger | None) -> dict[str, Any]:
    """Return the numbers that were recorded since the logger has last written, such as the losses of an update."""
    numbers = [name for name, value in logger.name_to_value.items() if isinstance(value, Real)] if logger else []
    return {part: {name: getattr(logger, part)[name] for name in numbers} for part in _OF_LOG}


def set_log(logger: Logger, parts: dict[str, Any]) -> None:
    """Record the numbers again."""
    for part, kind in _OF_LOG.items():
        getattr(logger, part).update({name: of_kind(name, value, kind) for name, value in parts[part].items()})


def wrappers(venv: VecEnv) -> Values:
    """Return the values of the vectorized wrappers, the outermost first; running means are in the agent's file."""
    return [
        {"class": dotted_name(type(wrapper)), "values": [getattr(*place) for place in _places(wrapper)]}
        for wrapper in _wrappers(venv)
    ]


def why_not_these_wrappers(venv: VecEnv, values: Values) -> str | None:
    """Return what prevents setting the values, None if nothing does."""
    names = [dotted_name(type(wrapper)) for wrapper in _wrappers(venv)]
    if names != [kept["class"] for kept in values]:
        return f"its vectorized wrappers were others than {', '.join(names) or 'none'}"
    unknown = [type(wrapper).__name__ for wrapper in _wrappers(venv) if type(wrapper) not in _OF_WRAPPER]
    return f"the state of the vectorized wrapper {unknown[0]} is not known" if unknown else None


def set_wrappers(venv: VecEnv, values: Values) -> None:
    """Set the values of the vectorized wrappers."""
    for wrapper, kept in zip(_wrappers(venv), values, strict=True):
        for (holder, name), value in zip(_places(wrapper), kept["values"], strict=True):
            _put(holder, name, value)


def callbacks(callback: BaseCallback | None) -> Values:
    """Return the values of a callback and those within it."""
    return [
        {"class": dotted_name(type(one)), "values": {name: getattr(one, name) for name in _kept(one)}}
        for one in _all_callbacks(callback)
    ]


def set_callbacks(callback: BaseCallback | None, values: Values) -> None:
    """Set the values of a callback and those within it; those that the training did not have begin anew."""
    remaining = list(values)
    for one in _all_callbacks(callback):
        kept = next((kept for kept in remaining if kept["class"] == dotted_name(type(one))), None)
        if kept is not None:
            remaining.remove(kept)
            for name in _kept(one):
                _put(one, name, kept["values"][name])


def of_kind(name: str, value: Any, kind: Any) -> Any:
    """Return a value if it is of a kind, TypeError if not."""
    if not isinstance(value, kind):
        raise TypeError(f"{name:.80} must not be of the kind {type(value).__name__}")
    return value


def _wrappers(venv: VecEnv) -> list[VecEnvWrapper]:
    return [venv, *_wrappers(venv.venv)] if isinstance(venv, VecEnvWrapper) else []


def _places(wrapper: VecEnvWrapper) -> list[tuple[Any, str]]:
    """Return holder and name of the values of a vectorized wrapper."""
    own = [(wrapper, name) for name in _OF_WRAPPER.get(type(wrapper), ())]
    stacks = _stacks(wrapper.stacked_obs) if isinstance(wrapper, VecFrameStack) else []
    return [*own, *((stack, "stacked_obs") for stack in stacks)]


def _stacks(stack: StackedObservations[Any]) -> list[StackedObservations[Any]]:
    if not isinstance(stack.observation_space, spaces.Dict):
        return [stack]
    return [leaf for part in stack.sub_stacked_observations.values() for leaf in _stacks(part)]


def _all_callbacks(callback: BaseCallback | None) -> Iterator[BaseCallback]:
    if isinstance(callback, CallbackList):
        for child in callback.callbacks:
            yield from _all_callbacks(child)
    elif callback is not None:
        yield callback
        yield from _all_callbacks(callback.callback if isinstance(callback, EventCallback) else None)


def _kept(callback: BaseCallback) -> list[str]:
    """Return the names of a callback's attributes that are kept."""
    return [name for name in (*_OF_CALLBACK, *getattr(callback, "KEPT", ())) if hasattr(callback, name)]


def _put(holder: Any, name: str, value: Any) -> None:
    """Set an array of the same shape, a number, or a list of numbers; ValueError if another kind is there."""
    current = getattr(holder, name)
    are_arrays = isinstance(value, np.ndarray) and isinstance(current, np.ndarray)
    are_numbers = isinstance(value, Real) and isinstance(current, Real)
    are_lists = type(value) is type(current) and isinstance(value, list | deque)
    if are_arrays:
        fits = value.shape == current.shape and value.dtype == current.dtype
    else:
        fits = are_numbers or (are_lists and all(item is None or isinstance(item, Real) for item in value))
    if not fits:
        raise ValueError(f"{name} is damaged")
    setattr(holder, name, value)
