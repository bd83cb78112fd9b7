"""rl-zoo3's plots of several runs, with errors for missing data, and with PNG files if there is no display."""

import argparse
import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from sb3_carracing.errors import UserError
from sb3_carracing.files import next_free, write_atomically
from sb3_carracing.ppo.saving.named_classes import ClassFinder
from sb3_carracing.ppo.saving.unpickling import read_pickle
from sb3_carracing.zoo.scripts import arguments_of, asks_for_help, script_of_rl_zoo3

# What all_plots writes for missing evaluations. Means that it has computed have no decimals.
_NO_EVALUATION = "0.0 +/- 0.0"
# What plot_from_file needs of each algorithm on each environment.
_CURVES = ("timesteps", "mean", "std_error", "last_evals")


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
    """Compare the evaluations of several runs, with rl-zoo3's arguments. `-o` writes JSON instead of rl-zoo3's pickle.

    Raises:
        UserError: an algorithm has no evaluations of an environment in a folder.
    """
    options = _Options("all_plots", argv)
    options.add("-a", "--algos", nargs="+", required=True)
    options.add("-e", "--env", nargs="+", required=True)
    options.add("-f", "--exp-folders", nargs="+", required=True)
    options.add("-o", "--output", default="")
    output = options.read().output
    file = f"{output.removesuffix('.json')}.json"
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

    def write(results: dict[str, Any], _: Any) -> None:
        write_atomically(Path(file), json.dumps(results, default=lambda value: value.tolist()))

    def name_our_file(*words: Any) -> None:
        print(*(str(word).replace(f"{output}.pkl", file) for word in words))

    stand_ins = _stand_ins(script, pickle=SimpleNamespace(dump=write), print=name_our_file)
    with patch.object(script.pytablewriter, "MarkdownTableWriter", CompleteTable), stand_ins:
        _run("all_plots", argv)


def plot_from_file(argv: list[str]) -> None:
    """Plot what all_plots has saved, here or in rl-zoo3; the output's file name sets its format.

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
    saved = []
    if not asks_for_help(argv):
        saved = [_read(name) for name in (asked.input, *asked.merge)]
        _check_saved_results(asked, saved)
        suffix = asked.output.suffix.lstrip(".") if asked.output else ""
        if suffix and asked.format not in (None, suffix):
            raise UserError(f"--format {asked.format} does not fit -o {asked.output}")
        if suffix:
            argv = [*argv, "--format", suffix]
    script = importlib.import_module("rl_zoo3.plots.plot_from_file")
    with _stand_ins(script, pickle=SimpleNamespace(load=lambda _: saved.pop(0))):
        _run("plot_from_file", argv)


def _check_saved_results(asked: argparse.Namespace, saved: list[dict[str, Any]]) -> None:
    """Raise a UserError for environments and algorithms without results in the files of all_plots."""
    results = {env: dict(runs) for env, runs in saved[0].items() if env != "results_table"}
    for other in saved[1:]:
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


def _read(name: str) -> dict[str, Any]:
    """Return what all_plots has saved as a file, whose ending may be left out."""
    file = next((Path(name + ending) for ending in ("", ".json", ".pkl") if Path(name + ending).is_file()), Path(name))
    content = file.read_bytes()
    try:
        if content.startswith(b"{"):
            saved = json.loads(content)
        else:
            saved = read_pickle(content, "the results", ClassFinder(str(file), {}, trust=False))
        results = {
            env: {key: {part: np.asarray(run[part], float)[()] for part in {*_CURVES, *run}} for key, run in runs.items()}
            for env, runs in saved.items()
            if env != "results_table"
        }
        return results | {"results_table": {part: list(saved["results_table"][part]) for part in ("headers", "value_matrix")}}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is not a file that all_plots has saved: {error}") from error


def _stand_ins(script: Any, **names: Any) -> Any:
    """Replace globals of a script, so that it leaves reading and writing results to this module."""
    return patch.multiple(script, create=True, open=lambda *_: nullcontext(), **names)


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
