"""Which classes a saved agent may name, and how a name becomes a class."""

import importlib
import warnings
from collections.abc import Iterable
from typing import Any

from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from torch import nn, optim

from sb3_carracing.errors import UserError

TRUSTED_PACKAGES = ("sb3_carracing", "stable_baselines3", "sb3_contrib", "torch.nn", "torch.optim")
"""Where classes may come from that a file names."""

_PARTS = (BasePolicy, nn.Module, optim.Optimizer, BaseBuffer, ActionNoise)


def dotted_name(cls: type) -> str:
    """Return the name by which a file refers to a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def is_from(packages: Iterable[str], name: str) -> bool:
    """Return whether a dotted name lies within one of the packages."""
    return any(name.startswith(f"{package}.") for package in packages)


def passed_classes(*objects: Any) -> dict[str, type]:
    """Return the classes within dicts, lists and tuples that a caller passed, by dotted name."""
    found: dict[str, type] = {}
    for item in objects:
        if isinstance(item, type):
            found[dotted_name(item)] = item
        elif isinstance(item, dict):
            found |= passed_classes(*item.values())
        elif isinstance(item, list | tuple):
            found |= passed_classes(*item)
    return found


class ClassFinder:
    """Turns the names in one file into classes.

    Args:
        file: what errors call the file.
        passed: classes that the caller vouches for, by dotted name.
        trust: whether any other module may be imported; each one is warned of.
    """

    def __init__(self, file: str, passed: dict[str, type], trust: bool):
        self.file, self.passed, self.trust = file, passed, trust

    def admits(self, name: str) -> bool:
        """Return whether the class may be used without trust."""
        return name in self.passed or is_from(TRUSTED_PACKAGES, name)

    def __call__(self, name: str) -> type:
        """Return the class of that dotted name: a policy, a module, an optimizer, a buffer or action noise.

        Raises:
            UserError: the class is not admitted, does not exist, or is none of these.
        """
        if name in self.passed:
            return self.passed[name]
        if not self.admits(name):
            if not self.trust:
                raise UserError(
                    f"{self.file} names the class {name}, which is imported only with trust=True (--trust), because that runs "
                    "code; a class that you pass in custom_objects or policy_kwargs needs no trust"
                )
            warnings.warn(f"{self.file} is trusted: {name} is imported", stacklevel=2)
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(f"{self.file} names the class {name}, which cannot be imported here: {error}") from error
        if not isinstance(found, type) or not issubclass(found, _PARTS):
            raise UserError(f"{self.file} names {name}, which is not part of an agent")
        return found
