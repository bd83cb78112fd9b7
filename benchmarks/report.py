"""Functions shared by the reports of several studies: intervals, lost tracks, per-run means, tables in docs/."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

LOST = 700.0
"""A track with a lower score is lost; a lap that lacks a tile has some 35 points less than a full one."""


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


def per_run(values: pd.Series, runs: pd.DataFrame) -> list[float]:
    """Return a value for each run of a part of runs.csv, NaN where the series, which is indexed by run, has none."""
    return [float(value) for value in values.reindex(runs["run"])]
