"""Save and load agents without pickle.

An agent is one zip file, not compressed, with these entries:

agent.json              format version, library versions, policy class and every option of it, spaces, every argument of
                        the algorithm, schedules, counters, running means of VecNormalize
arrays.safetensors      arrays that agent.json refers to
policy.safetensors      weights
optimizer.safetensors   the optimiser's state
system_info.txt         what SB3 says about the machine

Files of SB3's format are read as well, see `sb3_files`.
"""

import copy
import inspect
import io
import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import safetensors.numpy
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import check_for_correct_spaces, get_system_info

from sb3_carracing.checks import whole_number
from sb3_carracing.errors import UserError
from sb3_carracing.ppo import sb3_files, vec_normalize
from sb3_carracing.ppo.archives import Archive, read_file, write_archive
from sb3_carracing.ppo.named_classes import ClassFinder, dotted_name, is_from, passed_classes
from sb3_carracing.ppo.plain_data import TAG, UNREADABLE, Decoder, Encoder, NotDataError, problem
from sb3_carracing.ppo.policies import BetaActorCriticPolicy
from sb3_carracing.ppo.weights import (
    check_all_finite,
    check_optimizer,
    check_weights,
    optimizer_as_data,
    optimizer_from_data,
    read_arrays,
    read_tensors,
    tensors_as_bytes,
)

FORMAT = "sb3-carracing agent"
FORMAT_VERSION = 1

_ENTRIES = {"agent.json", "arrays.safetensors", "policy.safetensors", "optimizer.safetensors", "system_info.txt"}
_KEYS = {
    *("format", "version", "libraries", "algorithm", "policy", "observation_space", "action_space"),
    *("arguments", "state", "extra", "optimizer", "aliases", "vec_normalize"),
}
_LIBRARIES = ("sb3-carracing", "stable-baselines3", "gymnasium", "torch", "numpy")
_STATE = {
    *("num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_episode_num", "_n_updates", "n_envs", "start_time"),
    *("_last_obs", "_last_episode_starts", "_last_original_obs", "_current_progress_remaining", "_stats_window_size"),
    *("ep_info_buffer", "ep_success_buffer", "action_noise"),
}
"""SB3's attributes that are neither arguments nor weights; other names are the user's own."""
_OWN_POLICIES = ("sb3_carracing", "stable_baselines3", "sb3_contrib")
MAX_OPTIONS = 100_000
_SET_ANEW = {"policy_class", "observation_space", "action_space", "lr_schedule"}
"""Attributes that stand elsewhere in the file, or that follow from others."""
_NO_OPTIONS = {"observation_space", "action_space", "lr_schedule", "use_sde"}
"""What a policy's own list of its arguments has, and the algorithm hands over by itself."""
DEFAULTS_OF_SB3_FILES = {
    "parameterization": "softplus",
    "initial_mean": None,
    "deterministic_action": "mode",
    "max_concentration": 1e4,
}
"""Options of Beta policies that files of SB3's format do not name, as they were when such files were written."""

Model = TypeVar("Model", bound=BaseAlgorithm)


# --- saving -------------------------------------------------------------------------------------------------------


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
        section = "arguments" if name in arguments else "state" if name in _STATE else "extra"
        sections[section][name] = _encode_or_note(encode, name, value, missing)
    options = {
        name: _encode_or_note(encode, f"policy.{name}", value, missing) for name, value in policy_options(model.policy).items()
    }
    state_dicts = model.get_parameters()
    weights, aliases = tensors_as_bytes(state_dicts["policy"])
    tensors, optimizer = optimizer_as_data(state_dicts["policy.optimizer"], encode)
    document = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
        "algorithm": dotted_name(type(model)),
        "policy": {"class": dotted_name(type(model.policy)), "options": options},
        "observation_space": encode("observation_space", model.observation_space),
        "action_space": encode("action_space", model.action_space),
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
    if missing:
        warnings.warn(
            f"The agent {path} lacks what cannot be saved without pickle ({'; '.join(missing.values())}): it can be loaded by "
            "who passes these in custom_objects",
            stacklevel=4,
        )
    local = [name for name in passed_classes(model.policy_class, model.policy_kwargs) if "<locals>" in name]
    if local:
        warnings.warn(
            f"The agent {path} names {', '.join(local)}, a class within a function: it can be loaded by who passes the class "
            "in policy_kwargs or custom_objects",
            stacklevel=4,
        )


