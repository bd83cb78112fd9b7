"""The command line: `python -m sb3_carracing <command>`."""

import errno
import os
import sys
from difflib import get_close_matches

from sb3_carracing import __version__
from sb3_carracing.cli.table import COMMANDS, usage
from sb3_carracing.errors import UserError
from sb3_carracing.signals import ending_the_command
from sb3_carracing.system import no_window

_FILE_SYSTEM_ERRORS = {
    getattr(errno, name)
    for name in (
        *("EACCES", "EBUSY", "EDQUOT", "EEXIST", "EFBIG", "EIO", "EISDIR", "ELOOP", "EMFILE", "ENAMETOOLONG"),
        *("ENFILE", "ENODEV", "ENOENT", "ENOSPC", "ENOTDIR", "ENOTEMPTY", "ENXIO", "EPERM", "EROFS", "ESTALE", "EXDEV"),
    )
    if hasattr(errno, name)
}


def main(argv: list[str] | None = None) -> None:
    """Run one command. Bad input exits with status 2 and a one-line error; any other exception shows its traceback.

    A signal that stops the command exits with status 128 + n.

    Args:
        argv: the command and its arguments; None means those of the process.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage(), end="")
        return
    if argv[0] in ("-V", "--version"):
        print(f"sb3-carracing {__version__}")
        return
    name, arguments = argv[0], argv[1:]
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        guess = f" (did you mean {near[0]}?)" if near else ""
        sys.exit(_refuse(f"unknown command {name!r}{guess}; choose one of {', '.join(COMMANDS)}"))
    no_window()
    if sys.stderr.isatty():
        # Importing torch takes seconds.
        print(f"sb3-carracing {name}: loading", file=sys.stderr, flush=True)
    try:
        with ending_the_command():
            COMMANDS[name].load()(arguments)
    except (UserError, OSError) as error:
        if os.environ.get("SB3_CARRACING_TRACEBACK") or not _is_for_the_user(error):
            raise
        sys.exit(_refuse(str(error) or repr(error)))


def _is_for_the_user(error: Exception) -> bool:
    """Return whether the user can correct what an exception reports: bad input, or a file that cannot be used."""
    if getattr(error, "ended_a_training", False):
        return False  # its traceback says where, and its note how to go on
    return isinstance(error, UserError) or (isinstance(error, OSError) and error.errno in _FILE_SYSTEM_ERRORS)


def _refuse(message: str) -> int:
    """Print a message as one line on stderr and return the exit status."""
    print(f"sb3_carracing: {' '.join(message.split())}", file=sys.stderr)
    return 2
