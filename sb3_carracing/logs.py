"""The log files of a run: progress.csv, evaluations.csv, evaluations.npz and monitor.csv.

After a killed training, a full disk or a power loss, files may be empty, truncated or filled with zeros, and may hold a row
twice or two rows in one line. All logs are read here: intact rows are used, and a warning names the damaged file.
"""

import csv
import io
import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sb3_carracing.files import next_free, tolerating_full_disk, write_atomically

# What numpy and zipfile raise for an archive with wrong bytes in it.
_SIGNS_OF_DAMAGE = (EOFError, ValueError, TypeError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Table:
    """The whole rows of a CSV file.

    Attributes:
        names: names of the columns.
        rows: each with as many cells as there are names.
        comment: the text after `#` in the first line, empty if there is no such line.
        n_damaged: number of lines left out.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    comment: str = ""
    n_damaged: int = 0

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def numbers(self, name: str) -> np.ndarray:
        """Return a column `(n_rows,)`, with NaN for cells that hold no number."""
        place = self.names.index(name)
        return np.array([_number(row[place]) for row in self.rows])

    def where_finite(self, *names: str) -> list[np.ndarray]:
        """Return columns, each `(n,)`, of those rows in which all of them hold a finite number."""
        columns = np.array([self.numbers(name) for name in names])
        return list(columns[:, np.isfinite(columns).all(axis=0)])


class Evaluations(NamedTuple):
    """The contents of SB3's evaluations.npz for n evaluations.

    Attributes:
        timesteps: `(n,)`, steps of the training.
        results: `(n, n_episodes)`, returns.
        ep_lengths: `(n, n_episodes)`, lengths [steps]; zeros where they were not stored.
    """

    timesteps: np.ndarray
    results: np.ndarray
    ep_lengths: np.ndarray


def read_table(file: Path) -> Table | None:
    """Read a CSV file.

    Returns:
        None if there is no file or no header in it.

    Warns:
        UserWarning: some of it is damaged.
    """
    table = _read_table(file)
    if table is None:
        if file.is_file() and file.stat().st_size:
            _warn(f"{file} is damaged: it has no header")
    elif table.n_damaged:
        _warn(f"{file} is damaged: of its rows {len(table.rows)} are read and {table.n_damaged} left out")
    return table


def _read_table(file: Path) -> Table | None:
    if not file.is_file():
        return None
    *lines, rest = file.read_bytes().decode(errors="replace").split("\n")
    comment, header, rows, n_damaged = "", None, [], int(bool(rest))
    # Every row holds a time or a step count, so equal rows are one row that was written twice.
    for line in dict.fromkeys(line.removesuffix("\r") for line in lines):
        cells = _cells(line)
        if line.startswith("#"):
            comment = comment or line[1:]
        elif header is None and cells and not any(np.isfinite(_number(name)) for name in cells):
            header = cells
        elif header is not None and len(cells) == len(header):
            rows.append(cells)
        else:
            n_damaged += 1
    return None if header is None else Table(header, tuple(rows), comment, n_damaged)


def _cells(line: str) -> tuple[str, ...]:
    """Return the cells of a line, or none if it is damaged."""
    if "\0" in line or "\ufffd" in line:
        return ()
    try:
        return tuple(next(csv.reader([line]), ()))
    except csv.Error:
        return ()


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


class CsvLog:
    """Append rows to a CSV file and add new columns as needed; rows that do not fit on a full disk are written later.

    Args:
        file: the file. If it exists, its rows stay. A damaged file is repaired first, and the original is kept under another
            name.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        table = read_table(file)
        self._names = list(table.names) if table is not None else []
        self._waiting: list[Mapping[str, Any]] = []
        if file.exists() and (table is None or table.n_damaged):
            if file.stat().st_size:
                file.rename(next_free(file))
            self._rewrite(self._names, table.rows if table is not None else ())

    def append(self, row: Mapping[str, Any]) -> None:
        """Append a row of values by name; None leaves a cell empty."""
        self._waiting.append(row)
        with tolerating_full_disk(self._file):
            self._write_waiting()

    def _write_waiting(self) -> None:
        new = dict.fromkeys(name for row in self._waiting for name in row if name not in self._names)
        if new or not self._file.exists():
            table = _read_table(self._file)
            self._rewrite([*self._names, *new], table.rows if table is not None else ())
        size = self._file.stat().st_size
        try:
            with self._file.open("a", newline="") as stream:
                stream.write(_csv_lines([[row.get(name) for name in self._names] for row in self._waiting]))
        except OSError:
            os.truncate(self._file, size)
            raise
        self._waiting.clear()

    def _rewrite(self, names: list[str], rows: Iterable[Sequence[str]]) -> None:
        padded = [[*row, *[""] * (len(names) - len(row))] for row in rows]
        write_atomically(self._file, _csv_lines([names, *padded] if names else []))
        self._names = names


def _csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue()


def read_evaluations(file: Path) -> Evaluations | None:
    """Read an evaluations.npz.

    Returns:
        None if there is no file, or it is damaged.

    Warns:
        UserWarning: it is damaged.
    """
    if not file.is_file():
        return None
    try:
        with np.load(io.BytesIO(file.read_bytes())) as stored:
            steps, results = (np.asarray(stored[name]) for name in ("timesteps", "results"))
            lengths = np.asarray(stored["ep_lengths"]) if "ep_lengths" in stored else 0 * results
        evaluations = Evaluations(steps, results, lengths)
    except _SIGNS_OF_DAMAGE:
        # Do not repeat numpy's message, which suggests unpickling what it cannot read.
        _warn(f"{file} is damaged and left out")
        return None
    shape = evaluations.results.shape
    if len(shape) != 2 or shape != evaluations.ep_lengths.shape or shape[:1] != evaluations.timesteps.shape:
        _warn(f"{file} is damaged and left out: its arrays do not belong together")
        return None
    return evaluations


def write_evaluations(file: Path, evaluations: Evaluations) -> None:
    """Write an evaluations.npz as a whole."""
    content = io.BytesIO()
    np.savez(content, **evaluations._asdict())
    write_atomically(file, content.getvalue())


def read_episodes(folder: Path) -> dict[str, np.ndarray] | None:
    """Read all files *monitor.csv of a folder.

    Returns:
        Columns, each `(n_episodes,)`, in the order of time: Monitor's `r`, `l` and `t`, those that all files have, and
        `elapsed`, the time [s] since the first file was begun.
        None if there is no episode.
    """
    parts, starts = [], []
    for file in sorted(folder.glob("*monitor.csv")):
        table = read_table(file)
        if table is None or not {"r", "l", "t"} <= set(table.names):
            continue
        whole = np.isfinite([table.numbers(name) for name in "rlt"]).all(axis=0)
        columns = {name: table.numbers(name)[whole] for name in table.names}
        starts.append(_start_time(table.comment))
        parts.append(columns | {"t": columns["t"] + starts[-1]})
    names = [name for name in (parts[0] if parts else {}) if all(name in part for part in parts)]
    episodes = {name: np.concatenate([part[name] for part in parts]) for name in names}
    if not names or not len(episodes["t"]):
        return None
    order = np.argsort(episodes["t"], kind="stable")
    return {name: column[order] for name, column in episodes.items()} | {"elapsed": episodes["t"][order] - min(starts)}


def _start_time(comment: str) -> float:
    """Return Monitor's start time from the first line of its file, or 0 if that line is damaged."""
    try:
        return float(json.loads(comment)["t_start"])
    except (ValueError, TypeError, KeyError):
        return 0.0


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)
