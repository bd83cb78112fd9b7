"""Two workers of the real command on a real PostgreSQL, one of them killed or put to sleep in mid-trial."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from sb3_carracing.zoo.storage import open_storage
from sb3_carracing.zoo.study import load_study, retried_number
from sb3_carracing.zoo.worker import Worker

pytestmark = pytest.mark.slow

STUDY_SEED = 40


def server_programs() -> Path | None:
    """Return the folder of PostgreSQL's server programs: Debian keeps them out of PATH."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((place for place in reversed(places) if (place / "initdb").is_file()), None)


class Server:
    """A PostgreSQL of one's own."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._folder = folder
        # It refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(folder, self._user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        data = str(folder / "data")
        self._run(str(programs / "initdb"), "-D", data, "-U", "tuner", "-A", "trust", "--no-sync")
        self._control = (str(programs / "pg_ctl"), "-D", data, "-l", str(folder / "log"), "-w")
        self.url = f"postgresql://tuner@127.0.0.1:{self._port}/postgres"

    def _run(self, *command: str) -> None:
        subprocess.run(command, user=self._user, cwd=self._folder, check=True, stdout=subprocess.DEVNULL, timeout=120)

    def start(self) -> None:
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run(*self._control, "-o", options, "start")

    def stop(self, mode: str) -> None:
        self._run(*self._control, "-m", mode, "stop")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Start a PostgreSQL of one's own."""
    pytest.importorskip("psycopg", reason="no PostgreSQL driver: pip install 'sb3-carracing[postgres]'")
    programs = server_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (apt install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="sb3_carracing_postgres_"))
    own = Server(programs, folder)
    try:
        own.start()
        yield own
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            own.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


class Workers:
    """Processes of the same command on one study."""

    def __init__(self, database: str, study_name: str, n_trials: int, folder: Path) -> None:
        self.database, self.study_name = database, study_name
        self._study: optuna.Study | None = None
        command = [
            sys.executable,
            "-m",
            "sb3_carracing",
            "tune",
            "--env",
            "Pendulum-v1",
            "-n",
            "10240",
            "--n-evaluations",
            "4",
        ]
        command += ["--eval-episodes", "1", "--max-total-trials", str(n_trials), "--sampler", "random", "--pruner", "none"]
        command += ["--seed", str(STUDY_SEED), "--storage", database, "--study-name", study_name, "--heartbeat-interval", "2"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.logs = [folder / f"worker_{number}.txt" for number in range(2)]
        self.processes = []
        for log in self.logs:
            with log.open("w") as output:
                process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
            self.processes.append(process)

    def trials(self) -> list[FrozenTrial]:
        """Return the study's trials; none before there is a study."""
        with contextlib.suppress(ValueError):
            self._study = self._study or load_study(self.database, self.study_name)
        return self._study.get_trials() if self._study else []

    def wait_for(self, condition: Callable[[FrozenTrial], bool], seconds: float = 240.0) -> FrozenTrial:
        """Wait until a trial meets the condition and return it."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and any(process.poll() is None for process in self.processes):
            for trial in self.trials():
                if condition(trial):
                    return trial
            time.sleep(0.1)
        raise AssertionError(f"nothing like it: {self.output()}")

    def of(self, trial: FrozenTrial) -> subprocess.Popen[bytes]:
        """Return the process that runs a trial."""
        (process,) = [process for process in self.processes if trial.user_attrs["worker"].endswith(f":{process.pid}")]
        return process

    def output(self) -> str:
        """Return what both have printed."""
        return "\n".join(log.read_text() for log in self.logs)

    def end(self) -> None:
        """Kill what is left."""
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Iterator[Callable[[str, int], Workers]]:
    """Start workers that do not outlive the test."""
    started = []

    def start_workers(study_name: str, n_trials: int) -> Workers:
        started.append(Workers(server.url, study_name, n_trials, tmp_path))
        return started[-1]

    yield start_workers
    for workers in started:
        workers.end()


def in_mid_trial(trial: FrozenTrial) -> bool:
    """Return whether a trial has reported and goes on."""
    return trial.state == TrialState.RUNNING and 1 <= len(trial.intermediate_values) <= 2


def check_none_lost_none_twice(trials: list[FrozenTrial], n_trials: int, stalled: FrozenTrial) -> FrozenTrial:
    """Check that each place of the budget is taken by one complete trial; return the one that repeats `stalled`."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    originals = {trial.number: retried_number(trial) for trial in complete}
    places = [number if original is None else original for number, original in originals.items()]
    repeats = {number for number, original in originals.items() if original is not None}
    assert len(places) == n_trials
    assert sorted(places) == [trial.number for trial in trials if trial.number not in repeats]
    assert [trial.number for trial in trials if trial.state != TrialState.COMPLETE] == [stalled.number]
    assert trials[stalled.number].state == TrialState.FAIL
    assert [trial.user_attrs["seed"] for trial in complete] == [STUDY_SEED + place for place in places]
    (repeated,) = [trial for trial in complete if trial.number in repeats]
    assert originals[repeated.number] == stalled.number
    assert repeated.params == stalled.params
    # The same seed and parameters: the same training.
    assert repeated.intermediate_values[1] == stalled.intermediate_values[1]
    return repeated


def test_a_killed_workers_trial_is_repeated_and_eats_no_budget(start: Callable[[str, int], Workers]) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    workers = start("killed", 5)
    workers.wait_for(lambda trial: trial.state == TrialState.COMPLETE)
    killed = workers.wait_for(in_mid_trial)
    victim = workers.of(killed)
    victim.send_signal(signal.SIGKILL)
    (other,) = [process for process in workers.processes if process is not victim]
    assert other.wait(timeout=300) == 0, workers.output()
    repeated = check_none_lost_none_twice(workers.trials(), 5, workers.trials()[killed.number])
    assert workers.of(repeated) is other
    assert "Trials: 5 complete, 1 fail" in workers.output()


def test_a_sleeping_workers_trial_is_taken_over_and_its_result_dropped(start: Callable[[str, int], Workers]) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    workers = start("asleep", 2)
    asleep = workers.wait_for(in_mid_trial)
    sleeper = workers.of(asleep)
    sleeper.send_signal(signal.SIGSTOP)
    workers.wait_for(lambda trial: retried_number(trial) == asleep.number)
    sleeper.send_signal(signal.SIGCONT)
    for process in workers.processes:
        assert process.wait(timeout=300) == 0, workers.output()
    check_none_lost_none_twice(workers.trials(), 2, workers.trials()[asleep.number])
    assert f"Trial {asleep.number} gave no sign of life for too long" in workers.output()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_of_the_server_is_waited_for(server: Server, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    storage = open_storage(server.url, heartbeat_interval=1)
    study = optuna.create_study(storage=storage, study_name=f"restart_{mode}")

    def restart() -> None:
        server.stop(mode)
        time.sleep(3.0)
        server.start()

    def objective(trial: optuna.Trial) -> float:
        restarting = threading.Thread(target=restart)
        if trial.number == 0:
            restarting.start()
        for step in range(30):
            trial.report(float(step), step)
            time.sleep(0.1)
        if trial.number == 0:
            restarting.join()
        return float(trial.suggest_float("x", 0.0, 1.0))

    Worker(study, storage, objective, n_trials=2).run()
    first, second = study.trials
    assert first.state == second.state == TrialState.COMPLETE
    assert list(first.intermediate_values) == list(range(30))
    printed = capsys.readouterr().out
    assert f"The storage {server.url.replace('postgresql:', 'postgresql+psycopg:')} does not answer" in printed
    assert "answers again" in printed
