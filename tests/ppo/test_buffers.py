"""The rollout storage against SB3's: the same minibatches, in half the memory."""

import multiprocessing as mp
import pickle
import re
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from devices import Uploads
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_carracing.ppo.buffers import CompactRolloutBuffer

N_STEPS, N_ENVS = 5, 3
IMAGE = spaces.Box(0, 255, (4, 6, 7), np.uint8)
ACTION = spaces.Box(-1.0, 1.0, (2,))


def fill(buffer: RolloutBuffer, seed: int) -> None:
    """Write one rollout of random numbers, as `collect_rollouts` does."""
    rng = np.random.default_rng(seed)
    buffer_spaces = (buffer.observation_space, buffer.action_space)
    for space in buffer_spaces:
        space.seed(seed)
    buffer.reset()
    for _ in range(buffer.buffer_size):
        obs, actions = (
            np.stack([space.sample() for _ in range(buffer.n_envs)])
            for space in (buffer.observation_space, buffer.action_space)
        )
        values, log_probs = th.as_tensor(rng.normal(size=(2, buffer.n_envs)))
        buffer.add(obs, actions, rng.normal(size=buffer.n_envs), rng.random(buffer.n_envs) < 0.2, values, log_probs)
    dones = rng.random(buffer.n_envs) < 0.2
    buffer.compute_returns_and_advantage(th.as_tensor(rng.normal(size=buffer.n_envs)), dones)


def minibatches(buffer: RolloutBuffer, batch_size: int | None, seed: int) -> list[tuple[th.Tensor, ...]]:
    np.random.seed(seed)  # noqa: NPY002, what SB3 draws from
    return [tuple(minibatch) for minibatch in buffer.get(batch_size)]


def both(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> tuple[CompactRolloutBuffer, RolloutBuffer]:
    return tuple(  # type: ignore[return-value]
        kind(N_STEPS, observation_space, action_space, device="cpu", gae_lambda=0.9, gamma=0.8, n_envs=N_ENVS)
        for kind in (CompactRolloutBuffer, RolloutBuffer)
    )


def assert_same_minibatches(ours: RolloutBuffer, stock: RolloutBuffer, batch_size: int | None, seed: int) -> None:
    pairs = list(zip(minibatches(ours, batch_size, seed), minibatches(stock, batch_size, seed), strict=True))
    for one, other in pairs:
        for a, b in zip(one, other, strict=True):
            assert a.dtype == b.dtype
            assert th.equal(a, b)


class TestSameAsStock:
    @pytest.mark.parametrize("batch_size", [None, 1, 4, 15, 100])
    @pytest.mark.parametrize(
        ("observation_space", "action_space"),
        [
            (IMAGE, ACTION),
            (spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(4)),
            (spaces.Box(-1.0, 1.0, (2, 3), np.float64), spaces.Box(0.0, 1.0, (2, 2), np.float64)),
            (spaces.Box(0, 60_000, (3,), np.uint16), spaces.MultiDiscrete([2, 3])),
            (spaces.Discrete(5), ACTION),
            (spaces.MultiDiscrete([3, 4]), spaces.MultiBinary(3)),
            (spaces.MultiBinary(4), ACTION),
        ],
        ids=str,
    )
    def test_minibatches(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], batch_size: int | None
    ) -> None:
        ours, stock = both(observation_space, action_space)
        for rollout in range(2):
            fill(ours, rollout)
            fill(stock, rollout)
            for epoch in range(2):
                assert_same_minibatches(ours, stock, batch_size, 10 * rollout + epoch)

    def test_channels_last_changes_the_layout_alone(self) -> None:
        ours, stock = both(IMAGE, ACTION)
        ours.keep_channels_last()
        for rollout in range(2):
            fill(ours, rollout)
            fill(stock, rollout)
            np.testing.assert_array_equal(ours.observations, stock.observations)
            assert_same_minibatches(ours, stock, 4, rollout)
            for observations, *_ in minibatches(ours, 4, 0):
                assert observations.is_contiguous(memory_format=th.channels_last)

    def test_another_size_from_the_next_rollout_on(self) -> None:
        """Scripts set `buffer_size` beside `n_steps` after loading; SB3's allocates anew in every rollout."""
        ours, stock = both(IMAGE, ACTION)
        ours.keep_channels_last()
        for buffer in (ours, stock):
            fill(buffer, 0)
            buffer.buffer_size = 2 * N_STEPS
            fill(buffer, 1)
        assert_same_minibatches(ours, stock, 4, 0)
        assert next(ours.get(4)).observations.is_contiguous(memory_format=th.channels_last)

    def test_an_incomplete_rollout_is_refused(self) -> None:
        ours, _ = both(IMAGE, ACTION)
        with pytest.raises(AssertionError, match="not complete"):
            next(ours.get(4))


