"""How a training of the command line ends: signals, failing environments, full disks."""

import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import breaking
import pytest
import yaml
from breaking import BREAKING, SmallDisk, small_disk
from stable_baselines3.common.env_util import make_vec_env

from sb3_carracing import BetaPPO, signals
from sb3_carracing.agents import read_agent
from sb3_carracing.callbacks import checkpoint
from sb3_carracing.cli import main
from sb3_carracing.logs import read_table
from sb3_carracing.ppo.saving.vec_normalize import read_statistics
from sb3_carracing.runs import agents_of, steps_in_name
from sb3_carracing.vec_env import SharedMemoryVecEnv, WorkerError
from sb3_carracing.zoo import endings, manager

ON_POLICY = {"policy": "MlpPolicy", "n_timesteps": 160, "n_steps": 32, "batch_size": 32, "n_epochs": 2}
OFF_POLICY = {"policy": "MlpPolicy", "n_timesteps": 160, "learning_starts": 8, "batch_size": 8, "buffer_size": 200}
SMALL: dict[str, dict[str, Any]] = {"beta_ppo": ON_POLICY, "ppo": ON_POLICY, "sac": OFF_POLICY}
CHECKPOINTS = "sb3_carracing.callbacks.CheckpointCallback"
VALIDATION = {"sb3_carracing.callbacks.ValidationCallback": {"every_frames": 32, "n_episodes": 1}}


SAC = pytest.param("sac", marks=pytest.mark.slow)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(endings, "PAUSE", 0)  # the state after every update
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    before = shared_memory()
    yield tmp_path
    assert not multiprocessing.active_children()
    assert shared_memory() <= before
    assert not [path for path in tmp_path.rglob("*.tmp") if "filler" not in path.name]


