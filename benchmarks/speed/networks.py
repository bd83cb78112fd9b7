"""What the benchmarks of the learner share: random images, and the blog's network as a user of SB3 would write it."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class RandomImages(gym.Env[np.ndarray, np.ndarray]):
    """Random stacks of four gray images and random rewards; actions are CarRacing's."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (4, 96, 96), np.uint8)
        self.action_space = spaces.Box(np.array([-1, 0, 0], np.float32), np.ones(3, np.float32))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._image(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self._image(), float(self.np_random.normal()), False, False, {}

    def _image(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (4, 96, 96), np.uint8)


class PlainBlogCNN(BaseFeaturesExtractor):
    """The blog's network as a user of SB3 would write it."""

    def __init__(self, observation_space: spaces.Box):
        super().__init__(observation_space, features_dim=256)
        layers: list[nn.Module] = []
        channels = observation_space.shape[0]
        for out, kernel, stride in [(8, 4, 2), (16, 3, 2), (32, 3, 2), (64, 3, 2), (128, 3, 1), (256, 3, 1)]:
            layers += [nn.Conv2d(channels, out, kernel, stride), nn.ReLU()]
            channels = out
        self.cnn = nn.Sequential(*layers, nn.Flatten())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        features: th.Tensor = self.cnn(observations * (255.0 / 128.0) - 1.0)
        return features


def quartiles(values: np.ndarray) -> list[float]:
    """Return the lower quartile, the median and the upper quartile."""
    return [float(value) for value in np.percentile(values, [25, 50, 75])]
