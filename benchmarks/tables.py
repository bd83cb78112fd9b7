"""The tables of a study, which all lie in one folder of `benchmarks/results`.

configs.yml       an entry per configuration: what it is, its algorithm, environment and hyperparameters
runs.csv          a row per trained agent: configuration, seed, budget, score, and what it was made with
episodes.csv      a row per track and kind of action: score, frames, steps, whether the lap was finished (1 or 0)
validation.csv    a row per validation during a training
progress.csv.gz   a row per rollout: what the training logged, where a figure or a table needs it

The `run` of runs.csv names the agent in the other tables. A run that runs.csv lists is finished.
"""

import csv
import fcntl
import gzip
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from benchmarks.provenance import PACKAGES, ROOT

RESULTS = ROOT / "benchmarks" / "results"
RUNS, EPISODES, VALIDATION, PROGRESS = "runs.csv", "episodes.csv", "validation.csv", "progress.csv.gz"
CONFIGS = "configs.yml"

_PROVENANCE = ("date", "command", "commit", "machine", "platform", "python", *PACKAGES)
COLUMNS: dict[str, tuple[str, ...]] = {
    RUNS: (
        *("run", "config", "seed", "agent", "steps", "frames", "seconds", "score", "device", "threads"),
        *("evaluated_in", "evaluation_seconds", "sha256", *_PROVENANCE),
    ),
    EPISODES: ("run", "actions", "track", "score", "frames", "steps", "lap"),
    VALIDATION: (
        *("run", "frames", "steps", "seconds", "mean", "std", "median", "min", "laps_finished", "validation_seconds"),
    ),
    PROGRESS: ("run",),
}
"""First columns of each table, in this order; others follow in the order in which they are met."""

Row = Mapping[Any, Any]


def read(folder: Path, table: str) -> pd.DataFrame:
    """Return a table of a study's folder, empty if there is none; floats are read to the last bit."""
    if not (folder / table).exists():
        return pd.DataFrame(columns=list(COLUMNS[table]))
    return pd.read_csv(folder / table, float_precision="round_trip", dtype={"run": str}, low_memory=False)


def read_rows(file: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file as they are written, none if there is no such file."""
    if not file.exists():
        return []
    data = file.read_bytes()
    text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode()
    return list(csv.DictReader(io.StringIO(text)))


def add(folder: Path, tables: Mapping[str, Sequence[Row]], run: str) -> None:
    """Put the rows of a run into its study's tables, in place of what they may hold of it.

    runs.csv is written last, since it tells that the run is finished; processes that write at once wait for each other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        for table in sorted(tables, key=lambda name: name == RUNS):
            kept = [row for row in read_rows(folder / table) if row["run"] != run]
            write(folder / table, [*kept, *({"run": run, **row} for row in tables[table])])


def write(file: Path, rows: Sequence[Row]) -> None:
    """Write a table; what a row lacks stays empty, and truth values become 1 and 0."""
    columns = list(dict.fromkeys([*COLUMNS.get(file.name, ()), *(key for row in rows for key in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: int(value) if isinstance(value, bool) else value for key, value in row.items()} for row in rows)
    data = text.getvalue().encode()
    new = file.with_name(f"{file.name}.new")
    # Without a date in its header the same rows give the same file.
    new.write_bytes(gzip.compress(data, mtime=0) if file.suffix == ".gz" else data)
    new.replace(file)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of configs.yml by name, none if there is no such file."""
    file = folder / CONFIGS
    return yaml.safe_load(file.read_text()) or {} if file.exists() else {}


def write_configs(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Write entries into configs.yml, in place of those of the same name."""
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        merged = read_configs(folder) | {name: dict(entry) for name, entry in entries.items()}
        (folder / CONFIGS).write_text(as_yaml(merged))


def as_yaml(content: Mapping[str, Any]) -> str:
    """Return YAML in the given order, with innermost lists and mappings on one line and no anchors."""
    return str(yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, width=127, default_flow_style=None))


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def finished(folder: Path, configs: Iterable[str] | None = None) -> pd.DataFrame:
    """Return runs.csv, of some configurations only if they are given, in the order of the configurations and seeds."""
    runs = read(folder, RUNS)
    if configs is None:
        return runs
    order = {name: number for number, name in enumerate(configs)}
    chosen = runs[runs["config"].isin(order)]
    return chosen.sort_values(["config", "seed"], key=lambda column: column.map(order) if column.name == "config" else column)
