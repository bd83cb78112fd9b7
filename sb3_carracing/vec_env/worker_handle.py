"""The parent's side of a worker process: requests, replies, and the handling of workers that do not reply."""

import os
import select
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import reduction
from multiprocessing.process import BaseProcess
from typing import Any

import gymnasium as gym
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper

from sb3_carracing.vec_env.block import Layout
from sb3_carracing.vec_env.worker import Failure, hang_up, serve

LOOK_INTERVAL = 1.0  # [s] how often the parent looks whether a silent worker is alive
ANNOUNCED_AFTER = 10.0  # [s] of silence
CLOSE_TIME = 15.0  # [s] what workers get to finish a step and close their environments before they are killed


class WorkerError(RuntimeError):
    """An environment raised an exception in a worker, or a worker died or hung.

    The message names the worker and its environments.
    """


class WorkerHandle:
    """A worker process and the parent's end of its connection.

    Requests are numbered, and a reply carries the number of its request. Replies that nobody waited for because of Ctrl-C are
    skipped.

    Args:
        context: the multiprocessing context to start the process in.
        name: for messages.
        indices: the numbers of the worker's environments.
        env_fns: functions that make one environment each.
        timeout: how long the worker may take for a reply [s]; None for any time.
    """

    def __init__(
        self,
        context: Any,
        name: str,
        indices: range,
        env_fns: Sequence[Callable[[], gym.Env[Any, Any]]],
        timeout: float | None,
    ) -> None:
        self.indices = indices
        self._name = name
        self._timeout = timeout
        self._number = 0
        self._command = "make"
        self._remote, workers_end = context.Pipe()
        # `Connection.poll` would set up a new selector for every call.
        self._selector = select.poll()
        self._selector.register(self._remote, select.POLLIN)
        self.process: BaseProcess = context.Process(
            target=serve, args=(workers_end, CloudpickleWrapper(list(env_fns)), indices), name=name, daemon=True
        )
        self.process.start()
        workers_end.close()

    def __str__(self) -> str:
        first, last = self.indices[0], self.indices[-1]
        environments = f"environment {first}" if first == last else f"environments {first} to {last}"
        return f"{self._name} (pid {self.process.pid}, {environments})"

    def request(self, command: str, payload: Any) -> None:
        """Send a command.

        Raises:
            WorkerError: if the worker is dead.
        """
        self._number += 1
        self._command = command
        try:
            self._remote.send((self._number, command, payload))
        except OSError as error:
            raise self._died() from error

    def share(self, layout: Layout, descriptor: int) -> None:
        """Let the worker map the memory block behind `descriptor`; it replies when it has."""
        self.request("share", layout)
        try:
            reduction.send_handle(self._remote, descriptor, self.process.pid)
        except OSError as error:
            raise self._died() from error

    def reply(self, raises: bool = True) -> Any:
        """Wait for the reply to the last request.

        Args:
            raises: whether a `Failure` is raised as WorkerError, or returned.

        Raises:
            WorkerError: if an environment failed, or the worker died or did not reply in time.
        """
        number = -1
        while number != self._number:
            try:
                self._await_message()
                number, reply = self._remote.recv()
            except (EOFError, OSError) as error:
                raise self._died() from error
        if raises and isinstance(reply, Failure):
            raise WorkerError(self.where(reply)) from reply.exception()
        return reply

    def where(self, failure: Failure) -> str:
        """Return what failed where, with the traceback."""
        return f"Environment {failure.environment} failed in {self}:\n{failure.traceback}"

    def hang_up(self) -> None:
        """Ask the worker to close its environments and end; one that is busy notices when it replies."""
        hang_up(self._remote)

    def end(self, deadline: float) -> None:
        """Wait for the process until `deadline` on the monotonic clock, then kill it."""
        self.process.join(max(0.0, deadline - time.monotonic()))
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._remote.close()

    def _await_message(self) -> None:
        """Return when there is something to read, which may be the end of the connection."""
        # Add up the waiting time in short intervals, so that time in which the parent itself was suspended does not count.
        waited, announced = 0.0, False
        limit = float("inf") if self._timeout is None else self._timeout
        while not self._readable(turn := min(LOOK_INTERVAL, limit - waited)):
            # Another process may have inherited the dead worker's end of the connection, which then stays open.
            if not self.process.is_alive() and not self._readable(0.0):
                raise self._died()
            waited += turn
            if waited >= limit:
                raise self._hung(waited)
            if waited >= ANNOUNCED_AFTER and not announced:
                announced = True
                until = "" if self._timeout is None else f"; step_timeout stops it after {limit:g} s"
                warnings.warn(f"{self} has not answered `{self._command}` for {waited:g} s{until}", stacklevel=2)

    def _readable(self, seconds: float) -> bool:
        return bool(self._selector.poll(1000.0 * seconds))

    def _died(self) -> WorkerError:
        self.process.join(1.0)
        code = self.process.exitcode
        return WorkerError(f"{self} died: {'its connection is closed' if code is None else _how_it_ended(code)}")

    def _hung(self, seconds: float) -> WorkerError:
        """Let the worker write its traceback, then kill it."""
        assert self.process.pid is not None
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGUSR1)
        self.process.join(0.5)
        self.process.kill()
        return WorkerError(
            f"{self} has not answered `{self._command}` for {seconds:g} s (step_timeout) and was killed. "
            "If it could, it has written its traceback to standard error."
        )


def stop_workers(workers: Sequence[WorkerHandle]) -> None:
    """End all workers, killing those that take longer than `CLOSE_TIME`."""
    deadline = time.monotonic() + CLOSE_TIME
    try:
        for worker in workers:
            worker.hang_up()
        for worker in workers:
            worker.end(deadline)
    except BaseException:  # a second Ctrl-C
        for worker in workers:
            worker.end(0.0)
        raise


def _how_it_ended(exitcode: int) -> str:
    if exitcode >= 0:
        return f"exit status {exitcode}"
    names = {number.value: number.name for number in signal.Signals}
    name = names.get(-exitcode, f"signal {-exitcode}")
    return f"killed by {name}" + (" (the system does this when memory runs out)" if name == "SIGKILL" else "")
