"""Feature extractors for images, and the names by which a YAML file can ask for them.

All take images as SB3 hands them over: `(n_batch, channels, height, width)`, float32 in [0, 1].
"""

from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
)
from torch import nn
from torch.nn import functional as F

from sb3_carracing.checks import one_of
from sb3_carracing.errors import UserError


class ImageExtractor(BaseFeaturesExtractor):
    """Base of this package's image extractors: checks the image and computes the output size of the convolutions.

    Args:
        observation_space: Box of channels-first images, uint8 in [0, 255] unless `normalized_image`.
        normalized_image: Whether the images are floats in [0, 1] already (`normalize_images=False` in `policy_kwargs`).

    Raises:
        UserError: The space holds no images, or images that are too small for the convolutions.
    """

    # Hidden layers of actor and critic that belong to this extractor, used where `net_arch` is not given.
    default_net_arch: ClassVar[dict[str, list[int]]] = {"pi": [], "vf": []}
    # Whether `ortho_init=True` leaves the initial weights alone.
    keeps_own_init = False
    # Whether a policy of this package may store weights and images with channels last, which is faster on a CPU. `forward`
    # must then not use `view` on images.
    channels_last = False

    def __init__(self, observation_space: spaces.Space[Any], normalized_image: bool = False):
        super().__init__(observation_space, features_dim=1)
        name = type(self).__name__
        if not isinstance(observation_space, spaces.Box) or not is_image_space(
            observation_space, check_channels=False, normalized_image=normalized_image
        ):
            raise UserError(
                f"{name} takes images (a Box of shape (channels, height, width), uint8 in [0, 255], or floats with "
                f"normalize_images=False), got {observation_space}. For vectors use MlpPolicy, for dicts MultiInputPolicy."
            )
        check_channels_first(observation_space)
        self.image_shape: tuple[int, ...] = observation_space.shape

    def preprocess(self, images: th.Tensor) -> th.Tensor:
        """Convert images in [0, 255] to the input of `forward`: floats in [0, 1].

        A policy of this package calls this instead of SB3's scaling. An extractor may override it.
        """
        return images.float() / 255.0

    def _flat_size(self, layers: nn.Sequential) -> int:
        """Return the number of outputs of the convolutions for one image."""
        smallest = smallest_image(layers)
        if min(self.image_shape[1:]) < smallest:
            height, width = self.image_shape[1:]
            raise UserError(
                f"{type(self).__name__} needs images of at least {smallest} x {smallest} pixels, got {height} x {width}. "
                f"Use larger images, or another extractor: {', '.join(sorted(IMAGE_EXTRACTORS))}."
            )
        with th.no_grad():
            return int(layers(th.zeros(1, *self.image_shape)).flatten(1).shape[1])


def check_layout(extractor: type[BaseFeaturesExtractor], observation_space: spaces.Space[Any], normalized_image: bool) -> None:
    """Raise UserError if a convolutional extractor would get images with channels last."""
    if not issubclass(extractor, ImageExtractor | NamedCombinedExtractor | NatureCNN | CombinedExtractor):
        return
    parts = observation_space.spaces.values() if isinstance(observation_space, spaces.Dict) else [observation_space]
    for part in parts:
        if isinstance(part, spaces.Box) and is_image_space(part, normalized_image=normalized_image):
            check_channels_first(part)


def check_channels_first(space: spaces.Box) -> None:
    """Raise UserError for images whose last dimension is the smallest, which SB3 takes for the channels."""
    if space.shape[-1] < min(space.shape[:-1]):
        raise UserError(
            f"Images must have their channels first, (channels, height, width), got {space.shape}. SB3 moves the channels of "
            "uint8 images with values from 0 to 255 only. Move those of others with a wrapper, such as "
            "gymnasium.wrappers.TransformObservation."
        )


def smallest_image(layers: nn.Sequential) -> int:
    """Return the smallest height (and width) [pixels] that a chain of convolutions and poolings reduces to one."""
    size = 1
    for layer in reversed(list(layers.modules())):
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            kernel, stride, padding = (v if isinstance(v, int) else int(v[0]) for v in _window(layer))
            size = max(1, (size - 1) * stride + kernel - 2 * padding)
    return size


def _window(layer: nn.Conv2d | nn.MaxPool2d) -> tuple[int | tuple[int, ...], ...]:
    return layer.kernel_size, layer.stride, layer.padding  # type: ignore[return-value]


