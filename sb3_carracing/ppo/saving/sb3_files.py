"""Read the zip files that SB3 writes: settings through `unpickling`, weights through torch's `weights_only`."""

import base64
import io
import pickle
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import FloatSchedule, get_device

from sb3_carracing.errors import UserError
from sb3_carracing.ppo.saving.archives import Archive, read_file
from sb3_carracing.ppo.saving.named_classes import ClassFinder, passed_classes
from sb3_carracing.ppo.saving.plain_data import problem
from sb3_carracing.ppo.saving.unpickling import RefusedError, read_pickle
from sb3_carracing.ppo.saving.weights import check_all_finite

Algorithm = TypeVar("Algorithm", bound=BaseAlgorithm)
_DAMAGED = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, EOFError, OSError),
    *(RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, OverflowError, MemoryError),
)


def read_sb3_zip(path: str | Path | io.BufferedIOBase, trust: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a zip file of SB3's holds: its settings by name, and weights and optimizer states by name.

    Args:
        path: the file of any algorithm of SB3 or sb3-contrib.
        trust: unpickle settings that name something outside the list, which may run code.

    Raises:
        UserError: the file is damaged, or it needs trust.
    """
    archive = Archive(*read_file(path))
    return read_settings(archive, ClassFinder(archive.name, {}, trust)), read_states(archive, "cpu")


def read_settings(archive: Archive, find_class: ClassFinder, skip: Iterable[str] = ()) -> dict[str, Any]:
    """Return the settings in an archive's `data`, but those to skip.

    Raises:
        UserError: they are damaged, or they need trust.
    """
    if "data" not in archive:
        raise UserError(f"{archive.name} is not an agent: it has no entry 'data' and no 'agent.json'")
    data = archive.read_json("data")
    data.pop("defaults_version", None)  # of an unreleased version
    # SB3 makes the environment of this name, which may import a module.
    if "env" in data and "env" not in skip and not find_class.trust:
        raise UserError(f"{archive.name} brings an environment, which is made only with trust=True (--trust)")
    return {key: _read_entry(key, value, find_class) for key, value in data.items() if key not in skip}


def setting_names(archive: Archive) -> set[str]:
    """Return the names of all settings in an archive's `data`."""
    return set(archive.read_json("data"))


def _read_entry(key: str, value: Any, find_class: ClassFinder) -> Any:
    if not isinstance(value, dict) or ":serialized:" not in value:
        return value
    if key == "lr_schedule":
        # SB3 makes it anew of `learning_rate` whenever an agent is loaded.
        return FloatSchedule(0.0)
    try:
        content = base64.b64decode(value[":serialized:"], validate=True)
    except (TypeError, ValueError) as error:
        raise UserError(f"{find_class.file}: {key} is damaged") from error
    try:
        return read_pickle(content, key, find_class)
    except RefusedError as error:
        if not find_class.trust:
            raise
        warnings.warn(f"trusted: {str(error).split(', which may')[0]}; that is run now", stacklevel=2)
        return cloudpickle.loads(content)


def read_states(archive: Archive, device: th.device | str) -> dict[str, Any]:
    """Return weights and optimizer states by name ("policy", "policy.optimizer"); `UserError` if one is damaged or NaN."""
    states = {}
    for entry in archive.entries:
        name, _, suffix = entry.rpartition(".")
        if suffix != "pth":
            continue
        content = archive.read(entry)
        if content[:2] == b"PK":
            Archive(content, f"{archive.name}: {entry}")
        try:
            state = th.load(io.BytesIO(content), map_location=get_device(device), weights_only=True)
        except _DAMAGED as error:
            cause = problem(error).split(". ")[0] if isinstance(error, Exception) else ""
            raise UserError(f"{archive.name}: {entry} cannot be read as weights: {cause:.200}") from error
        check_all_finite(archive.name, entry, state)
        states[name] = state
    return states


def load_sb3_agent(
    algorithm: type[Algorithm],
    path: str | Path | io.BufferedIOBase,
    trust: bool = False,
    custom_objects: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Algorithm:
    """Load an agent of stock SB3 or sb3-contrib as its `load` does, but with settings that this package has read.

    Args:
        algorithm: its class.
        path: its file.
        trust: see `read_sb3_zip`.
        custom_objects: as in SB3; what is given is not read from the file.
        kwargs: further arguments of the class's `load`.

    Raises:
        UserError: the file is damaged, or it needs trust.
    """
    content, name = read_file(path)
    archive = Archive(content, name)
    given = dict(custom_objects or {})
    settings = read_settings(archive, ClassFinder(name, passed_classes(given, kwargs), trust), skip=given)
    read_states(archive, "cpu")
    # SB3 unpickles nothing that it finds among the custom objects.
    return algorithm.load(io.BytesIO(content), custom_objects={**settings, **given}, **kwargs)


def load_from_zip_file(
    load_path: str | Path | io.BufferedIOBase,
    load_data: bool = True,
    custom_objects: dict[str, Any] | None = None,
    device: th.device | str = "auto",
    verbose: int = 0,
    print_system_info: bool = False,
) -> tuple[dict[str, Any] | None, dict[str, Any], Any]:
    """Stand in for SB3's function of this name, which unpickles; arguments as there, but it prints no system information.

    Raises:
        UserError: the file is damaged, or holds something outside the list.
    """
    archive = Archive(*read_file(load_path))
    given = dict(custom_objects or {})
    data: dict[str, Any] | None = None
    if load_data:
        data = read_settings(archive, ClassFinder(archive.name, passed_classes(given), trust=False), skip=given)
        data |= {name: value for name, value in given.items() if name in setting_names(archive)}
    states = read_states(archive, device)
    return data, states, states.pop("pytorch_variables", None)
