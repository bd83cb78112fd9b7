"""What SIGINT, SIGTERM and SIGHUP do while a command runs: they end it in an orderly way, with exit status 128 + n.

Only the command line sets handlers. A library call never does.
"""

import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from tqdm import tqdm

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
ONE_STOP = 1.0
"""Signals within this time [s] count as one: a terminal and a job scheduler often send several."""


class Stopped(KeyboardInterrupt):
    """A signal asks the process to stop. As a KeyboardInterrupt it passes wherever Ctrl-C does.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass
class _Watch:
    """The signals of this process.

    Attributes:
        first: number of the first signal since the command began; None if there was none.
        last_stop: when a signal was last raised [s, monotonic].
        saving: whether signals have to wait.
        postponed: whether the first signal is only noted, see `postpone`.
    """

    first: int | None = None
    last_stop: float = -math.inf
    saving: bool = False
    postponed: bool = False


_watch = _Watch()


@contextmanager
def ending_the_command() -> Iterator[None]:
    """Raise `Stopped` at a signal, and after the block exit with status 128 + n if there was one.

    Signals that the process ignores, as under `nohup`, stay ignored. In a thread other than the main one, which cannot handle
    signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    vars(_watch).update(vars(_Watch()))
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _handle)
    try:
        yield
    except KeyboardInterrupt as error:
        if _watch.first is None:
            raise
        say(f"sb3_carracing: stopped by {error}")
    except SystemExit:
        if _watch.first is None:
            raise
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that was not set by Python
                signal.signal(number, handler)
        first, _watch.first = _watch.first, None
    if first is not None:
        sys.exit(128 + first)


def _handle(number: int, frame: FrameType | None) -> None:
    is_first = _watch.first is None
    if is_first:
        _watch.first = number
    if _watch.saving or time.monotonic() - _watch.last_stop < ONE_STOP:
        return
    _watch.last_stop = time.monotonic()
    if not (is_first and _watch.postponed):
        raise Stopped(number)


def has_come() -> bool:
    """Return whether a signal has come since the command began."""
    return _watch.first is not None


def check_signals() -> None:
    """Raise `Stopped` if a signal has come that was postponed, or whose exception got lost, as it does in a `__del__`."""
    if _watch.first is not None:
        raise Stopped(_watch.first)


def postpone(whether: bool) -> None:
    """Let the first signal wait for the next `check_signals`, which must be near. A second one does not wait."""
    _watch.postponed = whether


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let signals wait for the end of the block, which saves something.

    Raises:
        Stopped: after the block, if the first signal came meanwhile.
    """
    stops_already = _watch.first is not None
    _watch.saving = True
    try:
        yield
    finally:
        _watch.saving = False
    if not stops_already:
        check_signals()


def say(message: str) -> None:
    """Print a line on stderr, above a progress bar, if there is still a terminal."""
    with suppress(OSError):
        tqdm.write(message, sys.stderr)
