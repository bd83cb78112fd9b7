"""The estimate of an evaluation's time, where the time of a step is known."""

import time
from typing import Any

import numpy as np
import pytest
from stand_ins import Constant, Walk

from sb3_carracing import timing
from sb3_carracing.timing import estimate_seconds

SECONDS_PER_STEP = 0.02


class Slow(Walk):
    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        time.sleep(SECONDS_PER_STEP)
        return super().step(action)


def test_the_estimate_is_frames_times_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step is one frame here: 600 or 1000 of them a track."""
    monkeypatch.setattr(timing, "n_cores", lambda: 4)
    shortest, longest = estimate_seconds(Constant([0.0]), Slow, 8)
    assert longest / shortest == pytest.approx(1000 / 600)
    assert 1 <= shortest / (8 * 600 * SECONDS_PER_STEP) < 3
    shared, _ = estimate_seconds(Constant([0.0]), Slow, 8, n_envs=4)
    assert 1 <= shared / (2 * 600 * SECONDS_PER_STEP) < 3
