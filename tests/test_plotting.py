"""Learning curves: what the diagrams show is what the files hold."""

from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stand_ins import write_logged_run, write_monitor

from sb3_carracing.callbacks import ProgressCallback
from sb3_carracing.plotting import PANELS, plot_runs


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_logged_run(tmp_path)


def test_curves_hold_the_logged_numbers(run: Path) -> None:
    curves = {name: panel.read(run) for name, panel in PANELS.items()}
    assert all(curve is not None for curve in curves.values())
    for name, expected in {"actor_loss": [-0.01, -0.02], "critic_loss": [3.5, 2.5], "entropy": [-1.5, -2.5]}.items():
        np.testing.assert_array_equal(curves[name].x, [100, 200])  # type: ignore[union-attr]
        np.testing.assert_array_equal(curves[name].y, expected)  # type: ignore[union-attr]
    evaluation = curves["evaluation"]
    np.testing.assert_array_equal(evaluation.y, [5.0, 50.0])  # type: ignore[union-attr]
    np.testing.assert_array_equal(evaluation.spread, [1.0, 10.0])  # type: ignore[union-attr]
    score = curves["score"]  # both environments' episodes in the order of time
    np.testing.assert_array_equal(score.y, [1.0, 2.0, 3.0, 4.0])  # type: ignore[union-attr]
    np.testing.assert_array_equal(score.average, [1.0, 1.5, 2.0, 2.5])  # type: ignore[union-attr]
    np.testing.assert_array_equal(score.x, [20, 40, 60, 80])  # type: ignore[union-attr]


def test_the_average_is_of_100_episodes(run: Path) -> None:
    scores = list(np.random.default_rng(0).normal(size=250))
    for file in run.glob("*.monitor.csv"):
        file.unlink()
    write_monitor(run, 0, scores)
    average = PANELS["score"].read(run).average  # type: ignore[union-attr]
    expected = [np.mean(scores[max(0, i - 99) : i + 1]) for i in range(250)]
    np.testing.assert_allclose(average, expected, atol=1e-12)  # type: ignore[arg-type]


def test_a_real_training_can_be_plotted(tmp_path: Path) -> None:
    env = make_vec_env("CartPole-v1", 2, monitor_dir=str(tmp_path))
    callback = ProgressCallback(live_line=False, run_dir=tmp_path)
    PPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=1, device="cpu").learn(256, callback)
    files = plot_runs([tmp_path], tmp_path / "plots")
    assert {file.stem for file in files} == {*PANELS, "all"} - {"evaluation"}
    assert len(PANELS["actor_loss"].read(tmp_path).y) == 2  # type: ignore[union-attr]


def test_a_trial_of_a_search_counts_steps(tmp_path: Path) -> None:
    (tmp_path / "evaluations.csv").write_text("steps,mean,score_2000000\n100,5.0,5.0\n200,7.0,7.0\n")
    curve = PANELS["evaluation"].read(tmp_path)
    assert curve is not None
    assert (curve.x_name, list(curve.x), list(curve.y), curve.spread) == ("steps", [100.0, 200.0], [5.0, 7.0], None)
