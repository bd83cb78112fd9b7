"""Functions shared by the reports of several studies: intervals, lost tracks, per-run means, tables in docs/."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rliable import library, metrics
from scipy import stats

_RESULTS = re.compile(r"(<!-- results -->\n).*?(<!-- end -->)", re.DOTALL)
LOST = 700.0
"""A track with a lower score is lost; a lap that lacks a tile has some 35 points less than a full one."""
REPETITIONS = 2_000  # of the bootstrap


def interval(values: np.ndarray) -> np.ndarray:
    """Return half the width of Student's 95 % interval of the mean over axis 0, NaN for a single value."""
    n = len(values)
    if n == 1:
        return np.full(values.shape[1:], np.nan)
    return np.asarray(stats.t.ppf(0.975, n - 1) * stats.sem(values, axis=0))


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table between empty lines."""
    head = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    return "\n".join(["", *head, *(f"| {' | '.join(row)} |" for row in rows), ""]) + "\n"


def with_results(page: str, results: str) -> str:
    """Return a page with new text between its marks `<!-- results -->` and `<!-- end -->`."""
    return _RESULTS.sub(lambda block: f"{block[1]}{results}{block[2]}", page)


def per_run(values: pd.Series, runs: pd.DataFrame) -> list[float]:
    """Return a value for each run of a part of runs.csv, NaN where the series, which is indexed by run, has none."""
    return [float(value) for value in values.reindex(runs["run"])]


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Return the interquartile mean and the bounds of its 95 % interval, `(3, n_points)`.

    Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice", recommend it.

    Args:
        scores: `(n_runs, n_tasks, n_points)`; a curve has several points.
    """
    # rliable's aggregate_iqm for all points at once
    return estimate([scores], lambda values: stats.trim_mean(values.reshape(-1, values.shape[-1]), 0.25, axis=0))


def improvement(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the probability that a run beats one of the others, averaged over the tasks, and the bounds of its 95 % interval.

    Args:
        scores: `(n_runs, n_tasks)`.
        others: the same of the other algorithm.
    """
    return estimate([scores, others], lambda *values: [metrics.probability_of_improvement(*values)])[:, 0]


def estimate(scores: Sequence[np.ndarray], statistic: Callable[..., Sequence[float] | np.ndarray]) -> np.ndarray:
    """Return a statistic with the bounds of its 95 % interval by rliable's stratified bootstrap, `(3, n_values)`."""
    with seeded():
        values, bounds = library.get_interval_estimates(
            {"": scores[0] if len(scores) == 1 else list(scores)},
            lambda *resampled: np.array(statistic(*resampled)),
            reps=REPETITIONS,
        )
    return np.vstack([values[""], bounds[""]])


@contextmanager
def seeded() -> Iterator[None]:
    """Seed NumPy's global generator, from which rliable draws whatever its `random_state`, and restore it in the end."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def draw_band(axes: Axes, x: np.ndarray, estimates: np.ndarray, **style: Any) -> None:
    """Draw a line through estimates and a band between the bounds of their intervals, `(3, n_points)`."""
    middle, low, high = estimates
    (line,) = axes.plot(x, middle, **style)
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def save_svg(figure: Figure, file: Path) -> None:
    """Write a figure with its text as text; the same versions write the same file."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sb3-carracing"}):
        figure.savefig(file, metadata={"Date": None})
