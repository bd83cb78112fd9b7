"""`SharedMemoryVecEnv`: several environments a process, their observations in one block of memory that all of them share.

SB3's `SubprocVecEnv` starts one process an environment and sends every observation through a pipe. On few cores that
costs more than the environments of `CarRacingFast-v3` themselves. Here as many workers as there are cores step a slice of
the environments each, and write observations, rewards and dones where the parent reads them; actions and infos, which are
small, travel by pipe. What the caller sees is what `DummyVecEnv` shows.
"""

import copy
import itertools
import mmap
import multiprocessing as mp
import os
import pickle
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import reduction
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeAlias

import cv2
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env.base_vec_env import (
    CloudpickleWrapper,
    VecEnv,
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)
from stable_baselines3.common.vec_env.util import dict_to_obs, obs_space_info

from sb3_carracing.system import n_cores

Env: TypeAlias = gym.Env[Any, Any]
Wrapper: TypeAlias = gym.Wrapper[Any, Any, Any, Any]
Space: TypeAlias = spaces.Space[Any]

_CHECK_SECONDS = 2.0  # how often either side looks whether the other is alive, should its pipe not tell
_CLOSE_SECONDS = 15.0  # what workers get to finish a step and close their environments before they are killed


class WorkerError(RuntimeError):
    """An environment raised in a worker, or a worker died; the message names the worker and its environments."""


