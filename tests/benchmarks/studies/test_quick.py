"""The plan of trainings with 200,000 frames, and the view that some of them mirror."""

from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks import tables
from benchmarks.studies.quick.changes import DASHBOARD, Mirror
from benchmarks.studies.quick.run import report, study
from sb3_carracing.envs.wrappers import Grayscale


def mirrored_and_plain(rate: float) -> tuple[gym.Env[Any, Any], gym.Env[Any, Any]]:
    return Mirror(Grayscale(gym.make("CarRacingFast-v3")), rate), Grayscale(gym.make("CarRacingFast-v3"))


def test_a_mirrored_drive_is_the_plain_one_in_a_mirror() -> None:
    mirrored, plain = mirrored_and_plain(1.0)
    seen, expected = mirrored.reset(seed=5)[0], plain.reset(seed=5)[0]
    for _ in range(60):
        np.testing.assert_array_equal(seen[:-DASHBOARD], expected[:-DASHBOARD, ::-1])
        np.testing.assert_array_equal(seen[-DASHBOARD:], expected[-DASHBOARD:])
        seen = mirrored.step(np.array([-0.3, 0.4, 0.0], np.float32))[0]
        expected = plain.step(np.array([0.3, 0.4, 0.0], np.float32))[0]


def test_a_rate_of_0_changes_nothing() -> None:
    mirrored, plain = mirrored_and_plain(0.0)
    np.testing.assert_array_equal(mirrored.reset(seed=5)[0], plain.reset(seed=5)[0])


def test_the_share_of_mirrored_episodes_is_the_rate() -> None:
    env, _ = mirrored_and_plain(0.5)
    env.reset(seed=1)
    flags = [(env.reset(), env._is_mirrored)[1] for _ in range(60)]  # type: ignore[attr-defined]
    assert 15 < sum(flags) < 45


def test_every_stored_run_is_planned_or_described() -> None:
    folder = tables.RESULTS / "quick"
    planned, stored = study().configs, tables.read_configs(folder)
    for name, entry in stored.items():
        if name in planned:
            assert entry["what"] == planned[name].what
    table = report(folder)
    for entry in stored.values():
        assert f"| {entry['what']} |" in table
