"""rl-zoo3's own scripts with `beta_ppo` registered."""

import importlib
import runpy
import sys
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


def run(command: str, argv: list[str]) -> None:
    """Run rl-zoo3's script with its normal arguments; without `--algo` it is `beta_ppo`.

    :param command: one of `SCRIPTS`
    :param argv: the script's arguments
    """
    register()
    if command in _HAVE_ALGO and not any(arg == "--algo" or arg.startswith("--algo=") for arg in argv):
        argv = ["--algo", ALGO_NAME, *argv]
    with patch.object(sys, "argv", [f"sb3_carracing {command}", *argv]):
        if command == "train":
            _train()
        else:
            runpy.run_module(SCRIPTS[command], run_name="__main__", alter_sys=False)


def _train() -> None:
    """Run rl-zoo3's train with our ExperimentManager, which it names as a global of its module."""
    from sb3_carracing.zoo.experiment import CarRacingExperimentManager

    train_script = importlib.import_module(SCRIPTS["train"])
    with patch.object(train_script, "ExperimentManager", CarRacingExperimentManager):
        train_script.train()