def shared_memory() -> set[str]:
    """Return the blocks of shared memory in the system, but for semaphores, which other processes make."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.")}


def train(troubles: dict[int, str], *options: str, algo: str = "beta_ppo", logs: str = "logs", **entry: Any) -> Path:
    """Run the real command in this process, and return the folder of its run."""
    Path("c.yml").write_text(yaml.safe_dump({BREAKING: SMALL[algo] | entry}))
    run = Path(logs, algo, f"{BREAKING}_1")
    command = ["train", "--algo", algo, "--env", BREAKING, "-conf", "c.yml", "-f", logs, "--eval-freq", "-1", "--seed", "1"]
    main([*command, "--device", "cpu", "--env-kwargs", f"troubles:{troubles}", *options])
    return run


def resume_command(said: str) -> list[str]:
    found = re.search(r"resume with: .*?(?:-m sb3_carracing|sb3-carracing) (.*)", said)
    assert found is not None, said
    return shlex.split(found[1])


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_saves_the_agent_as_it_was_after_the_last_update(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, handlers = os.fsync, [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]

    def disturbed(descriptor: int) -> None:
        """Send two more signals while the agent is being saved."""
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        fsync(descriptor)

    monkeypatch.setitem(breaking.ACTIONS, "disturb", lambda: monkeypatch.setattr(os, "fsync", disturbed))
    with pytest.raises(SystemExit) as ended:
        train({80: f"disturb {name}"}, normalize=True)
    monkeypatch.setattr(os, "fsync", fsync)
    assert ended.value.code == 128 + getattr(signal, name)
    run = Path("logs/beta_ppo", f"{BREAKING}_1")
    saved = BetaPPO.load(run / f"{BREAKING}.zip")
    assert (saved.num_timesteps, saved._n_updates) == (64, 4)
    said = capsys.readouterr().err
    assert f"Stopped by {name}: the agent after 64 steps is saved as {run}/{BREAKING}.zip" in said
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)] == handlers
    for file in (run / f"{BREAKING}.zip", run / BREAKING / "vecnormalize.pkl"):
        assert n_seen(file) == pytest.approx(64, abs=2)

    command = resume_command(said)
    assert command[-2:] == ["-i", str(run)]
    main([*command, "--env-kwargs", "troubles:{}"])
    assert "Resuming at step 64 of 160" in capsys.readouterr().out
    assert BetaPPO.load(run.with_name(f"{BREAKING}_2") / f"{BREAKING}.zip").num_timesteps == 160


def n_seen(file: Path) -> float:
    """Return how many observations the running means of a file are of."""
    return float(read_statistics(file, make_vec_env(BREAKING)).obs_rms.count)  # type: ignore[attr-defined]


def test_a_signal_that_the_process_ignores_does_not_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        run = train({80: "SIGHUP"})
    finally:
        signal.signal(signal.SIGHUP, before)
    assert BetaPPO.load(run / f"{BREAKING}.zip").num_timesteps == 160


def test_a_signal_while_the_finished_agent_is_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace = Path.replace

    def disturbed(self: Path, target: Path) -> Path:
        if target.name == f"{BREAKING}.zip":
            os.kill(os.getpid(), signal.SIGTERM)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", disturbed)
    with pytest.raises(SystemExit) as ended:
        train({})
    assert ended.value.code == 128 + signal.SIGTERM
    assert BetaPPO.load(Path("logs/beta_ppo", f"{BREAKING}_1", f"{BREAKING}.zip"))._n_updates == 10


def test_learn_sets_no_handlers(folder: Path) -> None:
    from sb3_carracing.callbacks import CheckpointCallback

    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    seen = []
    breaking.ACTIONS["look"] = lambda: seen.append([signal.getsignal(number) for number in numbers])
    before = [signal.getsignal(number) for number in numbers]
    model = BetaPPO("MlpPolicy", breaking.Breaking({9: "look"}), n_steps=32, batch_size=32, n_epochs=1, device="cpu")
    model.learn(32, CheckpointCallback(0.0, run_dir=folder))
    assert seen == [before]


@pytest.mark.parametrize("algo", ["ppo", SAC])
def test_agents_of_sb3_end_the_same_way(algo: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train({80: "SIGTERM"}, algo=algo, normalize=True)
    assert ended.value.code == 128 + signal.SIGTERM
    run = Path("logs", algo, f"{BREAKING}_1")
    saved = read_agent(run / f"{BREAKING}.zip", algo)
    assert saved.num_timesteps == (64 if algo == "ppo" else 79)
    assert n_seen(run / f"{BREAKING}.zip") == pytest.approx(saved.num_timesteps, abs=2)
    main([*resume_command(capsys.readouterr().err), "--env-kwargs", "troubles:{}"])
    assert read_agent(run.with_name(f"{BREAKING}_2") / f"{BREAKING}.zip", algo).num_timesteps == 160


@pytest.mark.parametrize(
    ("vec_env", "trouble"),
    [
        *[("dummy", trouble) for trouble in ("raise", "refuse", "lose")],
        *[("subproc", trouble) for trouble in ("raise", "die", "hang")],
    ],
)
def test_a_failing_environment_leaves_an_agent(vec_env: str, trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(SharedMemoryVecEnv):
        def __init__(self, env_fns: Any) -> None:
            super().__init__(env_fns, step_timeout=0.5)

    monkeypatch.setattr(manager, "process_vec_env_class", lambda: Impatient)
    error, message = {
        ("dummy", "raise"): (RuntimeError, "a wheel came off"),
        ("dummy", "refuse"): (ValueError, "no such track"),
        ("dummy", "lose"): (FileNotFoundError, "track.csv"),
        ("subproc", "raise"): (WorkerError, r"(?s)Environment 0 failed in worker 0.*get_into_trouble.*a wheel came off"),
        ("subproc", "die"): (WorkerError, "worker 0 of 1 .* died: exit status 3"),
        ("subproc", "hang"): (WorkerError, "worker 0 of 1 .* has not answered"),
    }[vec_env, trouble]
    with pytest.raises(error, match=message) as failed:
        train({80: trouble}, "--vec-env", vec_env)
    run = Path("logs/beta_ppo", f"{BREAKING}_1")
    assert BetaPPO.load(run / f"{BREAKING}.zip").num_timesteps == 64
    (note,) = failed.value.__notes__
    assert f"The agent after 64 steps is saved as {run}/{BREAKING}.zip; resume with: sb3-carracing train" in note


def test_a_damaged_agent_gives_way_to_the_newest_readable_one(capsys: pytest.CaptureFixture[str]) -> None:
    run = train({}, "--save-freq", "32")
    names = [f"{BREAKING}.zip", *(f"rl_model_{steps}_steps.zip" for steps in (160, 128, 96, 64, 32))]
    assert [file.name for file in agents_of(run)] == names
    for file in agents_of(run)[:2]:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    shutil.copy(run / f"{BREAKING}.zip", run / "best_model.zip")
    for number, wanted in enumerate((run, run / f"{BREAKING}.zip", run / "best_model.zip", run / "rl_model_128_steps.zip")):
        capsys.readouterr()
        train({}, "-n", "192", "-i", str(wanted), logs=f"resumed_{number}")
        printed = capsys.readouterr()
        assert "Resuming at step 128 of 192" in printed.out
        assert printed.err.count("taking rl_model_128_steps.zip, the newest readable agent of") == (number < 3)
    for option in ([], ["--load-best"], ["--load-last-checkpoint"]):
        main(["enjoy", "--env", BREAKING, "-f", "logs", "--no-render", "-n", "3", *option])
        printed = capsys.readouterr()
        assert f"Loading {run}/rl_model_128_steps.zip" in printed.out
        assert "taking rl_model_128_steps.zip" in printed.err


@pytest.mark.parametrize(
    ("options", "callbacks", "steps"),
    [
        ([], [], []),
        (["--save-freq", "0"], [{CHECKPOINTS: {"every_steps": 64}}], [64, 128]),
        (["--save-freq", "64"], [], [64, 128]),
        ([], [{CHECKPOINTS: {"every_seconds": 0}}], [96, 128, 160]),
        (["--save-freq", "0"], [], []),
    ],
)
def test_which_checkpoints_are_written(options: list[str], callbacks: list[Any], steps: list[int]) -> None:
    run = train({}, *options, callback=callbacks)
    assert sorted(map(steps_in_name, run.glob("rl_model_*_steps.zip"))) == steps


@pytest.mark.parametrize(("algo", "step", "saved"), [("beta_ppo", 80, 96), ("beta_ppo", 150, 160)])
def test_a_signal_waits_for_the_update_where_not_every_state_is_kept(
    algo: str, step: int, saved: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "PAUSE", 1e9)
    with pytest.raises(SystemExit) as ended:
        train({step: "SIGTERM"}, algo=algo)
    assert ended.value.code == 128 + signal.SIGTERM
    assert f"Stopped by SIGTERM: the agent after {saved} steps" in capsys.readouterr().err
    assert read_agent(Path("logs", algo, f"{BREAKING}_1", f"{BREAKING}.zip"), algo).num_timesteps == saved


@pytest.mark.slow
def test_off_policy_algorithms_lose_nothing_at_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "PAUSE", 1e9)
    with pytest.raises(SystemExit):
        train({80: "SIGTERM"}, algo="sac")
    assert read_agent(Path("logs/sac", f"{BREAKING}_1", f"{BREAKING}.zip"), "sac").num_timesteps == 80


def test_a_second_signal_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "PAUSE", 1e9)
    monkeypatch.setattr(signals, "ONE_STOP", 0.0)
    with pytest.raises(SystemExit) as ended:
        train({80: "SIGTERM", 82: "SIGINT"})
    assert ended.value.code == 128 + signal.SIGTERM
    assert BetaPPO.load(Path("logs/beta_ppo", f"{BREAKING}_1", f"{BREAKING}.zip")).num_timesteps == 0


def test_what_fails_before_the_first_step_leaves_no_run() -> None:
    with pytest.raises(SystemExit) as ended:
        train({}, "-params", "n_stepps:3")
    assert ended.value.code == 2
    assert not Path("logs").exists()


@pytest.fixture
def disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallDisk]:
    monkeypatch.setattr(checkpoint, "RETRY_AFTER", 0.0)
    with small_disk(folder / "disk", monkeypatch) as disk:
        monkeypatch.setitem(breaking.ACTIONS, "fill", disk.fill)
        monkeypatch.setitem(breaking.ACTIONS, "free", disk.free)
        yield disk


def test_a_disk_that_is_full_for_a_while(disk: SmallDisk) -> None:
    callbacks = ["sb3_carracing.callbacks.ProgressCallback", VALIDATION]
    with pytest.warns(UserWarning, match=r"No space left on device: '.*/rl_model_64_steps.zip'.*tries again"):
        run = train({40: "fill", 100: "free"}, "--save-freq", "32", logs=str(disk.folder), callback=callbacks)
    assert [file.name for file in agents_of(run)] == [
        *(f"{BREAKING}.zip", "rl_model_160_steps.zip", "rl_model_128_steps.zip", "rl_model_32_steps.zip", "best_model.zip")
    ]
    for file in agents_of(run):
        BetaPPO.load(file)
    steps = read_table(run / "progress.csv")
    assert steps is not None
    assert steps.n_damaged == 0
    assert set(steps.numbers("time/total_timesteps")) == {32, 64, 96, 128, 160}
    episodes = read_table(run / "0.monitor.csv")
    assert episodes is not None
    assert (len(episodes.rows), episodes.n_damaged) == (16, 0)


@pytest.mark.parametrize("ending", ["", "SIGTERM", "raise"])
def test_a_disk_that_is_full_at_the_end(
    disk: SmallDisk, ending: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error: tuple[type[BaseException], ...] = (SystemExit, RuntimeError)
    with pytest.warns(UserWarning, match=r"No space left on device: '.*vecnormalize.pkl'"), pytest.raises(error) as ended:
        train({70: "fill", 80: ending}, logs=str(disk.folder), normalize=True)
    kept = folder / f"temporary/beta_ppo_{BREAKING}_1.zip"
    steps = 64 if ending else 160
    assert BetaPPO.load(kept).num_timesteps == steps
    said = capsys.readouterr().err
    agent = disk.folder / f"beta_ppo/{BREAKING}_1/{BREAKING}.zip"
    assert f"No space left on device: '{agent}': the agent is kept as {kept} instead" in said
    if ending == "raise":
        (said,) = ended.value.__notes__
    else:
        assert isinstance(ended.value, SystemExit)
        assert ended.value.code == (128 + signal.SIGTERM if ending else 1)
    if ending:
        assert resume_command(said)[-2:] == ["-i", str(kept)]


def test_the_agent_is_kept_in_the_folder_asked_for_if_it_can(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The run's folder may be gone or not writable while the disk has room."""
    monkeypatch.setitem(breaking.ACTIONS, "remove", lambda: Path("logs/beta_ppo").rename("removed"))
    with pytest.raises(SystemExit) as ended:
        train({159: "remove"})
    assert ended.value.code == 1
    assert BetaPPO.load(f"logs/beta_ppo_{BREAKING}_1.zip").num_timesteps == 160


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-u", "-m", "sb3_carracing", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "to_all"),
    [(["train"], True), (["train_and_report", "--"], False)],
    ids=["train, all processes", "train_and_report, the parent"],
)
def test_real_processes_end_at_a_signal(folder: Path, command: list[str], to_all: bool) -> None:
    """A job scheduler sends it to every process of the group, workers included."""
    options = ["--env", "Pendulum-v1", "-n", "10000000", "--vec-env", "subproc", "--eval-freq", "-1", "--verbose", "1"]
    process = start(folder, *command, *options)
    assert process.stdout is not None
    for line in process.stdout:
        if "n_updates" in line:
            break
    (os.killpg if to_all else os.kill)(process.pid, signal.SIGTERM)
    try:
        printed, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "Traceback" not in errors
    assert resume_command(errors)[0] == "train"
    assert ("skipping evaluate" in printed) == (command[0] == "train_and_report")
    assert BetaPPO.load(folder / "logs/beta_ppo/Pendulum-v1_1/Pendulum-v1.zip").num_timesteps > 0
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody of the group is left


@pytest.mark.slow
def test_the_real_command_shows_the_environments_traceback(folder: Path) -> None:
    Path("c.yml").write_text(yaml.safe_dump({BREAKING: ON_POLICY}))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(Path(__file__).parent)])}
    words = ["train", "--env", BREAKING, "--gym-packages", "breaking", "-conf", "c.yml", "--eval-freq", "-1"]
    command = [sys.executable, "-m", "sb3_carracing", *words, "--env-kwargs", "troubles:{80: 'raise'}"]
    failed = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert failed.returncode == 1
    # Updates follow each other so quickly here that not every state is kept.
    assert re.search(r"RuntimeError: a wheel came off\nThe agent after (0|32|64) steps is saved as", failed.stderr)
    assert resume_command(failed.stderr)[:3] == ["train", "--env", BREAKING]