class Convolution(nn.Conv2d):
    """`nn.Conv2d` as a matrix product if the kernel covers the whole image, which is twice as fast as oneDNN."""

    def forward(self, images: th.Tensor) -> th.Tensor:
        """Return `(n_batch, out_channels, height', width')` for `(n_batch, in_channels, height, width)`."""
        plain = self.padding == (0, 0) and self.dilation == (1, 1) and self.groups == 1
        if images.shape[2:] != self.kernel_size or not plain:
            return super().forward(images)
        # With channels last neither of the two is copied.
        flat_images, flat_weight = (x.permute(0, 2, 3, 1).flatten(1) for x in (images, self.weight))
        return F.linear(flat_images, flat_weight, self.bias)[:, :, None, None]


class BlogCNN(ImageExtractor):
    """The network of the blog implementation: six convolutions that reduce 96 x 96 images to 256 numbers.

    Its input is `x / 128 - 1` for gray levels x in [0, 255]. Its initial weights are Xavier-uniform with the gain of ReLU,
    its biases 0.1. Images larger than 96 x 96 give a multiple of 256 features. Actor and critic have a hidden layer of
    100 units each.

    Args:
        observation_space: Box of channels-first images of at least 96 x 96 pixels.
        normalized_image: See `ImageExtractor`.
    """

    default_net_arch: ClassVar[dict[str, list[int]]] = {"pi": [100], "vf": [100]}
    keeps_own_init = True
    channels_last = True

    def __init__(self, observation_space: spaces.Space[Any], normalized_image: bool = False):
        super().__init__(observation_space, normalized_image)
        layers: list[nn.Module] = []
        channels = self.image_shape[0]
        for out_channels, kernel_size, stride in [
            (8, 4, 2),
            (16, 3, 2),
            (32, 3, 2),
            (64, 3, 2),
            (128, 3, 1),
            (256, 3, 1),
        ]:
            layers += [Convolution(channels, out_channels, kernel_size, stride), nn.ReLU(inplace=True)]
            channels = out_channels
        self.cnn = nn.Sequential(*layers)
        for layer in self.cnn:
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight, gain=nn.init.calculate_gain("relu"))
                assert layer.bias is not None
                nn.init.constant_(layer.bias, 0.1)
        self._features_dim = self._flat_size(self.cnn)

    def preprocess(self, images: th.Tensor) -> th.Tensor:
        """Pass bytes on to `forward`, which scales them in one go; a subclass's `forward` gets floats in [0, 1]."""
        # ONNX cannot take unsigned bytes for signed ones.
        if images.dtype == th.uint8 and type(self).forward is BlogCNN.forward and not th.compiler.is_exporting():
            return images
        return super().preprocess(images)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Return features, `(n_batch, features_dim)`.

        Args:
            observations: Images `(n_batch, channels, height, width)`, floats in [0, 1] or bytes in [0, 255].
        """
        if observations.dtype == th.uint8:
            # Flipping the highest bit of x gives x - 128 as a signed byte.
            gray = (observations ^ 128).view(th.int8)
            scaled = gray.to(self._compute_dtype(), memory_format=th.channels_last).mul_(1.0 / 128.0)
        else:
            # SB3 has divided by 255; the blog's range is [-1, 0.992].
            scaled = observations * (255.0 / 128.0) - 1.0
        features: th.Tensor = self.cnn(scaled)
        return features.flatten(1)

    def _compute_dtype(self) -> th.dtype:
        """Return the dtype of the convolutions' input: that of their weights, or autocast's if it is on."""
        weight = next(self.cnn.parameters())
        device = weight.device.type
        if th.amp.is_autocast_available(device) and th.is_autocast_enabled(device):
            return th.get_autocast_dtype(device)
        return weight.dtype


class IurinCNN(ImageExtractor):
    """The network of the Iurin implementation: two convolutions and a layer of 256, as in Mnih et al. 2013.

    Args:
        observation_space: Box of channels-first images of at least 20 x 20 pixels.
        features_dim: Size of the last layer.
        normalized_image: See `ImageExtractor`.
    """

    channels_last = True

    def __init__(self, observation_space: spaces.Space[Any], features_dim: int = 256, normalized_image: bool = False):
        super().__init__(observation_space, normalized_image)
        self.cnn = nn.Sequential(
            nn.Conv2d(self.image_shape[0], 16, kernel_size=8, stride=4),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=4, stride=2),
            nn.ReLU(),
        )
        self.linear = nn.Sequential(nn.Linear(self._flat_size(self.cnn), features_dim), nn.ReLU())
        self._features_dim = features_dim

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Return features, `(n_batch, features_dim)`, for images in [0, 1], `(n_batch, channels, height, width)`."""
        features: th.Tensor = self.linear(self.cnn(observations).flatten(1))
        return features