def policy_options(policy: ActorCriticPolicy) -> dict[str, Any]:
    """Return every option of a policy with its value, those that nobody passed included."""
    options = {name: value for name, value in policy._get_constructor_parameters().items() if name not in _NO_OPTIONS}
    options["share_features_extractor"] = policy.share_features_extractor
    if policy.dist_kwargs is None:  # without gSDE; SB3 reports None for its options
        options = {name: value for name, value in options.items() if value is not None or name == "initial_mean"}
    return options


# --- loading ------------------------------------------------------------------------------------------------------


@dataclass
class _Agent:
    """What a file says.

    data: attributes of the model by name. options: of the policy, beyond `policy_kwargs`. states: weights and optimiser.
    names: every attribute that the file has, also those that the caller brings.
    """

    data: dict[str, Any]
    options: dict[str, Any]
    states: dict[str, Any]
    names: set[str]


def load_agent(
    cls: type[Model],
    path: str | Path | io.BufferedIOBase,
    env: Any = None,
    device: th.device | str = "auto",
    custom_objects: dict[str, Any] | None = None,
    print_system_info: bool = False,
    force_reset: bool = True,
    trust: bool = False,
    **kwargs: Any,
) -> Model:
    """Load an agent of this package's format or of SB3's; arguments as those of SB3's `load`.

    Args:
        trust: import classes from anywhere, and of an SB3 file, unpickle what is not on the list: both run code.

    Raises:
        UserError: the file is damaged, does not fit, or needs trust; nothing of it has been run.
    """
    if custom_objects is not None and not isinstance(custom_objects, dict):
        raise ValueError("custom_objects argument must be a dict or None")
    archive = Archive(*read_file(path))
    if print_system_info:
        _print_system_info(archive)
    given = dict(custom_objects or {})
    find_class = ClassFinder(archive.name, passed_classes(given, kwargs), trust)
    agent = _read(cls, archive, find_class, given, kwargs, device)
    if env is not None:
        env = cls._wrap_env(env, agent.data.get("verbose", 0))
        try:
            check_for_correct_spaces(env, agent.data["observation_space"], agent.data["action_space"])
        except ValueError as error:
            raise UserError(f"{archive.name}: {error}") from error
        agent.data["n_envs"] = env.num_envs
        if force_reset:
            agent.data["_last_obs"] = None
    model: Any = cls(policy=agent.data["policy_class"], env=env, device=device, _init_setup_model=False)  # type: ignore[call-arg]
    for name in agent.data:
        if hasattr(type(model), name) or name in model._excluded_save_params():
            raise UserError(f"{archive.name}: {name!r:.80} is no setting of an agent")
    vars(model).update(agent.data)
    vars(model).update(kwargs)
    _set_up(archive.name, model, agent, of_caller=kwargs)
    model.set_parameters(agent.states, exact_match=True, device=device)
    if model.use_sde:
        model.policy.reset_noise()
    loaded: Model = model
    return loaded


def _read(
    cls: type[BaseAlgorithm],
    archive: Archive,
    find_class: ClassFinder,
    given: dict[str, Any],
    kwargs: dict[str, Any],
    device: th.device | str,
) -> _Agent:
    skip = given.keys() | kwargs.keys() - {"policy_kwargs", "policy_class", "observation_space", "action_space"}
    own_format = is_own_format(archive)
    agent = _read_own(cls, archive, find_class, skip) if own_format else _read_sb3(archive, find_class, skip, device)
    agent.data |= {name: value for name, value in given.items() if name in agent.names}
    for name in ("observation_space", "action_space"):
        if name not in agent.names:  # SB3's type and words
            raise KeyError("The observation_space and action_space were not given, can't verify new environments")
        if not isinstance(agent.data[name], spaces.Space):
            raise UserError(f"{archive.name}: {name} is no space")
    policy_class = agent.data.get("policy_class")
    if not isinstance(policy_class, type) or not issubclass(policy_class, ActorCriticPolicy):
        raise UserError(f"{archive.name}: its policy class is no actor-critic policy: {policy_class!r:.80}")
    if not own_format and issubclass(policy_class, BetaActorCriticPolicy):
        agent.options = dict(DEFAULTS_OF_SB3_FILES)
    policy_kwargs = agent.data.setdefault("policy_kwargs", {})
    if not isinstance(policy_kwargs, dict):
        raise UserError(f"{archive.name}: policy_kwargs must be a dict, got {type(policy_kwargs).__name__}")
    policy_kwargs.pop("device", None)
    if kwargs.get("policy_kwargs", policy_kwargs) != policy_kwargs:  # SB3's type and words
        raise ValueError(
            f"The specified policy kwargs do not equal the stored policy kwargs."
            f"Stored kwargs: {policy_kwargs}, specified kwargs: {kwargs['policy_kwargs']}"
        )
    return agent


