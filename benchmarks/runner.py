"""Train and evaluate the runs of a study by the real command, one after the other, and put them into its tables.

Finished runs are skipped, and interrupted runs resume from their last checkpoint. Each run has a folder in `--logs` with one
of rl-zoo3's run folders per start. The checkpoints of a finished run are removed.
"""

import argparse
import csv
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch as th

from benchmarks import options, tables
from benchmarks.provenance import ROOT, described
from sb3_carracing.agents import ALGORITHMS, read_agent
from sb3_carracing.errors import UserError
from sb3_carracing.evaluation import TEST_SEED, check_actions, evaluate
from sb3_carracing.pipelines import PipelineEnv, Renderer, pipeline_env
from sb3_carracing.ppo.saving.loading import saved_attributes
from sb3_carracing.runs import Run, read_run, steps_in_name

LOGS = ROOT / "logs"
CHECKPOINTS = 20  # in a whole run
# glibc keeps freed memory, as BetaPPO asks it to: the same numbers from other algorithms, sooner.
_FASTER = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


@dataclass(frozen=True)
class Config:
    """A configuration of a study.

    Args:
        name: of its entry in configs.yml.
        what: in words, what it is.
        env_id: of the training.
        hyperparams: an entry of a rl-zoo3 YAML, `n_timesteps` and `env_kwargs` included.
        algo: rl-zoo3's name of the algorithm, or the dotted path of a class.
        actions: how the last agent is evaluated, the first one for `score` in runs.csv.
        renderer: "stock" or "fast" for the protocol's environments, None for the run's own id.
        group: stands for all of its configurations on the command line.
    """

    name: str
    what: str
    env_id: str
    hyperparams: dict[str, Any]
    algo: str = "beta_ppo"
    actions: tuple[str, ...] = ("deterministic",)
    renderer: Renderer | None = None
    group: str = ""

    @property
    def steps(self) -> int:
        """Decisions of the agent in a whole training."""
        return int(self.hyperparams["n_timesteps"])

    def entry(self) -> dict[str, Any]:
        """Return what configs.yml says."""
        return {"what": self.what, "algo": self.algo, "env_id": self.env_id, "hyperparams": self.hyperparams}


@dataclass(frozen=True)
class Study:
    """Configurations, and what all their runs share.

    Args:
        name: of the folder in `benchmarks/results` and in `logs`.
        configs: by name.
        seed_factor: SB3 gives environment k the seed `--seed` + k: thousands apart, no two runs drive the same tracks.
        first_seed: of the episodes of the evaluation.
        keep_progress: whether progress.csv.gz is wanted.
        progress_rows: how many rows per run it has at most, evenly spaced.
        evaluation_env: makes the factory of the environment of the evaluation.
    """

    name: str
    configs: dict[str, Config]
    seed_factor: int = 1000
    first_seed: int = TEST_SEED
    keep_progress: bool = False
    progress_rows: int = 10_000
    evaluation_env: Callable[[Run, Config], PipelineEnv] = field(
        default=lambda run, config: pipeline_env(run.pipeline, renderer=config.renderer)
    )

    def chosen(self, names: Iterable[str] | None) -> list[Config]:
        """Return the configurations that names of configurations and groups stand for, each once; None means all."""
        if names is None:
            return list(self.configs.values())
        groups = {config.group for config in self.configs.values()} - {""}
        found: dict[str, Config] = {}
        for name in names:
            if name not in self.configs and name not in groups:
                raise UserError(f"unknown run {name!r}; valid: {', '.join([*sorted(groups), *self.configs])}")
            found |= {key: config for key, config in self.configs.items() if name in (key, config.group)}
        return list(found.values())


@dataclass(frozen=True)
class Options:
    """How the runs of a study are made: see `add_arguments`."""

    logs: Path
    out: Path
    device: str = "cpu"
    threads: int = 1
    n_tracks: int = 100


def run_id(config: Config, seed: int) -> str:
    """Return the run's name in the tables."""
    return f"{config.name}-{seed}"


