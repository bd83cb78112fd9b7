"""Train and evaluate the runs of plan.yml: resumable, one after the other, small results into the repository.

    python -m benchmarks.ablations.run --list
    python -m benchmarks.ablations.run --only iurin_published iurin_repaired --seeds 1 2 --num-threads 1
    python -m benchmarks.ablations.run --only matters --seeds 1

A name of a group (iurin, blog, matters) stands for all of its runs. What is finished is skipped, what was interrupted goes
on from its last checkpoint (with new random numbers). A run's folder below `--work` holds checkpoints and training.log, a
line for each rollout; below `--results` a finished run has config.yml, progress.csv (a row for each rollout),
evaluations.csv (validation tracks during training) and evaluation.json (the last agent on the test tracks: raw score, whole
episodes, drawn as in training: see `paired_score.json` for what the picture is worth).
"""

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch as th
import yaml
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from benchmarks.ablations.plan import Run, read_plan
from sb3_carracing import BetaPPO
from sb3_carracing.callbacks import ProgressCallback, ValidationCallback
from sb3_carracing.evaluation import TEST_SEED, evaluate, summarize
from sb3_carracing.pipelines import Pipeline, PipelineEnv, WrapperCall, import_by_path, pipeline_env
from sb3_carracing.runs import seed_to_go_on

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "ablations"
WORK = ROOT / "logs" / "ablations"
FILES = ("progress.csv", "evaluations.csv")
CHECKPOINT_STEPS = 10_000
# In a run's folder below `--work`: the device that trained it last, which need not be the one that evaluates it.
DEVICE_FILE = "device"

# Settings that are not arguments of BetaPPO.
_NOT_ARGUMENTS = ("env_kwargs", "wrappers", "training_wrappers", "algorithm", "n_envs", "n_timesteps", "rollout_buffer_class")

# Milliseconds a step of training on one thread, by `--measure`; validation and evaluation are apart.
SPEEDS = Path(__file__).with_name("speeds.json")
SECONDS_OF_EVALUATION = 60.0


class _CountsResets(BaseCallback):
    """For both callbacks below: an algorithm that resets in mid-episode starts to count frames anew."""

    _frames_of_episode: list[int | None]

    def _on_rollout_start(self) -> None:
        for env, starts in enumerate(self.model._last_episode_starts):  # type: ignore[arg-type]
            if starts:
                self._frames_of_episode[env] = 0


class _Progress(_CountsResets, ProgressCallback):
    """Writes progress.csv."""


class _Validation(_CountsResets, ValidationCallback):
    """Writes evaluations.csv."""


class _Log(BaseCallback):
    """A line of training.log for each rollout, and a checkpoint every `CHECKPOINT_STEPS` steps between two rollouts."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def _on_training_start(self) -> None:
        self._saved_at = self.model.num_timesteps

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps >= self._saved_at + CHECKPOINT_STEPS:
            save_checkpoint(self.model, self._folder)  # type: ignore[arg-type]
            self._saved_at = self.model.num_timesteps

    def _on_rollout_end(self) -> None:
        values = self.logger.name_to_value
        keys = ("rollout/score", "train/entropy_loss", "train/approx_kl", "train/value_loss", "train/explained_variance")
        line = " ".join(f"{key.split('/')[1]} {values[key]:.4g}" for key in keys if key in values)
        clock = time.strftime("%H:%M:%S")
        with (self._folder / "training.log").open("a") as file:
            file.write(f"{clock} steps {self.model.num_timesteps} frames {values['time/frames']} {line}\n")


def save_checkpoint(model: BetaPPO, folder: Path) -> None:
    """Write agent and curves side by side, and only then put them in the place of the last checkpoint."""
    new, old, replaced = _checkpoints(folder)
    for leftover in (new, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()
    model.save(new / "agent.zip")
    for name in FILES:
        if (folder / name).exists():
            shutil.copy(folder / name, new)
    if old.exists():
        old.rename(replaced)
    new.rename(old)
    shutil.rmtree(replaced, ignore_errors=True)


def _checkpoints(folder: Path) -> tuple[Path, ...]:
    return tuple(folder / name for name in ("checkpoint.new", "checkpoint", "checkpoint.replaced"))


def mend_checkpoint(folder: Path) -> None:
    """Put the new checkpoint in its place if `save_checkpoint` was killed after it had taken the old one away."""
    new, current, replaced = _checkpoints(folder)
    if replaced.exists() and not current.exists():
        new.rename(current)


def training_env(run: Run, seed: int) -> VecEnv:
    """Make the run's environments."""
    settings = run.settings
    wrappers = [WrapperCall(*item) for key in ("wrappers", "training_wrappers") for item in settings.get(key, {}).items()]

    def wrap(env: Any) -> Any:
        for wrapper in wrappers:
            env = wrapper(env)
        return env

    return make_vec_env(run.env_id, settings["n_envs"], seed, env_kwargs=settings["env_kwargs"], wrapper_class=wrap)


