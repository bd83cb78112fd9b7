"""The scores on the page `when_beta.md` are those of the stored tables."""

from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = (ROOT / "docs" / "when_beta.md").read_text()


def shown(scores: pd.Series, digits: int = 1) -> str:
    return f"({', '.join(f'{score:.{digits}f}' for score in scores)})"


def test_carracing() -> None:
    early = pd.read_csv(RESULTS / "peers/validation.csv")
    early = early[early.frames.between(249_000, 251_000)]
    late = pd.read_csv(RESULTS / "peers/episodes.csv")
    for algorithm, n_lost in (("beta_ppo", 2), ("ppo_gaussian", 18)):
        assert shown(early[early.run.str.startswith(f"{algorithm}-")]["mean"], 0) in PAGE
        episodes = late[late.run.str.startswith(f"{algorithm}-")]
        scores = episodes.groupby("run").score.mean()
        assert f"{scores.mean():.1f} {shown(scores)}" in PAGE
        assert ((episodes.score < 700).sum(), len(episodes)) == (n_lost, 300)


@pytest.mark.parametrize("preset", ["quick", "quick_pedals"])
def test_carracing_with_200_000_frames(preset: str) -> None:
    runs = pd.read_csv(RESULTS / "quick_test/runs.csv")
    cells = []
    for config in (preset, f"{preset}_gaussian"):
        low, median, high = runs[runs.config == config].score.quantile([0.25, 0.5, 0.75])
        cells.append(f"{median:.1f} ({low:.1f} to {high:.1f})")
    assert f"| {' | '.join(cells)} |" in PAGE
    if preset == "quick_pedals":
        assert runs[runs.config == preset].score.min() > runs[runs.config == f"{preset}_gaussian"].score.max()


@pytest.mark.parametrize("task", ["MountainCarContinuous-v0", "LunarLanderContinuous-v3", "Pendulum-v1"])
def test_values_of_each(task: str) -> None:
    runs = pd.read_csv(RESULTS / "tasks/runs.csv")
    for algorithm in ("ppo", "beta_ppo"):
        scores = runs[runs.config == f"{algorithm}_{task}"].score
        assert f"{scores.mean():.1f} {shown(scores)}" in PAGE


@pytest.mark.parametrize("task", ["pendulum", "mountain_car"])
def test_equal_values(task: str) -> None:
    runs = pd.read_csv(RESULTS / "parameterization/runs.csv")
    spread = {}
    for arm in ("exp", "gaussian"):
        scores = runs[runs.config == f"{task}_{arm}"].score
        assert len(scores) == 10
        low, median, high = scores.quantile([0.25, 0.5, 0.75])
        spread[arm] = f"{median:.1f} ({low:.1f} to {high:.1f})"
        row = f"{scores.min():.1f} | {scores.max():.1f} |"
        assert row in (ROOT / "docs" / "beta_on_pendulum.md").read_text()
    assert f"| {spread['exp']} | {spread['gaussian']} |" in PAGE


@pytest.mark.parametrize("task", ["Pendulum-v1", "MountainCarContinuous-v0", "LunarLanderContinuous-v3"])
def test_values_of_rl_zoo3(task: str) -> None:
    runs = pd.read_csv(RESULTS / "beta_or_gaussian/runs.csv")
    cells = []
    for algorithm in ("beta_ppo", "ppo"):
        low, median, high = runs[runs.config == f"{algorithm}_{task}"].score.quantile([0.25, 0.5, 0.75])
        cells.append(f"{median:.1f} ({low:.1f} to {high:.1f})")
    assert f"| {' | '.join(cells)} |" in PAGE


def test_lunar_lander_with_values_of_rl_zoo3() -> None:
    runs = pd.read_csv(RESULTS / "beta_or_gaussian/runs.csv").set_index("config")
    scores = [runs.loc[f"{algorithm}_LunarLanderContinuous-v3"].score for algorithm in ("ppo", "beta_ppo")]
    text = "ten seeds score {:.0f} to {:.0f}, the Beta's {:.0f} to {:.0f}."
    page = " ".join((ROOT / "docs" / "beta_or_gaussian.md").read_text().split())
    assert text.format(*(bound for own in scores for bound in (own.min(), own.max()))) in page
    episodes = pd.read_csv(RESULTS / "beta_or_gaussian/episodes.csv")
    episodes = episodes[episodes.run.str.contains("LunarLander")]
    n_low = (episodes.score < 200).groupby(episodes.run.str.startswith("beta_ppo")).sum()
    assert f"finish {n_low[True]} with a return below 200, the Gaussian's {n_low[False]}." in page
    assert f"{n_low[True]} of its 1,000 evaluation episodes return less than 200, {n_low[False]} of the Gaussian's" in PAGE


def test_margin() -> None:
    runs = pd.read_csv(RESULTS / "parameterization/runs.csv")
    assert shown(runs[runs.config == "pendulum_margin"].score) in PAGE


def test_mean_and_mode() -> None:
    table = pd.read_csv(RESULTS / "deterministic_action/scores.csv")

    def mean(task: str, steps: int, column: str, digits: int = 0) -> str:
        return f"{table[(table.task == task) & (table.steps == steps)][column].mean():.{digits}f}"

    pendulum, lander = ("Pendulum-v1", 28_672), ("LunarLanderContinuous-v3", 311_296)
    assert f"{mean(*pendulum, 'mode')} against {mean(*pendulum, 'mean')} for the mean" in PAGE
    sampled, mode, average = (mean(*lander, column) for column in ("sampled", "mode", "mean"))
    actions = f"sampled actions scored {sampled}, the mode {mode} and the mean {average}"
    assert f"{mean(*lander, 'concentration', 1)}, {actions}" in PAGE.replace("\n", " ")