class SharedMemoryVecEnv(VecEnv):
    """A `VecEnv` with several environments a worker process and observations in shared memory.

    It goes where `SubprocVecEnv` goes: into `make_vec_env(vec_env_cls=...)`, rl-zoo3 and `VecEnvWrapper`s. The arrays
    that `reset` and `step_wait` return are the caller's to keep.

    Where workers and torch share the cores, set `OMP_WAIT_POLICY=PASSIVE` before torch is loaded, or torch to one thread:
    torch's further threads otherwise spin for milliseconds after each operation, on the cores that the workers need.

    Args:
        env_fns: functions that make one environment each. Observations: all that SB3 knows (Box of any dtype, Discrete,
            MultiDiscrete, MultiBinary, Dict and Tuple of these), of the same shapes and dtypes in every environment.
        start_method: one of `multiprocessing.get_all_start_methods()`. Default on Linux: "fork". It starts a worker in
            0.1 s on the parent's pages, where "forkserver" and "spawn" import the main module again and torch with it
            (2 s and 200 MB a worker). Forking a process that has threads, such as torch's, is safe while the child needs
            nothing of them: workers run environments only, with OpenCV in one thread. Environments that use torch or
            CUDA themselves need another method.
        n_workers: processes, from 1 to `len(env_fns)`. Default: as many as this process may use cores.

    Raises:
        ValueError: naming the argument, or the environment whose observations do not fit.
        WorkerError: an environment could not be made or, from `reset` and `step`, raised; or a worker died. All workers
            are stopped then. Exceptions of `env_method`, `get_attr` and the like arrive as themselves instead, with a
            note that says where they come from, and the workers go on.
    """

    def __init__(
        self, env_fns: Sequence[Callable[[], Env]], start_method: str | None = None, n_workers: int | None = None
    ) -> None:
        slices = _slices(len(env_fns), n_workers)
        context = mp.get_context(_start_method(start_method))
        self._workers: list[_Worker] = []
        self._step_pending = False
        # Workers end with this object or with the interpreter, also where nobody calls close().
        self._stop = weakref.finalize(self, _stop_workers, self._workers, os.getpid())
        try:
            for indices in slices:
                name = f"worker {len(self._workers)} of {len(slices)}"
                self._workers.append(_Worker(context, name, indices, env_fns[indices.start : indices.stop], self._workers))
            self._worker_of = [worker for worker in self._workers for _ in worker.indices]
            observation_space, action_space = self._agree_on_spaces()
            self._share_block(observation_space, len(env_fns))
            super().__init__(len(env_fns), observation_space, action_space)
        except BaseException:
            self.close()
            raise

    @property
    def processes(self) -> list[BaseProcess]:
        """The worker processes."""
        return [worker.process for worker in self._workers]

    @property
    def closed(self) -> bool:
        """Whether the workers have been stopped, by `close` or by an error."""
        return not self._stop.alive

    def step_async(self, actions: NDArray[Any]) -> None:
        """Let every environment begin a step; `actions` (n_envs, ...) reach them as they are."""
        if len(actions) != self.num_envs:
            raise ValueError(f"actions must be one an environment, {self.num_envs}, got {len(actions)}")
        with self._talking():
            for worker in self._workers:
                worker.request("step", actions[worker.indices.start : worker.indices.stop])
        self._step_pending = True

    def step_wait(self) -> VecEnvStepReturn:
        """Return observations, rewards float32 (n_envs,), dones bool (n_envs,) and one info an environment."""
        if not self._step_pending:
            raise RuntimeError("step_wait was called without step_async")
        # Given up for good if Ctrl-C comes in here: whoever asks next skips the replies.
        self._step_pending = False
        infos: list[dict[str, Any]] = []
        with self._talking():
            for worker in self._workers:
                some_infos, reset_infos = worker.reply()
                infos += some_infos
                for index, info in reset_infos.items():
                    self.reset_infos[index] = info
        return self._observations(), self._block.rewards.copy(), self._block.dones.copy(), infos

    def reset(self) -> VecEnvObs:
        """Reset all environments with the seeds and options set for them; a step still pending is given up."""
        self._step_pending = False
        with self._talking():
            for worker in self._workers:
                worker.request("reset", [(self._seeds[i], self._options[i]) for i in worker.indices])
            self.reset_infos = [info for worker in self._workers for info in worker.reply()]
        # Seeds and options are used once.
        self._reset_seeds()
        self._reset_options()
        return self._observations()

    def close(self) -> None:
        """Close the environments and end the workers; one that needs too long is killed."""
        self._step_pending = False
        self._stop()

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """Return every environment's picture; None for each if the render mode is not "rgb_array"."""
        if self.render_mode != "rgb_array":
            warnings.warn(
                f"The render mode is {self.render_mode}, but this method assumes it is `rgb_array` to obtain images.",
                stacklevel=2,
            )
            return [None] * self.num_envs
        return self._call(_render)

    def has_attr(self, attr_name: str) -> bool:
        """Return whether all environments have the attribute."""
        return all(self._call(_has_attr, attr_name))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the chosen environments."""
        return self._call(_get_attr, attr_name, indices=indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the chosen environments, on their outermost wrapper."""
        self._call(setattr, attr_name, value, indices=indices)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the chosen environments and return what it returns."""
        return self._call(_call_method, method_name, method_args, method_kwargs, indices=indices)

    def env_is_wrapped(self, wrapper_class: type[Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Return for each of the chosen environments whether it has this wrapper."""
        return self._call(is_wrapped, wrapper_class, indices=indices)

    def _agree_on_spaces(self) -> tuple[Space, Space]:
        """Return environment 0's spaces, when all environments' observations are found to be alike."""
        with self._talking():
            all_spaces = [pair for worker in self._workers for pair in worker.reply()]
        observation_space, action_space = all_spaces[0]
        record = _record(observation_space)
        for index, (other, _) in enumerate(all_spaces):
            if _record(other) != record:
                raise ValueError(
                    f"All environments must have observations of the same shapes and dtypes: environment {index} has "
                    f"{other}, environment 0 has {observation_space}"
                )
        return observation_space, action_space

    def _share_block(self, observation_space: Space, n_envs: int) -> None:
        """Map the block here and in the workers; they receive it as an open file without a name, which cannot leak."""
        layout = _Layout(_keys(observation_space), _record(observation_space), n_envs)
        with _anonymous_file(layout.n_bytes) as descriptor, self._talking():
            self._block = _Block(layout, descriptor)
            for worker in self._workers:
                worker.share(layout, descriptor)
            for worker in self._workers:
                worker.reply()

    def _observations(self) -> VecEnvObs:
        # A copy, since SB3 stores an observation after it has asked for the next: 0.1 ms for 16 stacks of four pictures.
        return dict_to_obs(self.observation_space, {key: view.copy() for key, view in self._block.observations.items()})

    def _call(self, function: Callable[..., Any], *args: Any, indices: VecEnvIndices = None) -> list[Any]:
        """Return `function(env, *args)` for the chosen environments, in the order of `indices`."""
        if self._step_pending:
            raise RuntimeError("A step is pending: call step_wait first")
        chosen = [range(self.num_envs)[i] for i in self._get_indices(indices)]
        calls: dict[_Worker, list[int]] = {}
        for index in chosen:
            calls.setdefault(self._worker_of[index], []).append(index)
        with self._talking():
            for worker, own in calls.items():
                worker.request("call", (function, args, own))
            replies = {worker: worker.reply(raises=False) for worker in calls}
        for worker, reply in replies.items():
            if isinstance(reply, _Failure):
                raise reply.as_raised_here(worker)
        results = {worker: iter(reply) for worker, reply in replies.items()}
        return [next(results[self._worker_of[index]]) for index in chosen]

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Refuse when the workers are gone, and stop all of them when one of them fails."""
        if self.closed:
            raise RuntimeError("This SharedMemoryVecEnv is closed")
        try:
            yield
        except WorkerError:
            self.close()
            raise


class _Layout(NamedTuple):
    """What the block holds: one record an environment, its observation in parts (see `_keys`), its reward and done."""

    keys: tuple[Any, ...]
    record: np.dtype[Any]
    n_envs: int

    @property
    def n_bytes(self) -> int:
        return self.n_envs * self.record.itemsize


class _Block:
    """The shared memory, as arrays of one row an environment."""

    def __init__(self, layout: _Layout, descriptor: int) -> None:
        memory = mmap.mmap(descriptor, layout.n_bytes)
        records: NDArray[Any] = np.ndarray(layout.n_envs, layout.record, buffer=memory)
        self.observations: dict[Any, NDArray[Any]] = {key: records[str(i)] for i, key in enumerate(layout.keys)}
        self.rewards: NDArray[np.float32] = records["reward"]
        self.dones: NDArray[np.bool_] = records["done"]

    def write(self, index: int, observation: Any) -> None:
        """Store an environment's observation, cast to its space's dtype as `DummyVecEnv` does."""
        for key, view in self.observations.items():
            part = observation if key is None else observation[key]
            if np.shape(part) != view.shape[1:]:
                name = "observation" if key is None else f"observation[{key!r}]"
                raise ValueError(f"The {name} has shape {np.shape(part)} where its space has {view.shape[1:]}")
            view[index] = part


class _Failure(NamedTuple):
    """An exception on its way from a worker to the parent."""

    environment: int
    traceback: str
    pickled: bytes | None

    @classmethod
    def of(cls, error: Exception, environment: int) -> "_Failure":
        pickled = None
        with suppress(Exception):  # whatever a foreign exception's pickling raises
            pickled = pickle.dumps(error)
        return cls(environment, "".join(traceback.format_exception(error)), pickled)

    def exception(self) -> Exception | None:
        """Return the exception itself if it outlived pickling."""
        with suppress(Exception):
            error = pickle.loads(self.pickled or b"")
            return error if isinstance(error, Exception) else None
        return None

    def where(self, worker: "_Worker") -> str:
        return f"Environment {self.environment} failed in {worker}:\n{self.traceback}"

    def as_raised_here(self, worker: "_Worker") -> Exception:
        """Return the exception with a note that says where it comes from."""
        error = self.exception()
        if error is None:
            return WorkerError(self.where(worker))
        error.add_note(self.where(worker))
        return error


class _Worker:
    """A worker process as the parent sees it.

    Requests are numbered, and a reply bears its request's number: replies that nobody waited for, since Ctrl-C came in
    between, are skipped.
    """

    def __init__(
        self,
        context: Any,
        name: str,
        indices: range,
        env_fns: Sequence[Callable[[], Env]],
        earlier: Sequence["_Worker"],
    ) -> None:
        self.indices = indices
        self._name = name
        self._number = 0
        self.remote, workers_end = context.Pipe()
        self._poll = _poll_for(self.remote)
        # A forked worker inherits the parent's ends of all pipes; while it holds them no one sees that the parent died.
        inherited = [*(worker.remote for worker in earlier), self.remote] if context.get_start_method() == "fork" else []
        self.process: BaseProcess = context.Process(
            target=_serve,
            args=(workers_end, inherited, CloudpickleWrapper(list(env_fns)), indices),
            name=name,
            daemon=True,
        )
        self.process.start()
        workers_end.close()

    def __str__(self) -> str:
        first, last = self.indices[0], self.indices[-1]
        environments = f"environment {first}" if first == last else f"environments {first} to {last}"
        return f"{self._name} (pid {self.process.pid}, {environments})"

    def request(self, command: str, payload: Any) -> None:
        self._number += 1
        try:
            self.remote.send((self._number, command, payload))
        except OSError as error:
            raise self._died() from error

    def share(self, layout: _Layout, descriptor: int) -> None:
        self.request("share", layout)
        try:
            reduction.send_handle(self.remote, descriptor, self.process.pid)
        except OSError as error:
            raise self._died() from error

    def reply(self, raises: bool = True) -> Any:
        """Wait for the last request's reply; a `_Failure` in it is raised as WorkerError, or returned."""
        number = -1
        while number != self._number:
            try:
                while not self._poll(_CHECK_SECONDS):
                    if not self.process.is_alive() and not self._poll(0.0):
                        raise self._died()
                number, reply = self.remote.recv()
            except (EOFError, OSError) as error:
                raise self._died() from error
        if raises and isinstance(reply, _Failure):
            raise WorkerError(reply.where(self)) from reply.exception()
        return reply

    def _died(self) -> WorkerError:
        self.process.join(1.0)
        code = self.process.exitcode
        if code is None:
            how = "its pipe is closed"
        else:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return WorkerError(f"{self} died: {how}")

    def discard_replies(self, deadline: float) -> None:
        """Empty the pipe until the worker has closed its end, lest it wait for room to write in."""
        with suppress(OSError):
            while wait([self.remote], max(0.0, deadline - time.monotonic())):
                if not os.read(self.remote.fileno(), 1 << 16):
                    return

    def end(self, deadline: float) -> None:
        """Wait for the process, or kill it when its time is over."""
        self.process.join(max(0.0, deadline - time.monotonic()))
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.remote.close()


