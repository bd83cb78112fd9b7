"""rl-zoo3's own scripts with `beta_ppo` registered."""

import argparse
import importlib
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from huggingface_sb3 import EnvironmentName
from rl_zoo3.utils import StoreDict, get_latest_run_id, get_model_path

from sb3_carracing.files import data_dir, next_free
from sb3_carracing.runs import BEST_AGENT, TRAINED_AGENTS, read_run
from sb3_carracing.zoo.register import ALGO_NAME, register

# The command's name and the module of rl-zoo3 that it runs.
SCRIPTS = {
    "train": "rl_zoo3.train",
    "enjoy": "rl_zoo3.enjoy",
    "record_video": "rl_zoo3.record_video",
    "record_training": "rl_zoo3.record_training",
    "benchmark": "rl_zoo3.benchmark",
    "load_from_hub": "rl_zoo3.load_from_hub",
    "push_to_hub": "rl_zoo3.push_to_hub",
    "plot_train": "rl_zoo3.plots.plot_train",
    "all_plots": "rl_zoo3.plots.all_plots",
    "plot_from_file": "rl_zoo3.plots.plot_from_file",
}
# Scripts whose --algo is rl-zoo3's "ppo" where none is given.
_HAVE_ALGO = ("train", "enjoy", "record_video", "record_training", "load_from_hub", "push_to_hub")
# Scripts that read trained agents, and the options that name their folder.
_READ_AGENTS = {
    **dict.fromkeys(("enjoy", "record_video", "record_training"), ("-f", "--folder")),
    "benchmark": ("--log-dir",),
}
# Options without which rl-zoo3's plots end with a TypeError.
_REQUIRED = {
    "all_plots": (("-a", "--algos"), ("-e", "--env"), ("-f", "--exp-folders")),
    "plot_from_file": (("-i", "--input"),),
}
# What rl-zoo3 starts as a process of its own, without `beta_ppo`: the arguments of its call and our command.
_CHILDREN = {("python", "-m", "rl_zoo3.record_video"): "record_video", ("python", "enjoy.py"): "enjoy"}


def run(command: str, argv: list[str]) -> Path | None:
    """Run rl-zoo3's script with its normal arguments; without `--algo` it is `beta_ppo`.

    :param command: one of `SCRIPTS`
    :param argv: the script's arguments
    :return: `train`'s run folder; None after Ctrl-C and for other commands

    :raises ValueError: a library, an agent or the internet that the command needs is missing, or it would destroy files
    """
    register()
    asks_for_help = bool({"-h", "--help"} & set(argv))
    if command in _HAVE_ALGO and not any(arg == "--algo" or arg.startswith("--algo=") for arg in argv):
        argv = ["--algo", ALGO_NAME, *argv]
    if command in _READ_AGENTS and not asks_for_help:
        argv = [*_options_for_agents(command, _asked_agents(command, argv)), *argv]
    try:
        with patch.object(sys, "argv", [f"sb3_carracing {command}", *argv]), readable_key_values():
            return _run_script(command, argv)
    except ImportError as error:
        advice = "; upload the run's folder with `hf upload` instead" if command == "push_to_hub" else ""
        sentence = f"{command} cannot run with what is installed: {error}{advice}"
        if asks_for_help:
            print(sentence)
            return None
        raise ValueError(sentence) from error


def _run_script(command: str, argv: list[str]) -> Path | None:
    if command == "train":
        return _train()
    if SCRIPTS[command].startswith("rl_zoo3.plots."):
        _plot(command, argv)
        return None
    with (
        _ffmpeg() if command == "record_training" else nullcontext(),
        patch.object(subprocess, "call", _call_with_us),
        patch.object(shutil, "copy", _copy_and_keep) if command == "benchmark" else nullcontext(),
    ):
        try:
            runpy.run_module(SCRIPTS[command], run_name="__main__", alter_sys=False)
        except Exception as error:
            # huggingface_hub's own errors, and those of the library that it asks the hub through, which has changed.
            if not type(error).__module__.startswith(("httpx", "huggingface_hub", "requests")):
                raise
            advice = "; --no-hub plays only the agents of --log-dir" if command == "benchmark" else ""
            raise ValueError(f"{command} gets nothing from the Hugging Face hub: {error}{advice}") from error
    return None


