"""Provenance of a result: versions, machine, commit, command and date."""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = ("sb3-carracing", "stable-baselines3", "sb3-contrib", "gymnasium", "torch", "numpy", "box2d", "pygame-ce")
WHERE_IMPORTED = ("mujoco",)


def versions() -> dict[str, str]:
    """Return the versions of Python, of the installed `PACKAGES` and of what is imported of `WHERE_IMPORTED`."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *(name for name in WHERE_IMPORTED if name in sys.modules)):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Return the processor's name and the number of cores that this process may use."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def command() -> str:
    """Return the command line of this process as it would be typed in the checkout.

    `python` stands for the interpreter. Paths in the checkout become relative to it. Of other absolute paths, the name stays.
    """
    return shlex.join(["python", *map(_without_machine, sys.orig_argv[1:])])


def _without_machine(word: str) -> str:
    """Return a word of a command line; of an absolute path, the part that means something elsewhere."""
    path = Path(word)
    if not path.is_absolute():
        return word
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def commit() -> str:
    """Return the short hash of the checkout, with a + where tracked files differ from it; empty outside of git."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return result.stdout.strip()


def described() -> dict[str, str]:
    """Return all of it as one flat row: date, command, commit, machine, platform and a column per version."""
    where = {"machine": machine(), "platform": platform.platform()}
    return {"date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": command(), "commit": commit(), **where, **versions()}


def write_json(file: Path, args: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Write a benchmark's figures beside its arguments, the machine, the command and the versions."""
    record = {
        "arguments": {name: value for name, value in vars(args).items() if not isinstance(value, Path)},
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": command(),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        **figures,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n")