def is_own_format(archive: Archive) -> bool:
    """Return whether an archive is of this package's format; `UserError` if it is of two formats or of a later version."""
    if "agent.json" not in archive:
        return False
    unknown = set(archive.entries) - _ENTRIES
    if unknown:
        raise UserError(f"{archive.name} has an unknown entry {min(unknown)!r:.80}")
    return True


def _read_document(archive: Archive) -> dict[str, Any]:
    document = archive.read_json("agent.json")
    version = document.get("version")
    if document.get("format") != FORMAT or type(version) is not int or version < 1:
        raise UserError(f"{archive.name} is no agent: agent.json must name the format {FORMAT!r} and its version")
    if version > FORMAT_VERSION:
        raise UserError(
            f"{archive.name} is written in version {version} of the format, and this version of sb3-carracing reads up to "
            f"{FORMAT_VERSION}: upgrade it"
        )
    differing = set(document) ^ _KEYS - {"vec_normalize"}
    if differing - {"vec_normalize"}:
        raise UserError(f"{archive.name}: agent.json lacks or does not know the entry {min(differing)!r:.80}")
    for name in ("policy", "arguments", "state", "extra", "optimizer", "aliases"):
        if not isinstance(document[name], dict):
            raise UserError(f"{archive.name}: {name} in agent.json must be an object")
    return document


def _read_own(cls: type[BaseAlgorithm], archive: Archive, find_class: ClassFinder, skip: set[str]) -> _Agent:
    document = _read_document(archive)
    known = {"arguments": set(inspect.signature(cls).parameters), "state": _STATE}
    decode = Decoder(read_arrays(archive, "arrays.safetensors"), find_class)
    elsewhere = {
        "observation_space": document["observation_space"],
        "action_space": document["action_space"],
        "policy_class": {TAG: "class", "name": document["policy"].get("class")},
    }
    data: dict[str, Any] = {name: decode(name, value) for name, value in elsewhere.items() if name not in skip}
    names = set(elsewhere)
    for section in ("arguments", "state", "extra"):
        for name, value in document[section].items():
            if name in names or name not in known.get(section, {name}):
                raise UserError(f"{archive.name}: agent.json does not know {name!r:.80} in {section}, or has it twice")
            names.add(name)
            if name in skip:
                continue
            if isinstance(value, dict) and value.get(TAG) == "missing":
                _report_missing(archive.name, name, value, required=section != "extra")
            else:
                data[name] = decode(name, value)
    options = {}
    if not {"policy_class", "policy_kwargs"} & skip:
        options = _read_options(archive.name, document["policy"].get("options"), decode)
    policy = read_tensors(archive, "policy.safetensors", document["aliases"])
    optimizer = optimizer_from_data(read_tensors(archive, "optimizer.safetensors"), document["optimizer"], decode)
    return _Agent(data, options, {"policy": policy, "policy.optimizer": optimizer}, names)


def _read_options(file: str, options: Any, decode: Decoder) -> dict[str, Any]:
    if not isinstance(options, dict) or len(json.dumps(options)) > MAX_OPTIONS:
        raise UserError(f"{file}: the policy's options in agent.json must be an object of at most {MAX_OPTIONS} characters")
    # What is missing is in policy_kwargs, and reported there.
    present = {name: value for name, value in options.items() if not (isinstance(value, dict) and value.get(TAG) == "missing")}
    return {name: decode(f"the policy's {name}", value) for name, value in present.items()}


def _report_missing(file: str, name: str, mark: dict[str, Any], required: bool) -> None:
    text = f"{file} lacks {name}, which could not be saved without pickle ({mark.get('text')!r:.120})"
    if required:
        raise UserError(f"{text}: pass it in custom_objects")
    warnings.warn(text, stacklevel=5)


def _read_sb3(archive: Archive, find_class: ClassFinder, skip: set[str], device: th.device | str) -> _Agent:
    data = sb3_files.read_settings(archive, find_class, skip)
    states = sb3_files.read_states(archive, device)
    states.pop("pytorch_variables", None)
    data.pop("lr_schedule", None)
    return _Agent(data, {}, states, data.keys() | sb3_files.setting_names(archive))