def _stop_workers(workers: list[_Worker], creator: int) -> None:
    if os.getpid() != creator:  # in a forked child, which inherited the object but not the workers
        return
    deadline = time.monotonic() + _CLOSE_SECONDS
    try:
        for worker in workers:
            with suppress(OSError):
                worker.remote.send((0, "close", None))
        for worker in workers:
            worker.discard_replies(deadline)
    except BaseException:  # a second Ctrl-C
        deadline = 0.0
        raise
    finally:
        for worker in workers:
            worker.end(deadline)


def _serve(remote: Connection, inherited: Sequence[Connection], env_fns: CloudpickleWrapper, indices: range) -> None:
    """Run a worker until it is asked to close or the parent is gone."""
    for connection in inherited:
        connection.close()
    # Ctrl-C reaches all processes of a terminal; it is the parent that ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # One thread a worker. Not 1, which after a fork waits for the parent's OpenCV threads to end, or crashes; 0 starts none.
    cv2.setNumThreads(0)
    # Forked workers inherit one state of numpy's global generator, which environments might draw from.
    np.random.seed((int(np.random.randint(2**31)) + indices.start) % 2**32)  # noqa: NPY002

    environments = _Environments(remote, indices)
    parent = os.getppid()
    poll = _poll_for(remote)
    request: tuple[int, str, Any] = (0, "make", env_fns.var)
    with suppress(EOFError, OSError):  # the parent is gone
        while request[1] != "close":
            _answer(remote, environments, *request)
            while not poll(_CHECK_SECONDS):
                if os.getppid() != parent:
                    raise EOFError
            request = remote.recv()
    environments.close()
    remote.close()


