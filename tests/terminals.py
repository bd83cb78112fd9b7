"""A terminal of a given width, for what is written to stderr."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch


class Terminal:
    """Collects what is written to a terminal."""

    def __init__(self, columns: int) -> None:
        self._reading, self.writing = pty.openpty()
        tty.setraw(self.writing)
        fcntl.ioctl(self.writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self._content = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while chunk := os.read(self._reading, 4096):
                self._content += chunk
        except OSError:  # nobody writes any more
            pass

    def close(self) -> None:
        """Close the writing end and wait for what is still on its way."""
        os.close(self.writing)
        self._reader.join(10)
        os.close(self._reading)

    def states(self) -> list[str]:
        """Return the lines, each as often as it was drawn anew, without what moves the cursor."""
        lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", self._content.decode()))
        return [line.rstrip() for line in lines if line.strip()]


@contextmanager
def stderr_in_terminal(columns: int) -> Iterator[Terminal]:
    """Let stderr be a terminal; read its `states` afterwards."""
    terminal = Terminal(columns)
    with open(os.dup(terminal.writing), "w", buffering=1) as stream, patch.object(sys, "stderr", stream):
        yield terminal
    terminal.close()
