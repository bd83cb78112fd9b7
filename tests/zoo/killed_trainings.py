"""Trains again and again, and is killed at a given moment each time: `python killed_trainings.py FOLDER MOMENT ...`.

A moment is `random` or `<phase>:<file>:<n>`: the phase of the n-th write of a file of that name. The phases are `half` (half
of the content is written), `whole` (all of it, under the temporary name) and `renamed` (the file has its name, which is not
synchronized yet). For a file that is appended to, `half` is the only phase. Every training is a fork of this process, which
has imported everything. What is found afterwards is printed as a line of JSON for each moment.
"""

import fnmatch
import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import rl_zoo3.train  # noqa: F401
import torch as th
import yaml

from sb3_carracing import BetaPPO, files
from sb3_carracing.callbacks import validation
from sb3_carracing.cli import main
from sb3_carracing.evaluation import EpisodeResult
from sb3_carracing.logs import CsvLog, read_evaluations, read_table
from sb3_carracing.ppo.saving.archives import damage
from sb3_carracing.zoo.train_options import with_readable_agent

ROLLOUT = 64
CALLBACKS = [
    "sb3_carracing.callbacks.ProgressCallback",
    {"sb3_carracing.callbacks.ValidationCallback": {"every_frames": ROLLOUT, "n_episodes": 1}},
]
ENTRY = {"policy": "MlpPolicy", "n_timesteps": 8 * ROLLOUT, "n_steps": 32, "n_envs": 2, "batch_size": 32, "n_epochs": 1}
ENTRY |= {"normalize": True, "callback": CALLBACKS}
TRAIN = [
    "train",
    "--env",
    "Pendulum-v1",
    "-conf",
    "c.yml",
    "--save-freq",
    str(ROLLOUT),
    "--eval-freq",
    "-1",
    "--device",
    "cpu",
]
RUN = Path("logs/beta_ppo/Pendulum-v1_1")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(phase: str, pattern: str, number: int) -> None:
    """Let this process die in the `number`-th write of a file."""
    seen = 0
    sync, write_waiting = files._sync, CsvLog._write_waiting

    def is_it(name: str) -> bool:
        nonlocal seen
        seen += fnmatch.fnmatch(name, pattern)
        return seen == number and fnmatch.fnmatch(name, pattern)

    def dying_sync(path: Path) -> None:
        target = path.name[1:].rsplit(".", 2)[0] if path.suffix == ".tmp" else ""
        if target and is_it(target):
            if phase == "renamed":
                path.replace(path.with_name(target))
            elif phase == "half":
                os.truncate(path, path.stat().st_size // 2)
            die()
        sync(path)

    def dying_append(log: Any) -> None:
        if log._file.exists() and is_it(log._file.name):
            with log._file.open("a") as stream:
                stream.write("1.0,2.")
            die()
        write_waiting(log)

    files._sync = dying_sync
    CsvLog._write_waiting = dying_append  # type: ignore[method-assign, assignment]


def rising_scores(model: Any, *_: Any, **__: Any) -> list[EpisodeResult]:
    """Stand in for an evaluation in which every agent is the best so far."""
    return [EpisodeResult(0, model.num_timesteps, 1, 1, False)]


def train_until_killed(folder: Path, moment: str, pause: float) -> bool:
    """Return whether the training was killed, and not finished."""
    folder.mkdir()
    pid = os.fork()
    if pid == 0:
        os.chdir(folder)
        with Path("printed").open("w") as printed:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
        Path("c.yml").write_text(yaml.safe_dump({"Pendulum-v1": ENTRY}))
        th.set_num_threads(1)
        validation.evaluate = rising_scores  # type: ignore[attr-defined]
        length = ["-n", "1000000"]  # a fast machine does not finish it before the kill
        if moment != "random":
            length = []
            phase, pattern, number = moment.split(":")
            die_at(phase, pattern, int(number))
        main([*TRAIN, *length, "--env-kwargs", "max_episode_steps:20"])
        os._exit(0)
    if moment == "random":
        while (
            not list((folder / RUN).glob("*.zip")) and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        ):
            time.sleep(0.01)
        time.sleep(pause)
        os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def found(folder: Path) -> dict[str, Any]:
    """Return what is left of a training."""
    run = folder / RUN
    agents = sorted(run.glob("*.zip"))
    readable = Path(with_readable_agent(["-i", str(run)])[-1]) if agents else None
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        n_evaluations = [len(stored.timesteps) for file in run.glob("*.npz") if (stored := read_evaluations(file))]
        tables = {file.name: read_table(file) for file in run.glob("*.csv")}
    progress = tables.get("progress.csv")
    logged = progress.numbers("time/total_timesteps").tolist() if progress is not None and progress.rows else []
    return {
        "damaged": [str(file) for file in agents if damage(file) is not None],
        "steps": BetaPPO.load(readable).num_timesteps if readable else 0,
        "logged": int(max(logged, default=0)),
        "n_evaluations": n_evaluations,
        "n_damaged_rows": sum(table.n_damaged for table in tables.values() if table is not None),
        "warned": [str(warning.message) for warning in warned],
        "unreadable": [str(file) for file in run.glob("**/*.pkl") if damage(file) is not None],
        "config": all(yaml.unsafe_load(file.read_text()) for file in run.glob("*/config.yml")),
    }


if __name__ == "__main__":
    generator = random.Random(0)
    for number, moment in enumerate(sys.argv[2:]):
        folder = Path(sys.argv[1], str(number))
        killed = train_until_killed(folder, moment, generator.uniform(0, 0.5))
        print(json.dumps({"moment": moment, "killed": killed, **found(folder)}), flush=True)
