"""A storage that is away for a while: nothing is lost, and in the end there is a sentence."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from sb3_carracing.errors import UserError
from sb3_carracing.zoo import storage as storages
from sb3_carracing.zoo.storage import StorageAwayError, open_storage
from sb3_carracing.zoo.worker import Worker

# SQLite itself waits that long for a lock [s].
URL = "sqlite:///s.db?timeout=0.1"


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storages, "_PAUSE", 0.05)


@contextmanager
def locked(seconds: float) -> Iterator[None]:
    """Hold the database file for so long, as another process would."""
    begun = threading.Event()

    def hold() -> None:
        connection = sqlite3.connect("s.db", isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        begun.set()
        time.sleep(seconds)
        connection.execute("COMMIT")
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait()
    yield
    thread.join()


def test_a_lock_is_waited_for_and_no_trial_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    storage = open_storage(URL)
    study = optuna.create_study(storage=storage)

    def objective(trial: optuna.Trial) -> float:
        with locked(0.6):
            trial.suggest_float("x", 0.0, 1.0)
            trial.report(1.0, 1)
        lock = locked(0.6)
        lock.__enter__()  # held while the trial ends
        return float(trial.number)

    Worker(study, storage, objective, n_trials=2).run()
    assert [(trial.state, trial.value) for trial in study.trials] == [(TrialState.COMPLETE, 0.0), (TrialState.COMPLETE, 1.0)]
    printed = capsys.readouterr().out
    assert "does not answer" in printed
    assert "locked): waiting for up to 60 s" in printed
    assert "answers again" in printed


def test_in_the_end_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(URL)
    study = optuna.create_study(storage=storage)
    monkeypatch.setattr(storages, "PATIENCE", 0.3)

    def objective(trial: optuna.Trial) -> float:
        locked(2.0).__enter__()
        return 0.0

    with pytest.raises(StorageAwayError, match=r"has not answered for 0.3 s \(.*database is locked"):
        Worker(study, storage, objective, n_trials=1).run()
    time.sleep(2.0)
    # Its heartbeats have stopped, so that another worker repeats it.
    (trial,) = optuna.load_study(study_name=study.study_name, storage=open_storage(URL)).trials
    assert trial.state == TrialState.RUNNING


def test_a_storage_that_is_busy_is_opened_later(capsys: pytest.CaptureFixture[str]) -> None:
    open_storage(URL)
    with locked(0.5):
        open_storage(URL)
    assert "is busy: waiting" in capsys.readouterr().out


def test_what_is_no_absence_is_raised_at_once() -> None:
    storage = open_storage(URL)
    with sqlite3.connect("s.db") as connection:
        connection.execute("DROP TABLE trial_heartbeats")
    start = time.monotonic()
    study = optuna.create_study(storage=storage)
    with pytest.raises(Exception, match="commit") as raised:
        storage.record_heartbeat(study.ask()._trial_id)
    assert not isinstance(raised.value, UserError)
    assert time.monotonic() - start < 10


def test_a_password_with_an_at_sign_is_asked_to_be_encoded() -> None:
    with pytest.raises(UserError, match=r"postgresql://me:\*\*\*@host/db has several @: .* write %40"):
        open_storage("postgresql://me:se@cret@host/db")
