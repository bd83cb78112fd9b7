"""Ranks: the processes that train one agent together, and what they say to each other.

`torchrun` starts the ranks, and `torch.distributed` carries their messages: gloo on CPUs, NCCL where every rank has a GPU of
its own. All of that is behind `Group`. With one rank, every method returns what it is given.

The ranks play equal shares of the environments and learn from equal shares of every minibatch, so the mean over a minibatch is
the mean of the ranks' means.
"""

import atexit
import ctypes
import faulthandler
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch as th
import torch.distributed as dist
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples
from torch import nn

from sb3_carracing.errors import UserError
from sb3_carracing.ppo import losses
from sb3_carracing.ppo.metrics import MINIBATCH_MEANS

T = TypeVar("T")
Samples = TypeVar("Samples", RolloutBufferSamples, DictRolloutBufferSamples)

TIMEOUT_VARIABLE = "SB3_CARRACING_RANK_TIMEOUT"
_PR_SET_PDEATHSIG = 1
_GRACE = 60.0  # [s], by which at most a rank that hangs ends itself before the others give it up


class LostRankError(RuntimeError):
    """Another rank ended, or did not answer in time."""


@dataclass(frozen=True)
class Group:
    """The ranks of one training.

    Attributes:
        rank: This process, from 0.
        size: The number of ranks.
    """

    rank: int = 0
    size: int = 1

    def sum_(self, tensor: th.Tensor) -> th.Tensor:
        """Replace a tensor by its sum over all ranks, and return it."""
        if self.size > 1:
            with _waiting():
                dist.all_reduce(tensor)
        return tensor

    def mean(self, value: float) -> float:
        """Return the mean of a number over all ranks."""
        return sum(self.gather(value)) / self.size

    def same(self, value: T) -> T:
        """Return the value of rank 0."""
        if self.size == 1:
            return value
        values = [value]
        with _waiting():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _waiting():
            dist.all_gather_object(values, value)
        return values


def current() -> Group:
    """Return the group that this process has joined, or else a group of one."""
    return Group(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Group()


def join() -> Group:
    """Wait for the ranks that torchrun has started, and return the group; without torchrun, return a group of one.

    A process group that the script has made itself is used as it is.
    """
    if not dist.is_initialized() and n_ranks() > 1:
        has_own_gpu = th.cuda.is_available() and _number("LOCAL_WORLD_SIZE", 1) <= th.cuda.device_count()
        if th.cuda.is_available():
            th.cuda.set_device(own_device("cuda"))
        patience = timedelta(seconds=timeout() + min(timeout(), _GRACE))
        store, rank, size = next(dist.rendezvous("env://", timeout=patience))  # type: ignore[attr-defined]
        store.set_timeout(patience)
        # torch 2.13 gives a restart the store of the ranks that failed, with their addresses in it.
        prefix = f"{_number('TORCHELASTIC_RESTART_COUNT', 0)} {size}"
        store = dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]
        backend = "nccl" if has_own_gpu else "gloo"
        dist.init_process_group(backend, timeout=patience, store=store, rank=rank, world_size=size)
        atexit.register(_leave)
        if sys.platform == "linux":  # no rank outlives its launcher
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
    group = current()
    if group.size > 1:
        _watch.start()
    return group


def n_ranks() -> int:
    """Return the number of ranks, also before they have joined."""
    if dist.is_initialized():
        return current().size
    return _number("WORLD_SIZE", 1) if dist.is_torchelastic_launched() else 1


