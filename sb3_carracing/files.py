"""Files: where the packaged ones are, free names, writing so that a reader can trust the result.

Hyperparameters and trained agents are data, not code. They lie at the top of the repository and are copied into the wheel.
An editable install has no copy, and `importlib.resources` does not see the originals: so `data_dir` looks for the packaged
copy first, then for the checkout's.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sb3_carracing.errors import UserError

_PACKAGE = Path(__file__).parent


def data_dir(name: str) -> Path:
    """Return the folder `name` ("hyperparams", "rl-trained-agents") of the wheel, else of the checkout.

    Raises:
        FileNotFoundError: neither has it.
    """
    places = [_PACKAGE / name, _PACKAGE.parent / name]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(f"No folder {name!r} in {' or '.join(str(place.parent) for place in places)}")


def hyperparams_file(algo: str) -> Path:
    """Return where the packaged YAML file of an algorithm ("beta_ppo") is, if this package has one."""
    return data_dir("hyperparams") / f"{algo}.yml"


def next_free(path: Path) -> Path:
    """Return `path`, or if it exists, the first of `name_2.ext`, `name_3.ext`, ... that does not."""
    candidates: Iterable[Path] = (path.with_stem(f"{path.stem}_{number}") for number in range(2, 1_000_000))
    return path if not path.exists() else next(candidate for candidate in candidates if not candidate.exists())


def listing(names: Sequence[str], nothing: str = "nothing", limit: int = 8) -> str:
    """Return the first names for a message, and how many more there are; `nothing` if there is none."""
    shown = ", ".join(names[:limit]) or nothing
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Give a path beside `file` to write to, whose content becomes the file's when the block ends without an error.

    Whoever reads the file, also after a crash or a full disk, finds either the old content or the new one as a whole.

    Raises:
        OSError: naming the file, which remains as it was.
    """
    # No ending of its own: nobody takes what a killed process left for an agent or a log.
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(file)
        if os.name == "posix":
            _sync(file.parent)
    except OSError as error:
        # A full disk names no file. Other errors may be about another one: a program that is not there, say.
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems know no fsync of folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a file as a whole or not at all, see `replacing`."""
    with replacing(file) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def check_writable(folder: Path, n_bytes: int = 1000) -> None:
    """Make a folder if need be, and try to write into it: a full or read-only disk shows before the work.

    Args:
        folder: it remains.
        n_bytes: how much is going to be written.

    Raises:
        UserError: it is no folder, it cannot be written to, or it has less room.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(bytes(min(n_bytes, 1_000_000)))
            trial.flush()
            os.fsync(trial.fileno())
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
    if shutil.disk_usage(folder).free < n_bytes:
        raise UserError(f"{folder} has room for {shutil.disk_usage(folder).free:,} bytes, and {n_bytes:,} are needed")


def check_output_file(file: Path, n_bytes: int = 1000) -> None:
    """Check like `check_writable` that a file can be written.

    Raises:
        UserError: it cannot.
    """
    if file.is_dir():
        raise UserError(f"{file} is a folder: name a file")
    check_writable(file.parent, n_bytes)
