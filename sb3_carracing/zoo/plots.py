"""rl-zoo3's plots of several runs."""

import argparse
import importlib

from sb3_carracing.errors import UserError
from sb3_carracing.zoo.scripts import arguments_of, asks_for_help, script_of_rl_zoo3


def plot_train(argv: list[str]) -> None:
    """Plot the returns of training episodes, with rl-zoo3's arguments."""
    _run("plot_train", argv)


def all_plots(argv: list[str]) -> None:
    """Compare the evaluations of several runs, with rl-zoo3's arguments."""
    _parse(argv, "all_plots", ("-a", "--algos"), ("-e", "--env"), ("-f", "--exp-folders"))
    _run("all_plots", argv)


def plot_from_file(argv: list[str]) -> None:
    """Plot what all_plots has saved, with rl-zoo3's arguments.

    Raises:
        UserError: there is nothing to plot.
    """
    _parse(argv, "plot_from_file", ("-i", "--input"))
    _run("plot_from_file", argv)


def _parse(argv: list[str], command: str, *required: tuple[str, str]) -> argparse.Namespace:
    """Return the options without which rl-zoo3 ends with a TypeError; exit with status 2 where one is missing."""
    parser = argparse.ArgumentParser(prog=f"python -m sb3_carracing {command}", add_help=False)
    for names in required:
        parser.add_argument(*names, nargs="+", required=not asks_for_help(argv))
    return parser.parse_known_args(argv)[0]


def _run(command: str, argv: list[str]) -> None:
    with script_of_rl_zoo3(), arguments_of(command, argv):
        # Their package imports them already, which runpy would warn of.
        plot = getattr(importlib.import_module(f"rl_zoo3.plots.{command}"), command)
        try:
            plot()
        except ValueError as error:
            if "empty sequence" not in str(error):
                raise
            raise UserError(f"{command} found nothing to plot; plot_from_file needs two runs of each algorithm") from error
