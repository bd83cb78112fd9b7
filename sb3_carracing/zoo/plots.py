"""rl-zoo3's plots of several runs, with errors for missing data, and with PNG files if there is no display."""

import argparse
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sb3_carracing.errors import UserError
from sb3_carracing.files import next_free
from sb3_carracing.ppo.saving.named_classes import ClassFinder
from sb3_carracing.ppo.saving.unpickling import read_pickle
from sb3_carracing.zoo.scripts import arguments_of, asks_for_help, script_of_rl_zoo3

# What all_plots writes for missing evaluations. Means that it has computed have no decimals.
_NO_EVALUATION = "0.0 +/- 0.0"


def plot_train(argv: list[str]) -> None:
    """Plot the returns of training episodes, with rl-zoo3's arguments.

    Raises:
        UserError: an environment has no run with as many episodes as the window.
    """
    options = _Options("plot_train", argv)
    options.add("-a", "--algo", required=True)
    options.add("-e", "--env", nargs="+", required=True)
    options.add("-f", "--exp-folder", required=True)
    options.add("-w", "--episode-window", type=int, default=100)
    asked = options.read()

    def check_drawn(figures: Sequence[Figure]) -> None:
        drawn = [str(line.get_label()) for figure in figures for axis in figure.axes for line in axis.lines]
        for env in asked.env:
            if not any(env in run for run in drawn):
                raise UserError(
                    f"no run of {env} with {asked.episode_window} episodes or more in {asked.exp_folder}/{asked.algo}; "
                    "-w sets how many are averaged"
                )

    _run("plot_train", argv, check_drawn)


def all_plots(argv: list[str]) -> None:
    """Compare the evaluations of several runs, with rl-zoo3's arguments.

    Raises:
        UserError: an algorithm has no evaluations of an environment in a folder.
    """
    options = _Options("all_plots", argv)
    options.add("-a", "--algos", nargs="+", required=True)
    options.add("-e", "--env", nargs="+", required=True)
    options.add("-f", "--exp-folders", nargs="+", required=True)
    options.read()
    script = importlib.import_module("rl_zoo3.plots.all_plots")

    class CompleteTable(script.pytablewriter.MarkdownTableWriter):  # type: ignore[misc, name-defined]
        """Refuses to write a table with numbers for missing evaluations."""

        def write_table(self, **kwargs: Any) -> None:
            (_, *labels), *rows = self.value_matrix
            algorithms = [name.lower() for name in self.headers[1:]]
            missing = [
                f"{label}/{algo}/{env}"
                for env, *cells in rows
                for cell, algo, label in zip(cells, algorithms, labels, strict=True)
                if cell == _NO_EVALUATION
            ]
            if missing:
                raise UserError(
                    f"no evaluations of {', '.join(missing)}: all_plots needs a run whose evaluations.npz holds two or more"
                )
            super().write_table(**kwargs)

    with patch.object(script.pytablewriter, "MarkdownTableWriter", CompleteTable):
        _run("all_plots", argv)


def plot_from_file(argv: list[str]) -> None:
    """Plot what all_plots has saved, with rl-zoo3's arguments; the output's file name sets its format.

    Raises:
        UserError: the file lacks what is to be plotted.
    """
    options = _Options("plot_from_file", argv)
    options.add("-i", "--input", required=True)
    for name in ("skip-envs", "keep-envs", "skip-keys", "keep-keys"):
        options.add(f"--{name}", nargs="+", default=[])
    options.add("--merge", nargs="+", default=[])
    options.add("-o", "--output", type=Path)
    options.add("--format")
    asked = options.read()
    if not asks_for_help(argv):
        _check_saved_results(asked)
        suffix = asked.output.suffix.lstrip(".") if asked.output else ""
        if suffix and asked.format not in (None, suffix):
            raise UserError(f"--format {asked.format} does not fit -o {asked.output}")
        if suffix:
            argv = [*argv, "--format", suffix]
    _run("plot_from_file", argv)


def _check_saved_results(asked: argparse.Namespace) -> None:
    """Raise a UserError for environments and algorithms without results in the file of all_plots."""
    results = _load(asked.input if asked.input.endswith(".pkl") else f"{asked.input}.pkl")
    for other in map(_load, asked.merge):
        for env in results.keys() & other.keys():
            results[env] |= other[env]
    there = {"env": list(results), "key": list(dict.fromkeys(key for runs in results.values() for key in runs))}
    chosen = {}
    for kind, names in there.items():
        kept, skipped = getattr(asked, f"keep_{kind}s"), getattr(asked, f"skip_{kind}s")
        unknown = [name for name in (*kept, *skipped) if name not in names]
        if unknown:
            raise UserError(f"{asked.input} has no results of {', '.join(unknown)}; it has {', '.join(names) or 'none'}")
        chosen[kind] = [name for name in names if name not in skipped and (not kept or name in kept)]
    missing = [f"{key} on {env}" for env in chosen["env"] for key in chosen["key"] if key not in results[env]]
    if missing or not (chosen["env"] and chosen["key"]):
        raise UserError(f"{asked.input} has no results of {', '.join(missing) or 'anything that is to be plotted'}")


def _load(file: str) -> dict[str, dict[str, Any]]:
    try:
        results = read_pickle(Path(file).read_bytes(), "the results", ClassFinder(file, {}, trust=False))
        del results["results_table"]
    except (UserError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a file that all_plots has saved: {error}") from error
    saved: dict[str, dict[str, Any]] = results
    return saved


class _Options:
    """Reads some of a script's options beforehand; exits with status 2 if a required one is missing."""

    def __init__(self, command: str, argv: list[str]) -> None:
        self._parser = argparse.ArgumentParser(prog=f"python -m sb3_carracing {command}", add_help=False)
        self._argv = argv

    def add(self, *names: str, required: bool = False, **kwargs: Any) -> None:
        self._parser.add_argument(*names, required=required and not asks_for_help(self._argv), **kwargs)

    def read(self) -> argparse.Namespace:
        return self._parser.parse_known_args(self._argv)[0]


def _run(command: str, argv: list[str], check_drawn: Callable[[Sequence[Figure]], None] | None = None) -> None:
    with script_of_rl_zoo3(), arguments_of(command, argv), _shown_or_saved(command, check_drawn):
        # Their package imports them already, which runpy would warn of.
        plot = getattr(importlib.import_module(f"rl_zoo3.plots.{command}"), command)
        try:
            plot()
        except ValueError as error:
            if "empty sequence" not in str(error):
                raise
            raise UserError(f"{command} found nothing to plot; plot_from_file needs two runs of each algorithm") from error


@contextmanager
def _shown_or_saved(command: str, check_drawn: Callable[[Sequence[Figure]], None] | None) -> Iterator[None]:
    """Let a script show its figures, or write them to files if the backend has no windows."""
    show = plt.show

    def show_or_save(*args: Any, **kwargs: Any) -> None:
        figures = [plt.figure(number) for number in plt.get_fignums()]
        if check_drawn is not None:
            check_drawn(figures)
        headless = [figure for figure in figures if type(figure.canvas).required_interactive_framework is None]
        for figure in headless:
            title = str(figure.get_label() or "figure")
            file = next_free(Path(f"{command}_{title.replace(' ', '_').replace('/', '-')}.png"))
            figure.savefig(file)
            print(f"There is no display: {file} written")
        if len(headless) < len(figures):
            show(*args, **kwargs)

    try:
        with patch.object(plt, "show", show_or_save):
            yield
    finally:
        plt.close("all")