class _ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with a skip connection; the shape stays the same."""

    def __init__(self, channels: int):
        super().__init__()
        self.block = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
        )

    def forward(self, x: th.Tensor) -> th.Tensor:
        out: th.Tensor = x + self.block(x)
        return out


class ImpalaCNN(ImageExtractor):
    """The residual network of IMPALA (Espeholt et al. 2018, figure 3, large): three sections that each halve the image.

    Args:
        observation_space: Box of channels-first images.
        features_dim: Size of the last layer.
        channels: Channels of each section.
        normalized_image: See `ImageExtractor`.
    """

    channels_last = True

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        features_dim: int = 256,
        channels: tuple[int, ...] = (16, 32, 32),
        normalized_image: bool = False,
    ):
        super().__init__(observation_space, normalized_image)
        layers: list[nn.Module] = []
        in_channels = self.image_shape[0]
        for out_channels in channels:
            layers += [
                nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1),
                nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
                _ResidualBlock(out_channels),
                _ResidualBlock(out_channels),
            ]
            in_channels = out_channels
        self.cnn = nn.Sequential(*layers, nn.ReLU())
        self.linear = nn.Sequential(nn.Linear(self._flat_size(self.cnn), features_dim), nn.ReLU())
        self._features_dim = features_dim

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Return features, `(n_batch, features_dim)`, for images in [0, 1], `(n_batch, channels, height, width)`."""
        features: th.Tensor = self.linear(self.cnn(observations).flatten(1))
        return features


class NamedCombinedExtractor(BaseFeaturesExtractor):
    """Features of Dict observations: images through a named image extractor, everything else flattened, concatenated.

    SB3's `CombinedExtractor`, which always uses NatureCNN, remains the default of `MultiInputPolicy`.

    Args:
        observation_space: Dict of Boxes (images channels first) and discrete spaces.
        image_extractor: Name of an image extractor.
        normalized_image: See `ImageExtractor`.
    """

    def __init__(self, observation_space: spaces.Dict, image_extractor: str = "blog", normalized_image: bool = False):
        super().__init__(observation_space, features_dim=1)
        one_of("image_extractor", image_extractor, sorted(IMAGE_EXTRACTORS))
        extractor_class = IMAGE_EXTRACTORS[image_extractor]
        extractors: dict[str, nn.Module] = {}
        features_dim = 0
        for key, space in observation_space.spaces.items():
            if is_image_space(space, normalized_image=normalized_image):
                check_channels_first(space)  # type: ignore[arg-type]  # is_image_space holds for a Box alone
                extractor = extractor_class(space, normalized_image=normalized_image)  # type: ignore[call-arg]
                extractors[key] = extractor
                features_dim += extractor.features_dim
            else:
                extractors[key] = nn.Flatten()
                features_dim += get_flattened_obs_dim(space)
        self.extractors = nn.ModuleDict(extractors)
        self._features_dim = features_dim

    def forward(self, observations: dict[str, th.Tensor]) -> th.Tensor:
        """Return features, `(n_batch, features_dim)`, for a dict of batches."""
        return th.cat([extractor(observations[key]) for key, extractor in self.extractors.items()], dim=1)


IMAGE_EXTRACTORS: dict[str, type[BaseFeaturesExtractor]] = {
    "blog": BlogCNN,
    "impala": ImpalaCNN,
    "iurin": IurinCNN,
    "nature": NatureCNN,
}
EXTRACTORS: dict[str, type[BaseFeaturesExtractor]] = {
    **IMAGE_EXTRACTORS,
    "combined": CombinedExtractor,
    "flatten": FlattenExtractor,
    "named_combined": NamedCombinedExtractor,
}


def resolve_extractor(extractor: str | type[BaseFeaturesExtractor]) -> type[BaseFeaturesExtractor]:
    """Return the extractor class for its name; a class is returned as it is.

    Raises:
        UserError: The name is unknown.
    """
    if not isinstance(extractor, str):
        return extractor
    return EXTRACTORS[one_of("features_extractor_class", extractor, sorted(EXTRACTORS))]
