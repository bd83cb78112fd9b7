"""The rollout storage: one copy of the observations, allocated once, read where it lies."""

from collections.abc import Generator

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples


class CompactRolloutBuffer(RolloutBuffer):
    """SB3's `RolloutBuffer`, with the same minibatches for the same seed, in half the memory.

    SB3's allocates its arrays anew for every rollout and, before the first minibatch, copies them from
    `(n_steps, n_envs, ...)` to `(n_envs * n_steps, ...)`. This one keeps its arrays and picks minibatches out of the
    order in which the rollout was written. On a device other than the CPU the rollout is uploaded once, before the first
    minibatch, in its own types: images stay bytes there. Every epoch uploads its permutation, nothing else.

    The arrays keep their shape `(n_steps, n_envs, ...)` after `get`, where SB3's are flat from then on; `_get_samples` is
    not used, so that overriding it changes nothing.

    Parameters are SB3's (`stable_baselines3.common.buffers.RolloutBuffer`). For Dict observations there is SB3's
    `DictRolloutBuffer`.
    """

    channels_last = False
    _uploaded: tuple[th.Tensor, ...] | None = None

    def keep_channels_last(self) -> None:
        """Keep images `(channels, height, width)` with the channels of a pixel side by side; their shape remains.

        Convolutions on a CPU want them so, and every epoch would turn them around. What was stored is lost.
        """
        self.channels_last = True
        del self.observations
        self.reset()

    def reset(self) -> None:
        """Forget the rollout; its memory is written anew by the next."""
        self.pos, self.full = 0, False
        self._uploaded = None
        size = (self.buffer_size, self.n_envs)
        if hasattr(self, "observations") and self.observations.shape[:2] == size:
            return
        self.observations = self._empty_observations(size)
        self.actions = np.zeros((*size, self.action_dim), dtype=self.action_space.dtype)
        for name in ("rewards", "returns", "episode_starts", "values", "log_probs", "advantages"):
            setattr(self, name, np.zeros(size, dtype=np.float32))

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """Compute as in SB3; what a device holds of the rollout is uploaded anew."""
        self._uploaded = None
        super().compute_returns_and_advantage(last_values, dones)

    def _empty_observations(self, size: tuple[int, int]) -> np.ndarray:
        if not self.channels_last:
            return np.zeros((*size, *self.obs_shape), dtype=self.observation_space.dtype)
        channels, height, width = self.obs_shape
        return np.moveaxis(np.zeros((*size, height, width, channels), dtype=self.observation_space.dtype), -1, 2)

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Yield the rollout in shuffled minibatches of `batch_size` (None: all at once); the last may be smaller."""
        assert self.full, "the rollout is not complete"
        n_samples = self.buffer_size * self.n_envs
        # SB3 numbers the samples environment by environment; its numbers are drawn, then found in our order.
        env, step = np.divmod(np.random.permutation(n_samples), self.buffer_size)  # noqa: NPY002
        rows = th.from_numpy(step * self.n_envs + env)
        if self.device.type == "cuda":
            rows = rows.pin_memory()  # from other memory an upload waits for all that the device still has to do
        rows = rows.to(self.device, non_blocking=True)
        rollout = self._rollout()
        for batch in rows.split(batch_size or n_samples):
            observations, *others = (tensor.index_select(0, batch) for tensor in rollout)
            if self.channels_last:
                observations = observations.permute(0, 3, 1, 2)
            yield RolloutBufferSamples(observations, *others)

    def _rollout(self) -> tuple[th.Tensor, ...]:
        """Return what a minibatch holds, for all samples, in the order in which they were written, on the device."""
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