def model_arguments(run: Run) -> dict[str, Any]:
    """Return the arguments of the run's algorithm, schedules and classes made from their names."""
    arguments = {key: value for key, value in run.settings.items() if key not in _NOT_ARGUMENTS}
    if "rollout_buffer_class" in run.settings:
        arguments["rollout_buffer_class"] = import_by_path(run.settings["rollout_buffer_class"])
    rate = arguments["learning_rate"]
    if isinstance(rate, str):
        arguments["learning_rate"] = LinearSchedule(float(rate.removeprefix("lin_")), 0.0, 1.0)
    return arguments


def algorithm(run: Run) -> type[BetaPPO]:
    """Return the run's algorithm."""
    chosen: type[BetaPPO] = import_by_path(run.settings.get("algorithm", "sb3_carracing.BetaPPO"))
    return chosen


def evaluation_env(run: Run) -> PipelineEnv:
    """Return the factory of the environment for validation and test: the run's own id and picture, none of its rules.

    Idle frames at the start belong to the agent's view of the first seed's runs, so they stay.
    """
    idle = run.settings["env_kwargs"].get("noop_frames", 0)
    wrappers = tuple(WrapperCall(*item) for item in run.settings["wrappers"].items())
    own = pipeline_env(Pipeline(run.env_id, run.settings["env_kwargs"], wrappers), renderer=None)
    return replace(own, kwargs=own.kwargs | {"noop_frames": idle}) if idle else own


def new_or_resumed(run: Run, seed: int, folder: Path, device: str = "cpu") -> BetaPPO:
    """Return the model at the start of the run or at its last checkpoint, with the curves of then.

    SB3 seeds environment k with `seed + k`: far apart, no two runs of the same plan drive the same tracks.
    """
    spread_seed = 1000 * seed
    venv = training_env(run, spread_seed)
    checkpoint = folder / "checkpoint"
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    if not (checkpoint / "agent.zip").exists():
        return algorithm(run)(env=venv, seed=spread_seed, device=device, **model_arguments(run))
    for name in FILES:
        if (checkpoint / name).exists():
            shutil.copy(checkpoint / name, folder)
    model = algorithm(run).load(checkpoint / "agent.zip", env=venv, device=device)
    model.set_random_seed(seed_to_go_on(spread_seed, model.num_timesteps))
    print(f"{run.name}, seed {seed}: on from step {model.num_timesteps}", file=sys.stderr)
    return model


class OtherValuesError(ValueError):
    """A checkpoint was made with other values than its run has in the plan now."""


def config(run: Run, seed: int) -> str:
    """Return what config.yml says of a run."""
    return str(yaml.safe_dump({"env_id": run.env_id, "seed": seed, **run.settings}, sort_keys=False))


def train(run: Run, seed: int, folder: Path, device: str = "cpu") -> BetaPPO:
    """Train the run up to its number of steps; OtherValuesError if its checkpoint is of other values."""
    folder.mkdir(parents=True, exist_ok=True)
    mend_checkpoint(folder)
    written = folder / "config.yml"
    if (folder / "checkpoint").exists() and written.exists() and written.read_text() != config(run, seed):
        raise OtherValuesError(
            f"{folder} holds a checkpoint of other values than {run.name} has now: remove the folder to begin anew"
        )
    written.write_text(config(run, seed))
    model = new_or_resumed(run, seed, folder, device)
    model.set_logger(Logger(folder=str(folder), output_formats=[]))
    callbacks = [_Progress(live_line=False), _Validation(run.validate_every, make_env=evaluation_env(run)), _Log(folder)]
    remaining = int(run.settings["n_timesteps"]) - model.num_timesteps
    device_file = folder / DEVICE_FILE
    if remaining > 0 or not device_file.exists():
        device_file.write_text(_device_name(model.device))
    if remaining > 0:
        model.learn(remaining, callback=callbacks, reset_num_timesteps=model.num_timesteps == 0)
        save_checkpoint(model, folder)
    assert model.env is not None
    model.env.close()
    return model


def report(run: Run, seed: int, model: BetaPPO, n_tracks: int, trained_on: str) -> dict[str, Any]:
    """Drive the first test tracks with the model and return what evaluation.json says.

    trained_on: device of the training, or of its last part if it was resumed.
    """
    test = evaluation_env(run)
    seeds = range(TEST_SEED, TEST_SEED + n_tracks)
    packages = ("stable-baselines3", "gymnasium", "torch", "numpy", "box2d")
    results = {}
    for kind in run.actions:
        episodes = evaluate(model, test, seeds, actions=kind)
        results[kind] = {"summary": asdict(summarize(episodes)), "episodes": [asdict(episode) for episode in episodes]}
    return {
        "run": run.name,
        "what": run.what,
        "seed": seed,
        "steps": model.num_timesteps,
        "frames": model.num_frames,  # type: ignore[attr-defined]
        "evaluated_in": test.spec.id,
        "seeds": [seeds[0], seeds[-1]],
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": f"python -m benchmarks.ablations.run --only {run.name} --seeds {seed}",
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
        "machine": {
            "processor": platform.machine(),
            "cpus": os.cpu_count(),
            "threads": th.get_num_threads(),
            "device": trained_on,
        },
        "results": results,
    }


