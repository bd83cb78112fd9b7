"""`train --ranks`: what it writes, what it refuses, and how it ends when a rank fails."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sb3_carracing import BetaPPO
from sb3_carracing.errors import UserError
from sb3_carracing.zoo import ranks

N_ENVS, N_STEPS = 4, 64
SMALL = (
    *("--env", "Pendulum-v1", "--eval-freq", "-1", "--verbose", "1"),
    *("-params", f"n_envs:{N_ENVS}", f"n_steps:{N_STEPS}", "n_epochs:1"),
)


def start(folder: Path, *arguments: str, launcher: tuple[str, ...] = (), **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "sb3_carracing", "train", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ranks_of(launcher: int) -> list[int]:
    """Return the process ids of a launcher's ranks, in their order."""
    children = map(int, Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split())
    return sorted(pid for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text())


def wait_for_an_update(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if "n_updates" in line:
            return
    raise AssertionError(f"it ended: {process.communicate()}")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def training(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Two ranks in the middle of a training."""
    process = start(tmp_path, "--ranks", "2", "-n", "10000000", *SMALL, SB3_CARRACING_RANK_TIMEOUT="10")
    try:
        wait_for_an_update(process)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_two_ranks_write_one_run(tmp_path: Path) -> None:
    process = start(tmp_path, "--ranks", "2", "-n", "512", "--seed", "3", *SMALL, "normalize:True")
    printed, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert "Training on 2 ranks" in printed
    assert printed.count("Saving to") == 1
    assert "Traceback" not in errors
    (run,) = (tmp_path / "logs/beta_ppo").iterdir()
    assert BetaPPO.load(run / "Pendulum-v1.zip").num_timesteps == 512
    assert (run / "Pendulum-v1/vecnormalize.pkl").is_file()
    assert "train --ranks 2" in (run / "Pendulum-v1/command.txt").read_text()
    episodes = [len([*csv.reader((run / f"{number}.monitor.csv").open())]) for number in range(4)]
    assert len(episodes) == len([*run.glob("*.monitor.csv")]) == 4, "one file per environment of all ranks"


@pytest.mark.slow
def test_torchrun_does_the_same(tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = start(tmp_path, "-n", "512", *SMALL, launcher=launcher)
    printed, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert printed.count("Saving to") == 1
    assert BetaPPO.load(tmp_path / "logs/beta_ppo/Pendulum-v1_1/Pendulum-v1.zip").num_timesteps == 512


SCRIPT = """
import hashlib
from pathlib import Path
from stable_baselines3.common.env_util import make_vec_env
from sb3_carracing import BetaPPO
from sb3_carracing.ppo.distributed import current, share

env = make_vec_env("Pendulum-v1", n_envs=len(share(4)), seed=1)
model = BetaPPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=2, verbose=1, seed=1).learn(512)
model.save("agent")
weights = b"".join(parameter.detach().numpy().tobytes() for parameter in model.policy.parameters())
answer = f"{env.num_envs} environments, {model.num_timesteps} steps, weights {hashlib.sha1(weights).hexdigest()}"
Path(f"rank_{current().rank}").write_text(answer)
"""


@pytest.mark.slow
def test_a_script_of_sb3_trains_on_torchruns_ranks(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "script.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    printed = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=500
    ).stdout
    answers = [(tmp_path / f"rank_{rank}").read_text() for rank in (0, 1)]
    assert answers[0].startswith("2 environments, 512 steps, weights ")
    assert answers[0] == answers[1]
    assert printed.count("total_timesteps") == 2, "one table per rollout, from rank 0"
    assert BetaPPO.load(tmp_path / "agent.zip").num_timesteps == 512


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ranks", "three"), "--ranks must be auto or a whole number of at least 1, got 'three'"),
        (("--ranks", "2", "--track"), "--track starts a Weights & Biases run in every process"),
        (("--ranks", "0"), "--ranks must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_numbers_are_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ranks.without_ranks(["--env", "Pendulum-v1", *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks", "3"], "n_envs must be a multiple of the number of ranks, got 4 for 3 ranks: use 1, 2, 4 ranks"),
        (["--ranks", "4", "-params", "batch_size:62"], "batch_size must be a multiple of the number of ranks, got 62"),
        (["--ranks", "2", "--algo", "ppo"], "ppo trains in one process"),
        (["--ranks", "2", "-optimize"], "a search runs each trial in one process"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    from sb3_carracing.zoo.commands import train

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        train(["--env", "Pendulum-v1", *arguments])
    assert not [*tmp_path.rglob("*")]


def test_a_search_has_workers_instead_of_ranks() -> None:
    from sb3_carracing.cli.tune import main

    with pytest.raises(UserError, match="start one worker per core with the same --storage instead of ranks"):
        main(["--env", "Pendulum-v1", "--ranks", "2"])


@pytest.mark.parametrize(
    ("cores", "n_envs", "batch_size", "expected"),
    [(1, 16, 256, 1), (6, 16, 256, 4), (64, 16, 256, 16), (8, 12, 64, 4), (64, 64, 64, 16), (64, 64, 24, 8)],
)
def test_auto_divides_environments_and_minibatch(
    monkeypatch: pytest.MonkeyPatch, cores: int, n_envs: int, batch_size: int, expected: int
) -> None:
    monkeypatch.setattr(ranks, "n_cores", lambda: cores)
    assert ranks.ranks_for(n_envs, batch_size, "cpu") == expected


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_training(training: "subprocess.Popen[str]", rank: int) -> None:
    pids = ranks_of(training.pid)
    begun = time.monotonic()
    os.kill(pids[rank], signal.SIGKILL)
    _, errors = training.communicate(timeout=300)
    assert time.monotonic() - begun < 60
    assert training.returncode == 1
    assert f"sb3_carracing: rank {rank} was killed by SIGKILL, which ended the training" in errors
    assert not any(map(is_running, pids))


@pytest.mark.slow
def test_a_stopped_rank_ends_the_training(training: "subprocess.Popen[str]") -> None:
    """A process that cannot even say where it hangs: the others give it up after twice the timeout."""
    pids = ranks_of(training.pid)
    os.kill(pids[1], signal.SIGSTOP)
    training.communicate(timeout=300)
    assert training.returncode == 1
    assert not any(map(is_running, pids))


@pytest.mark.slow
def test_ranks_do_not_outlive_their_launcher(training: "subprocess.Popen[str]") -> None:
    pids = ranks_of(training.pid)
    training.kill()
    end = time.monotonic() + 60
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.5)
    assert not any(map(is_running, pids))


@pytest.mark.slow
@pytest.mark.parametrize("first", [None, 1])
def test_ctrl_c_loses_at_most_one_rollout(training: "subprocess.Popen[str]", tmp_path: Path, first: int | None) -> None:
    """The rollouts are so short here that only some states are kept."""
    pids = ranks_of(training.pid)
    time.sleep(2)
    if first is not None:  # this rank notices it before the others, which lose the connection to it
        os.kill(pids[first], signal.SIGINT)
    training.send_signal(signal.SIGINT)
    printed, errors = training.communicate(timeout=300)
    assert training.returncode == 128 + signal.SIGINT, errors
    assert len(re.findall(r"resume with: \S+ -m sb3_carracing train --ranks 2", errors)) == 1
    assert not any(map(is_running, pids))
    played = int(re.findall(r"total_timesteps *\| *(\d+)", printed)[-1])
    saved = BetaPPO.load(tmp_path / "logs/beta_ppo/Pendulum-v1_1/Pendulum-v1.zip").num_timesteps
    assert saved >= played - N_ENVS * N_STEPS


BROKEN = """
import time, gymnasium as gym
from gymnasium.envs.classic_control.pendulum import PendulumEnv

class Broken(PendulumEnv):
    steps = 0
    def step(self, action):
        self.steps += 1
        import os
        if os.environ.get("RANK") == "1" and self.steps == 100:
            {what}
        return super().step(action)

gym.register("Broken-v0", lambda **kwargs: Broken(**kwargs), max_episode_steps=200)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("raise RuntimeError('a wheel came off')", "RuntimeError: a wheel came off"),
        ("time.sleep(1000)", "rank 1 made no step for 10 s"),
    ],
)
def test_the_failing_ranks_traceback_is_shown(tmp_path: Path, what: str, message: str) -> None:
    (tmp_path / "broken.py").write_text(BROKEN.format(what=what))
    arguments = ("--ranks", "2", "--env", "Broken-v0", "--gym-packages", "broken", "--eval-freq", "-1", "-n", "10000")
    process = start(
        tmp_path,
        *(*arguments, "-params", "n_envs:2", "n_steps:64"),
        PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        SB3_CARRACING_RANK_TIMEOUT="10",
    )
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert message in errors
    assert "broken.py" in errors
    assert "LostRankError" not in errors