def _answer(remote: Connection, environments: "_Environments", number: int, command: str, payload: Any) -> None:
    """Do what is asked and send back its result, or the exception that it raised."""
    try:
        reply = getattr(environments, command)(payload)
    except Exception as error:
        reply = _Failure.of(error, environments.current)
    try:
        remote.send((number, reply))
    except OSError:
        raise
    except Exception as error:  # the reply cannot be pickled; nothing has been sent
        remote.send((number, _Failure.of(error, environments.current)))


def _poll_for(remote: Connection) -> Callable[[float], object]:
    """Return a function that waits so many seconds for something to read; `remote.poll` sets itself up at every call."""
    poll = select.poll()
    poll.register(remote, select.POLLIN)
    return lambda seconds: poll.poll(1000.0 * seconds)


class _Environments:
    """The environments of one worker; its public methods are the commands that a parent may send."""

    def __init__(self, remote: Connection, indices: range) -> None:
        self.current = indices.start  # whom to name in an error
        self._remote = remote
        self._indices = indices
        self._envs: dict[int, Env] = {}

    def make(self, env_fns: list[Callable[[], Env]]) -> list[tuple[Space, Space]]:
        """Make the environments and return their observation and action spaces."""
        for index, env_fn in zip(self._indices, env_fns, strict=True):
            self.current = index
            env = env_fn()
            if not isinstance(env, gym.Env):
                raise ValueError(f"env_fns must return gymnasium environments, got {env!r}")
            if any(env.unwrapped is other.unwrapped for other in self._envs.values()):
                raise ValueError("env_fns must return a new environment at every call, got the same one twice")
            self._envs[index] = env
        return [(env.observation_space, env.action_space) for env in self._envs.values()]

    def share(self, layout: _Layout) -> None:
        """Receive the block."""
        descriptor = reduction.recv_handle(self._remote)
        try:
            self._block = _Block(layout, descriptor)
        finally:
            os.close(descriptor)

    def reset(self, seeds_and_options: list[tuple[int | None, dict[str, Any]]]) -> list[dict[str, Any]]:
        """Reset and return the infos."""
        infos = []
        for (index, env), (seed, options) in zip(self._in_turn(), seeds_and_options, strict=True):
            # Like SB3, for environments whose reset knows no options.
            observation, info = env.reset(seed=seed, options=options) if options else env.reset(seed=seed)
            self._block.write(index, observation)
            infos.append(info)
        return infos

    def step(self, actions: Sequence[Any]) -> tuple[list[dict[str, Any]], dict[int, dict[str, Any]]]:
        """Step, reset what ended, and return the infos and, by environment, the reset infos."""
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
        """Return `function(env, *args)` for the environments asked for."""
        function, args, indices = request
        results = []
        for index in indices:
            self.current = index
            results.append(function(self._envs[index], *args))
        return results

    def close(self) -> None:
        """Close the environments, each whatever the others do."""
        for env in self._envs.values():
            try:
                env.close()
            except Exception:
                traceback.print_exc()

    def _in_turn(self) -> Iterator[tuple[int, Env]]:
        for index, env in self._envs.items():
            self.current = index
            yield index, env


