"""Rollout storage with one copy of the observations, allocated once and read in place."""

from collections.abc import Generator

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import RolloutBufferSamples


class CompactRolloutBuffer(RolloutBuffer):
    """SB3's `RolloutBuffer`, with the same minibatches for the same seed, in half the memory.

    SB3's buffer allocates new arrays for every rollout. Before the first minibatch it copies them from
    `(n_steps, n_envs, ...)` to `(n_envs * n_steps, ...)`. This buffer keeps its arrays and picks minibatches from the order in
    which the rollout was written. On a device other than the CPU it uploads the rollout once, before the first minibatch. It
    uploads the arrays in their own dtypes, so images stay bytes. Each epoch then uploads only its permutation.

    The arrays keep their shape `(n_steps, n_envs, ...)` after `get`, whereas SB3's are flat from then on. Overriding
    `_get_samples` has no effect, since it is not used.

    The arguments are those of `stable_baselines3.common.buffers.RolloutBuffer`. For Dict observations use SB3's
    `DictRolloutBuffer`.
    """

    channels_last = False
    _uploaded: tuple[th.Tensor, ...] | None = None

    def keep_channels_last(self) -> None:
        """Store a pixel's channels next to each other in memory; the shape stays `(channels, height, width)`.

        Convolutions on a CPU need this layout and would otherwise convert every minibatch. This discards the stored rollout.
        """
        self.channels_last = True
        del self.observations
        self.reset()

    def reset(self) -> None:
        """Discard the rollout; the next one is written to the same memory."""
        self.pos, self.full = 0, False
        self._uploaded = None
        size = (self.buffer_size, self.n_envs)
        allocated = hasattr(self, "observations") and self.observations.shape[:2] == size
        if allocated and self.actions.dtype == self.action_space.dtype:
            return
        self.observations = self._empty_observations(size)
        self.actions = np.zeros((*size, self.action_dim), dtype=self.action_space.dtype)
        for name in ("rewards", "returns", "episode_starts", "values", "log_probs", "advantages"):
            setattr(self, name, np.zeros(size, dtype=np.float32))

    def evaluate(self, policy: ActorCriticPolicy) -> None:
        """Store the values and log-probabilities of all steps."""
        observations, actions, *_ = self._rollout()
        values, log_probs, _ = policy.evaluate_actions(observations, actions)
        for part, given in ((self.values, values), (self.log_probs, log_probs)):
            part[:] = given.detach().cpu().numpy().reshape(part.shape)

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """Compute them as in SB3, and upload the rollout again before the next minibatch."""
        self._uploaded = None
        super().compute_returns_and_advantage(last_values, dones)

    def _empty_observations(self, size: tuple[int, int]) -> np.ndarray:
        if not self.channels_last:
            return np.zeros((*size, *self.obs_shape), dtype=self.observation_space.dtype)
        channels, height, width = self.obs_shape
        return np.moveaxis(np.zeros((*size, height, width, channels), dtype=self.observation_space.dtype), -1, 2)

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Yield the rollout in shuffled minibatches of `batch_size`, or all at once if it is None.

        The last minibatch may be smaller.
        """
        assert self.full, "the rollout is not complete"
        n_samples = self.buffer_size * self.n_envs
        # SB3 numbers the samples environment by environment: draw its numbers, then find them in our order.
        env, step = np.divmod(np.random.permutation(n_samples), self.buffer_size)  # noqa: NPY002
        rows = th.from_numpy(step * self.n_envs + env)
        if self.device.type == "cuda":
            rows = rows.pin_memory()  # an upload from other memory waits for all pending work of the device
        rows = rows.to(self.device, non_blocking=True)
        rollout = self._rollout()
        for batch in rows.split(int(batch_size or n_samples)):  # torch does not accept NumPy integers
            observations, *others = (tensor.index_select(0, batch) for tensor in rollout)
            if self.channels_last:
                observations = observations.permute(0, 3, 1, 2)
            yield RolloutBufferSamples(observations, *others)

    def _rollout(self) -> tuple[th.Tensor, ...]:
        """Return the tensors of a minibatch for all samples, on the device, in the order in which they were written."""
        if self._uploaded is not None:
            return self._uploaded
        observations = np.moveaxis(self.observations, 2, -1) if self.channels_last else self.observations
        arrays = (
            observations,
            self.actions.astype(np.float32, copy=False),  # as SB3 hands them out
            self.values,
            self.log_probs,
            self.advantages,
            self.returns,
        )
        tensors = tuple(th.from_numpy(array).flatten(0, 1).to(self.device) for array in arrays)
        if self.device.type != "cpu":
            self._uploaded = tensors
        return tensors
