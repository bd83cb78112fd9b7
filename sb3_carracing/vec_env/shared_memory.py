"""`SharedMemoryVecEnv`: runs several environments per worker process and shares observations through one memory block.

SB3's `SubprocVecEnv` starts one process per environment and sends every observation through a pipe. On few cores that
costs more than a fast environment itself. Here there are as many workers as usable cores. Each steps a slice of the
environments and writes observations, rewards and dones where the parent reads them. Actions and infos, which are small,
travel through pipes. The caller sees what `DummyVecEnv` shows.
"""

import itertools
import multiprocessing as mp
import os
import select
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, TypeAlias

import gymnasium as gym
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import SubprocVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn
from stable_baselines3.common.vec_env.util import dict_to_obs

from sb3_carracing.checks import finite_number, one_of, whole_number
from sb3_carracing.errors import UserError
from sb3_carracing.system import n_cores
from sb3_carracing.vec_env.block import Block, Layout, anonymous_file
from sb3_carracing.vec_env.worker import Env, Failure
from sb3_carracing.vec_env.worker_handle import WorkerError, WorkerHandle, stop_workers

Wrapper: TypeAlias = gym.Wrapper[Any, Any, Any, Any]
Space: TypeAlias = spaces.Space[Any]


class SharedMemoryVecEnv(VecEnv):
    """A `VecEnv` with several environments per worker process and observations in shared memory. Linux only.

    Use it wherever `SubprocVecEnv` goes: in `make_vec_env(vec_env_cls=...)`, rl-zoo3 and `VecEnvWrapper`s. The arrays that
    `reset` and `step_wait` return are the caller's to keep.

    Workers and torch compete for the cores. Set `OMP_WAIT_POLICY=PASSIVE` before torch is loaded, or give torch a single
    thread: its threads otherwise spin for milliseconds after each operation.

    Args:
        env_fns: functions that make one environment each. Observation spaces may be Box of any dtype, Discrete,
            MultiDiscrete, MultiBinary, and Dict and Tuple of these. All environments need the same shapes and dtypes.
        start_method: one of `multiprocessing.get_all_start_methods()`. The default "fork" starts a worker in 0.1 s on the
            parent's memory pages; "forkserver" and "spawn" import the main module and torch again (2 s and 200 MB per
            worker). Forking a process with threads, such as torch's, is safe as long as the child needs none of them.
            Environments that use torch or CUDA themselves need another method.
        n_workers: number of processes, from 1 to `len(env_fns)`. Default: the number of usable cores.
        step_timeout: how long a worker may take to answer a step or any other request [s]; None waits forever. A worker
            that is silent for 10 s is announced by a warning, and one that exceeds the limit is killed.

    Raises:
        UserError: if an argument is invalid, the observation spaces differ, or the system is not Linux.
        WorkerError: if an environment raises while it is made, reset or stepped, or if a worker dies or hangs. All
            workers are stopped then. Exceptions of `env_method`, `get_attr` and the like arrive as themselves, with a note
            that names environment and worker, and the workers go on.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], Env]],
        start_method: str | None = None,
        n_workers: int | None = None,
        step_timeout: float | None = 600.0,
    ) -> None:
        if not self.is_supported():
            raise UserError(f"SharedMemoryVecEnv runs on Linux, not on {sys.platform}: use SB3's SubprocVecEnv or DummyVecEnv")
        if step_timeout is not None:
            step_timeout = finite_number("step_timeout", step_timeout, 0.01)
        slices = _slices(len(env_fns), n_workers)
        start_method = one_of("start_method", "fork" if start_method is None else start_method, mp.get_all_start_methods())
        context = mp.get_context(start_method)
        self._workers: list[WorkerHandle] = []
        self._step_pending = False
        # Workers end with this object or with the interpreter, also where nobody calls close(). At exit multiprocessing
        # would otherwise terminate them before they can close their environments.
        self._stop = Finalize(self, stop_workers, (self._workers,), exitpriority=10)
        try:
            for indices in slices:
                name = f"worker {len(self._workers)} of {len(slices)}"
                own_fns = env_fns[indices.start : indices.stop]
                self._workers.append(WorkerHandle(context, name, indices, own_fns, step_timeout))
            self._worker_of = [worker for worker in self._workers for _ in worker.indices]
            observation_space, action_space = self._agree_on_spaces()
            self._share_block(Layout.of(observation_space, len(env_fns)))
            super().__init__(len(env_fns), observation_space, action_space)
            self.metadata = self.get_attr("metadata", 0)[0]
        except BaseException:
            self.close()
            raise

    def __reduce__(self) -> Any:
        # A copied connection would close the original one when it is collected.
        raise TypeError("A SharedMemoryVecEnv cannot be copied or pickled: it owns its worker processes")

    @staticmethod
    def is_supported() -> bool:
        """Return whether this system supports the class, which needs Linux."""
        return hasattr(os, "memfd_create") and hasattr(select, "poll")

    @property
    def processes(self) -> list[BaseProcess]:
        """The worker processes."""
        return [worker.process for worker in self._workers]

    @property
    def closed(self) -> bool:
        """Whether the workers have been stopped, by `close` or by an error."""
        return not self._stop.still_active()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Start a step in every environment; `actions` (n_envs, ...) reach them unchanged."""
        if len(actions) != self.num_envs:
            raise UserError(f"actions must be one per environment, {self.num_envs}, got {len(actions)}")
        with self._talking():
            for worker in self._workers:
                worker.request("step", actions[worker.indices.start : worker.indices.stop])
        self._step_pending = True

    def step_wait(self) -> VecEnvStepReturn:
        """Return observations, rewards float32 (n_envs,), dones bool (n_envs,) and one info per environment."""
        if not self._step_pending:
            raise RuntimeError("step_wait was called without step_async")
        # If Ctrl-C interrupts the wait, the step is given up and the next request skips its replies.
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
        """Reset all environments with the seeds and options set for them, giving up a pending step."""
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
        """Close the environments, stop the workers (killing slow ones) and free the shared memory."""
        self._step_pending = False
        self._stop()
        vars(self).pop("_block", None)

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """Return the rendering of every environment; None for each if the render mode is not "rgb_array"."""
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
        """Set an attribute on the outermost wrapper of the chosen environments."""
        self._call(setattr, attr_name, value, indices=indices)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the chosen environments and return the results."""
        return self._call(_call_method, method_name, method_args, method_kwargs, indices=indices)

    def env_is_wrapped(self, wrapper_class: type[Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Return for each of the chosen environments whether it has this wrapper."""
        return self._call(is_wrapped, wrapper_class, indices=indices)

    def _agree_on_spaces(self) -> tuple[Space, Space]:
        """Return the spaces of environment 0 after checking that all environments have the same observations."""
        with self._talking():
            all_spaces = [pair for worker in self._workers for pair in worker.reply()]
        observation_space, action_space = all_spaces[0]
        layout = Layout.of(observation_space, 1)
        for index, (other, _) in enumerate(all_spaces):
            if Layout.of(other, 1) != layout:
                raise UserError(
                    f"All environments must have observations of the same shapes and dtypes: environment {index} has "
                    f"{other}, environment 0 has {observation_space}"
                )
        return observation_space, action_space

    def _share_block(self, layout: Layout) -> None:
        """Map the memory block here and in the workers, which receive it as an open file."""
        with anonymous_file(layout.n_bytes) as descriptor, self._talking():
            self._block = Block(layout, descriptor)
            for worker in self._workers:
                worker.share(layout, descriptor)
            for worker in self._workers:
                worker.reply()

    def _observations(self) -> VecEnvObs:
        # Copied, since SB3 stores an observation after it has asked for the next one (0.1 ms for 16 x 4 x 96 x 96 bytes).
        return dict_to_obs(self.observation_space, {key: view.copy() for key, view in self._block.observations.items()})

    def _call(self, function: Callable[..., Any], *args: Any, indices: VecEnvIndices = None) -> list[Any]:
        """Return `function(env, *args)` for the chosen environments, in the order of `indices`."""
        if self._step_pending:
            raise RuntimeError("A step is pending: call step_wait first")
        chosen = [range(self.num_envs)[i] for i in self._get_indices(indices)]
        calls: dict[WorkerHandle, list[int]] = {}
        for index in chosen:
            calls.setdefault(self._worker_of[index], []).append(index)
        with self._talking():
            for worker, own in calls.items():
                worker.request("call", (function, args, own))
            replies = {worker: worker.reply(raises=False) for worker in calls}
        for worker, reply in replies.items():
            if isinstance(reply, Failure):
                raise _as_raised_here(reply, worker)
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