def _render(env: Env) -> Any:
    return env.render()


def _get_attr(env: Env, name: str) -> Any:
    return env.get_wrapper_attr(name)


def _has_attr(env: Env, name: str) -> bool:
    return env.has_wrapper_attr(name)


def _call_method(env: Env, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return env.get_wrapper_attr(name)(*args, **kwargs)


def _keys(observation_space: Space) -> tuple[Any, ...]:
    """Return the keys of a Dict's parts, the positions of a Tuple's, or None alone for a space without parts."""
    return tuple(obs_space_info(observation_space)[0])


def _record(observation_space: Space) -> np.dtype[Any]:
    """Return the type of one environment's record in the block: the observation's parts as "0", "1", ..., reward, done."""
    keys, shapes, dtypes = obs_space_info(observation_space)
    for key in keys:
        if shapes[key] is None or dtypes[key] is None or np.dtype(dtypes[key]).hasobject:
            raise ValueError(
                "Observations must be of a Box, Discrete, MultiDiscrete or MultiBinary space, or a Dict or Tuple of these, "
                f"got {observation_space}"
            )
    parts = [(str(i), dtypes[key], shapes[key]) for i, key in enumerate(keys)]
    return np.dtype([*parts, ("reward", np.float32), ("done", np.bool_)], align=True)


@contextmanager
def _anonymous_file(n_bytes: int) -> Iterator[int]:
    """Give an open file in memory (where there is no memfd, on disk), zeros of this size; it lives while it is mapped."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("observations")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, n_bytes)
        yield descriptor
    finally:
        os.close(descriptor)


def _start_method(name: str | None) -> str:
    available = mp.get_all_start_methods()
    if name is None:
        # Elsewhere than on Linux, system libraries are known not to bear a fork.
        wanted = ("fork",) if sys.platform == "linux" else ("forkserver", "spawn")
        return next(method for method in wanted if method in available)
    if name not in available:
        raise ValueError(f"start_method must be one of {', '.join(map(repr, available))}, got {name!r}")
    return name


def _slices(n_envs: int, n_workers: int | None) -> list[range]:
    """Divide the environments among the workers as evenly as can be."""
    if n_envs == 0:
        raise ValueError("env_fns must hold at least one function, got none")
    if n_workers is None:
        n_workers = min(n_envs, n_cores())
    if not isinstance(n_workers, int) or isinstance(n_workers, bool) or not 1 <= n_workers <= n_envs:
        raise ValueError(f"n_workers must be a whole number from 1 to the number of environments {n_envs}, got {n_workers!r}")
    bounds = [n_envs * i // n_workers for i in range(n_workers + 1)]
    return [range(*pair) for pair in itertools.pairwise(bounds)]
