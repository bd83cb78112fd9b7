"""Optuna studies that several machines work on: storage, samplers and pruners by name, and a worker's loop.

A killed worker's trial is found by its heartbeat, failed, and put back in the queue by optuna; that happens only when some
worker asks, so a worker that has nothing to do asks until no trial is left running or waiting.
"""

import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from sb3_carracing.checks import one_of

SAMPLERS = ("tpe", "gp", "random")
PRUNERS = ("median", "hyperband", "none")
HEARTBEAT_INTERVAL = 30  # [s]
MAX_RETRIES = 3
_GRACE = 3  # heartbeats that may fail to come
_MAX_SEED = 2**32

# A trial in one of these states takes a place of the budget.
_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING)


class SurplusTrialError(Exception):
    """Two workers took the budget's last place; the later trial gives way."""


def open_storage(url: str | None, heartbeat_interval: int = HEARTBEAT_INTERVAL) -> BaseStorage:
    """Open where a study is kept, and make its tables if there are none.

    :param url: SQLAlchemy's URL of a database, a journal file (`*.log`), or None: memory
    :param heartbeat_interval: how often a running trial says that it lives [s]; after three times as long without, another
        worker takes it over. The same for all workers.
    :raises ValueError: the URL cannot be read, its driver is not installed, or nobody answers
    """
    if url is None:
        return InMemoryStorage()
    if url.endswith(".log"):
        try:
            Path(url).parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(url))
        except OSError as error:
            raise ValueError(f"the journal file {url} cannot be opened: {error}") from error
    try:
        return _open_database(url, heartbeat_interval)
    except (ArgumentError, ValueError) as error:
        raise ValueError(
            f"the storage {url!r} is neither a database's URL (postgresql://user:password@host/name, sqlite:///file.db) nor "
            "a journal file (*.log)"
        ) from error
    except ImportError as error:
        raise ValueError(
            f"the driver for the storage {shown(url)} is not installed; for postgresql: pip install 'sb3-carracing[postgres]'"
        ) from error
    except (SQLAlchemyError, StorageInternalError) as error:
        cause, *_ = str(error).splitlines() or [repr(error)]
        raise ValueError(f"the storage {shown(url)} cannot be opened: {cause}") from error


def _open_database(url: str, heartbeat_interval: int, attempts: int = 5) -> RDBStorage:
    """Open a database; workers that start at the same time may collide in making its tables, and try again."""
    if make_url(url).drivername == "postgresql":
        # SQLAlchemy's default driver has changed; this is the one of the extra.
        url = make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    for attempt in range(attempts):
        try:
            with quiet():
                return RDBStorage(
                    url,
                    # A trial may take hours, in which firewalls drop idle connections.
                    engine_kwargs={"pool_pre_ping": True},
                    heartbeat_interval=heartbeat_interval,
                    grace_period=_GRACE * heartbeat_interval,
                    heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES),
                )
        except (IntegrityError, ProgrammingError, OperationalError) as error:
            collided = not isinstance(error, OperationalError) or "already exists" in str(error)
            if not collided or attempt == attempts - 1:
                raise
            time.sleep(0.5 * (attempt + 1))
    raise AssertionError("unreachable")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from warning that heartbeats (since 2.9) and multivariate TPE (since 2.2) are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def shown(url: str) -> str:
    """Return a storage's URL as it may be printed: without its password."""
    return url if url.endswith(".log") else make_url(url).render_as_string(hide_password=True)


def load_study(url: str | None, name: str | None) -> optuna.Study:
    """Return a study that exists.

    :raises ValueError: there is no such study; says which there are
    """
    if url is None or name is None:
        raise ValueError("to read a study, both --storage and --study-name are needed")
    file = make_url(url).database if url.startswith("sqlite:///") else url if url.endswith(".log") else None
    if file is not None and not Path(file).is_file():
        raise ValueError(f"there is no storage {url}")
    storage = open_storage(url)
    names = sorted(optuna.get_all_study_names(storage))
    if name not in names:
        raise ValueError(f"there is no study {name!r} in {shown(url)}; it holds {', '.join(map(repr, names)) or 'none'}")
    return optuna.load_study(study_name=name, storage=storage)


def find_trial(study: optuna.Study, number: int | None = None) -> FrozenTrial:
    """Return a trial by its number, complete or pruned, or the best one.

    :raises ValueError: there is none
    """
    if number is None:
        if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            raise ValueError(f"no trial of the study {study.study_name!r} is complete yet")
        return study.best_trial
    trials = study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials):
        raise ValueError(f"there is no trial {number} in the study {study.study_name!r}, which has {len(trials)}")
    trial = trials[number]
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        state = trial.state.name.lower()
        raise ValueError(f"trial {number} of the study {study.study_name!r} is {state}, neither complete nor pruned")
    return trial


def retried_number(trial: FrozenTrial) -> int | None:
    """Return the number of the killed trial that this one repeats, or None."""
    with quiet():
        number: int | None = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return number


def trial_seed(study_seed: int, trial: FrozenTrial) -> int:
    """Return the study's seed plus the trial's number; of a repeated trial, the number that it had first."""
    number = retried_number(trial)
    return (study_seed + (trial.number if number is None else number)) % _MAX_SEED


