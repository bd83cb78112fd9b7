"""The worker process of `SharedMemoryVecEnv`: serves the parent's requests with a slice of the environments."""

import copy
import ctypes
import faulthandler
import multiprocessing as mp
import os
import pickle
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TypeAlias

import cv2
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper

from sb3_carracing.errors import UserError
from sb3_carracing.vec_env.block import Block, Layout

Env: TypeAlias = gym.Env[Any, Any]

_PR_SET_PDEATHSIG = 1  # from Linux's prctl.h
PARENT_CHECK = 1.0  # [s] how often a worker looks whether its parent is alive
ORPHAN_TIME = 5.0  # [s] what a worker without a parent gets to finish its step and close its environments


class Failure(NamedTuple):
    """An exception on its way from a worker to the parent.

    Attributes:
        environment: the index of the environment that raised it.
        traceback: its traceback as text.
        pickled: the exception itself, or None where it cannot be pickled.
    """

    environment: int
    traceback: str
    pickled: bytes | None

    @classmethod
    def of(cls, error: BaseException, environment: int) -> "Failure":
        """Pack an exception that the environment with index `environment` has raised."""
        pickled = None
        with suppress(Exception):  # whatever a foreign exception's pickling raises
            pickled = pickle.dumps(error)
        return cls(environment, "".join(traceback.format_exception(error)), pickled)

    def exception(self) -> Exception | None:
        """Return the exception itself if it survived pickling."""
        with suppress(Exception):
            error = pickle.loads(self.pickled or b"")
            return error if isinstance(error, Exception) else None
        return None


def serve(remote: Connection, env_fns: CloudpickleWrapper, indices: range) -> None:
    """Run a worker until its parent hangs up or is gone.

    Args:
        remote: the worker's end of the connection.
        env_fns: functions that make one environment each, one for each of `indices`.
        indices: the numbers of the environments among those of the parent.
    """
    _prepare_process(indices.start)
    threading.Thread(target=_follow_parent, args=(remote,), daemon=True).start()
    environments = _Environments(remote, indices)
    request: tuple[int, str, Any] = (0, "make", env_fns.var)
    with suppress(EOFError, OSError):  # the parent has hung up
        while True:
            _answer(remote, environments, *request)
            request = remote.recv()
    environments.close()
    remote.close()


def hang_up(connection: Connection) -> None:
    """Close a connection on both sides, even if other processes have inherited a copy of it."""
    with suppress(OSError), socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as pipe:
        pipe.shutdown(socket.SHUT_RDWR)


def _prepare_process(first_index: int) -> None:
    # Ctrl-C and a terminal that closes reach every process; it is the parent that ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A crash, and the parent when it has waited too long, write the Python traceback to standard error.
    faulthandler.enable(file=2)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=False)
    # A stopped worker (SIGSTOP) is continued when its parent dies, so that it can end.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)
    # One thread per worker. With 1, OpenCV waits for the parent's threads after a fork, or crashes; with 0 it starts none.
    cv2.setNumThreads(0)
    # Forked workers inherit one state of numpy's global generator, which environments might draw from.
    np.random.seed((int(np.random.randint(2**31)) + first_index) % 2**32)  # noqa: NPY002


def _follow_parent(remote: Connection) -> None:
    """Wait for the parent to die, then end this process too, whatever its environments are doing."""
    parent, parent_pid = mp.parent_process(), os.getppid()
    assert parent is not None
    while parent.is_alive() and os.getppid() == parent_pid:
        time.sleep(PARENT_CHECK)
    hang_up(remote)
    time.sleep(ORPHAN_TIME)
    os._exit(1)


def _answer(remote: Connection, environments: "_Environments", number: int, command: str, payload: Any) -> None:
    """Execute a command and send back its result or the exception that it raised."""
    try:
        reply = getattr(environments, command)(payload)
    except (Exception, SystemExit) as error:
        reply = Failure.of(error, environments.current)
    try:
        remote.send((number, reply))
    except OSError:
        raise
    except Exception as error:  # the reply cannot be pickled; nothing has been sent
        remote.send((number, Failure.of(error, environments.current)))


class _Environments:
    """The environments of one worker. The public methods, but for `close`, are the commands that a parent may send."""

    def __init__(self, remote: Connection, indices: range) -> None:
        self.current = indices.start  # whom to name in an error
        self._remote = remote
        self._indices = indices
        self._envs: dict[int, Env] = {}

    def make(self, env_fns: list[Callable[[], Env]]) -> list[tuple[spaces.Space[Any], spaces.Space[Any]]]:
        """Make the environments and return their observation and action spaces."""
        for index, env_fn in zip(self._indices, env_fns, strict=True):
            self.current = index
            env = env_fn()
            if not isinstance(env, gym.Env):
                raise UserError(f"env_fns must return gymnasium environments, got {env!r}")
            if any(env.unwrapped is other.unwrapped for other in self._envs.values()):
                raise UserError("env_fns must return a new environment at every call, got the same one twice")
            self._envs[index] = env
        return [(env.observation_space, env.action_space) for env in self._envs.values()]

    def share(self, layout: Layout) -> None:
        """Receive the memory block."""
        descriptor = reduction.recv_handle(self._remote)
        try:
            self._block = Block(layout, descriptor)
        finally:
            os.close(descriptor)

    def reset(self, seeds_and_options: list[tuple[int | None, dict[str, Any]]]) -> list[dict[str, Any]]:
        """Reset and return the infos."""
        infos = []
        for (index, env), (seed, options) in zip(self._in_turn(), seeds_and_options, strict=True):
            # Like SB3, for environments whose reset has no options.
            observation, info = env.reset(seed=seed, options=options) if options else env.reset(seed=seed)
            self._block.write(index, observation)
            infos.append(info)
        return infos

    def step(self, actions: Sequence[Any]) -> tuple[list[dict[str, Any]], dict[int, dict[str, Any]]]:
        """Step, reset environments whose episode has ended, and return the infos and, by environment, the reset infos."""
        infos = []
        reset_infos: dict[int, dict[str, Any]] = {}
        for (index, env), action in zip(self._in_turn(), actions, strict=True):
            observation, reward, terminated, truncated, info = env.step(action)
            done = terminated or truncated
            info["TimeLimit.truncated"] = truncated and not terminated
            if done:
                # Copied, since an environment may write its next observation into the same array.
                info["terminal_observation"] = copy.deepcopy(observation)
                observation, reset_infos[index] = env.reset()
            self._block.write(index, observation)
            self._block.rewards[index] = reward
            self._block.dones[index] = done
            infos.append(info)
        return infos, reset_infos

    def call(self, request: tuple[Callable[..., Any], tuple[Any, ...], list[int]]) -> list[Any]:
        """Return `function(env, *args)` for each of the environments asked for."""
        function, args, indices = request
        results = []
        for index in indices:
            self.current = index
            results.append(function(self._envs[index], *args))
        return results

    def close(self) -> None:
        """Close every environment, whether or not closing another one fails."""
        for env in self._envs.values():
            try:
                env.close()
            except (Exception, SystemExit):
                traceback.print_exc()

    def _in_turn(self) -> Iterator[tuple[int, Env]]:
        for index, env in self._envs.items():
            self.current = index
            yield index, env
