"""The valid values of BetaPPO's hyperparameters, checked before the first step."""

import math
import os
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias, get_args

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim, get_obs_shape
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule

from sb3_carracing.checks import one_of
from sb3_carracing.errors import UserError
from sb3_carracing.ppo.distributed import n_ranks
from sb3_carracing.ppo.losses import ValueLoss
from sb3_carracing.ppo.policies import Autocast
from sb3_carracing.system import memory_size

# The valid values, in words and as a function.
Check: TypeAlias = tuple[str, Callable[[Any], bool]]


def _is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Return whether `value` is a number from `low` to `high`; text, booleans and NaN are not."""
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return is_number and bool(low <= value <= high)


def _is_whole(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    return isinstance(value, int | np.integer) and _is_number(value, low, high)


def _is_schedule(value: Any) -> bool:
    """Return whether `value` is a function of the remaining progress that starts at a number of at least 0."""
    first = value(1.0) if callable(value) else None
    return first is not None and not isinstance(first, str) and float(first) >= 0.0


def _or_schedule(check: Check) -> Check:
    words, is_valid = check
    return f"{words}, or a schedule of such numbers", lambda value: is_valid(value) or _is_schedule(value)


def _or_none(check: Check) -> Check:
    words, is_valid = check
    return f"{words}, or None", lambda value: value is None or is_valid(value)


_COUNT: Check = ("a whole number of at least 1", lambda value: _is_whole(value, 1))
_FINITE: Check = ("a finite number", lambda value: _is_number(value) and math.isfinite(value))
_AT_LEAST_0: Check = ("a finite number of at least 0", lambda value: _is_number(value, 0.0) and math.isfinite(value))
_ABOVE_0: Check = ("a number above 0", lambda value: _is_number(value) and value > 0.0)
_UNIT: Check = ("a number from 0 to 1", lambda value: _is_number(value, 0.0, 1.0))
_FLAG: Check = ("True or False", lambda value: isinstance(value, bool | np.bool_))
_DICT: Check = ("a dict", lambda value: isinstance(value, dict))

CHECKS: dict[str, Check] = {
    "learning_rate": _or_schedule(_AT_LEAST_0),
    "n_steps": _COUNT,
    "batch_size": _COUNT,
    "n_epochs": _COUNT,
    "gamma": _UNIT,
    "gae_lambda": _UNIT,
    "clip_range": _or_schedule(_ABOVE_0),
    "clip_range_vf": _or_none(_or_schedule(_ABOVE_0)),
    "normalize_advantage": _FLAG,
    "ent_coef": _FINITE,
    "vf_coef": _AT_LEAST_0,
    "max_grad_norm": _ABOVE_0,
    "use_sde": _FLAG,
    "sde_sample_freq": ("a whole number of at least -1", lambda value: _is_whole(value, -1)),
    "rollout_buffer_kwargs": _DICT,
    "target_kl": _or_none(_ABOVE_0),
    "stats_window_size": _COUNT,
    "tensorboard_log": _or_none(("a folder", lambda value: isinstance(value, str | os.PathLike))),
    "policy_kwargs": _DICT,
    "seed": _or_none(("a whole number from 0 to 2**32 - 1", lambda value: _is_whole(value, 0, 2**32 - 1))),
    "keep_memory": _FLAG,
    # Of `learn`.
    "total_timesteps": _AT_LEAST_0,
    "log_interval": _or_none(_COUNT),
}


def check_value(name: str, value: Any) -> None:
    """Raise a UserError that names the hyperparameter, its value and the valid values, unless the value is valid."""
    words, is_valid = CHECKS[name]
    if not is_valid(value):
        raise UserError(f"{name} must be {words}, got {value!r}")


def check(model: Any) -> None:
    """Check all hyperparameters of a model.

    Raises:
        UserError: A value is not valid, or a rollout does not fit into memory.
        AssertionError: Stock PPO raises one as well. The text is the same.
    """
    _assert_as_stock_ppo(model)
    values = {**vars(model), "stats_window_size": model._stats_window_size}
    for name in CHECKS:
        if name in values:
            check_value(name, values[name])
    one_of("value_loss", model.value_loss, sorted(get_args(ValueLoss)))
    if model.autocast is not None:
        one_of("autocast", model.autocast, sorted(get_args(Autocast)))
    _check_memory(model)


def check_learn(model: Any, total_timesteps: int, log_interval: int | None) -> None:
    """Check what `learn` needs.

    Raises:
        UserError: An argument is not valid.
        AssertionError: The model has no environment. Stock PPO raises it without a message.
    """
    assert model.env is not None, "The model has no environment to learn in: pass `env` to `load`, or call `set_env` before"
    check_value("total_timesteps", total_timesteps)
    check_value("log_interval", log_interval)


def as_schedule(name: str, value: float | Schedule) -> Schedule:
    """Return a hyperparameter as a function of the remaining progress.

    Raises:
        UserError: It is neither a valid number nor a schedule.
    """
    if isinstance(value, FloatSchedule):
        return value
    check_value(name, value)
    return FloatSchedule(value if callable(value) else float(value))


def warn_of_truncated_minibatch(model: Any) -> None:
    """Warn, in stock PPO's words, when the last minibatch of an epoch is smaller than the others."""
    if model.env is None or not (_is_whole(model.n_steps, 1) and _is_whole(model.batch_size, 1)):
        return
    n_envs = model.env.num_envs * n_ranks()
    buffer_size = n_envs * model.n_steps
    full_batches, rest = divmod(buffer_size, model.batch_size)
    if rest > 0:
        warnings.warn(
            f"You have specified a mini-batch size of {model.batch_size}, but because the `RolloutBuffer` is of size "
            f"`n_steps * n_envs = {buffer_size}`, after every {full_batches} untruncated mini-batches, there will be "
            f"a truncated mini-batch of size {rest}\nWe recommend using a `batch_size` that is a factor of "
            f"`n_steps * n_envs`.\nInfo: (n_steps={model.n_steps} and n_envs={n_envs})",
            stacklevel=3,
        )


