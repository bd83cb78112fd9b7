"""Save agents without pickle; `loading` reads them.

An agent is one zip file, not compressed, with these entries:

agent.json              format version, library versions, policy class and every option of it, spaces, every argument of
                        the algorithm, schedules, counters, running means of VecNormalize
arrays.safetensors      arrays that agent.json refers to
policy.safetensors      weights
optimizer.safetensors   the optimizer's state
system_info.txt         what SB3 says about the machine

A snapshot has two more per rank, see `training_state`: training.json and training.safetensors.
"""

import inspect
import io
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import safetensors.numpy
import stable_baselines3
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import get_system_info

import sb3_carracing
from sb3_carracing.ppo.policies import BETA_OPTIONS
from sb3_carracing.ppo.saving import vec_normalize
from sb3_carracing.ppo.saving.archives import write_archive
from sb3_carracing.ppo.saving.named_classes import dotted_name, passed_classes
from sb3_carracing.ppo.saving.plain_data import TAG, Encoder, NotDataError
from sb3_carracing.ppo.saving.weights import check_all_finite, optimizer_as_data, tensors_as_bytes

FORMAT = "sb3-carracing agent"
FORMAT_VERSION = 1

ENTRIES = {"agent.json", "arrays.safetensors", "policy.safetensors", "optimizer.safetensors", "system_info.txt"}
_LIBRARIES: tuple[Any, ...] = (sb3_carracing, stable_baselines3, gymnasium, th, np)
STATE = {
    *("num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_episode_num", "_n_updates", "n_envs", "start_time"),
    *("_last_obs", "_last_episode_starts", "_last_original_obs", "_current_progress_remaining", "_stats_window_size"),
    *("ep_info_buffer", "ep_success_buffer", "action_noise"),
}
"""SB3's attributes that are neither arguments nor weights; other names are the user's own."""
_SET_ANEW = {"policy_class", "observation_space", "action_space", "lr_schedule"}
"""Attributes that stand elsewhere in the file, or that follow from others."""
_RESOLVED = (
    *("net_arch", "activation_fn", "ortho_init", "features_extractor_class", "features_extractor_kwargs"),
    *("share_features_extractor", "normalize_images", "optimizer_class", "optimizer_kwargs"),
)
"""Options of a policy that it keeps as attributes, with a value where None was passed."""
_OF_GSDE = ("squash_output", "full_std", "use_expln")
_NO_OPTIONS = {"observation_space", "action_space", "lr_schedule", "use_sde"}
"""What a policy's own list of its arguments has, and the algorithm hands over by itself."""


def save_agent(
    model: Any,
    path: str | Path | io.BufferedIOBase,
    exclude: Iterable[str] | None = None,
    include: Iterable[str] | None = None,
) -> None:
    """Write an agent; arguments as those of SB3's `save`.

    What cannot be written without pickle is left out, named in a warning, and asked for when the agent is loaded.
    """
    left_out = set(exclude or ()) | set(model._excluded_save_params())
    left_out = (left_out - set(include or ())) | {"policy"} | _SET_ANEW
    attributes = {name: value for name, value in vars(model).items() if name not in left_out}
    arguments = inspect.signature(type(model).__init__).parameters
    encode, missing = Encoder(), dict[str, str]()
    sections: dict[str, dict[str, Any]] = {"arguments": {}, "state": {}, "extra": {}}
    for name, value in attributes.items():
        section = "arguments" if name in arguments else "state" if name in STATE else "extra"
        sections[section][name] = _encode_or_note(encode, name, value, missing)
    policy = getattr(model.policy, "_orig_mod", model.policy)  # of a compiled one
    options = {
        name: _encode_or_note(encode, f"policy.{name}", value, missing) for name, value in policy_options(policy).items()
    }
    state_dicts = model.get_parameters()
    check_all_finite(f"{path} is not written", "the agent", state_dicts)
    weights, aliases = tensors_as_bytes(state_dicts["policy"])
    tensors, optimizer = optimizer_as_data(
        state_dicts["policy.optimizer"], lambda name, value: _encode_or_note(encode, name, value, missing)
    )
    document = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "libraries": {library.__name__: library.__version__ for library in _LIBRARIES},
        "algorithm": dotted_name(type(model)),
        "policy": {"class": dotted_name(model.policy_class), "options": options},
        **{
            name: _encode_or_note(encode, name, getattr(model, name), missing)
            for name in ("observation_space", "action_space")
        },
        **sections,
        "optimizer": optimizer,
        "aliases": aliases,
    }
    if model.get_vec_normalize_env() is not None:
        document["vec_normalize"] = vec_normalize.as_data(model.get_vec_normalize_env(), encode)
    _warn_of_what_is_missing(path, missing, model)
    write_archive(
        path,
        {
            "agent.json": json.dumps(document, indent=1, allow_nan=False).encode(),
            "arrays.safetensors": safetensors.numpy.save(encode.arrays),
            "policy.safetensors": weights,
            "optimizer.safetensors": tensors_as_bytes(tensors)[0],
            "system_info.txt": get_system_info(print_info=False)[1].encode(),
        },
    )


def _encode_or_note(encode: Encoder, name: str, value: Any, missing: dict[str, str]) -> Any:
    """Return a value as data, or a mark in its place, with its name and reason in `missing`."""
    try:
        return encode(name, value)
    except NotDataError as error:
        missing[name] = str(error)
        return {TAG: "missing", "text": f"{value!r:.200}"}


def _warn_of_what_is_missing(path: Any, missing: dict[str, str], model: Any) -> None:
    if not isinstance(path, str | Path):
        path = "in memory"
    if missing:
        warnings.warn(
            f"The agent {path} lacks what cannot be saved without pickle ({'; '.join(missing.values())}): to load it, pass "
            "these in custom_objects",
            stacklevel=4,
        )
    local = [name for name in passed_classes(model.policy_class, model.policy_kwargs) if "<locals>" in name]
    if local:
        warnings.warn(
            f"The agent {path} names {', '.join(local)}, a class within a function: to load it, pass the class "
            "in policy_kwargs or custom_objects",
            stacklevel=4,
        )


def policy_options(policy: ActorCriticPolicy) -> dict[str, Any]:
    """Return every option of a policy with its value, those that nobody passed included."""
    options = {name: value for name, value in policy._get_constructor_parameters().items() if name not in _NO_OPTIONS}
    options |= {name: getattr(policy, name) for name in _RESOLVED}
    if not isinstance(policy.action_space, spaces.Box):
        # Without a Beta distribution its options are refused, but for their defaults.
        options = {name: value for name, value in options.items() if name not in BETA_OPTIONS}
    if policy.dist_kwargs is None:
        # SB3 reports None for the options of gSDE where there is none.
        options = {name: value for name, value in options.items() if value is not None or name not in _OF_GSDE}
    return options