def anonymous_memory(pid: int | None) -> int:
    """Return the resident memory [bytes] of a process that is no file's."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found is not None
    return 1024 * int(found.group(1))


N_LONG = 256
"""Steps of 16 environments of the rollout whose memory is measured."""


def write_and_read(kind: type[RolloutBuffer], remote: Connection) -> None:
    """Use a storage of 16 environments' images, as `learn` does, twice: a short one to warm up, then a long one."""
    th.set_num_threads(1)  # threads of a busy machine wait for each other
    obs, zeros = np.ones((16, 4, 96, 96), np.uint8), np.zeros(16, np.float32)

    def use(n_steps: int) -> None:
        images, actions = spaces.Box(0, 255, (4, 96, 96), np.uint8), spaces.Box(-1.0, 1.0, (3,))
        buffer = kind(n_steps, images, actions, device="cpu", n_envs=16)
        for _ in range(2):
            buffer.reset()
            for _ in range(n_steps):
                buffer.add(obs, np.zeros((16, 3)), zeros, zeros, th.zeros(16), th.zeros(16))
            buffer.compute_returns_and_advantage(th.zeros(16), zeros)
            for _ in range(2):
                for _ in buffer.get(64):
                    pass

    # What torch starts and loads at its first minibatch is not the storage's.
    use(n_steps=8)
    remote.send("ready")
    remote.recv()
    use(N_LONG)
    remote.send("done")


class TestMemory:
    @pytest.mark.parametrize("channels_last", [False, True])
    def test_stays_where_it_is(self, channels_last: bool) -> None:
        """Neither a new rollout nor an epoch moves or reorders the observations."""
        ours, _ = both(IMAGE, ACTION)
        if channels_last:
            ours.keep_channels_last()
        fill(ours, 0)
        address, shape = ours.observations.ctypes.data, ours.observations.shape
        minibatches(ours, 4, 0)
        fill(ours, 1)
        minibatches(ours, 4, 0)
        assert (ours.observations.ctypes.data, ours.observations.shape) == (address, shape)

    @pytest.mark.parametrize("kind", [CompactRolloutBuffer, RolloutBuffer])
    def test_peak(self, kind: type[RolloutBuffer]) -> None:
        """What another process needs at most to write two rollouts and read each twice; SB3's shows that it is measured."""
        context = mp.get_context("spawn")
        remote, theirs = context.Pipe()
        process = context.Process(target=write_and_read, args=(kind, theirs))
        process.start()
        assert remote.poll(60), "the process did not start"
        remote.recv()
        before = highest = anonymous_memory(process.pid)
        remote.send("go")
        while not remote.poll(0.001):
            highest = max(highest, anonymous_memory(process.pid))
        process.join()
        share = (highest - before) / (N_LONG * 16 * 4 * 96 * 96)
        if kind is CompactRolloutBuffer:
            assert 0.9 < share < 1.2
        else:
            assert share > 1.8

    def test_pickles(self) -> None:
        ours, _ = both(IMAGE, ACTION)
        ours.keep_channels_last()
        fill(ours, 0)
        loaded = pickle.loads(pickle.dumps(ours))
        assert_same_minibatches(loaded, ours, 4, 3)
        fill(loaded, 1)
        fill(ours, 1)
        assert_same_minibatches(loaded, ours, 4, 4)


class TestDevice:
    """torch's "meta" device stands for any other than the CPU: it holds no numbers, but whatever goes to it is seen."""

    def test_advantages_computed_anew_are_uploaded_anew(self) -> None:
        """Between two epochs, as some variants of PPO do."""
        buffer = CompactRolloutBuffer(N_STEPS, IMAGE, ACTION, device="meta", n_envs=N_ENVS)
        fill(buffer, 0)
        with Uploads() as uploads:
            list(buffer.get(4))
            once = len(uploads.sizes)
            list(buffer.get(4))
            assert len(uploads.sizes) == once + 1, "a permutation, nothing else"
            buffer.compute_returns_and_advantage(th.zeros(N_ENVS), np.zeros(N_ENVS, dtype=bool))
            list(buffer.get(4))
            assert len(uploads.sizes) == 2 * once + 1

    @pytest.mark.parametrize("channels_last", [False, True])
    def test_one_upload_a_rollout_as_bytes(self, channels_last: bool) -> None:
        buffer = CompactRolloutBuffer(N_STEPS, IMAGE, ACTION, device="meta", n_envs=N_ENVS)
        if channels_last:
            buffer.keep_channels_last()
        for rollout in range(2):
            fill(buffer, rollout)
            with Uploads() as uploads:
                for _ in range(3):
                    for observations, *others in buffer.get(4):
                        assert observations.dtype == th.uint8
                        assert {tensor.device.type for tensor in (observations, *others)} == {"meta"}
            n_samples = N_STEPS * N_ENVS
            assert sum(uploads.sizes) == n_samples * (4 * 6 * 7 + 4 * 2 + 4 * 4) + 3 * 8 * n_samples
