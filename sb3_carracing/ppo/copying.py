"""Deep copies of a model and its environment."""

import copy
from typing import Any, TypeVar

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseAlgorithm)


def copy_model(model: Model, memo: dict[int, Any]) -> Model:
    """Return a copy of a model and its environment; both models write to the same logger, whose files are open."""
    if hasattr(model, "_logger"):
        memo[id(model._logger)] = model._logger
    if model.env is not None:
        memo[id(model.env)] = _copy_env(model.env, memo)
    return _copy_attributes(model, memo)


def _copy_env(env: VecEnv, memo: dict[int, Any]) -> VecEnv:
    """Return a copy of a vectorized environment.

    `copy.deepcopy` of a VecNormalize leaves out the environment that it wraps, and it fails for any other wrapper.
    """
    if not isinstance(env, VecEnvWrapper):
        return copy.deepcopy(env, memo)
    memo[id(env.venv)] = _copy_env(env.venv, memo)
    memo[id(env.class_attributes)] = env.class_attributes
    return _copy_attributes(env, memo)


def _copy_attributes(original: T, memo: dict[int, Any]) -> T:
    copied = object.__new__(type(original))
    memo[id(original)] = copied
    vars(copied).update({name: copy.deepcopy(value, memo) for name, value in vars(original).items()})
    return copied
