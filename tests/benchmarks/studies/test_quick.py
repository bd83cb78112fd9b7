"""The plan of trainings with 200,000 frames, and the mirrored views of some of them."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from benchmarks import tables
from benchmarks.studies.quick import figure
from benchmarks.studies.quick.changes import LimitedGas, Mirror, RoadToTheLeft, SmoothedSpeed, mirrored
from benchmarks.studies.quick.run import FIRST_CHANGE, TABLES, report, study
from sb3_carracing.envs.wrappers import ActionRepeat, Grayscale, TargetSpeed


def plain_env() -> gym.Env[Any, Any]:
    return Grayscale(ActionRepeat(gym.make("CarRacingFast-v3"), frame_skip=4))


def stacked_env() -> gym.Env[Any, Any]:
    return gym.wrappers.FrameStackObservation(plain_env(), 4, padding_type="reset")


def mirrored_and_plain(rate: float) -> tuple[gym.Env[Any, Any], gym.Env[Any, Any]]:
    return Mirror(plain_env(), rate), plain_env()


def test_a_mirrored_drive_is_the_plain_one_in_a_mirror() -> None:
    mirror, plain = mirrored_and_plain(1.0)
    seen, expected = mirror.reset(seed=5)[0], plain.reset(seed=5)[0]
    for _ in range(60):
        np.testing.assert_array_equal(seen[:84], expected[:84, ::-1])
        np.testing.assert_array_equal(mirrored(seen), expected)
        for unchanged in (slice(0, 36), slice(84, 96)):
            np.testing.assert_array_equal(seen[84:, unchanged], expected[84:, unchanged])
        seen = mirror.step(np.array([-0.3, 0.4, 0.0], np.float32))[0]
        expected = plain.step(np.array([0.3, 0.4, 0.0], np.float32))[0]


def test_the_bars_of_steering_and_rotation_change_sides() -> None:
    """A right turn seen in the mirror shows the bars of a left turn, except for the rounding at their ends."""
    views = []
    for steering in (0.5, -0.5):
        env = plain_env()
        env.reset(seed=5)
        for _ in range(25):
            obs = env.step(np.array([steering, 0.3, 0.0], np.float32))[0]
        views.append(obs[84:, 36:84].astype(int))
    right, left = views
    full = np.zeros((12, 96), np.uint8)
    full[:, 36:84] = right
    in_the_mirror = mirrored(np.vstack([np.zeros((84, 96), np.uint8), full]))[84:, 36:84].astype(int)
    assert np.abs(right - left).mean() > 10.0 > 3.0 > np.abs(in_the_mirror - left).mean()


def test_the_road_lies_to_the_left_and_a_mirrored_drive_looks_the_same() -> None:
    one_side, plain = RoadToTheLeft(stacked_env()), stacked_env()
    seen, raw = one_side.reset(seed=7)[0], plain.reset(seed=7)[0]
    sides = []
    for _ in range(150):
        sides.append(one_side.is_mirrored)
        left, right = (seen[-1, :84, half].mean() for half in (slice(0, 48), slice(48, 96)))
        assert left <= right + 5.0  # road is darker than grass
        np.testing.assert_array_equal(one_side.seen(mirrored(raw)), seen)
        one_side.seen(raw)  # as after the last step
        action = np.array([-0.2 if one_side.is_mirrored else 0.2, 0.3, 0.0], np.float32)
        seen, raw = one_side.step(action)[0], plain.step(np.array([0.2, 0.3, 0.0], np.float32))[0]
    assert 20 < sum(sides) < 130


def test_a_rate_of_0_changes_nothing() -> None:
    mirrored, plain = mirrored_and_plain(0.0)
    np.testing.assert_array_equal(mirrored.reset(seed=5)[0], plain.reset(seed=5)[0])


def test_the_share_of_mirrored_episodes_is_the_rate() -> None:
    env, _ = mirrored_and_plain(0.5)
    env.reset(seed=1)
    flags = [(env.reset(), env.is_mirrored)[1] for _ in range(60)]  # type: ignore[attr-defined]
    assert 15 < sum(flags) < 45


def test_every_stored_run_is_planned_or_described() -> None:
    folder = tables.RESULTS / "quick"
    planned, stored = study().configs, tables.read_configs(folder)
    for name, entry in stored.items():
        if name in planned:
            assert entry["what"] == planned[name].what
    table = "".join(report(folder, *chosen) for chosen in TABLES)
    for entry in stored.values():
        assert f"| {entry['what']} |" in table


def test_limited_gas() -> None:
    env = LimitedGas(gym.make("CarRacingFast-v3"), straight=0.6, slope=2.0, least=0.1)
    for steering, limit in ((0.0, 0.6), (0.25, 0.3), (-0.25, 0.3), (0.5, 0.1), (-1.0, 0.1)):
        for gas in (0.05, 1.0):
            limited = env.action(np.array([steering, gas, 0.3], np.float32))
            np.testing.assert_allclose(limited, [steering, min(gas, limit), 0.3], rtol=1e-6)


def test_smoothed_speed() -> None:
    """With a share of 1 it is TargetSpeed; with less, one new target moves the car less."""
    drives = []
    for env in (TargetSpeed(plain_env()), SmoothedSpeed(plain_env(), share=1.0), SmoothedSpeed(plain_env(), share=0.3)):
        env.reset(seed=5)
        for wanted in [0.0] * 25 + [-1.0] * 3:
            obs = env.step(np.array([0.0, wanted], np.float32))[0]
        drives.append((obs, np.hypot(*env.unwrapped.car.hull.linearVelocity)))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(drives[0][0], drives[1][0])
    assert drives[1][1] < drives[2][1] - 1.0


def test_the_figures_show_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure, "CURVES", tmp_path / "curves.svg")
    monkeypatch.setattr(figure, "CHANGES", tmp_path / "changes.svg")
    figure.main()
    for label in figure.LABELS.values():
        assert f">{label}<" in (tmp_path / "curves.svg").read_text()
    changes = (tmp_path / "changes.svg").read_text()
    runs = tables.finished(tables.RESULTS / "quick")
    counts = runs["config"][runs["seed"] >= FIRST_CHANGE].value_counts()
    assert len(counts) >= 13
    for name, n_seeds in counts.items():
        what = "the preset without the limit" if name == figure.PRESET else study().configs[str(name)].what.replace("`", "")
        assert f">{what} ({n_seeds})<" in changes
