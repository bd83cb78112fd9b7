"""Files: where packaged data is, unused file names, and atomic writes.

Hyperparameters and trained agents are data, not code. They are at the top of the repository and are copied into the wheel. An
editable install has no copy, and `importlib.resources` does not find the originals. So `data_dir` looks for the packaged copy
first, then for the checkout's.
"""

import errno
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sb3_carracing.errors import UserError

_PACKAGE = Path(__file__).parent
_NO_FSYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def data_dir(name: str) -> Path:
    """Return the folder `name` ("hyperparams", "rl-trained-agents") of the wheel, or else of the checkout.

    Raises:
        FileNotFoundError: neither has it.
    """
    places = [_PACKAGE / name, _PACKAGE.parent / name]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(f"No folder {name!r} in {' or '.join(str(place.parent) for place in places)}")


def hyperparams_file(algo: str) -> Path:
    """Return the path of an algorithm's packaged YAML file ("beta_ppo"), whether or not it exists."""
    return data_dir("hyperparams") / f"{algo}.yml"


def next_free(path: Path) -> Path:
    """Return `path`, or if it exists, the first of `name_2.ext`, `name_3.ext`, ... that does not."""
    candidates: Iterable[Path] = (path.with_stem(f"{path.stem}_{number}") for number in range(2, 1_000_000))
    return path if not path.exists() else next(candidate for candidate in candidates if not candidate.exists())


def listing(names: Sequence[str], nothing: str = "nothing", limit: int = 8) -> str:
    """Return the first names for a message and the number of further ones, or `nothing` if there are none."""
    shown = ", ".join(names[:limit]) or nothing
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a temporary path beside `file` that replaces the file when the block ends without an error.

    Readers find either the complete old content or the complete new content, even after a crash or with a full disk.

    Raises:
        OSError: writing failed. The error names the file, which stays as it was.
    """
    # The ending .tmp keeps leftovers of a killed process from being mistaken for an agent or a log.
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(file)
        if os.name == "posix":
            with suppress(OSError):  # the file is complete, whether or not its new name survives a power loss
                _sync(file.parent)
    except OSError as error:
        # The error of a full disk names no file. Other errors may name a different one, such as a missing program.
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems notice only here that the disk is full. Others do not know fsync.
        if error.errno not in _NO_FSYNC:
            raise
    finally:
        os.close(descriptor)


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a file completely or not at all, see `replacing`."""
    with replacing(file) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def tolerating_full_disk(file: str | Path | None = None) -> Iterator[list[OSError]]:
    """Turn an error of writing into a warning that names the file, so that a full disk does not end a training.

    Args:
        file: its name, where the error lacks it.

    Yields:
        A list that holds the error, once the block has ended with one.
    """
    errors: list[OSError] = []
    try:
        yield errors
    except OSError as error:
        errors.append(error)
        problem = error if error.filename is not None or file is None else f"{error}: '{file}'"
        warnings.warn(f"{problem}: the training goes on without it and tries again later", stacklevel=3)


def check_writable(folder: Path, n_bytes: int = 1000) -> None:
    """Make a folder if needed and test-write into it, so that a full or read-only disk shows before the work.

    Args:
        folder: the folder, which stays.
        n_bytes: how much will be written.

    Raises:
        UserError: it is not a folder, it cannot be written to, or it has too little space.
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
    """Check that a file can be written, like `check_writable`.

    Raises:
        UserError: it cannot.
    """
    if file.is_dir():
        raise UserError(f"{file} is a folder: name a file")
    check_writable(file.parent, n_bytes)
