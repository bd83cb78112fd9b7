"""A worker's loop over the trials of a study.

Optuna recognizes a killed worker's trial by its missing heartbeat, marks it as failed, and puts it back in the queue. It does
so only when a worker asks, so an idle worker keeps asking until no trial is running or waiting.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from sb3_carracing.signals import check_signals
from sb3_carracing.zoo.storage import GRACE, PatientStorage
from sb3_carracing.zoo.study import retried_number

# Trials in these states count toward the budget.
_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING)


class SurplusTrialError(Exception):
    """Two workers started the last trial of the budget; the later one gives way."""


class Worker:
    """Runs trials of a study until nothing is left to run; other workers may do so at the same time.

    Args:
        study: what to work on.
        storage: where it is kept.
        objective: runs one trial and returns its value. Before it ends or prunes the trial, it writes to it.
        n_trials: maximum number of trials that this worker starts, not counting repeated ones.
        max_total_trials: target number of complete and pruned trials of the study, which replaces `n_trials`. Failed and
            killed trials do not count. None means no limit.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: BaseStorage,
        objective: Callable[[optuna.Trial], float],
        n_trials: int,
        max_total_trials: int | None = None,
    ) -> None:
        self._study = study
        self._objective = objective
        self._n_trials = n_trials
        self._max_total_trials = max_total_trials
        self._n_begun = 0
        self._failed = False
        self._waits = False
        self._lock = threading.Lock()
        # Whether other workers can tell a running trial from a dead one.
        self._database = storage if isinstance(storage, PatientStorage) else None
        self._first_seen: dict[int, float] = {}
        self._revived: set[int] = set()
        self._thread = threading.local()

    def run(self, n_jobs: int = 1) -> None:
        """Work in `n_jobs` threads; after an error of the objective, all finish their trials and the error is raised."""
        if n_jobs == 1:
            self._loop()
            return
        with ThreadPoolExecutor(n_jobs) as pool:
            for job in [pool.submit(self._loop) for _ in range(n_jobs)]:
                job.result()

    def _loop(self) -> None:
        while not self._failed and (runs := self._next()) is not None:
            check_signals()
            if not runs:
                self._say_once_that_it_waits()
                time.sleep(self._pause())
                continue
            self._waits = False
            try:
                self._run_trial()
            except BaseException as error:
                self._failed = True
                # Optuna hides it behind an assertion of its own.
                if self._database is not None and self._database.given_up:
                    raise self._database.given_up from error
                raise

    def _say_once_that_it_waits(self) -> None:
        if not self._waits:
            self._waits = True
            running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            numbers = ", ".join(str(trial.number) for trial in running)
            print(f"Waiting for trials that run elsewhere ({numbers}), to repeat those of workers that die", flush=True)

    def _pause(self) -> float:
        interval = self._database.get_heartbeat_interval() if self._database else None
        return min(interval or 1.0, 5.0)

    def _next(self) -> bool | None:
        """Return True to run a trial, False to wait for other workers' trials, None to leave."""
        if self._database is not None:
            self._find_dead_trials()
        counted = self._study.get_trials(deepcopy=False, states=_COUNTED)
        if any(trial.state == TrialState.WAITING for trial in counted):
            return True
        with self._lock:
            if self._max_total_trials is not None:
                begins = len(counted) < self._max_total_trials
            else:
                begins = self._n_begun < self._n_trials
            self._n_begun += begins
        if begins:
            return True
        # Without heartbeats we cannot tell whether the other workers are alive.
        running = any(trial.state == TrialState.RUNNING for trial in counted)
        return False if running and self._database is not None else None

    def _find_dead_trials(self) -> None:
        """Put the trials of killed workers back in the queue."""
        assert self._database is not None
        optuna.storages.fail_stale_trials(self._study)
        now, grace = time.monotonic(), GRACE * (self._database.get_heartbeat_interval() or 0)
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            seen = now - self._first_seen.setdefault(trial.number, now)
            if seen > grace and trial.number not in self._revived:
                # A worker killed before its first heartbeat leaves a trial that never counts as dead: give it one.
                self._revived.add(trial.number)
                self._database.record_heartbeat(trial._trial_id)

    def _run_trial(self) -> None:
        self._thread.lost = False
        try:
            self._study.optimize(self._run_objective, n_trials=1, catch=(SurplusTrialError,), gc_after_trial=True)
        except (ValueError, UpdateFinishedTrialError):
            # Optuna cannot finish a trial that another worker has taken over.
            if not self._thread.lost:
                raise

    def _run_objective(self, trial: optuna.Trial) -> float:
        if self._is_surplus(trial):
            raise SurplusTrialError(f"the study has its {self._max_total_trials} trials already")
        try:
            return self._objective(trial)
        except UpdateFinishedTrialError:
            self._thread.lost = True
            print(f"Trial {trial.number} gave no sign of life for too long and was taken over: its result is dropped")
            raise

    def _is_surplus(self, trial: optuna.Trial) -> bool:
        """Return whether earlier trials use up the budget, in which a repeated trial is already included."""
        counted = self._study.get_trials(deepcopy=False, states=_COUNTED)
        (this,) = [other for other in counted if other.number == trial.number]
        if self._max_total_trials is None or retried_number(this) is not None:
            return False
        before = [other for other in counted if other.number < this.number or retried_number(other) is not None]
        return len(before) >= self._max_total_trials
