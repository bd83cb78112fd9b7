"""Warning signs against stored runs that learned and that did not, and against made-up curves."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sb3_carracing.curves import Curve
from sb3_carracing.report.curves import N_POINTS, points, read_curves, warning_signs

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def stored_run(study: str, run: str, folder: Path) -> Path:
    """Write the progress.csv of a run of a study."""
    progress = pd.read_csv(RESULTS / study / "progress.csv.gz")
    progress[progress["run"] == run].drop(columns="run").to_csv(folder / "progress.csv", index=False)
    return folder


@pytest.mark.parametrize("seed", range(1, 6))
def test_the_runs_of_a_million_frames_have_no_sign(seed: int, tmp_path: Path) -> None:
    assert warning_signs(read_curves(stored_run("presets", f"one_pedal-{seed}", tmp_path))) == []


@pytest.mark.parametrize(
    ("run", "panels"),
    [
        ("iurin_published-1", {"entropy", "grad_norm"}),  # unscaled returns
        ("iurin_own_budget-1", {"entropy", "grad_norm"}),
        ("epochs_12-1", {"clip_fraction"}),  # twice as many epochs as the preset
    ],
)
def test_runs_with_known_mistakes_have_signs(run: str, panels: set[str], tmp_path: Path) -> None:
    assert panels <= {sign.panel for sign in warning_signs(read_curves(stored_run("ablations", run, tmp_path)))}


def curve(y: list[float]) -> Curve:
    return Curve(np.arange(len(y), dtype=float), np.array(y), "frames")


@pytest.mark.parametrize(
    ("panel", "y", "where"),
    [
        ("kl", [0.01] * 20 + [0.3] + [0.01] * 5, [20]),
        ("kl", [0.001] * 20 + [0.03] + [0.001] * 5, []),  # far above the median, but harmless
        ("kl", [0.3] + [0.01] * 20, []),  # nothing to compare the first updates with
        ("explained_variance", [0.0] * 20 + [0.9] * 20, range(19, 29)),
        ("explained_variance", [-1.0] * 5 + [0.9] * 20, []),
        ("clip_fraction", [0.2] * 10 + [0.9] * 12, range(15, 22)),
        ("concentration", [10.0, 5000.0], [1]),
        ("std", [1.0, 0.001], [1]),
        ("grad_norm", [1.0, 600.0], [1]),
        ("evaluation", [500.0, 900.0, 300.0], [2]),
        ("evaluation", [300.0, 900.0, 850.0], []),
        ("evaluation", [-900.0, -200.0, -800.0], []),  # costs, whose ratio says nothing
        ("entropy", [1.6, 1.0, 0.001], [2]),
    ],
)
def test_a_sign_is_where_it_shows(panel: str, y: list[float], where: list[int]) -> None:
    signs = warning_signs({panel: curve(y)})
    assert [list(sign.x) for sign in signs] == ([list(where)] if where else [])


def test_a_curve_of_many_points_keeps_its_range() -> None:
    y = np.random.default_rng(0).normal(size=5000)
    y[1234] = 50.0
    kept = points(Curve(np.arange(5000.0), y), "steps")
    assert len(kept["x"]) == N_POINTS
    assert max(kept["high"]) == 50.0
    assert min(kept["low"]) == pytest.approx(y.min(), rel=1e-4)
    assert np.mean(kept["y"]) == pytest.approx(y.mean(), abs=1e-2)


def test_a_short_curve_keeps_every_point() -> None:
    kept = points(curve([1.0, 4.0, 2.0]), "frames")
    assert kept["y"] == kept["low"] == kept["high"] == [1.0, 4.0, 2.0]
