"""The scores on the pages `short_trainings.md` and `two_pedals.md` are those of the stored tables."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.report import interquartile_mean
from benchmarks.studies.quick import recovery, speeds
from benchmarks.studies.quick.run import FIRST_CHANGE, FIRST_LIMIT, GROUPS, TABLES, report, report_of_seeds

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = (ROOT / "docs" / "short_trainings.md").read_text()
FLAT = " ".join(PAGE.split())
PEDALS = (ROOT / "docs" / "two_pedals.md").read_text()


@pytest.mark.parametrize(
    ("page", "config", "seeds"),
    [
        (PAGE, "quick", range(41, 51)),
        (PAGE, "quick_gaussian", range(41, 46)),
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
    assert len(found) == 8
    assert [sum(table in page for table in found) for page in (PAGE, PEDALS)] == [2, 3]  # earlier versions have none


def test_the_development_runs() -> None:
    for page, chosen in zip((PEDALS, PAGE, PAGE, PAGE), TABLES, strict=True):
        assert report(RESULTS / "quick", *chosen).strip() in page


def test_the_speeds() -> None:
    first, second = (speeds.report(RESULTS / "quick", group).strip() for group in GROUPS)
    assert first in PEDALS
    _, seeds, mean, sampled, *_ = zip(*(row.strip("| ").split(" | ") for row in second.splitlines()[2:]), strict=True)
    numbers = [" and ".join([", ".join(column[:-1]), column[-1]]) for column in (seeds, mean, sampled)]
    assert f"seeds {numbers[0]} drive at {numbers[1]} units/s with mean actions and at {numbers[2]} with sampled" in FLAT


def test_the_changes_of_the_preset() -> None:
    """What the page's prose says of the runs with seeds from 581 to 660."""
    runs = pd.read_csv(RESULTS / "quick" / "runs.csv").set_index("run")
    runs = runs[runs["seed"].between(FIRST_CHANGE, FIRST_LIMIT - 1)]
    episodes = pd.read_csv(RESULTS / "quick" / "episodes.csv").groupby("run")
    lost = episodes["score"].apply(lambda scores: (scores < 700).sum()).reindex(runs.index).groupby(runs["config"]).sum()
    tracks = episodes.size().reindex(runs.index).groupby(runs["config"]).sum()
    said = {
        "speed_30_90_rolling_50": "loses one of 400",
        "gas_60": "lose 6 of 500",
        "grip": "loses 43 of 400",
        "decay_from_40": "loses 20 of 300",
        "limit_62": "loses one of 200",
        "conc_30": "loses 13 of 100",
        "gas_60_envs_32": "lose 6 of 200",
        "band_40": "loses none of 300",
        "smooth_30": "loses none of 100",
    }
    words = {0: "none", 1: "one"}
    for config, text in said.items():
        assert text.endswith(f" {words.get(lost[config], lost[config])} of {tracks[config]}"), config
        assert text in FLAT
    laps = episodes["lap"].mean().reindex(runs.index).groupby(runs["config"]).agg(["min", "max"])
    for config, verb in (("gas_60", "finish"), ("speed_30_90_rolling_50", "those of the preset")):
        assert f"{verb} {laps['min'][config] * 100:.0f} to {laps['max'][config] * 100:.0f} %" in FLAT
    progress = pd.read_csv(RESULTS / "quick" / "progress.csv.gz", low_memory=False).dropna(subset=["rollout/score"])
    nearest = (progress["time/frames"] - 100_000).abs().groupby(progress["run"]).idxmin()
    halfway = progress.loc[nearest].set_index("run")["rollout/score"]
    for config, text in (
        ("gas_40", "{} (gas at most 0.4)"),
        ("gas_60", "{} (0.6)"),
        ("speed_30_90_rolling_50", "{} (the preset)"),
    ):
        mean = halfway[[f"{config}-{seed}" for seed in (581, 597, 613)]].mean()
        assert text.format(round(mean)) in FLAT


def test_the_limit_on_the_gas() -> None:
    """What the page's prose says of the agents that drive with a limit, and of those without."""
    assert recovery.report(RESULTS / "quick").strip() in PAGE
    stored = pd.read_csv(RESULTS / "quick" / "recovery.csv")
    stored = stored[stored["run"].str.startswith("quick-")]
    lost = (stored["score"] < 700).groupby([stored["stops"], stored["limit"]]).sum()
    text = "lose {} instead of {} of 160 tracks, and {} instead of {} after a stop"
    assert text.format(lost[0, "1"], lost[0, "none"], lost[1, "1"], lost[1, "none"]) in FLAT
    episodes = pd.read_csv(RESULTS / "quick" / "episodes.csv")
    config = episodes["run"].str.rpartition("-")[0]
    limited = {
        "{} of 1,200": config.str.startswith("traction_") & ~config.isin(["traction_1", "traction_2", "traction_3"]),
        "{} of 1,000": config.str.startswith("slippery_70"),
    }
    for text, chosen in limited.items():
        assert f"lose {text.format((episodes['score'][chosen] < 700).sum())} tracks" in FLAT
    either = pd.concat([episodes["score"][chosen] for chosen in limited.values()])
    tests = pd.read_csv(RESULTS / "quick_test" / "episodes.csv")
    without = tests["score"][tests["run"].str.startswith("quick_no_limit-")]
    preset = tests["score"][tests["run"].str.match(r"quick-\d")]
    either, without, preset = (scores[scores < 700] for scores in (either, without, preset))
    assert f"The preset's own {len(preset)} lost test tracks have a median of {preset.median():.0f}." in FLAT
    assert f"The {len(either)} lost tracks of these 22 runs have a median score of {either.median():.0f}" in FLAT
    assert f"The median of the {len(without)} test tracks above is {without.median():.0f}." in FLAT
    assert f"Of these, {(without < 400).sum()} have scores below 400" in FLAT
