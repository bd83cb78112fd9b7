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

from rl_zoo3.utils import get_latest_run_id

from sb3_carracing.data import data_dir
from sb3_carracing.runs import TRAINED_AGENTS
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
# What rl-zoo3 starts as a process of its own, without `beta_ppo`: the arguments of its call and our command.
_CHILDREN = {("python", "-m", "rl_zoo3.record_video"): "record_video", ("python", "enjoy.py"): "enjoy"}


def run(command: str, argv: list[str]) -> Path | None:
    """Run rl-zoo3's script with its normal arguments; without `--algo` it is `beta_ppo`.

    :param command: one of `SCRIPTS`
    :param argv: the script's arguments
    :return: `train`'s run folder; None after Ctrl-C and for other commands

    :raises ValueError: a library or an agent that the command needs is missing
    """
    register()
    if command in _HAVE_ALGO and not any(arg == "--algo" or arg.startswith("--algo=") for arg in argv):
        argv = ["--algo", ALGO_NAME, *argv]
    argv = [*_packaged_agents(command, argv), *argv]
    try:
        with patch.object(sys, "argv", [f"sb3_carracing {command}", *argv]):
            return _run_script(command)
    except ImportError as error:
        advice = "; upload the run's folder with `hf upload` instead" if command == "push_to_hub" else ""
        raise ValueError(f"{command} cannot run with what is installed: {error}{advice}") from error


def _run_script(command: str) -> Path | None:
    if command == "train":
        return _train()
    if SCRIPTS[command].startswith("rl_zoo3.plots."):
        # Their package imports them already, which runpy would warn of.
        plot = getattr(importlib.import_module(SCRIPTS[command]), command)
        try:
            plot()
        except ValueError as error:
            if "empty sequence" not in str(error):
                raise
            raise ValueError(f"{command} found nothing to plot; plot_from_file needs two runs of each algorithm") from error
        return None
    with _ffmpeg() if command == "record_training" else nullcontext(), patch.object(subprocess, "call", _call_with_us):
        runpy.run_module(SCRIPTS[command], run_name="__main__", alter_sys=False)
    return None


def _packaged_agents(command: str, argv: list[str]) -> list[str]:
    """Return the options that let a script read the packaged agents where the user names no folder and has none here.

    :raises ValueError: there is no such `beta_ppo` run; rl-zoo3 would look for it in the internet
    """
    if command not in _READ_AGENTS or {"-h", "--help"} & set(argv):
        return []
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(*_READ_AGENTS[command], dest="folder")
    parser.add_argument("--algo")
    parser.add_argument("--env")
    parser.add_argument("--exp-id", type=int, default=0)
    asked, _ = parser.parse_known_args(argv)
    options = []
    folder = Path(asked.folder or TRAINED_AGENTS)
    # Not for record_training, which would write into the package, and has no checkpoints to film there.
    if asked.folder is None and not folder.is_dir() and command != "record_training":
        folder = data_dir(TRAINED_AGENTS)
        options = [_READ_AGENTS[command][-1], str(folder)]
        if command == "record_video" and not {"-o", "--output-folder"} & set(argv):
            # By default films go beside the agent: into site-packages.
            options += ["--output-folder", "videos"]
    runs = folder / ALGO_NAME
    if asked.algo == ALGO_NAME and asked.env and asked.exp_id == 0 and not get_latest_run_id(str(runs), asked.env):
        there = ", ".join(sorted(path.name for path in runs.glob("*_*"))) or "no run"
        raise ValueError(f"no numbered run of {asked.env} in {runs}, which holds {there}; -f names another folder")
    return options


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
    from sb3_carracing.zoo.experiment import CarRacingExperimentManager
    from sb3_carracing.zoo.tuning import TuningManager

    managers: list[CarRacingExperimentManager] = []

    def create(args: argparse.Namespace, *further: Any, **kwargs: Any) -> CarRacingExperimentManager:
        manager_class = TuningManager if args.optimize_hyperparameters else CarRacingExperimentManager
        managers.append(manager_class(args, *further, **kwargs))
        return managers[-1]

    train_script = importlib.import_module(SCRIPTS["train"])
    with patch.object(train_script, "ExperimentManager", create):
        train_script.train()
    has_no_run = managers[-1].interrupted or managers[-1].optimize_hyperparameters
    return None if has_no_run else Path(managers[-1].save_path)


def tune(argv: list[str]) -> None:
    """Search hyperparameters, or print and train the best found: arguments of rl-zoo3's `train -optimize`, and ours."""
    from sb3_carracing.zoo import tuning

    tuning.main(argv)


def train_and_report(argv: list[str]) -> None:
    """Train, then evaluate, plot and film that run: what `make train` does.

    :param argv: `[--tracks N] -- <arguments of train>`
    """
    parser = argparse.ArgumentParser(prog="python -m sb3_carracing train_and_report", description=train_and_report.__doc__)
    parser.add_argument("--tracks", type=int, default=10, help="tracks that the evaluation plays (default: %(default)s)")
    parser.add_argument("train_arguments", nargs="*", help="after --: arguments of train")
    args = parser.parse_args(argv)
    run_folder = run("train", args.train_arguments)
    if run_folder is None:
        print("Interrupted: the agent is saved; evaluate, plot and record are left out")
        return
    from sb3_carracing import evaluation, plotting, recording

    evaluation.main([str(run_folder), "-n", str(args.tracks)])
    plotting.main([str(run_folder)])
    recording.main([str(run_folder), "-n", "1"])
    print(f"Everything is in {run_folder}")
