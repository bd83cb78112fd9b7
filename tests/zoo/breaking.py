"""An environment that gets into trouble at a certain step, and a disk that gets full."""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

BREAKING = "SB3CarRacingBreaking-v0"


class Breaking(gym.Env[np.ndarray, np.ndarray]):
    """Episodes of ten steps with random observations.

    Args:
        troubles: what happens at which step of the environment's life: words of `get_into_trouble`, names of signals that the
            process gets, or names of functions in `ACTIONS`.
    """

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, troubles: dict[int, str] | None = None) -> None:
        self.troubles = troubles or {}
        self.n_steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.n_steps += 1
        self.time += 1
        for what in self.troubles.get(self.n_steps, "").split():
            get_into_trouble(what)
        observation = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return observation, -abs(float(action[0])), self.time == 10, False, {}


ACTIONS: dict[str, Callable[[], Any]] = {}
"""Functions of a test, by name."""


def get_into_trouble(what: str) -> None:
    if what == "raise":
        raise RuntimeError("a wheel came off")
    if what == "refuse":
        raise ValueError("no such track")
    if what == "lose":
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "track.csv")
    if what == "die":
        os._exit(3)
    if what == "hang":
        time.sleep(1000)
    if what in ACTIONS:
        ACTIONS[what]()
    else:
        os.kill(os.getpid(), getattr(signal, what))


gym.register(BREAKING, Breaking)  # type: ignore[arg-type]


class SmallDisk:
    """A disk that a test can fill.

    Args:
        folder: where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_full = False

    def fill(self) -> None:
        """Leave no byte free."""
        self.is_full = True
        with (self.folder / "filler").open("ab", buffering=0) as filler:
            for size in (4096, 1):
                try:
                    while filler.tell() < 1 << 22:
                        filler.write(bytes(size))
                except OSError:
                    continue

    def free(self) -> None:
        """Free all that `fill` has taken."""
        self.is_full = False
        (self.folder / "filler").unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallDisk]:
    """Mount a disk of 2 MB; where that is not allowed, its files cannot be synchronized while it is full."""
    folder.mkdir()
    disk = SmallDisk(folder)
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode == 0:
        try:
            yield disk
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        return
    fsync = os.fsync

    def on_the_disk(descriptor: int) -> None:
        if disk.is_full and Path(f"/proc/self/fd/{descriptor}").resolve().is_relative_to(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", on_the_disk)
    yield disk