def _print_system_info(archive: Archive) -> None:
    print("== CURRENT SYSTEM INFO ==")
    get_system_info()
    if "system_info.txt" in archive:
        print("== SAVED MODEL SYSTEM INFO ==")
        print(archive.read("system_info.txt", 1 << 16).decode(errors="replace"))


def _set_up(file: str, model: Any, agent: _Agent, of_caller: dict[str, Any]) -> None:
    """Build the model's policy with the options that the file names beyond `policy_kwargs`."""
    for name in ("n_steps", "batch_size", "n_epochs", "n_envs"):
        if name in agent.data:
            whole_number(f"{file}: {name}", agent.data[name], 1)
    if set(agent.states) != {"policy", "policy.optimizer"}:
        found = ", ".join(sorted(agent.states)) or "nothing"
        raise UserError(f"{file} must hold the weights of a policy and its optimiser, got {found:.200}")
    given = model.policy_kwargs
    model.policy_kwargs = {**_accepted(model.policy_class, agent.options), **given}
    # Classes that the caller passed or trusts may do anything.
    if is_from(_OWN_POLICIES, dotted_name(model.policy_class)):
        check_weights(file, _without_memory(file, model), agent.states["policy"])
    try:
        model._setup_model()
    except UNREADABLE as error:
        # SB3 asserts what a caller's arguments must be.
        if isinstance(error, AssertionError) and of_caller:
            raise
        raise UserError(f"{file} is no agent that can be set up: {problem(error)}") from error
    model.policy_kwargs = given
    check_weights(file, model.policy, agent.states["policy"])
    check_optimizer(file, model.policy.optimizer, agent.states["policy.optimizer"])


def _accepted(policy_class: type, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that a policy class takes; one from elsewhere may set further ones itself."""
    if is_from(_OWN_POLICIES, dotted_name(policy_class)):
        return options
    named = inspect.signature(policy_class).parameters
    return {name: value for name, value in options.items() if name in named}


def _without_memory(file: str, model: Any) -> th.nn.Module:
    """Build the policy without memory for its weights, so that a file cannot ask for more than it brings."""
    observation_space, action_space = copy.deepcopy((model.observation_space, model.action_space))
    # SB3 asks the policy where its layers shall be.
    on_meta = type(model.policy_class.__name__, (model.policy_class,), {"device": th.device("meta")})
    try:
        with th.device("meta"):
            policy: th.nn.Module = on_meta(
                observation_space, action_space, lambda _: 1e-3, use_sde=model.use_sde, **model.policy_kwargs
            )
    except (*UNREADABLE, RuntimeError) as error:
        raise UserError(f"{file}: its policy cannot be made: {problem(error)}") from error
    return policy


def read_parameters(path: str | Path | io.BufferedIOBase, device: th.device | str) -> dict[str, Any]:
    """Return the weights and optimiser state in an agent's file, for `set_parameters`; `UserError` if they are damaged."""
    archive = Archive(*read_file(path))
    if not is_own_format(archive):
        states = sb3_files.read_states(archive, device)
        states.pop("pytorch_variables", None)
        return states
    document = _read_document(archive)
    decode = Decoder(read_arrays(archive, "arrays.safetensors"), ClassFinder(archive.name, {}, trust=False))
    optimizer = optimizer_from_data(read_tensors(archive, "optimizer.safetensors"), document["optimizer"], decode)
    states = {"policy": read_tensors(archive, "policy.safetensors", document["aliases"]), "policy.optimizer": optimizer}
    check_all_finite(archive.name, "its weights", states)
    return states


def convert(old: str | Path, new: str | Path, trust: bool = False) -> None:
    """Write an agent of `BetaPPO` that was saved in SB3's format in this package's.

    Args:
        old: its file, which stays as it is unless it is `new`.
        new: the file to write.
        trust: see `load_agent`.

    Raises:
        UserError: the old file is damaged, needs trust, or is in the new format already.
    """
    from sb3_carracing.ppo.beta_ppo import BetaPPO  # which imports this module

    if is_own_format(Archive(*read_file(old))):
        raise UserError(f"{old} is in the new format already")
    save_agent(load_agent(BetaPPO, old, device="cpu", trust=trust), new)
