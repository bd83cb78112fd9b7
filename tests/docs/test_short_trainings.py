"""The scores on the page `short_trainings.md` are those of the stored tables."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.report import interquartile_mean
from benchmarks.studies.quick import speeds
from benchmarks.studies.quick.run import report, report_of_seeds

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = (ROOT / "docs" / "short_trainings.md").read_text()


@pytest.mark.parametrize(("config", "n_seeds"), [("quick", 10), ("quick_gaussian", 5), ("quick_candidate", 8)])
def test_the_fresh_seeds(config: str, n_seeds: int) -> None:
    runs = pd.read_csv(RESULTS / "quick_test" / "runs.csv")
    scores = runs[runs["config"] == config].sort_values("seed")["score"].to_numpy()
    assert len(scores) == n_seeds
    value, low, high = interquartile_mean(scores[:, None, None])[:, 0]
    flat = " ".join(PAGE.split())
    assert f"{value:.1f} (95 % interval {low:.1f} to {high:.1f})" in flat or f"{value:.1f} ({low:.1f} to {high:.1f})" in flat


def test_the_tables_of_the_seeds() -> None:
    found = report_of_seeds(RESULTS / "quick_test").split("\n\n")[1::2]
    assert len(found) == 3
    assert all(table in PAGE for table in found)


def test_the_development_runs() -> None:
    assert report(RESULTS / "quick").strip() in PAGE


def test_the_speeds() -> None:
    assert speeds.report(RESULTS / "quick").strip() in PAGE
