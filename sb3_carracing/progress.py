"""One line of progress that fits the terminal, or one line per half minute where there is none."""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

_SECONDS_IN_TERMINAL, _SECONDS_IN_LOG = 0.5, 30.0
_SECONDS_PER_TICK = 1.0


class ProgressLine(tqdm):  # type: ignore[type-arg]
    """Show `name percent | parts | time left` on stderr.

    Where the line is too long for the terminal, the last parts are left out. Percentage and time left always stay. Without a
    terminal, a new line is written every half minute, in full.

    Args:
        name: what the line begins with.
        total: value of `n` at the end.
        initial: value of `n` at the start.
        steady: derive the time left from the mean speed since the start; otherwise it is unknown until `expect`.
        leave: keep the last state. Otherwise the line disappears from a terminal, and a log has none before half a minute.
        disable: show nothing.
        then: what follows, shown after the time left.

    Attributes:
        parts: what stands in the middle, most important first. Shown at the next refresh.
    """

    # tqdm's thread would refresh a line that no one updates; `ticking` does so where it is wanted.
    monitor_interval = 0
    n: float
    total: float
    leave: bool
    _time: Callable[[], float]

    def __init__(
        self,
        name: str,
        total: float,
        *,
        initial: float = 0,
        steady: bool = True,
        leave: bool = True,
        disable: bool = False,
        then: str = "",
    ) -> None:
        self.name = name
        self._then = f", then {then}" if then else ""
        self._from = initial
        self.parts: Sequence[str] = ()
        self._steady = steady
        self._time_left: float | None = None
        self._time_left_at = 0.0
        self._start = time.perf_counter()
        self._in_terminal = sys.stderr.isatty()
        interval = _SECONDS_IN_TERMINAL if self._in_terminal else _SECONDS_IN_LOG
        delay = 0.0 if leave or self._in_terminal else interval
        super().__init__(
            total=total,
            initial=initial,
            leave=leave,
            disable=disable,
            dynamic_ncols=True,
            mininterval=interval,
            miniters=0,
            delay=delay,
        )

    def reach(self, n: float, *parts: str) -> None:
        """Set how much is done and what the line says, and show it if it is time."""
        self.parts = parts
        self.update(n - self.n)

    def expect(self, seconds: float) -> None:
        """Set the time left [s], which is counted down from now on."""
        self._time_left, self._time_left_at = seconds, time.perf_counter()

    def time_left(self) -> float | None:
        """Return the time left [s], or None if it is not known yet."""
        if self._time_left is not None:
            return max(0.0, self._time_left - (time.perf_counter() - self._time_left_at))
        done = self.n - self._from
        if not self._steady or done <= 0:
            return None
        return (self.total - self.n) * (time.perf_counter() - self._start) / done

    def __str__(self) -> str:
        share = min(self.n / self.total, 1.0) if self.total else 1.0
        left = self.time_left() if self.n < self.total else 0.0
        tail = f"{self.format_interval(left) if left is not None else '--:--'} left{self._then}"
        # A line as long as the terminal is wide would move the cursor to the next one.
        width = (self.format_dict["ncols"] or 80) - 1 if self._in_terminal else None
        return fit(f"{self.name} {math.floor(100 * share)}%".strip(), self.parts, tail, width)

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Draw the line anew; without a terminal, write it as a line of its own."""
        if self._in_terminal:
            return super().display(msg, pos)
        if msg is None:
            self.fp.write(f"{self}\n")
            self.fp.flush()
        return False

    def clear(self, *args: Any, **kwargs: Any) -> None:
        """Clear the line; a log stays as it is."""
        if self._in_terminal:
            super().clear(*args, **kwargs)

    def close(self) -> None:
        """Show the last state and end the line."""
        if not self._in_terminal and self.leave and not self.disable:
            self.display()
            self.leave = False  # tqdm would end the line once more
        super().close()

    @contextmanager
    def ticking(self) -> Iterator["ProgressLine"]:
        """Keep the line moving, from a thread, while one step takes long; close it at the end."""
        finished = threading.Event()

        def tick() -> None:
            while not finished.wait(_SECONDS_PER_TICK):
                if self._time() - self.last_print_t >= self.mininterval:
                    self.last_print_t = self._time()
                    self.refresh()

        ticker = threading.Thread(target=tick, daemon=True)
        if not self.disable:
            ticker.start()
        try:
            yield self
        finally:
            finished.set()
            if not self.disable:
                ticker.join()
            self.close()


def fit(head: str, parts: Sequence[str], tail: str, width: int | None) -> str:
    """Join the texts with as many of the first parts as fit into `width` characters; None for no limit."""
    texts = [" | ".join([head, *parts[:n], tail]) for n in range(len(parts), -1, -1)]
    if width is None:
        return texts[0]
    return next((text for text in texts if len(text) <= width), tail[:width])