def train_command(study: Study, config: Config, seed: int, folder: Path, device: str = "cpu", threads: int = 1) -> list[str]:
    """Return the command of a training from scratch; its hyperparameters are written into the run's folder."""
    # The real command knows the algorithms of rl-zoo3 and the package, ours classes of a study as well.
    module = "benchmarks.train" if "." in config.algo else "sb3_carracing"
    save_every = max(config.steps // CHECKPOINTS, 1)
    return [
        *(sys.executable, "-m", module, "train", "--algo", config.algo, "--env", config.env_id),
        *("-conf", str(folder / "hyperparams.yml"), "--seed", str(study.seed_factor * seed), "-f", str(folder)),
        *("--device", device, "--num-threads", str(threads)),
        *("--verbose", "0", "--eval-freq", "-1", "--save-freq", str(save_every)),
    ]


def start_folders(config: Config, folder: Path) -> list[Path]:
    """Return the folders of a run's starts in their order: rl-zoo3 gives every one a new folder."""
    found = (folder / config.algo).glob(f"{config.env_id}_*")
    return sorted(found, key=lambda start: int(start.name.rpartition("_")[2]))


def last_checkpoint(starts: Sequence[Path]) -> Path | None:
    """Return the checkpoint with the most steps, None if there is none."""
    files = [file for start in starts for file in start.glob("rl_model_*_steps.zip")]
    return max(files, key=steps_in_name, default=None)


def saved_data(agent: Path) -> dict[str, Any]:
    """Return the attributes that an agent was saved with; none if the file is missing or torn."""
    try:
        return saved_attributes(agent)
    except (FileNotFoundError, ValueError):
        return {}


def is_trained(agent: Path, steps: int) -> bool:
    """Whether the agent has played its steps: rl-zoo3 saves one that was interrupted under the same name."""
    return bool(saved_data(agent).get("num_timesteps", 0) >= steps)


def train(study: Study, config: Config, seed: int, folder: Path, use: Options) -> Path:
    """Train a run to its end, from its last checkpoint if there is one; return the folder with the last agent.

    Raises:
        UserError: the folder holds a training with other hyperparameters.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hyperparams = folder / "hyperparams.yml"
    planned = tables.as_yaml({config.env_id: config.hyperparams})
    starts = start_folders(config, folder)
    if starts and hyperparams.exists() and hyperparams.read_text() != planned:
        raise UserError(f"{folder} holds a training with other values than {config.name} has now: remove it to begin anew")
    hyperparams.write_text(planned)
    if starts and is_trained(starts[-1] / f"{config.env_id}.zip", config.steps):
        return starts[-1]
    command = train_command(study, config, seed, folder, use.device, use.threads)
    if (checkpoint := last_checkpoint(starts)) is not None:
        print(f"{run_id(config, seed)}: resuming from {checkpoint.name}", file=sys.stderr)
        command += ["-i", str(checkpoint), "--trust"]  # its own run, whose wrappers may be those of benchmarks/
    (folder / "device").write_text(th.cuda.get_device_name() if use.device.startswith("cuda") else use.device)
    environment = {**os.environ, **_FASTER, "OMP_NUM_THREADS": str(use.threads), "PYTHONPATH": str(ROOT)}
    with (folder / "training.log").open("a") as log:
        ended = subprocess.run(command, check=False, cwd=ROOT, env=environment, stdout=log, stderr=log)
    if ended.returncode < 128:  # above, a signal has ended it in an orderly way
        ended.check_returncode()
    last = start_folders(config, folder)[-1]
    if not is_trained(last / f"{config.env_id}.zip", config.steps):
        raise UserError(f"{run_id(config, seed)} stopped before its {config.steps} steps; start again to go on")
    return last


def joined(starts: Sequence[Path], name: str, steps_column: str) -> list[dict[str, str]]:
    """Return a CSV file of several starts as one: what was played again after a checkpoint counts once."""
    rows: list[dict[str, str]] = []
    for number, start in enumerate(starts):
        checkpoint = last_checkpoint(starts[:number])  # which this start went on from
        resumed_at = 0 if checkpoint is None else steps_in_name(checkpoint)
        rows = [row for row in rows if float(row[steps_column]) <= resumed_at]
        if (start / name).exists():
            with (start / name).open(newline="") as stream:
                rows += csv.DictReader(stream)
    return rows


def thinned(rows: list[dict[str, Any]], at_most: int) -> list[dict[str, Any]]:
    """Return every k-th row from the first one on, with the smallest k that leaves at most so many rows."""
    return rows[:: max(-(-len(rows) // at_most), 1)]


def training_seconds(progress: Iterable[dict[str, str]]) -> float | None:
    """Return the seconds of a training, starts after interruptions added up; None if no rollout logged them."""
    elapsed = [float(row["time/time_elapsed"]) for row in progress if row.get("time/time_elapsed")]
    if not elapsed:
        return None
    return round(elapsed[-1] + sum(now for now, after in pairwise(elapsed) if after < now), 1)


def play(study: Study, config: Config, folder: Path, n_tracks: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Play the evaluation's episodes with the last agent; return rows of episodes.csv and what runs.csv says of them."""
    if "." in config.algo:
        ALGORITHMS.setdefault(config.algo, config.algo)
    run = read_run(folder, trust=True)  # its own training: a study may name wrappers and policies of benchmarks/
    agent = run.agent_file(last=True)
    model = read_agent(agent, run.algo, trust=True)
    make_env = study.evaluation_env(run, config)
    seeds = range(study.first_seed, study.first_seed + n_tracks)
    start = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for kind in config.actions:
        check_actions(model, kind)
        for result in evaluate(model, make_env, seeds, actions=kind, wrap_vec_env=run.pipeline.wrap_vec_env):
            counts = {"frames": result.frames, "steps": result.steps, "lap": result.lap_finished}
            rows.append({"actions": kind, "track": result.seed, "score": result.score, **counts})
    first = [row["score"] for row in rows if row["actions"] == config.actions[0]]
    return rows, {
        "agent": "last",
        "score": sum(first) / len(first),
        "evaluated_in": make_env.spec.id,
        "evaluation_seconds": round(time.perf_counter() - start, 1),
        "sha256": hashlib.sha256(agent.read_bytes()).hexdigest(),
    }


def make_run(study: Study, config: Config, seed: int, use: Options) -> None:
    """Train, evaluate and store a run unless it is finished already."""
    run = run_id(config, seed)
    if run in set(tables.finished(use.out)["run"]):
        print(f"{run}: finished already", file=sys.stderr)
        return
    folder = use.logs / config.name / f"seed_{seed}"
    began = time.perf_counter()
    last = train(study, config, seed, folder, use)
    wall = time.perf_counter() - began
    episodes, played = play(study, config, last, use.n_tracks)
    starts = start_folders(config, folder)
    progress = joined(starts, "progress.csv", "time/total_timesteps")
    data = saved_data(last / f"{config.env_id}.zip")
    row = {
        "config": config.name,
        "seed": seed,
        "steps": data["num_timesteps"],
        "frames": data.get("num_frames", ""),
        "seconds": training_seconds(progress) or round(wall, 1),
        "device": (folder / "device").read_text(),
        "threads": use.threads,
        **played,
        **described(),
    }
    tables.write_configs(use.out, {config.name: config.entry()})
    new = {tables.RUNS: [row], tables.EPISODES: episodes, tables.VALIDATION: joined(starts, "evaluations.csv", "steps")}
    if study.keep_progress:
        new[tables.PROGRESS] = thinned(progress, study.progress_rows)
    tables.add(use.out, new, run)
    for start in starts:
        for checkpoint in start.glob("rl_model_*"):
            checkpoint.unlink()
    print(f"{run}: score {played['score']:.1f}", file=sys.stderr)


def add_arguments(study: Study, parser: argparse.ArgumentParser) -> None:
    """Add the options that every study has beside --out and --seeds."""
    parser.add_argument("--only", nargs="+", metavar="CONFIG", help="configurations or groups of them (default: all)")
    parser.add_argument("--logs", type=Path, default=LOGS / study.name, help="where the trainings lie (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the agent learns (default: cpu)")
    parser.add_argument("--num-threads", type=int, default=1, help="torch's threads in a training (default: 1)")
    parser.add_argument("--tracks", type=int, default=100, help="episodes of an evaluation (default: 100)")
    parser.add_argument("--steps", type=int, help="train for fewer steps than planned: a trial, which needs --out and --logs")
    parser.add_argument("--list", action="store_true", help="print the runs, which seeds are finished and how long they took")


def print_list(configs: Iterable[Config], out: Path) -> None:
    """Print each configuration with its finished seeds and the minutes of a training."""
    runs = tables.finished(out)
    for config in configs:
        own = runs[runs["config"] == config.name]
        seeds = ", ".join(str(int(seed)) for seed in sorted(own["seed"])) or "-"
        minutes = own["seconds"].mean() / 60 if len(own) else float("nan")
        took = f", {minutes:.0f} min a seed" if minutes == minutes else ""
        print(f"{config.name}: {config.what}; {config.steps} steps; finished seeds: {seeds}{took}")


def main(study: Study, doc: str | None, argv: Sequence[str] | None = None, seeds: Sequence[int] = (1, 2, 3)) -> None:
    """Run a study's command line; bad input exits with status 2 and a one-line error."""
    out = tables.RESULTS / study.name
    parser = options.parser(doc, out=out, out_help="folder of the study's tables", seeds=seeds)
    add_arguments(study, parser)
    args = parser.parse_args(argv)
    if args.steps and (args.out == out or args.logs == LOGS / study.name):
        parser.error(
            "--steps is for trials, which belong neither into the results nor to the trainings: pass --out and --logs"
        )
    if args.device == "cuda" and not th.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; valid: cpu")
    try:
        configs = study.chosen(args.only)
        if args.list:
            print_list(configs, args.out)
            return
        th.set_num_threads(args.num_threads)
        use = Options(args.logs.resolve(), args.out.resolve(), args.device, args.num_threads, args.tracks)
        for config in configs:
            if args.steps:
                config = replace(config, hyperparams=config.hyperparams | {"n_timesteps": args.steps})
            for seed in args.seeds:
                make_run(study, config, seed, use)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