def _assert_as_stock_ppo(model: Any) -> None:
    """Raise stock PPO's assertions, in its words."""
    # A single advantage has no standard deviation.
    if model.normalize_advantage and _is_whole(model.batch_size):
        assert model.batch_size > 1, (
            "`batch_size` must be greater than 1. See https://github.com/DLR-RM/stable-baselines3/issues/440"
        )
    if model.normalize_advantage and _is_whole(model.n_steps) and model.env is not None:
        assert model.env.num_envs * model.n_steps > 1, (
            f"`n_steps * n_envs` must be greater than 1. Currently n_steps={model.n_steps} and n_envs={model.env.num_envs}"
        )
    if _is_number(model.clip_range_vf):
        assert model.clip_range_vf > 0, "`clip_range_vf` must be positive, pass `None` to deactivate vf clipping"


def _check_memory(model: Any) -> None:
    """Refuse a rollout that is larger than the machine's memory, unless the agent was loaded only to act."""
    available = memory_size()
    if model.env is None or available is None:
        return
    space = model.observation_space
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    n_bytes: int = sum(math.prod(get_obs_shape(part)) * np.dtype(part.dtype).itemsize for part in parts)  # type: ignore[misc]
    n_bytes += 4 * (get_action_dim(model.action_space) + 6)  # rewards, values and so on are float32
    needed = n_bytes * model.env.num_envs * int(model.n_steps)
    if needed > available:
        raise UserError(
            f"n_steps must give a rollout that fits into the machine's memory ({available / 2**30:.1f} GiB), got "
            f"{model.n_steps!r}, which takes {needed / 2**30:,.1f} GiB with {model.env.num_envs} environments"
        )
