"""Read and write zip files that come from strangers: sizes and names are checked before anything is unpacked."""

import io
import json
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.save_util import open_path

from sb3_carracing.errors import UserError
from sb3_carracing.files import write_atomically

MAX_FILE = 4 << 30
"""Largest archive that is read [bytes]."""
MAX_ENTRIES = 2_000
MAX_JSON = 64 << 20
# What is written here and by SB3 is not compressed, but somebody may have packed it anew. Weights hardly shrink.
_MAX_RATIO = 8
_ALWAYS_ALLOWED = 16 << 20
_BROKEN = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error),
    *(EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError),
)


class Archive:
    """A zip file in memory whose entries have plain, distinct names and honest sizes.

    Args:
        content: the file's bytes.
        name: what errors call it.

    Raises:
        UserError: it is no zip file, or one that could do harm.
    """

    def __init__(self, content: bytes, name: str):
        self.name = name
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(content))
        except _BROKEN as error:
            # SB3's words.
            raise UserError(f"Error: the file {name} wasn't a zip-file, or it is truncated ({error})") from error
        infos = self._zip.infolist()
        self._sizes = {info.filename: info.file_size for info in infos}
        if len(infos) > MAX_ENTRIES:
            raise UserError(f"{name} holds {len(infos)} entries, and an agent needs no more than {MAX_ENTRIES}")
        if len(self._sizes) < len(infos):
            raise UserError(f"{name} holds two entries of one name")
        for info in infos:
            self._check(info)
        unpacked = sum(self._sizes.values())
        if unpacked > max(_ALWAYS_ALLOWED, _MAX_RATIO * len(content)):
            raise UserError(f"{name} has {len(content)} bytes and claims to hold {unpacked}: it is a zip bomb")

    def _check(self, info: zipfile.ZipInfo) -> None:
        parts = re.split(r"[/\\]", info.filename)
        if info.filename != info.orig_filename or ":" in info.filename or {"", ".", ".."} & set(parts):
            raise UserError(f"{self.name} holds an entry with the name {info.orig_filename!r}, which points elsewhere")
        if info.flag_bits & 0x1:
            raise UserError(f"{self.name} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{self.name}: {info.filename} is packed by an unusual method; only deflate is read")

    def __contains__(self, entry: str) -> bool:
        return entry in self._sizes

    @property
    def entries(self) -> list[str]:
        """The names of all entries."""
        return list(self._sizes)

    def read(self, entry: str, limit: int = MAX_FILE) -> bytes:
        """Return an entry's content.

        Raises:
            UserError: there is no such entry, it is larger than `limit` [bytes], or it is damaged.
        """
        size = self._sizes.get(entry)
        if size is None:
            raise UserError(f"{self.name} has no entry {entry!r}")
        if size > limit:
            raise UserError(f"{self.name}: {entry} has {size} bytes, and no more than {limit} are read")
        try:
            content = self._zip.read(entry)
        except _BROKEN as error:
            raise UserError(f"{self.name}: {entry} is damaged ({error})") from error
        if len(content) != size:
            raise UserError(f"{self.name}: {entry} is truncated")
        return content

    def read_json(self, entry: str) -> dict[str, Any]:
        """Return an entry that holds a JSON object; `UserError` if it does not, or names one key twice."""
        try:
            content = json.loads(self.read(entry, MAX_JSON), object_pairs_hook=_distinct_keys)
        except (ValueError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{self.name}: {entry} is not readable JSON ({error})") from error
        if not isinstance(content, dict):
            raise UserError(f"{self.name}: {entry} must hold a JSON object, got {type(content).__name__}")
        return content


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return keys


def read_file(path: str | Path | io.BufferedIOBase) -> tuple[bytes, str]:
    """Return a file's content and what errors shall call it; like SB3, `.zip` is added to a path where that is needed.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is too large.
    """
    file = open_path(path, "r", suffix="zip")
    try:
        name = str(getattr(file, "name", "the stream"))
        if file.seekable():
            file.seek(0)  # a stream that an agent was just written to stands at its end
        content = file.read(MAX_FILE + 1)
    finally:
        if isinstance(path, str | Path):
            file.close()
    if len(content) > MAX_FILE:
        raise UserError(f"{name} is larger than {MAX_FILE} bytes")
    return content, name


def damage(path: Path) -> str | None:
    """Return what is broken in a zip file (its end, an entry's checksum) for a message; None if it can be read."""
    try:
        archive = Archive(*read_file(path))
        for entry in archive.entries:
            archive.read(entry)
    except (UserError, OSError) as error:
        return str(error)
    return None


def write_archive(path: str | Path | io.BufferedIOBase, entries: Mapping[str, bytes]) -> None:
    """Write a zip file without compression, see `write_file`."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    write_file(path, stream.getvalue())


def write_file(path: str | Path | io.BufferedIOBase, content: bytes) -> None:
    """Write the bytes of a zip file; a path is replaced at once, and gets SB3's `.zip` if it has no suffix."""
    if isinstance(path, str | Path):
        write_atomically(_target(Path(path)), content)
    else:
        open_path(path, "w").write(content)


def _target(path: Path) -> Path:
    """Return where SB3 would write: with a suffix, in a folder that it makes, and never over a folder."""
    if path.suffix == "":
        path = Path(f"{path}.zip")
    if path.is_dir():
        warnings.warn(f"Path '{path}' is a folder. Will save instead to {path}_2", stacklevel=4)
        path = Path(f"{path}_2")
    if not path.parent.exists():
        warnings.warn(f"Path '{path.parent}' does not exist. Will create it.", stacklevel=4)
        path.parent.mkdir(parents=True, exist_ok=True)
    return Path(os.path.realpath(path))
