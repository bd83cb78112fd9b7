"""Learning curves: what the diagrams show is what the files hold."""

from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stand_ins import write_logged_run, write_monitor, write_run

from sb3_carracing.callbacks import ProgressCallback
from sb3_carracing.curves import PANELS, Curve, Unit, groups_of, mean_curve, run_info
from sb3_carracing.plotting import plot_runs


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_logged_run(tmp_path)


def test_curves_hold_the_logged_numbers(run: Path) -> None:
    curves = {name: panel.read(run, "frames") for name, panel in PANELS.items()}
    assert all(curve is not None for curve in curves.values())
    for name, expected in {"actor_loss": [-0.01, -0.02], "critic_loss": [3.5, 2.5], "entropy": [-1.5, -2.5]}.items():
        np.testing.assert_array_equal(curves[name].x, [100, 200])  # type: ignore[union-attr]
        np.testing.assert_array_equal(curves[name].y, expected)  # type: ignore[union-attr]
    evaluation = curves["evaluation"]
    np.testing.assert_array_equal(evaluation.y, [5.0, 50.0])  # type: ignore[union-attr]
    np.testing.assert_array_equal(evaluation.low, [4.0, 40.0])  # type: ignore[union-attr]
    np.testing.assert_array_equal(evaluation.high, [6.0, 60.0])  # type: ignore[union-attr]
    score = curves["score"]  # both environments' episodes in the order of time
    np.testing.assert_array_equal(score.points, [1.0, 2.0, 3.0, 4.0])  # type: ignore[union-attr]
    np.testing.assert_array_equal(score.y, [1.0, 1.5, 2.0, 2.5])  # type: ignore[union-attr]
    np.testing.assert_array_equal(score.x, [20, 40, 60, 80])  # type: ignore[union-attr]


def test_the_average_is_of_100_episodes(run: Path) -> None:
    scores = list(np.random.default_rng(0).normal(size=250))
    for file in run.glob("*.monitor.csv"):
        file.unlink()
    write_monitor(run, 0, scores)
    average = PANELS["score"].read(run, "frames").y  # type: ignore[union-attr]
    expected = [np.mean(scores[max(0, i - 99) : i + 1]) for i in range(250)]
    np.testing.assert_allclose(average, expected, atol=1e-12)


def test_a_real_training_can_be_plotted(tmp_path: Path) -> None:
    env = make_vec_env("CartPole-v1", 2, monitor_dir=str(tmp_path))
    callback = ProgressCallback(live_line=False, run_dir=tmp_path)
    PPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=1, device="cpu").learn(256, callback)
    files = plot_runs([tmp_path], tmp_path / "plots")
    assert {file.stem for file in files} == {*PANELS, "all"} - {"evaluation"}
    assert len(PANELS["actor_loss"].read(tmp_path, "steps").y) == 2  # type: ignore[union-attr]


def test_a_trial_of_a_search_counts_steps(tmp_path: Path) -> None:
    (tmp_path / "evaluations.csv").write_text("steps,mean,score_2000000\n100,5.0,5.0\n200,7.0,7.0\n")
    curve = PANELS["evaluation"].read(tmp_path, "steps")
    assert curve is not None
    assert (list(curve.x), list(curve.y), curve.low) == ([100.0, 200.0], [5.0, 7.0], None)
    assert PANELS["evaluation"].read(tmp_path, "frames") is None


def test_one_run_over_frames_steps_and_minutes(run: Path) -> None:
    """The same points; each log file has its own columns for the three."""
    expected: dict[str, dict[Unit, list[float]]] = {
        "evaluation": {"frames": [100, 300], "steps": [25, 75], "minutes": [1 / 60, 2 / 60]},
        "score": {"frames": [20, 40, 60, 80], "steps": [5, 10, 15, 20], "minutes": [0.0, 0.5 / 60, 1 / 60, 1.5 / 60]},
    }
    for key, over in expected.items():
        reference = PANELS[key].read(run, "frames")
        for unit, x in over.items():
            curve = PANELS[key].read(run, unit)
            np.testing.assert_allclose(curve.x, x)  # type: ignore[union-attr]
            np.testing.assert_array_equal(curve.y, reference.y)  # type: ignore[union-attr]


def straight(slope: float, end: int) -> Curve:
    x = np.arange(1.0, end)
    return Curve(x, slope * x)


def test_the_mean_of_straight_lines_is_their_mean_line_where_all_are() -> None:
    """A run that ended early must not bend the mean after its end."""
    mean = mean_curve([straight(1.0, 11), straight(2.0, 21), straight(6.0, 31)], "BetaPPO")
    assert (mean.x[0], mean.x[-1]) == (1.0, 10.0)
    np.testing.assert_allclose(mean.y, 3.0 * mean.x)
    np.testing.assert_allclose(mean.low, 1.0 * mean.x)  # type: ignore[arg-type]
    np.testing.assert_allclose(mean.high, 6.0 * mean.x)  # type: ignore[arg-type]
    assert mean.label == "BetaPPO, mean and range of 3 runs"


def test_the_interval_of_many_runs_is_narrower_than_their_range() -> None:
    slopes = np.random.default_rng(0).normal(5.0, 1.0, 30)
    mean = mean_curve([straight(slope, 20) for slope in slopes], "PPO")
    half = 1.96 * slopes.std() / np.sqrt(30)
    np.testing.assert_allclose(mean.high, (slopes.mean() + half) * mean.x, rtol=0.03)  # type: ignore[arg-type]
    np.testing.assert_allclose(mean.low, (slopes.mean() - half) * mean.x, rtol=0.03)  # type: ignore[arg-type]
    assert mean.label == "PPO, mean and 95 % interval of 30 runs"


def test_runs_are_grouped_by_algorithm_and_seed(tmp_path: Path) -> None:
    def runs(*made: tuple[str, str, str, int]) -> list[Path]:
        return [write_run(tmp_path / logs, {}, algo, env, seed=seed) for logs, algo, env, seed in made]

    two = runs(("a", "beta_ppo", "Pendulum-v1", 1), ("b", "beta_ppo", "Pendulum-v1", 2), ("a", "ppo", "Pendulum-v1", 1))
    names = {name: len(group) for name, group in groups_of([run_info(run) for run in two]).items()}
    assert names == {"BetaPPO": 2, "PPO": 1}
    other = runs(("c", "ppo", "Ant-v5", 3))
    assert set(groups_of([run_info(run) for run in two + other])) == {
        "BetaPPO on Pendulum-v1",
        "PPO on Pendulum-v1",
        "PPO on Ant-v5",
    }
    again = runs(("d", "beta_ppo", "Pendulum-v1", 2))
    assert all(len(group) == 1 for group in groups_of([run_info(run) for run in two[:2] + again]).values())