def _device_name(device: th.device) -> str:
    return th.cuda.get_device_name(device) if device.type == "cuda" else device.type


def play(run: Run, seed: int, work: Path, results: Path, n_tracks: int, device: str = "cpu") -> None:
    """Train, evaluate and store one run unless it is stored already."""
    stored = results / run.name / f"seed_{seed}"
    if (stored / "evaluation.json").exists():
        print(f"{run.name}, seed {seed}: finished already", file=sys.stderr)
        return
    folder = work / run.name / f"seed_{seed}"
    model = train(run, seed, folder, device)
    outcome = report(run, seed, model, n_tracks, trained_on=(folder / DEVICE_FILE).read_text())
    stored.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copy(folder / name, stored)
    shutil.copy(folder / "config.yml", stored)
    # Last, since it is what tells that the run is finished.
    (stored / "evaluation.json").write_text(json.dumps(outcome, indent=1) + "\n")
    scores = ", ".join(f"{kind} {entry['summary']['mean']:.1f}" for kind, entry in outcome["results"].items())
    print(f"{run.name}, seed {seed}: {scores}", file=sys.stderr)


def measure(run: Run, device: str = "cpu", steps: int = 4000) -> float:
    """Return the milliseconds of a training step, updates included, over at least `steps` steps and a whole rollout."""
    model = algorithm(run)(env=training_env(run, 0), seed=0, device=device, **model_arguments(run))
    model.set_logger(Logger(folder=None, output_formats=[]))
    start = time.perf_counter()
    model.learn(steps)
    milliseconds = 1000 * (time.perf_counter() - start) / model.num_timesteps
    assert model.env is not None
    model.env.close()
    return milliseconds


def expected_minutes(run: Run) -> float | None:
    """Return how long a seed of the run takes on one thread, None if its speed was never measured."""
    speeds = json.loads(SPEEDS.read_text()) if SPEEDS.exists() else {}
    if run.name not in speeds:
        return None
    evaluation = SECONDS_OF_EVALUATION * len(run.actions)
    return float(speeds[run.name] * run.settings["n_timesteps"] / 60_000 + evaluation / 60)


def chosen_runs(names: list[str]) -> Iterator[Run]:
    """Return the runs that names of runs or groups stand for; ValueError for an unknown one."""
    plan = read_plan()
    groups = {run.group for run in plan.values()}
    for name in names:
        if name not in plan and name not in groups:
            raise ValueError(f"unknown run {name!r}; valid: {', '.join([*sorted(groups), *plan])}")
    return (run for run in plan.values() if not names or run.name in names or run.group in names)


def print_list(runs: Iterator[Run], seeds: list[int], results: Path) -> None:
    """Print each run, its cost and which seeds are finished."""
    for run in runs:
        minutes = expected_minutes(run)
        cost = "   ?" if minutes is None else f"{minutes:4.0f}"
        done = [seed for seed in seeds if (results / run.name / f"seed_{seed}" / "evaluation.json").exists()]
        print(f"{run.name:36} {cost} min a seed  finished: {done or '-'}  {run.what}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="runs or groups (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="of the network (default: %(default)s)")
    parser.add_argument("--tracks", type=int, default=100, help="test tracks for each last agent (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=WORK, help="checkpoints and logs (default: logs/ablations)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--steps", type=int, help="train for fewer steps than planned: a trial; needs --results and --work")
    parser.add_argument("--list", action="store_true", help="print the runs and their expected minutes, and stop")
    parser.add_argument("--measure", action="store_true", help="time the chosen runs, on a CPU for --list too, and stop")
    args = parser.parse_args(argv)
    if args.steps and (args.results == RESULTS or args.work == WORK):
        parser.error(
            "--steps is for trials, which belong neither among the results nor the checkpoints: pass --results and --work"
        )
    if args.device == "cuda" and not th.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; valid: cpu")
    try:
        runs = list(chosen_runs(args.only))
    except ValueError as error:
        parser.exit(2, f"error: {error}\n")
    th.set_num_threads(args.num_threads)
    if args.list:
        print_list(iter(runs), args.seeds, args.results)
    elif args.measure:
        for run in runs:
            milliseconds = round(measure(run, args.device), 3)
            print(f"{run.name}: {milliseconds} ms a step", flush=True)
            if args.device == "cpu":
                speeds = json.loads(SPEEDS.read_text()) if SPEEDS.exists() else {}
                SPEEDS.write_text(json.dumps({**speeds, run.name: milliseconds}, indent=1) + "\n")
    else:
        for run in runs:
            if args.steps:
                run.settings["n_timesteps"] = args.steps
            for seed in args.seeds:
                try:
                    play(run, seed, args.work, args.results, args.tracks, args.device)
                except OtherValuesError as error:
                    parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