def share(n_envs: int) -> range:
    """Return the numbers of the environments that this rank plays, out of `n_envs` of the whole training.

    Raises:
        UserError: The ranks cannot share them equally.
    """
    size = n_ranks()
    check_shares("n_envs", n_envs, size)
    rank = current().rank if dist.is_initialized() else _number("RANK", 0) if size > 1 else 0
    return range(rank * n_envs // size, (rank + 1) * n_envs // size)


def check_shares(name: str, count: int, size: int) -> None:
    """Raise a UserError if `size` ranks cannot share `count` equally."""
    if count % size:
        valid = ", ".join(str(number) for number in range(1, count + 1) if count % number == 0)
        raise UserError(f"{name} must be a multiple of the number of ranks, got {count} for {size} ranks: use {valid} ranks")


def own_device(device: th.device | str) -> th.device | str:
    """Return the device for a rank that asks for `device`: ranks of one machine take its GPUs in turn."""
    if n_ranks() == 1 or str(device) not in ("auto", "cuda") or not th.cuda.is_available():
        return device
    return f"cuda:{_number('LOCAL_RANK', 0) % th.cuda.device_count()}"


def timeout() -> float:
    """Return after how many seconds without a step a rank counts as hanging, by default 600.

    Raises:
        UserError: The environment variable `SB3_CARRACING_RANK_TIMEOUT` is not a number above 0.
    """
    text = os.environ.get(TIMEOUT_VARIABLE, "600")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < 1e9:
        raise UserError(f"{TIMEOUT_VARIABLE} must be a number of seconds above 0, got {text!r}")
    return seconds


class Gradients:
    """The gradients of a network and the metrics of a minibatch as one block of memory that the ranks average.

    Sending half of the block during the backward pass was no faster with gloo: its threads then take the cores from the ranks.

    Args:
        group: The ranks. With one rank, nothing happens.
        parameters: The network's.
    """

    def __init__(self, group: Group, parameters: Iterable[nn.Parameter]):
        self._group = group
        if group.size == 1:
            return
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        ends = list(itertools.accumulate(parameter.numel() for parameter in self._parameters))
        self._block = th.zeros(ends[-1] + len(MINIBATCH_MEANS), device=self._parameters[0].device)
        # Views with the parameters' strides, since convolutions may keep their channels last.
        self._views = [
            self._block[end - parameter.numel() :].as_strided(parameter.shape, parameter.stride())
            for parameter, end in zip(self._parameters, ends, strict=True)
        ]
        self._numbers = self._block[ends[-1] :]

    def average(self, metrics: dict[str, list[th.Tensor]]) -> None:
        """Replace gradients, and the last value of each metric, by those of the whole minibatch."""
        if self._group.size == 1:
            return
        for parameter, view in zip(self._parameters, self._views, strict=True):
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(parameter.grad)
        self._numbers.copy_(th.stack([metrics[name][-1].float() for name in MINIBATCH_MEANS]))
        self._group.sum_(self._block).div_(self._group.size)
        for parameter, view in zip(self._parameters, self._views, strict=True):
            if parameter.grad is not None:
                parameter.grad = view
        for name, number in zip(MINIBATCH_MEANS, self._numbers.clone(), strict=True):
            metrics[name][-1] = number


def with_normalized_advantages(minibatches: Iterable[Samples], group: Group) -> Iterator[Samples]:
    """Yield an epoch's minibatches with advantages of mean 0 and standard deviation 1 over all ranks.

    The ranks exchange the sums of a whole epoch at once.
    """
    if group.size == 1:
        for minibatch in minibatches:
            yield minibatch._replace(advantages=losses.normalized(minibatch.advantages))
        return
    epoch = list(minibatches)
    exact = [minibatch.advantages.double() for minibatch in epoch]
    sums = th.stack([th.stack([th.ones_like(values).sum(), values.sum(), values.square().sum()]) for values in exact])
    count, total, squares = group.sum_(sums).unbind(dim=1)
    means = total / count
    deviations = ((squares - count * means.square()).clamp(min=0.0) / (count - 1.0)).sqrt()
    for minibatch, mean, deviation in zip(epoch, means.float(), deviations.float(), strict=True):
        yield minibatch._replace(advantages=(minibatch.advantages - mean) / (deviation + 1e-8))


class _Watch:
    """Ends this process with its traceback when it hangs, because the other ranks wait for it."""

    def __init__(self) -> None:
        self.last_step = time.monotonic()
        self.waits = True
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(timeout(),), daemon=True, name="rank watch")
            self._thread.start()

    def _run(self, seconds: float) -> None:
        while True:
            time.sleep(min(1.0, seconds / 4.0))
            if not self.waits and time.monotonic() - self.last_step > seconds:
                message = f"rank {current().rank} made no step for {seconds:g} s ({TIMEOUT_VARIABLE}); its traceback:\n"
                os.write(2, message.encode())
                faulthandler.dump_traceback()
                os._exit(1)


_watch = _Watch()


def alive() -> None:
    """Note that this rank trains. From now on it has to call this, or wait for others, every `timeout` seconds."""
    _watch.last_step, _watch.waits = time.monotonic(), False


def rest() -> None:
    """Note that this rank no longer trains."""
    _watch.waits = True


@contextmanager
def _waiting() -> Iterator[None]:
    """Wait for other ranks.

    Raises:
        LostRankError: One of them does not answer.
    """
    waited, _watch.waits = _watch.waits, True
    try:
        yield
    except RuntimeError as error:
        # The launcher ends all ranks as soon as it sees the first that failed. It should see that one first.
        time.sleep(5.0)
        raise LostRankError(f"rank {current().rank} lost the connection to another rank, which ended or hangs") from error
    if not waited:
        alive()


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _number(variable: str, default: int) -> int:
    return int(os.environ.get(variable, default))
