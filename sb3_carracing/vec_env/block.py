"""The memory block that the parent shares with its workers: one record per environment."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.util import obs_space_info

from sb3_carracing.errors import UserError


class Layout(NamedTuple):
    """What the block holds.

    Attributes:
        keys: the keys of a Dict space, the positions of a Tuple space, or None alone for a space without parts.
        record: the dtype of one environment's record. Its fields are the parts of the observation, named "0", "1", ... in
            the order of `keys`, then "reward" and "done".
        n_envs: the number of records.
    """

    keys: tuple[Any, ...]
    record: np.dtype[Any]
    n_envs: int

    @classmethod
    def of(cls, observation_space: spaces.Space[Any], n_envs: int) -> "Layout":
        """Return the layout for `n_envs` environments with this observation space.

        Raises:
            UserError: if the space has no fixed shape and dtype.
        """
        keys, shapes, dtypes = obs_space_info(observation_space)
        for key in keys:
            if shapes[key] is None or dtypes[key] is None or np.dtype(dtypes[key]).hasobject:
                raise UserError(
                    "Observations must be of a Box, Discrete, MultiDiscrete or MultiBinary space, or a Dict or Tuple of "
                    f"these, got {observation_space}"
                )
        parts = [(str(i), dtypes[key], shapes[key]) for i, key in enumerate(keys)]
        record = np.dtype([*parts, ("reward", np.float32), ("done", np.bool_)], align=True)
        return cls(tuple(keys), record, n_envs)

    @property
    def n_bytes(self) -> int:
        """The size of the block [bytes]."""
        return self.n_envs * self.record.itemsize


class Block:
    """The shared memory as arrays with one row per environment; it is unmapped when the last of them is dropped.

    Args:
        layout: what the block holds.
        descriptor: the open file to map, of `layout.n_bytes`. It may be closed afterwards.
    """

    def __init__(self, layout: Layout, descriptor: int) -> None:
        memory = mmap.mmap(descriptor, layout.n_bytes)
        records: NDArray[Any] = np.ndarray(layout.n_envs, layout.record, buffer=memory)
        self.observations: dict[Any, NDArray[Any]] = {key: records[str(i)] for i, key in enumerate(layout.keys)}
        self.rewards: NDArray[np.float32] = records["reward"]
        self.dones: NDArray[np.bool_] = records["done"]

    def write(self, index: int, observation: Any) -> None:
        """Store the observation of environment `index`, cast to the dtype of its space as `DummyVecEnv` does.

        Raises:
            ValueError: if the observation has not the shape of its space.
        """
        for key, view in self.observations.items():
            part = observation if key is None else observation[key]
            if np.shape(part) != view.shape[1:]:
                name = "observation" if key is None else f"observation[{key!r}]"
                raise ValueError(f"The {name} has shape {np.shape(part)} where its space has {view.shape[1:]}")
            view[index] = part


@contextmanager
def anonymous_file(n_bytes: int) -> Iterator[int]:
    """Provide the descriptor of a zeroed file in memory. The file has no name, so that no crash can leave it behind."""
    descriptor = os.memfd_create("observations")
    try:
        os.ftruncate(descriptor, n_bytes)
        yield descriptor
    finally:
        os.close(descriptor)
