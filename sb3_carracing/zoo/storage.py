"""Where studies are kept: memory, a journal file or a database that several machines share."""

import functools
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from sb3_carracing.errors import UserError

HEARTBEAT_INTERVAL = 30  # [s]
MAX_RETRIES = 3
GRACE = 3  # heartbeats that may fail to come
PATIENCE = 60.0  # [s]
_PAUSE = 1.0  # [s]

# SQLite's messages when another process holds the file, or the file is temporarily out of reach.
_SQLITE_IS_AWAY = ("locked", "busy", "unable to open", "disk I/O")
_SECRETS = re.compile(r"((?:password|passwd|pwd|passphrase|secret|token|key)=)[^&\s]*", re.IGNORECASE)


class StorageAwayError(UserError):
    """A database has not answered for `PATIENCE`."""


class PatientStorage(RDBStorage):  # type: ignore[misc]
    """A database that may be unreachable for a while: calls that fail for this reason are retried for up to `PATIENCE`.

    The arguments are `RDBStorage`'s. After `PATIENCE` it raises `StorageAwayError`. Further calls then fail at once until the
    database answers again.
    """

    def __init__(self, url: str, **kwargs: Any) -> None:
        self._name = shown(url)
        self._is_sqlite = url.startswith("sqlite")
        self._away_since: float | None = None
        self.given_up: StorageAwayError | None = None
        self._calls = threading.local()
        super().__init__(url, **kwargs)

    def call_patiently(self, call: Callable[[], Any]) -> Any:
        """Return what `call` returns, once the database answers.

        Raises:
            StorageAwayError: it has not answered for `PATIENCE`.
        """
        if getattr(self._calls, "nested", False):
            return call()
        while True:
            self._calls.nested = True
            try:
                result = call()
            except (SQLAlchemyError, StorageInternalError) as error:
                self._wait_or_give_up(error)
            else:
                if self._away_since is not None:
                    self._away_since = self.given_up = None
                    print(f"The storage {self._name} answers again", flush=True)
                return result
            finally:
                self._calls.nested = False

    def _wait_or_give_up(self, error: Exception) -> None:
        """Pause; raise the error itself unless it means that the database is away."""
        cause = error if isinstance(error, SQLAlchemyError) else error.__cause__
        if not means_away(cause, self._is_sqlite):
            raise error
        reason = first_line(cause)
        if self._away_since is None:
            self._away_since = time.monotonic()
            print(f"The storage {self._name} does not answer ({reason}): waiting for up to {PATIENCE:g} s", flush=True)
        if time.monotonic() - self._away_since >= PATIENCE:
            self.given_up = StorageAwayError(
                f"the storage {self._name} has not answered for {PATIENCE:g} s ({reason}). Start the same command again once "
                "it does: a trial that was running is repeated"
            )
            raise self.given_up from error
        time.sleep(_PAUSE)

    def record_heartbeat(self, trial_id: int) -> None:
        """Record a heartbeat; if the database stays away, the trial itself reports it."""
        with suppress(StorageAwayError):
            self.call_patiently(lambda: super(PatientStorage, self).record_heartbeat(trial_id))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set state and values; accept a state that was already set before the connection was lost."""
        attempts: list[None] = []

        def set_once() -> bool:
            attempts.append(None)
            try:
                done: bool = super(PatientStorage, self).set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                if len(attempts) == 1 or self.get_trial(trial_id).state != state:
                    raise
                return True
            return done

        return bool(self.call_patiently(set_once))


def _patient(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: PatientStorage, *args: Any, **kwargs: Any) -> Any:
        return self.call_patiently(lambda: method(self, *args, **kwargs))

    return call


# All that Optuna asks of a storage; `_get_trials` is what its cache calls.
for _name in (BaseStorage.__abstractmethods__ | {"_get_trials", "_get_stale_trial_ids"}) - vars(PatientStorage).keys():
    setattr(PatientStorage, _name, _patient(getattr(RDBStorage, _name)))


def means_away(error: BaseException | None, is_sqlite: bool) -> bool:
    """Return whether an error of SQLAlchemy means that a database is temporarily unreachable."""
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    return not is_sqlite or any(word in str(error) for word in _SQLITE_IS_AWAY)


def first_line(error: BaseException | None) -> str:
    """Return the first line of an error's text, without the driver's exception that SQLAlchemy puts before it."""
    line, *_ = str(error).splitlines() or [repr(error)]
    return re.sub(r"^\(\S+\) ", "", line)


def open_storage(url: str | None, heartbeat_interval: int = HEARTBEAT_INTERVAL) -> BaseStorage:
    """Open the storage of a study and create its tables if needed.

    Args:
        url: SQLAlchemy's URL of a database, a journal file (`*.log`), or None for memory.
        heartbeat_interval: time between two heartbeats of a running trial [s]. After three intervals without one, another
            worker takes over the trial. All workers need the same interval.

    Raises:
        UserError: the URL cannot be read, its driver is not installed, or nobody answers.
    """
    if url is None:
        return InMemoryStorage()
    if url.endswith(".log"):
        try:
            Path(url).parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(url))
        except OSError as error:
            raise UserError(f"the journal file {url} cannot be opened: {error}") from error
    if url.count("@") > 1 and not url.startswith("sqlite"):
        raise UserError(f"the storage {shown(url)} has several @: in its user name or password write %40 for @")
    try:
        return _open_database(url, heartbeat_interval)
    except (ArgumentError, ValueError) as error:
        raise UserError(
            f"the storage {shown(url)!r} is neither a database's URL (postgresql://user:password@host/name, "
            "sqlite:///file.db) nor a journal file (*.log)"
        ) from error
    except ImportError as error:
        raise UserError(
            f"the driver for the storage {shown(url)} is not installed; for postgresql: pip install 'sb3-carracing[postgres]'"
        ) from error
    except (SQLAlchemyError, StorageInternalError) as error:
        raise UserError(f"the storage {shown(url)} cannot be opened: {first_line(error)}") from error


def _open_database(url: str, heartbeat_interval: int, attempts: int = 5) -> RDBStorage:
    """Open a database; retry if workers that start at the same time collide when they create its tables."""
    if make_url(url).drivername == "postgresql":
        # SQLAlchemy's default driver has changed; this is the one of the extra.
        url = make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    start = time.monotonic()
    for attempt in range(int(PATIENCE / _PAUSE)):
        try:
            with quiet():
                return PatientStorage(
                    url,
                    # A trial may take hours, in which firewalls drop idle connections.
                    engine_kwargs={"pool_pre_ping": True},
                    heartbeat_interval=heartbeat_interval,
                    grace_period=GRACE * heartbeat_interval,
                    heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES),
                )
        except (IntegrityError, ProgrammingError, OperationalError) as error:
            # Do not wait for a server that refuses the connection, since its address may be wrong.
            busy = "locked" in str(error) or "starting up" in str(error)
            collided = attempt < attempts and (not isinstance(error, OperationalError) or "already exists" in str(error))
            if not (busy or collided) or time.monotonic() - start > PATIENCE:
                raise
            if busy and attempt == 0:
                print(f"The storage {shown(url)} is busy: waiting for up to {PATIENCE:g} s", flush=True)
            time.sleep(_PAUSE)
    raise AssertionError("unreachable")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from warning that heartbeats (since 2.9) and multivariate TPE (since 2.2) are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def shown(url: str) -> str:
    """Return a storage's URL without its password, for messages, even if the URL cannot be parsed."""
    if url.startswith("sqlite") or url.endswith(".log"):
        return url
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    user_and_password, at, place = rest.rpartition("@")
    user, colon, _ = user_and_password.partition(":")
    # Without @, a password may be where a port should be.
    place = _SECRETS.sub(r"\1***", place if at else re.sub(r":[^/?]*[^/?\d][^/?]*", ":***", place))
    return f"{scheme}{separator}{user}{colon and ':***'}{at}{place}"
