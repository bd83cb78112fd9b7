"""The page: data and the packaged template in one HTML file."""

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from sb3_carracing import __version__
from sb3_carracing.files import write_atomically
from sb3_carracing.report.contents import Evaluation, contents_of
from sb3_carracing.report.curves import LOGARITHMIC, SHOWN
from sb3_carracing.runs import Run

SIZE_LIMIT = 6_000_000
"""Bytes. If the drives of many runs take more, the report keeps fewer of their decisions."""


def write_report(runs: Mapping[str, tuple[Run, Sequence[Evaluation]]], file: Path) -> None:
    """Write a report.

    Args:
        runs: each run with its evaluations, by the name to call it.
        file: the HTML file, which is replaced.
    """
    for every in (1, 2, 4, 8, 16):
        page = _page([contents_of(run, name, evaluations, every) for name, (run, evaluations) in runs.items()])
        if len(page) <= SIZE_LIMIT:
            break
    write_atomically(file, page)


def _page(runs: list[dict[str, Any]]) -> bytes:
    data = {
        "version": __version__,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "panels": [[key, panel.title, key in LOGARITHMIC] for key, panel in SHOWN.items()],
        "runs": runs,
        "pairs": [_compared(first, second) for first, second in itertools.combinations(runs, 2)],
    }
    template = resources.files(__package__)
    page = (template / "page.html").read_text()
    for name, text in {
        "STYLE": (template / "page.css").read_text(),
        "SCRIPT": (template / "page.js").read_text(),
        # Within a script element only "</" and "<!--" would have a meaning. JSON has no NaN.
        "DATA": json.dumps(_without_nan(data), separators=(",", ":")).replace("<", "\\u003c"),
    }.items():
        page = page.replace(f"/*{name}*/", text)
    return page.encode()


def _without_nan(value: Any) -> Any:
    """Return nested data with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _compared(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any] | None:
    """Return the difference of two runs on the tracks that their first evaluations share; None if there are none.

    The interval is a percentile bootstrap of the mean difference, as in `summarize`.
    """
    scores = [dict(map(tuple, run["evaluations"][0]["scores"])) if run["evaluations"] else {} for run in (first, second)]
    common = sorted(scores[0].keys() & scores[1].keys())
    if not common:
        return None
    differences = np.array([scores[1][seed] - scores[0][seed] for seed in common])
    draws = np.random.default_rng(0).choice(differences, (10_000, len(differences))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    mean = float(differences.mean())
    return {"first": first["name"], "second": second["name"], "n": len(common), "mean": mean, "low": low, "high": high}
