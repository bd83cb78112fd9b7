"""rl-zoo3's own scripts with `beta_ppo` registered."""

import argparse
import importlib
import runpy
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sb3_carracing.zoo.register import ALGO_NAME, register

# The command's name and the module of rl-zoo3 that it runs.
SCRIPTS = {
    "train": "rl_zoo3.train",
    "enjoy": "rl_zoo3.enjoy",
    "record_video": "rl_zoo3.record_video",
    "plot_train": "rl_zoo3.plots.plot_train",
    "all_plots": "rl_zoo3.plots.all_plots",
    "plot_from_file": "rl_zoo3.plots.plot_from_file",
}
# Scripts whose --algo is rl-zoo3's "ppo" where none is given.
_HAVE_ALGO = ("train", "enjoy", "record_video")


def run(command: str, argv: list[str]) -> Path | None:
    """Run rl-zoo3's script with its normal arguments; without `--algo` it is `beta_ppo`.

    :param command: one of `SCRIPTS`
    :param argv: the script's arguments
    :return: `train`'s run folder; None after Ctrl-C and for other commands
    """
    register()
    if command in _HAVE_ALGO and not any(arg == "--algo" or arg.startswith("--algo=") for arg in argv):
        argv = ["--algo", ALGO_NAME, *argv]
    with patch.object(sys, "argv", [f"sb3_carracing {command}", *argv]):
        if command == "train":
            return _train()
        if SCRIPTS[command].startswith("rl_zoo3.plots."):
            # Their package imports them already, which runpy would warn of.
            getattr(importlib.import_module(SCRIPTS[command]), command)()
            return None
        runpy.run_module(SCRIPTS[command], run_name="__main__", alter_sys=False)
        return None


def _train() -> Path | None:
    """Run rl-zoo3's train with our ExperimentManager, which it names as a global of its module.

    :return: the run's folder; None where Ctrl-C ended the training, whose agent is saved then
    """
    from sb3_carracing.zoo.experiment import CarRacingExperimentManager

    managers: list[CarRacingExperimentManager] = []

    def create(*args: Any, **kwargs: Any) -> CarRacingExperimentManager:
        managers.append(CarRacingExperimentManager(*args, **kwargs))
        return managers[-1]

    train_script = importlib.import_module(SCRIPTS["train"])
    with patch.object(train_script, "ExperimentManager", create):
        train_script.train()
    return None if managers[-1].interrupted else Path(managers[-1].save_path)


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