def process_vec_env_class() -> type[SharedMemoryVecEnv] | type[SubprocVecEnv]:
    """Return `SharedMemoryVecEnv` where the system supports it, otherwise SB3's `SubprocVecEnv`."""
    return SharedMemoryVecEnv if SharedMemoryVecEnv.is_supported() else SubprocVecEnv


def _as_raised_here(failure: Failure, worker: WorkerHandle) -> Exception:
    """Return the exception with a note that names environment and worker."""
    error = failure.exception()
    if error is None:
        return WorkerError(worker.where(failure))
    error.add_note(worker.where(failure))
    return error


def _slices(n_envs: int, n_workers: int | None) -> list[range]:
    """Divide the environments among the workers as evenly as possible."""
    if n_envs == 0:
        raise UserError("env_fns must hold at least one function, got none")
    n_workers = min(n_envs, n_cores()) if n_workers is None else whole_number("n_workers", n_workers, 1, n_envs)
    bounds = [n_envs * i // n_workers for i in range(n_workers + 1)]
    return [range(*pair) for pair in itertools.pairwise(bounds)]


def _render(env: Env) -> Any:
    return env.render()


def _get_attr(env: Env, name: str) -> Any:
    return env.get_wrapper_attr(name)


def _has_attr(env: Env, name: str) -> bool:
    return env.has_wrapper_attr(name)


def _call_method(env: Env, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return env.get_wrapper_attr(name)(*args, **kwargs)