def _plot(command: str, argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m sb3_carracing {command}", add_help=False)
    for names in _REQUIRED.get(command, ()):
        parser.add_argument(*names, nargs="+", required=True)
    if not {"-h", "--help"} & set(argv):
        parser.parse_known_args(argv)
    # Their package imports them already, which runpy would warn of.
    plot = getattr(importlib.import_module(SCRIPTS[command]), command)
    try:
        plot()
    except ValueError as error:
        if "empty sequence" not in str(error):
            raise
        raise ValueError(f"{command} found nothing to plot; plot_from_file needs two runs of each algorithm") from error


@contextmanager
def readable_key_values() -> Iterator[None]:
    """Let rl-zoo3's `key:value` arguments, which it evaluates as Python, name the one that cannot be read.

    :raises ValueError: within the context, in place of whatever the evaluation ends with
    """
    store = StoreDict.__call__

    def store_each(
        action: StoreDict, parser: Any, namespace: argparse.Namespace, values: list[str], option: str | None = None
    ) -> None:
        stored: dict[str, Any] = {}
        for argument in values:
            try:
                store(action, parser, namespace, [argument], option)
            except Exception as error:
                raise ValueError(
                    f"{option} {argument} is not key:value with a value in Python, where text stands in quotes ({error})"
                ) from error
            stored |= getattr(namespace, action.dest)
        setattr(namespace, action.dest, stored)

    with patch.object(StoreDict, "__call__", store_each):
        yield


def _asked_agents(command: str, argv: list[str]) -> argparse.Namespace:
    """Return what the arguments of a script of `_READ_AGENTS` say of the agents, with rl-zoo3's defaults."""
    parser = argparse.ArgumentParser(prog=f"python -m sb3_carracing {command}", add_help=False)
    parser.add_argument(*_READ_AGENTS[command], dest="folder")
    parser.add_argument("-o", "--output-folder")
    parser.add_argument("--algo")
    parser.add_argument("--env", type=EnvironmentName, default="CartPole-v1")
    parser.add_argument("--exp-id", type=int, default=0)
    parser.add_argument("--load-best", action="store_true")
    parser.add_argument("--load-checkpoint", type=int)
    parser.add_argument("--load-last-checkpoint", action="store_true")
    parser.add_argument("--no-hub", action="store_true")
    return parser.parse_known_args(argv)[0]


def _options_for_agents(command: str, asked: argparse.Namespace) -> list[str]:
    """Return the options that let a script read the packaged agents where the user names no folder and has none here.

    :raises ValueError: the `beta_ppo` agent is missing, which rl-zoo3 would look for in the internet; rl-zoo3 would
        download into the package; nothing to film, or films in the way
    """
    folder = Path(asked.folder or TRAINED_AGENTS)
    nothing_here = asked.folder is None and not folder.is_dir()
    packaged = data_dir(TRAINED_AGENTS)
    if command == "benchmark":
        if nothing_here and not asked.no_hub:
            raise ValueError(
                f"benchmark downloads the hub's agents into --log-dir, and there is no {folder} here: name a folder, or pass "
                "--no-hub to play the packaged agents"
            )
        return ["--log-dir", str(packaged)] if nothing_here else []
    if command == "record_training":
        # Nothing packaged: it would write into the package, and has no checkpoints to film there.
        _check_films(folder, asked)
        return []
    options = []
    if nothing_here and (asked.algo == ALGO_NAME or get_latest_run_id(str(packaged / asked.algo), asked.env)):
        folder = packaged
        options = [_READ_AGENTS[command][-1], str(folder)]
        if command == "record_video" and asked.output_folder is None:
            # By default films go beside the agent: into site-packages.
            options += ["--output-folder", "videos"]
    if asked.algo == ALGO_NAME:
        number = _run_number(folder, asked)
        which = (asked.load_best, asked.load_checkpoint, asked.load_last_checkpoint)
        get_model_path(number, str(folder), ALGO_NAME, asked.env, *which)
    return options


def _run_number(folder: Path, asked: argparse.Namespace) -> int:
    """Return the number of the run asked for; -1: there is no run folder.

    :raises ValueError: there is no such run; says which there are
    """
    runs = folder / asked.algo
    number: int = asked.exp_id or get_latest_run_id(str(runs), asked.env)
    if number == 0 or (number > 0 and not (runs / f"{asked.env}_{number}").is_dir()):
        kind = f"run {number}" if number else "numbered run"
        there = ", ".join(sorted(path.name for path in runs.glob("*_*") if path.is_dir())) or "no run"
        raise ValueError(f"no {kind} of {asked.env} in {runs}, which holds {there}; -f names another folder")
    return number


def _check_films(folder: Path, asked: argparse.Namespace) -> None:
    """Refuse what rl-zoo3's record_training would do: empty a folder that holds something, or film nothing."""
    number = _run_number(folder, asked)
    run_folder = folder / asked.algo / (f"{asked.env}_{number}" if number > 0 else "")
    agents = [run_folder / f"{asked.env}.zip", run_folder / BEST_AGENT, *run_folder.glob("rl_model_*.zip")]
    if not any(agent.is_file() for agent in agents):
        raise ValueError(f"there is no agent to film in {run_folder}")
    films = Path(asked.output_folder or run_folder / "videos")
    if films.exists() and (not films.is_dir() or any(films.iterdir())):
        raise ValueError(f"record_training would empty {films}, which is not an empty folder: -o names another one")


def _copy_and_keep(source: str, target: str) -> None:
    """Stand in for `shutil.copy` in rl-zoo3's benchmark, whose copy would replace a file of the user's."""
    file = Path(target)
    if file.exists():
        kept = next_free(file)
        file.rename(kept)
        print(f"The {file} that was here is now {kept}")
    shutil.copyfile(source, file)


def _call_with_us(command: list[str], **kwargs: Any) -> int:
    """Stand in for `subprocess.call` in rl-zoo3's scripts: their children must know `beta_ppo`, and run from any folder."""
    for start, name in _CHILDREN.items():
        if tuple(command[: len(start)]) == start:
            command = [sys.executable, "-m", "sb3_carracing", name, *command[len(start) :]]
    return subprocess.run(command, check=False, **kwargs).returncode


@contextmanager
def _ffmpeg() -> Iterator[None]:
    """Put an `ffmpeg` on the path: the system's, or the one that moviepy brings.

    :raises ImportError: there is none
    """
    if shutil.which("ffmpeg"):
        yield
        return
    import imageio_ffmpeg

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
        with patch.dict(os.environ, PATH=f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"):
            yield


def _train() -> Path | None:
    """Run rl-zoo3's train with our ExperimentManager, which it names as a global of its module.

    :return: the run's folder; None where Ctrl-C ended the training, whose agent is saved then, and after `-optimize`
    """
    from sb3_carracing.zoo.manager import CarRacingExperimentManager
    from sb3_carracing.zoo.tune import OptimizingManager

    managers: list[CarRacingExperimentManager] = []

    def create(args: argparse.Namespace, *further: Any, **kwargs: Any) -> CarRacingExperimentManager:
        manager_class = OptimizingManager if args.optimize_hyperparameters else CarRacingExperimentManager
        managers.append(manager_class(args, *further, **kwargs))
        return managers[-1]

    train_script = importlib.import_module(SCRIPTS["train"])
    with patch.object(train_script, "ExperimentManager", create):
        train_script.train()
    has_no_run = managers[-1].interrupted or managers[-1].optimize_hyperparameters
    return None if has_no_run else Path(managers[-1].save_path)


def tune(argv: list[str]) -> None:
    """Search hyperparameters, or print and train the best found: arguments of rl-zoo3's `train -optimize`, and ours."""
    from sb3_carracing.zoo import tune as tuning

    with readable_key_values():
        tuning.main(argv)


def train_and_report(argv: list[str]) -> None:
    """Train, then evaluate, plot and film that run: what `make train` does.

    :param argv: `[--tracks N] -- <arguments of train>`
    """
    parser = argparse.ArgumentParser(prog="python -m sb3_carracing train_and_report", description=train_and_report.__doc__)
    parser.add_argument("--tracks", type=int, default=10, help="tracks that the evaluation plays (default: %(default)s)")
    parser.add_argument("train_arguments", nargs="*", help="after --: arguments of train")
    args = parser.parse_args(argv)
    if args.tracks < 1:
        parser.error(f"--tracks must be at least 1, got {args.tracks}")
    run_folder = run("train", args.train_arguments)
    if run_folder is None:
        print("There is no finished run: evaluate, plot and record are left out")
        return
    from sb3_carracing.cli import evaluate, plot, record
    from sb3_carracing.pipelines import env_spec, is_car_racing

    plot.main([str(run_folder)])
    env_id = read_run(run_folder).pipeline.env_id
    if is_car_racing(env_spec(env_id)):
        evaluate.main([str(run_folder), "-n", str(args.tracks)])
        record.main([str(run_folder), "-n", "1"])
    else:
        print(f"{env_id} is no CarRacing: evaluate and record are left out; enjoy plays it")
    print(f"Everything is in {run_folder}")
