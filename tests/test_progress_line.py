"""The line of progress: it fits the terminal, and its time left is always there."""

import re
import time

import numpy as np
import pytest
from stand_ins import Constant, Walk
from terminals import stderr_in_terminal

from sb3_carracing import progress
from sb3_carracing.evaluation import evaluate
from sb3_carracing.progress import ProgressLine

PARTS = ("score 905, mean of 100: 880.1", "3,210 frames/s", "123,456/249,000 steps", "episode 1,234", "training return 17.3")


@pytest.mark.parametrize(("columns", "n_parts"), [(20, 0), (60, 1), (80, 2), (200, 5)])
def test_a_line_has_the_parts_that_fit_and_the_time_left(columns: int, n_parts: int) -> None:
    with stderr_in_terminal(columns) as terminal:
        line = ProgressLine("", 249_000)
        line.expect(754.4)
        line.reach(123_456, *PARTS)
        line.refresh()
        line.close()
    states = terminal.states()
    assert all(len(state) < columns and state.endswith(" left") for state in states)
    assert " | ".join(["49%", *PARTS[:n_parts], "12:34 left"]) in states[-1]


def test_without_a_terminal_each_state_is_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS_IN_LOG", 0.0)
    line = ProgressLine("x", 4)
    for n in (1, 2):
        line.reach(n, *PARTS)
    line.close()
    *_, last = printed = capsys.readouterr().err.splitlines()
    assert [re.match(r"x (\d+)%", text)[1] for text in printed] == ["0", "25", "50", "50"]  # type: ignore[index]
    assert " | ".join(PARTS) in last


def test_a_log_has_a_line_every_half_minute_and_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine("x", 100)
    for n in range(100):
        line.reach(n + 1)
    line.close()
    assert [text[:6] for text in capsys.readouterr().err.splitlines()] == ["x 0% |", "x 100%"]


def test_a_passing_line_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine("validation", 2, leave=False)
    line.reach(2)
    line.close()
    assert capsys.readouterr().err == ""


def test_the_time_left_follows_the_speed_so_far() -> None:
    line = ProgressLine("x", 10, disable=True)
    assert line.time_left() is None
    time.sleep(0.2)
    line.n = 1
    assert line.time_left() == pytest.approx(9 * 0.2, rel=0.5)
    unsteady = ProgressLine("x", 10, steady=False, disable=True)
    unsteady.n = 5
    assert unsteady.time_left() is None


def test_a_step_that_takes_long_does_not_stop_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS_PER_TICK", 0.05)
    monkeypatch.setattr(progress, "_SECONDS_IN_TERMINAL", 0.05)
    with stderr_in_terminal(80) as terminal:
        line = ProgressLine("x", 10)
        with line.ticking():
            line.reach(1)
            time.sleep(1.0)
    assert len(terminal.states()) > 4


def test_evaluate_says_how_far_it_is() -> None:
    with stderr_in_terminal(80) as terminal:
        results = evaluate(Constant([0.0]), Walk, [1, 2, 3], progress=True)
    last = terminal.states()[-1]
    mean = np.mean([result.score for result in results])
    assert last == f"deterministic actions 100% | mean score {mean:.1f} | 3/3 tracks | 00:00 left"
