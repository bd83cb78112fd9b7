"""Use your own feature extractor in BetaPPO: a class works wherever a name does."""

import gymnasium as gym
import torch as th
from gymnasium.wrappers import FrameStackObservation
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from sb3_carracing import BetaPPO
from sb3_carracing.envs.wrappers import ActionRepeat, Grayscale
from sb3_carracing.ppo.torch_layers import ImageExtractor


class StridedCNN(ImageExtractor):
    """Apply four convolutions of 16 channels, each halving the image, then average over pixels: 16 features."""

    def __init__(self, observation_space: gym.Space, normalized_image: bool = False):
        super().__init__(observation_space, normalized_image)
        layers: list[nn.Module] = []
        channels = self.image_shape[0]
        for _ in range(4):
            layers += [nn.Conv2d(channels, 16, kernel_size=3, stride=2, padding=1), nn.ReLU()]
            channels = 16
        self.cnn = nn.Sequential(*layers)
        self._features_dim = 16

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Return features, `(n_batch, 16)`, for images in [0, 1], `(n_batch, channels, height, width)`."""
        return self.cnn(observations).mean(dim=(2, 3))


def views(env: gym.Env) -> gym.Env:
    """Repeat each action for four frames and stack the last four grayscale observations."""
    return FrameStackObservation(Grayscale(ActionRepeat(env, frame_skip=4)), stack_size=4)


def main(timesteps: int = 100_000) -> None:
    """Train for `timesteps` decisions."""
    env = make_vec_env("CarRacingFast-v3", n_envs=8, wrapper_class=views)
    network = {"features_extractor_class": StridedCNN, "net_arch": [64]}
    BetaPPO("CnnPolicy", env, n_steps=256, batch_size=256, policy_kwargs=network, verbose=1).learn(timesteps)


if __name__ == "__main__":
    main()