class TrialSeededSampler(BaseSampler):  # type: ignore[misc]
    """A sampler made anew for every trial, seeded with the study's seed plus the trial's number.

    One generator for a whole study would start again when the study goes on, and workers that are started by the same
    command would all sample the same trials.
    """

    def __init__(self, make: Callable[[int], BaseSampler], study_seed: int) -> None:
        self._make = make
        self._study_seed = study_seed
        self._samplers: dict[int, BaseSampler] = {}

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Make the trial's sampler."""
        self._samplers[trial.number] = self._make(trial_seed(self._study_seed, trial))
        self._samplers[trial.number].before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are sampled together."""
        space: dict[str, BaseDistribution] = self._samplers[trial.number].infer_relative_search_space(study, trial)
        return space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample the parameters that are sampled together."""
        params: dict[str, Any] = self._samplers[trial.number].sample_relative(study, trial, search_space)
        return params

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Sample one parameter by itself."""
        return self._samplers[trial.number].sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """Drop the trial's sampler."""
        self._samplers.pop(trial.number).after_trial(study, trial, state, values)


def make_sampler(name: str, n_startup_trials: int, seed: int) -> BaseSampler:
    """Return a sampler by its name; CMA-ES is not offered, since it has no categorical parameters.

    :raises ValueError: the name is not in `SAMPLERS`
    """
    one_of("sampler", name, sorted(SAMPLERS))
    if name == "random":
        return RandomSampler(seed=seed)
    if name == "gp":
        return GPSampler(seed=seed, n_startup_trials=n_startup_trials)
    # constant_liar: trials that run elsewhere count as bad, so that workers do not all try the same.
    return TPESampler(
        seed=seed,
        n_startup_trials=n_startup_trials,
        multivariate=True,
        constant_liar=True,
    )


def make_pruner(name: str, n_startup_trials: int, n_evaluations: int) -> optuna.pruners.BasePruner:
    """Return a pruner by its name, for trials that report `n_evaluations` times.

    :raises ValueError: the name is not in `PRUNERS`
    """
    one_of("pruner", name, sorted(PRUNERS))
    if name == "none":
        return optuna.pruners.NopPruner()
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max(n_evaluations, 2), reduction_factor=3)
    return optuna.pruners.MedianPruner(n_startup_trials=n_startup_trials, n_warmup_steps=n_evaluations // 3)


def agree_on_settings(study: optuna.Study, settings: dict[str, Any], seed: int | None, random_seed: int) -> int:
    """Write down what all workers have to do alike, or check it where an earlier worker has.

    :param seed: of the study; None for the one that an earlier worker wrote down, else `random_seed`
    :return: the study's seed
    :raises ValueError: an earlier worker's settings or seed were others
    """
    if "settings" not in study.user_attrs:
        study.set_user_attr("seed", random_seed if seed is None else seed)
        study.set_user_attr("settings", settings)
    # Read again: of workers that begin at once the last one to write is the one that all follow.
    known = study.user_attrs
    # As the storage returns them: lists for tuples.
    settings = json.loads(json.dumps(settings))
    before = known["settings"]
    differing = [f"{key} {before.get(key)!r} (now {value!r})" for key, value in settings.items() if before.get(key) != value]
    if seed is not None and seed != known["seed"]:
        differing.append(f"seed {known['seed']} (now {seed})")
    if differing:
        raise ValueError(
            f"the study {study.study_name!r} was begun with {'; '.join(differing)}: its trials would not be comparable. Give "
            "the same options, or another --study-name"
        )
    return int(known["seed"])


class Worker:
    """Runs trials of a study until nothing is left to run; other workers may do so at the same time.

    :param study: what to work on
    :param storage: where it is kept
    :param objective: runs one trial and returns its value; before it ends or prunes the trial, it writes to it
    :param n_trials: trials that this worker begins at most, repeated ones not counted
    :param max_total_trials: complete and pruned trials that the study shall have; None: no bound, else `n_trials` is not
        looked at. Failed and killed trials do not count.
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
        # Whether others can tell a running trial from a dead one.
        self._database = storage if isinstance(storage, RDBStorage) else None
        self._first_seen: dict[int, float] = {}
        self._revived: set[int] = set()
        self._thread = threading.local()

    def run(self, n_jobs: int = 1) -> None:
        """Work in `n_jobs` threads; an error of the objective ends all of them after their trials, and is raised."""
        if n_jobs == 1:
            self._loop()
            return
        with ThreadPoolExecutor(n_jobs) as pool:
            for job in [pool.submit(self._loop) for _ in range(n_jobs)]:
                job.result()

    def _loop(self) -> None:
        while not self._failed and (runs := self._next()) is not None:
            if not runs:
                self._say_once_that_it_waits()
                time.sleep(self._pause())
                continue
            self._waits = False
            try:
                self._run_trial()
            except BaseException:
                self._failed = True
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
        # Without heartbeats nobody can tell whether the others still live.
        running = any(trial.state == TrialState.RUNNING for trial in counted)
        return False if running and self._database is not None else None

    def _find_dead_trials(self) -> None:
        """Put the trials of killed workers back in the queue."""
        assert self._database is not None
        optuna.storages.fail_stale_trials(self._study)
        now, grace = time.monotonic(), _GRACE * (self._database.get_heartbeat_interval() or 0)
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
        """Return whether earlier trials take all places of the budget; a repeated trial has its place already."""
        counted = self._study.get_trials(deepcopy=False, states=_COUNTED)
        (this,) = [other for other in counted if other.number == trial.number]
        if self._max_total_trials is None or retried_number(this) is not None:
            return False
        before = [other for other in counted if other.number < this.number or retried_number(other) is not None]
        return len(before) >= self._max_total_trials
