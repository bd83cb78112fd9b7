"""How many cores a process may use."""

import math
import os
from pathlib import Path

import pytest

from sb3_carracing import system

VERSION_2 = "0::/jobs/mine\n"
VERSION_1 = "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n1:name=systemd:/x\n"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (VERSION_2, {}, math.inf),
        (VERSION_2, {"jobs/mine/cpu.max": "max 100000\n"}, math.inf),
        (VERSION_2, {"jobs/mine/cpu.max": "150000 100000\n"}, 1.5),
        (VERSION_2, {"jobs/mine/cpu.max": "max 100000\n", "jobs/cpu.max": "400000 100000\n"}, 4.0),
        (VERSION_2, {"cpu.max": "200000 100000\n"}, 2.0),
        (VERSION_1, {"cpu,cpuacct/docker/a/cpu.cfs_quota_us": "-1\n"}, math.inf),
        (
            VERSION_1,
            {"cpu,cpuacct/docker/a/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
        (VERSION_2, {"jobs/mine/cpu.max": "damaged"}, math.inf),
    ],
)
def test_quota_of_a_container(tmp_path: Path, own: str, files: dict[str, str], expected: float) -> None:
    (tmp_path / "own").write_text(own)
    for name, content in files.items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert system.cpu_quota(tmp_path / "groups", tmp_path / "own") == expected
    assert system.cpu_quota(tmp_path / "groups", tmp_path / "missing") == math.inf


@pytest.mark.parametrize(("quota", "expected"), [(math.inf, 4), (2.5, 2), (0.3, 1)])
def test_cores_are_limited_by_affinity_and_quota(monkeypatch: pytest.MonkeyPatch, quota: float, expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(system, "cpu_quota", lambda: quota)
    assert system.n_cores() == expected
