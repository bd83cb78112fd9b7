"""The hyperparameters of the peers are what the page says, and the page says what is stored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from benchmarks import tables
from benchmarks.report import with_results
from benchmarks.runner import run_id
from benchmarks.studies.peers import report
from benchmarks.studies.peers.run import hyperparams, study


@pytest.mark.parametrize("name", list(study().configs))
def test_all_train_for_two_million_frames(name: str) -> None:
    config = study().configs[name]
    (repeat,) = {
        skip
        for wrapper in config.hyperparams["env_wrapper"]
        if isinstance(wrapper, dict)
        for path, keywords in wrapper.items()
        if path.endswith(("FrameSkip", "ActionRepeat"))
        for skip in keywords.values()
    }
    assert config.steps * repeat == 2_000_000


def test_the_zoos_values_are_the_zoos() -> None:
    rl_zoo3 = pytest.importorskip("rl_zoo3")
    theirs = yaml.safe_load((Path(rl_zoo3.__file__).parent / "hyperparams" / "ppo.yml").read_text())["CarRacing-v3"]
    ours = hyperparams("ppo_zoo")
    del ours["callback"]
    for values in (theirs, ours):
        values["policy_kwargs"] = "".join(values["policy_kwargs"].split()).replace(",)", ")")
    assert ours == theirs


def test_the_stored_runs_had_these_values() -> None:
    stored = tables.read_configs(report.RESULTS)
    assert stored == {name: yaml.safe_load(tables.as_yaml(config.entry())) for name, config in study().configs.items()}


def store(results: Path, name: str, seed: int, scores: list[float], laps: list[bool], curve: list[float]) -> None:
    """Store a run."""
    new: dict[str, Any] = {
        tables.RUNS: [{"config": name, "seed": seed}],
        tables.EPISODES: [
            {"actions": "mean", "track": track, "score": score, "lap": lap}
            for track, (score, lap) in enumerate(zip(scores, laps, strict=True))
        ],
        tables.VALIDATION: [{"frames": 400 * number, "mean": mean} for number, mean in enumerate(curve, 1)],
    }
    tables.add(results, new, run_id(study().configs[name], seed))


def test_the_table_and_the_figure_are_made_from_the_stored_runs(tmp_path: Path) -> None:
    assert report.table(tmp_path) == ""
    means = (900.0, 910.0, 950.0)
    for seed, mean in enumerate(means, 1):
        scores = [mean + 5.0, mean - 5.0] * 2 if seed < 3 else [mean + 254.0, mean + 254.0, mean + 254.0, mean - 762.0]
        store(tmp_path, "beta_ppo", seed, scores, [True, True, False, False], [mean - 50, mean])
    (row,) = [line for line in report.table(tmp_path).splitlines() if "beta_ppo" in line]
    low, high = stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
    each = "900.0 +- 5.0, 910.0 +- 5.0, 950.0 +- 439.9"
    assert f"| **920.0** | {low:.0f} .. {high:.0f} | {each} | 900, 910, 1204 | 50, 50, 50 | 0, 0, 1 |" in row
    assert "Welch" not in report.table(tmp_path)
    for seed, mean in ((1, 900.0), (2, 910.0)):
        store(tmp_path, "ppo_gaussian", seed, [mean], [True], [mean - 50, mean])
    # By hand: means 920 and 905, squared errors 700 / 3 and 25, degrees of freedom by Welch and Satterthwaite.
    errors = np.array([700 / 3, 25.0])
    freedom = errors.sum() ** 2 / (errors**2 / [2, 1]).sum()
    p = 2 * stats.t.sf(15 / np.sqrt(errors.sum()), freedom)
    assert f"`beta_ppo` against `ppo_gaussian`: p = {p:.2f}." in report.table(tmp_path)
    report.draw(tmp_path / "figure.png", tmp_path)
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_score_of_exactly_700_is_not_lost(tmp_path: Path) -> None:
    store(tmp_path, "beta_ppo", 1, [699.9, 700.0], [True, True], [1.0])
    assert list(report.summaries(tmp_path)["lost"]) == [1]


def test_the_page_shows_what_is_stored() -> None:
    page = report.PAGE.read_text()
    assert page == with_results(page, report.table()), "run `python -m benchmarks.studies.peers.report`"
