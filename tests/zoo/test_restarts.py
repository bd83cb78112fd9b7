"""Ranks that the launcher starts again go on from the newest agent of their job, exactly."""

import contextlib
import functools
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kills
import pytest
import torch as th
from torch.distributed.launcher.api import LaunchConfig

from sb3_carracing import BetaPPO
from sb3_carracing.errors import UserError
from sb3_carracing.ppo.distributed import Group
from sb3_carracing.zoo import commands, ranks, restarts

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2")
ARGUMENTS = (
    *("--env", "Pendulum-v1", "--eval-freq", "-1", "--save-freq", "256", "--seed", "5", "-n", "1280", "--num-threads", "1"),
    *("-params", "n_steps:64", "n_epochs:1", "normalize:True", "callback:['kills.Kills']"),
)


def train(kill: str) -> Any:
    """Train on two ranks in the current folder, and return weights and optimizer.

    The ranks are forked from this process, which has loaded the libraries.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "LaunchConfig", functools.partial(LaunchConfig, start_method="fork"))
        patch.setenv("KILL", kill)
        commands.train(["--ranks", "2", "--max-restarts", "2", *ARGUMENTS])
    return newest_agent()


def newest_agent(folder: Path = Path()) -> Any:
    newest = max((folder / "logs/beta_ppo").iterdir(), key=lambda run: int(run.name.rpartition("_")[2]))
    agent = newest / "Pendulum-v1.zip"
    return BetaPPO.load(agent, device="cpu").get_parameters()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with contextlib.chdir(tmp_path_factory.mktemp("unbroken")):
        return train("")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill", "went_on", "sentence"),
    [
        ("0 900", True, "The training goes on exactly where it stopped"),
        ("1 900", True, "The training goes on exactly where it stopped"),
        ("0 rl_model_768_steps.zip", True, "The training goes on exactly where it stopped"),
        ("0 100", False, "Restart 1 of 2: there is no checkpoint yet, so the training starts anew"),
        ("1 end", True, "The training was complete"),
    ],
)
def test_a_killed_rank_does_not_change_the_weights(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    unbroken: Any,
    kill: str,
    went_on: bool,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    weights = train(kill)
    printed, errors = capfd.readouterr()
    assert printed.count("Restart 1 of 2: the training goes on from logs/beta_ppo/Pendulum-v1_1/") == went_on, errors
    assert printed.count(sentence) == 1, errors
    assert equal(weights, unbroken)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_torchruns_restart_goes_on_too(tmp_path: Path, unbroken: Any) -> None:
    path = f"{Path(kills.__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    command = [sys.executable, *TORCHRUN, "-m", "sb3_carracing", "train", *ARGUMENTS]
    environment = {**os.environ, "PYTHONPATH": path, "KILL": "1 900"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("The training goes on exactly where it stopped") == 1
    assert equal(newest_agent(tmp_path), unbroken)
    assert str(tmp_path) not in {folder_of(process) for process in Path("/proc").glob("[0-9]*")}, "an orphan"


def folder_of(process: Path) -> str:
    try:
        return os.readlink(process / "cwd")
    except OSError:
        return ""


def equal(a: Any, b: Any) -> bool:
    """Return whether weights and optimizer states are equal bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return th.equal(a, b) if isinstance(a, th.Tensor) else a == b


def run(folder: Path, number: int, launchers: list[str], *agents: str) -> Path:
    parameters = folder / f"Pendulum-v1_{number}" / "Pendulum-v1"
    parameters.mkdir(parents=True)
    (parameters / "config.yml").touch()
    record = parameters / restarts.RECORD
    record.write_text(json.dumps({"launchers": launchers}))
    os.utime(record, (number, number))
    for agent in agents:
        BetaPPO("MlpPolicy", "Pendulum-v1", device="cpu").save(parameters.parent / agent)
    return parameters


def test_the_newest_readable_agent_of_the_job_is_taken(tmp_path: Path) -> None:
    folders = [
        run(tmp_path, 1, ["a", "b"], "rl_model_64_steps.zip", "rl_model_128_steps.zip"),
        run(tmp_path, 2, ["c"], "rl_model_256_steps.zip"),
        run(tmp_path, 3, ["b", "d"], "best_model.zip"),
    ]
    (tmp_path / "Pendulum-v1_1/rl_model_256_steps.zip").write_bytes(b"half")
    found = restarts.agent_of_job(folders, ["b"])
    assert found == tmp_path / "Pendulum-v1_1/rl_model_128_steps.zip"
    assert restarts.agent_of_job(folders, ["d"]) is None, "the best agent holds no state of its training"
    assert restarts.agent_of_job(folders, ["e"]) is None
    (folders[2] / restarts.RECORD).write_text("{")
    (folders[1] / restarts.RECORD).unlink()
    assert restarts.agent_of_job(folders, ["c", "d"]) is None


def test_a_job_is_told_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    first = restarts.launchers(Group())
    assert first == restarts.launchers(Group())
    monkeypatch.setattr(os, "getppid", lambda: os.getpid())
    assert first != restarts.launchers(Group())


def test_restarts_are_for_ranks() -> None:
    assert ranks.without_ranks(["--ranks", "2", "--max-restarts", "3", "-n", "1"]) == (["-n", "1"], 2, 3)
    with pytest.raises(UserError, match="--max-restarts starts ranks again: it goes with --ranks"):
        ranks.without_ranks(["--max-restarts", "3"])
    with pytest.raises(UserError, match="--max-restarts must be a whole number of at least 0, got '-1'"):
        ranks.without_ranks(["--ranks", "2", "--max-restarts=-1"])
