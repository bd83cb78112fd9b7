"""A training that is killed with SIGKILL loses no file that was good, and at most one checkpoint."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROLLOUT = 64
WRITTEN_WHOLE = [
    *("rl_model_*_steps.zip:5", "rl_model_vecnormalize_*_steps.pkl:5", "best_model.zip:4", "best_model_vecnormalize.pkl:4"),
    *("Pendulum-v1.zip:1", "vecnormalize.pkl:4", "evaluations.npz:4", "config.yml:1"),
]
APPENDED = ["half:progress.csv:4", "half:evaluations.csv:4"]
EVERY_WRITE = [":".join(pair) for pair in itertools.product(("half", "whole", "renamed"), WRITTEN_WHOLE)] + APPENDED


def killed(folder: Path, moments: list[str]) -> list[dict[str, Any]]:
    script = Path(__file__).with_name("killed_trainings.py")
    command = [sys.executable, str(script), str(folder), *moments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def check(found: dict[str, Any]) -> None:
    assert not found["damaged"], "an agent is damaged"
    assert not found["unreadable"], "running means are damaged"
    assert found["config"]
    # The last logged rollout's update may not be finished.
    assert found["steps"] >= found["logged"] - ROLLOUT, "the newest agent is older than one checkpoint"
    appended = found["moment"] in APPENDED
    assert found["n_damaged_rows"] == appended, "more is lost than the row that was being written"
    assert len(found["warned"]) == appended
    if found["logged"] > 2 * ROLLOUT:
        assert found["n_evaluations"][0] >= found["logged"] // ROLLOUT - 1


def test_some_kills(tmp_path: Path) -> None:
    moments = ["random", "half:rl_model_*_steps.zip:4"]
    results = killed(tmp_path, moments)
    assert [(found["moment"], found["killed"]) for found in results] == [(moment, True) for moment in moments]
    assert results[1]["steps"] == 3 * ROLLOUT
    for found in results:
        check(found)


@pytest.mark.slow
def test_kills_inside_every_kind_of_write_and_at_random(tmp_path: Path) -> None:
    moments = [*EVERY_WRITE, *["random"] * 10]
    results = killed(tmp_path, moments)
    assert [found["moment"] for found in results] == moments
    assert all(found["killed"] for found in results if found["moment"] != "random")
    for found in results:
        check(found)
