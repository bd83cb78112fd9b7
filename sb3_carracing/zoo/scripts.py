"""Run rl-zoo3's scripts with `beta_ppo` registered and bad input reported as `UserError`."""

import argparse
import functools
import importlib
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from rl_zoo3.utils import StoreDict as StoreDict

from sb3_carracing.errors import UserError, preparation
from sb3_carracing.zoo.hyperparameters import EVALUATION_ERRORS
from sb3_carracing.zoo.register import register
from sb3_carracing.zoo.safe_files import safe_files

# What rl-zoo3's record_training starts as separate processes, without `beta_ppo`.
_RECORD_VIDEO = ["python", "-m", "rl_zoo3.record_video"]


def asks_for_help(argv: list[str]) -> bool:
    """Return whether a script will only print its help."""
    return bool({"-h", "--help"} & set(argv))


@contextmanager
def script_of_rl_zoo3(trust: bool = False) -> Iterator[Callable[[], None]]:
    """Let rl-zoo3's scripts know `beta_ppo`, and raise a UserError for bad input or a library that is not installed.

    Args:
        trust: let files run code, see `safe_files`.

    Yields:
        The function to call right before the first environment step, see `preparation`.
    """
    register()
    with preparation(ImportError) as work_begins, readable_key_values(), safe_files(trust):
        yield work_begins


def without_trust(argv: list[str]) -> tuple[list[str], bool]:
    """Return the arguments without our `--trust`, which rl-zoo3 does not know, and whether it was there."""
    return [argument for argument in argv if argument != "--trust"], "--trust" in argv


@contextmanager
def arguments_of(command: str, argv: list[str]) -> Iterator[None]:
    """Let a script of rl-zoo3 find its arguments, which it reads from `sys.argv`."""
    with patch.object(sys, "argv", [f"sb3_carracing {command}", *argv]):
        yield


def run_module(name: str, trust: bool = False, **names: Any) -> None:
    """Run a script of rl-zoo3 that exists as a module only; its child processes are our commands, with the same trust.

    Args:
        name: of the module.
        trust: see `safe_files`.
        **names: globals of the module, which take precedence over builtins.
    """
    with patch.object(subprocess, "call", functools.partial(_call_our_command, trust)):
        runpy.run_module(name, init_globals=names, run_name="__main__", alter_sys=False)


@contextmanager
def rl_zoo3_is_silent() -> Iterator[None]:
    """Keep rl-zoo3's train from printing its settings. What others print is not affected."""
    script, manager = (importlib.import_module(f"rl_zoo3.{name}") for name in ("train", "exp_manager"))
    places = [(script, "print"), (manager, "print"), (manager, "pprint")]
    with ExitStack() as stack:
        for module, name in places:
            stack.enter_context(patch.object(module, name, lambda *_: None, create=True))
        yield


@contextmanager
def readable_key_values() -> Iterator[None]:
    """Make rl-zoo3 name the `key:value` argument that it cannot evaluate as Python.

    Raises:
        UserError: within the context, in place of the evaluation's own exception.
    """
    store = StoreDict.__call__

    def store_each(
        action: StoreDict, parser: Any, namespace: argparse.Namespace, values: list[str], option: str | None = None
    ) -> None:
        stored: dict[str, Any] = {}
        for argument in values:
            try:
                store(action, parser, namespace, [argument], option)
            except EVALUATION_ERRORS as error:
                raise UserError(
                    f"{option} {argument} is not key:value with a Python value, in which text needs quotes ({error})"
                ) from error
            stored |= getattr(namespace, action.dest)
        setattr(namespace, action.dest, stored)

    with patch.object(StoreDict, "__call__", store_each):
        yield


@contextmanager
def hub_errors(command: str, advice: str = "") -> Iterator[None]:
    """Raise a UserError where the Hugging Face hub does not answer or refuses."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]
    from requests import RequestException

    try:
        yield
    except (HTTPError, RequestException) as error:
        raise UserError(f"{command} gets nothing from the Hugging Face hub: {error}{advice}") from error


def _call_our_command(trust: bool, command: list[str], **kwargs: Any) -> int:
    """Stand in for `subprocess.call` in rl-zoo3's record_training: its children must know `beta_ppo`."""
    if command[: len(_RECORD_VIDEO)] == _RECORD_VIDEO:
        trusted = ["--trust"] if trust else []
        command = [sys.executable, "-m", "sb3_carracing", "record_video", *command[len(_RECORD_VIDEO) :], *trusted]
    return subprocess.run(command, check=False, **kwargs).returncode
