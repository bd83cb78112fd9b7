"""Load agents: those that `saving` wrote, and of SB3's format through `sb3_files`.

Nothing in a file is run. What does not fit is a one-line `UserError` with the file's name.
"""

import copy
import inspect
import io
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import check_for_correct_spaces, get_system_info

from sb3_carracing.errors import UserError
from sb3_carracing.ppo.policies import BetaActorCriticPolicy
from sb3_carracing.ppo.saving import sb3_files, training_state
from sb3_carracing.ppo.saving.archives import Archive, read_file
from sb3_carracing.ppo.saving.named_classes import ClassFinder, dotted_name, is_from, passed_classes
from sb3_carracing.ppo.saving.plain_data import TAG, UNREADABLE, Decoder, problem
from sb3_carracing.ppo.saving.weights import (
    check_all_finite,
    check_optimizer,
    check_weights,
    optimizer_from_data,
    read_arrays,
    read_tensors,
)
from sb3_carracing.ppo.saving.writing import ENTRIES, FORMAT, FORMAT_VERSION, STATE, policy_options

_KEYS = {
    *("format", "version", "libraries", "algorithm", "policy", "observation_space", "action_space"),
    *("arguments", "state", "extra", "optimizer", "aliases", "vec_normalize"),
}
_OWN_POLICIES = ("sb3_carracing", "stable_baselines3", "sb3_contrib")
_MAX_OPTIONS = 100_000
DEFAULTS_OF_SB3_FILES = {
    "parameterization": "softplus",
    "initial_mean": None,
    "deterministic_action": "mode",
    "max_concentration": 1e4,
    "margin": 0.0,
    "initial_concentration": None,
}
"""Options of Beta policies that files of SB3's format do not name, as they were when such files were written."""


Model = TypeVar("Model", bound=BaseAlgorithm)


@dataclass
class _Agent:
    """What a file says.

    data: attributes of the model by name. options: of the policy, beyond `policy_kwargs`. states: weights and optimizer.
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
    """Load an agent in this package's or SB3's format; the arguments are those of SB3's `load`, and `trust`.

    With `trust`, classes are imported from anywhere, and SB3 files may hold pickled objects outside the allowlist. Both run
    code from the file.

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
            raise UserError(f"{archive.name}: {name!r:.80} is not a setting of an agent")
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
            raise UserError(f"{archive.name}: {name} is not a space")
    policy_class = agent.data.get("policy_class")
    if not isinstance(policy_class, type) or not issubclass(policy_class, ActorCriticPolicy):
        raise UserError(f"{archive.name}: its policy class is not an actor-critic policy: {policy_class!r:.80}")
    if (
        not own_format
        and issubclass(policy_class, BetaActorCriticPolicy)
        and isinstance(agent.data["action_space"], spaces.Box)
    ):
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
    unknown = {entry for entry in archive.entries if entry not in ENTRIES and not training_state.ENTRY.fullmatch(entry)}
    if unknown:
        raise UserError(f"{archive.name} has an unknown entry {min(unknown)!r:.80}")
    return True


def read_document(archive: Archive) -> dict[str, Any]:
    """Return agent.json of an archive in this package's format; `UserError` if it is damaged or of a later version."""
    document = archive.read_json("agent.json")
    version = document.get("version")
    if document.get("format") != FORMAT or type(version) is not int or version < 1:
        raise UserError(f"{archive.name} is not an agent: agent.json must name the format {FORMAT!r} and its version")
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
    document = read_document(archive)
    known = {"arguments": set(inspect.signature(cls).parameters), "state": STATE}
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
    options = _read_options(archive.name, document["policy"].get("options"), decode)
    if {"policy_class", "policy_kwargs"} & skip:
        # The caller says what the policy is; this package's defaults are those of the file nevertheless.
        options = {name: value for name, value in options.items() if name in DEFAULTS_OF_SB3_FILES}
    policy = read_tensors(archive, "policy.safetensors", document["aliases"])
    optimizer = optimizer_from_data(read_tensors(archive, "optimizer.safetensors"), document["optimizer"], decode)
    return _Agent(data, options, {"policy": policy, "policy.optimizer": optimizer}, names)


