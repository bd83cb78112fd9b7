"""Train for an hour and watch memory, open files and temporary files of the command and of each of its workers.

A sample is taken every `--every` seconds, from the second rollout on. The verdict looks at the second half of the time. A
straight line is fitted to each series. Memory may rise by at most 2 % of its mean, handles and files not at all. Memory is
what a process would give back if it ended (USS), so pages that it shares with its parent do not count.

    python -m benchmarks.soak [--minutes 60] [--every 10] [--out benchmarks/results/soak] [-- further arguments of train]

The training is ended by SIGTERM, which also reaches one that was started in the background. The table is soak.csv, with a
row per sample and process.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from benchmarks import options, tables
from benchmarks.provenance import ROOT, write_json

TRAIN = ["--env", "CarRacingFast-v3", "--vec-env", "subproc", "--num-threads", "1", "--seed", "1", "-n", "1000000000"]
MEMORY_LIMIT = 0.02
_STOP_WITHIN = 120.0  # [s], the final save and the workers' end included


def sample(command: psutil.Process, temporary: Path, minute: float) -> list[dict[str, Any]]:
    """Return a row for the command and for each of its workers, in the order in which they were started."""
    workers = sorted(command.children(recursive=True), key=lambda process: process.create_time())
    # multiprocessing starts helpers of its own, which are no workers.
    workers = [worker for worker in workers if "resource_tracker" not in " ".join(worker.cmdline())]
    # Shared memory has no name and counts among the handles. /dev/shm also holds what other programs put there.
    files = sum(1 for _ in temporary.rglob("*"))
    return [
        {
            "minute": round(minute, 3),
            "process": f"worker {number}" if number else "command",
            "memory_mb": round(process.memory_full_info().uss / 2**20, 2),
            "handles": process.num_fds(),
            "files": "" if number else files,
        }
        for number, process in enumerate([command, *workers])
    ]


def watch(arguments: Sequence[str], minutes: float, every: float, folder: Path) -> list[dict[str, Any]]:
    """Train in `folder` for some minutes and return all samples.

    Raises:
        RuntimeError: the training ended by itself, or did not end when it was told to.
    """
    temporary = folder / "tmp"
    temporary.mkdir(parents=True)
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sb3_carracing", "train", *TRAIN, "-f", str(folder / "logs"), *arguments]
    rows: list[dict[str, Any]] = []
    with (folder / "training.log").open("w") as log:
        process = psutil.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            began = _begin(process, folder)
            while (now := time.monotonic()) < began + 60 * minutes:
                time.sleep(max(0.0, min(every, began + 60 * minutes - now)))
                _check_runs(process, folder)
                rows += sample(process, temporary, (time.monotonic() - began) / 60)
            process.terminate()
            process.wait(_STOP_WITHIN)
        except psutil.TimeoutExpired as error:
            raise RuntimeError(f"the training did not end within {_STOP_WITHIN:.0f} s after SIGTERM") from error
        finally:
            for child in [*process.children(recursive=True), process] if process.is_running() else []:
                child.kill()
    return rows


def _begin(process: psutil.Popen, folder: Path) -> float:
    """Wait until the training has updated once and return the time: from then on, all is loaded."""
    while sum(len(file.read_text().splitlines()) for file in folder.glob("logs/*/*/progress.csv")) < 3:
        _check_runs(process, folder)
        time.sleep(0.5)
    return time.monotonic()


def _check_runs(process: psutil.Popen, folder: Path) -> None:
    if process.poll() is not None:
        tail = "\n".join((folder / "training.log").read_text().splitlines()[-20:])
        raise RuntimeError(f"the training ended with status {process.returncode}:\n{tail}")


def growth(rows: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    """Return for each process how much a series rises in the second half of the time, as a share of its mean there.

    For memory it is Theil and Sen's line, the median of the slopes between all pairs of samples: now and then the allocator
    gives a quarter of the memory back for a minute.
    """
    table = pd.DataFrame(rows)
    late = table[(table["minute"] >= table["minute"].max() / 2) & (table[name] != "")]
    rises = {}
    for process, own in late.groupby("process"):
        minute, values = own["minute"].to_numpy(float), own[name].to_numpy(float)
        if name == "memory_mb":
            first, second = np.triu_indices(len(values), 1)
            slope = np.median((values[second] - values[first]) / (minute[second] - minute[first]))
        else:
            slope = np.polyfit(minute, values, 1)[0]
        rises[str(process)] = float(slope * np.ptp(minute) / values.mean())
    return rises


def verdict(rows: Sequence[dict[str, Any]], memory_limit: float = MEMORY_LIMIT) -> tuple[list[str], bool]:
    """Return a line for each series, and whether all of them are flat."""
    lines, flat = [], True
    for name, limit in (("memory_mb", memory_limit), ("handles", 0.001), ("files", 0.001)):
        for process, rise in growth(rows, name).items():
            first, last = (next(row[name] for row in order if row["process"] == process) for order in (rows, rows[::-1]))
            flat &= rise <= limit
            lines.append(f"{process}, {name}: {first} -> {last}, {rise:+.2%} in the second half")
    return lines, flat


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; it exits with status 1 where something grows."""
    parser: argparse.ArgumentParser = options.parser(
        __doc__, out=tables.RESULTS / "soak", out_help="folder of soak.csv and soak.json"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="how long to train (default: %(default)s)")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between samples (default: %(default)s)")
    parser.add_argument("train", nargs="*", help="further arguments of train, after --")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        rows = watch(args.train, args.minutes, args.every, Path(folder))
    lines, flat = verdict(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    tables.write(args.out / "soak.csv", rows)
    write_json(args.out / "soak.json", args, {"flat": flat, "series": lines})
    print(*lines, sep="\n")
    sys.exit(0 if flat else 1)


if __name__ == "__main__":
    main()
