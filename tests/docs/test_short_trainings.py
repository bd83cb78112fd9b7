"""The scores on the pages `short_trainings.md` and `two_pedals.md` are those of the stored tables."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.report import interquartile_mean
from benchmarks.studies.quick import speeds
from benchmarks.studies.quick.run import GROUPS, report, report_of_seeds

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = (ROOT / "docs" / "short_trainings.md").read_text()
PEDALS = (ROOT / "docs" / "two_pedals.md").read_text()


@pytest.mark.parametrize(
    ("page", "config", "seeds"),
    [
        (PAGE, "quick", range(31, 41)),
        (PAGE, "quick_gaussian", range(31, 36)),
        (PEDALS, "quick_pedals", range(1, 11)),
        (PEDALS, "quick_pedals_gaussian", range(1, 6)),
        (PEDALS, "quick_candidate", range(11, 19)),
    ],
)
def test_the_fresh_seeds(page: str, config: str, seeds: range) -> None:
    runs = pd.read_csv(RESULTS / "quick_test" / "runs.csv")
    own = runs[runs["config"] == config].sort_values("seed")
    assert own["seed"].tolist() == list(seeds)
    episodes = pd.read_csv(RESULTS / "quick_test" / "episodes.csv").groupby("run")
    for run, seed in zip(own["run"], own["seed"], strict=True):
        tracks = episodes.get_group(run)
        mean, std, median = tracks["score"].mean(), tracks["score"].std(ddof=0), tracks["score"].median()
        laps, lost = tracks["lap"].mean(), (tracks["score"] < 700).mean()
        assert f"| {seed} | {mean:.1f} +- {std:.1f} | {median:.0f} | {laps:.0%} | {lost:.0%} |".replace("%", " %") in page
    value, low, high = interquartile_mean(own["score"].to_numpy()[:, None, None])[:, 0]
    flat = " ".join(page.split())
    assert f"{value:.1f} (95 % interval {low:.1f} to {high:.1f})" in flat or f"{value:.1f} ({low:.1f} to {high:.1f})" in flat


def test_the_tables_of_the_seeds() -> None:
    found = report_of_seeds(RESULTS / "quick_test").split("\n\n")[1::2]
    assert len(found) == 6
    assert [sum(table in page for table in found) for page in (PAGE, PEDALS)] == [2, 3]  # the preset's first version has none


@pytest.mark.parametrize(("page", "group"), zip((PEDALS, PAGE), GROUPS, strict=True))
def test_the_development_runs(page: str, group: str) -> None:
    assert report(RESULTS / "quick", group).strip() in page


def test_the_speeds() -> None:
    assert speeds.report(RESULTS / "quick").strip() in PEDALS