def _read_options(file: str, options: Any, decode: Decoder) -> dict[str, Any]:
    if not isinstance(options, dict) or len(json.dumps(options)) > _MAX_OPTIONS:
        raise UserError(f"{file}: the policy's options in agent.json must be an object of at most {_MAX_OPTIONS} characters")
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
    if set(agent.states) != {"policy", "policy.optimizer"}:
        found = ", ".join(sorted(agent.states)) or "nothing"
        raise UserError(f"{file} must hold the weights of a policy and its optimizer, got {found:.200}")
    given = model.policy_kwargs
    model.policy_kwargs = {**_accepted(model, agent.options), **given}
    # Classes that the caller passed or trusts may do anything.
    if is_from(_OWN_POLICIES, dotted_name(model.policy_class)):
        check_weights(file, _without_memory(file, model), agent.states["policy"])
    try:
        model._setup_model()
    except UNREADABLE as error:
        # What the caller passed is not the fault of the file.
        if isinstance(error, AssertionError | UserError) and of_caller:
            raise
        raise UserError(f"{file} is not an agent that can be set up: {problem(error)}") from error
    model.policy_kwargs = given
    check_weights(file, model.policy, agent.states["policy"])
    check_optimizer(file, model.policy.optimizer, agent.states["policy.optimizer"])


def _accepted(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options to build the policy with.

    A class from elsewhere may give some to its base class itself, and would fail if it got them twice: so it gets those that
    it names, and of a Beta policy those that it is not built with anyway.
    """
    if is_from(_OWN_POLICIES, dotted_name(model.policy_class)):
        return options
    named = {name: options[name] for name in inspect.signature(model.policy_class).parameters if name in options}
    if not issubclass(model.policy_class, BetaActorCriticPolicy):
        return named
    model.policy_kwargs = {**named, **model.policy_kwargs}
    built = policy_options(_build(model.policy_class, model))
    differing = {
        name: options[name]
        for name in DEFAULTS_OF_SB3_FILES
        if name in built and name in options and not np.array_equal(built[name], options[name])
    }
    return {**named, **differing}


def _build(policy_class: type, model: Any) -> Any:
    observation_space, action_space = copy.deepcopy((model.observation_space, model.action_space))
    return policy_class(observation_space, action_space, lambda _: 1e-3, use_sde=model.use_sde, **model.policy_kwargs)


def _without_memory(file: str, model: Any) -> th.nn.Module:
    """Build the policy without memory for its weights, so that a file cannot ask for more than it brings."""
    # SB3 asks the policy where its layers shall be.
    on_meta = type(model.policy_class.__name__, (model.policy_class,), {"device": th.device("meta")})
    try:
        with th.device("meta"):
            policy: th.nn.Module = _build(on_meta, model)
    except (*UNREADABLE, RuntimeError) as error:
        raise UserError(f"{file}: its policy cannot be made: {problem(error)}") from error
    return policy


def read_parameters(path: str | Path | io.BufferedIOBase, device: th.device | str) -> dict[str, Any]:
    """Return the weights and optimizer state in an agent's file, for `set_parameters`; `UserError` if they are damaged."""
    archive = Archive(*read_file(path))
    if not is_own_format(archive):
        states = sb3_files.read_states(archive, device)
        states.pop("pytorch_variables", None)
        return states
    document = read_document(archive)
    decode = Decoder(read_arrays(archive, "arrays.safetensors"), ClassFinder(archive.name, {}, trust=False))
    optimizer = optimizer_from_data(read_tensors(archive, "optimizer.safetensors"), document["optimizer"], decode)
    states = {"policy": read_tensors(archive, "policy.safetensors", document["aliases"]), "policy.optimizer": optimizer}
    check_all_finite(archive.name, "its weights", states)
    return states


def saved_attributes(path: str | Path) -> dict[str, Any]:
    """Return the attributes that an agent of any algorithm was saved with, as the JSON in its file has them."""
    archive = Archive(*read_file(path))
    if not is_own_format(archive):
        data: dict[str, Any] = archive.read_json("data")
        return data
    document = read_document(archive)
    return {**document["state"], **document["extra"]}


def trained_steps(path: str | Path) -> int | None:
    """Return the number of steps that an agent of any algorithm was trained for, None if its file does not say it."""
    steps = saved_attributes(path).get("num_timesteps")
    return steps if isinstance(steps, int) else None
