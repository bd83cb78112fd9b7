"""The feature extractors: sizes, inputs, initialisation, names."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import MultiInputActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from tasks import AnySpaces
from torch import nn
from torch.nn import functional as F

from sb3_carracing import BetaPPO
from sb3_carracing.errors import UserError
from sb3_carracing.ppo.policies import CnnPolicy, GaussianCnnPolicy, MlpPolicy, MultiInputPolicy, NamedPartsPolicy
from sb3_carracing.ppo.recurrent import RecurrentGaussianCnnPolicy
from sb3_carracing.ppo.torch_layers import (
    EXTRACTORS,
    IMAGE_EXTRACTORS,
    BlogCNN,
    Convolution,
    ImageExtractor,
    ImpalaCNN,
    IurinCNN,
    NamedCombinedExtractor,
    resolve_extractor,
    smallest_image,
)

OURS = [BlogCNN, IurinCNN, ImpalaCNN]
SMALLEST = {BlogCNN: 96, IurinCNN: 20, ImpalaCNN: 1}


def images(channels: int, height: int, width: int) -> spaces.Box:
    return spaces.Box(0, 255, (channels, height, width), dtype=np.uint8)


def as_sb3_sends(space: spaces.Box, n_batch: int = 2) -> th.Tensor:
    """Return a batch of random images, divided by 255 by SB3 itself."""
    space.seed(0)
    obs = th.as_tensor(np.stack([space.sample() for _ in range(n_batch)]))
    prepared = preprocess_obs(obs, space)
    assert isinstance(prepared, th.Tensor)
    return prepared


class TestSizes:
    @pytest.mark.parametrize("extractor", OURS)
    @pytest.mark.parametrize("channels", [1, 3, 4, 12])
    @pytest.mark.parametrize(("height", "width"), [(96, 96), (97, 130), (160, 96), (128, 128)])
    def test_features(self, extractor: type[Any], channels: int, height: int, width: int) -> None:
        space = images(channels, height, width)
        network = extractor(space)
        features = network(as_sb3_sends(space))
        assert features.shape == (2, network.features_dim)
        assert th.isfinite(features).all()

    @pytest.mark.parametrize(
        ("height", "width", "features_dim"), [(96, 96, 256), (111, 96, 256), (112, 96, 512), (128, 128, 9 * 256)]
    )
    def test_blog_features_grow_with_the_image(self, height: int, width: int, features_dim: int) -> None:
        assert BlogCNN(images(4, height, width)).features_dim == features_dim

    @pytest.mark.parametrize("extractor", OURS)
    def test_smallest_image_fits_and_one_pixel_less_does_not(self, extractor: type[Any]) -> None:
        smallest = SMALLEST[extractor]
        extractor(images(4, smallest, smallest))
        assert smallest_image(extractor(images(4, smallest, smallest)).cnn) == smallest
        if smallest == 1:
            return
        for height, width in [(smallest - 1, smallest), (smallest, smallest - 1), (smallest - 1, 200)]:
            with pytest.raises(ValueError, match=f"at least {smallest} x {smallest} pixels, got {height} x {width}"):
                extractor(images(4, height, width))

    def test_smallest_image_is_torchs_own_limit(self) -> None:
        layers = nn.Sequential(nn.Conv2d(1, 1, 5, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(1, 1, 4, 2, padding=1))
        smallest = smallest_image(layers)
        assert layers(th.zeros(1, 1, smallest, smallest)).shape[-1] == 1
        with pytest.raises(RuntimeError):
            layers(th.zeros(1, 1, smallest - 1, smallest - 1))

    def test_error_names_other_extractors(self) -> None:
        with pytest.raises(ValueError, match="blog, impala, iurin, nature"):
            BlogCNN(images(4, 64, 64))

    @pytest.mark.parametrize("extractor", [IurinCNN, ImpalaCNN])
    def test_features_dim_is_a_choice(self, extractor: type[Any]) -> None:
        network = extractor(images(3, 40, 50), features_dim=33)
        assert network(as_sb3_sends(images(3, 40, 50))).shape == (2, 33)

    def test_impala_has_the_papers_parts(self) -> None:
        """Espeholt et al. 2018, figure 3: 15 convolutions in three sections of 16, 32 and 32 channels."""
        convolutions = [m for m in ImpalaCNN(images(4, 96, 96)).modules() if isinstance(m, nn.Conv2d)]
        assert [c.out_channels for c in convolutions] == [16] * 5 + [32] * 5 + [32] * 5

    @pytest.mark.parametrize("extractor", OURS)
    @pytest.mark.parametrize(
        "space",
        [
            spaces.Box(-1.0, 1.0, (5,)),
            spaces.Box(0, 255, (96, 96), dtype=np.uint8),
            spaces.Box(0.0, 1.0, (4, 96, 96)),
            spaces.Discrete(4),
        ],
        ids=str,
    )
    def test_what_is_no_image_is_refused(self, extractor: type[Any], space: spaces.Space[Any]) -> None:
        with pytest.raises(ValueError, match=f"{extractor.__name__} takes images.*got "):
            extractor(space)

    @pytest.mark.parametrize("extractor", OURS)
    def test_normalized_images_may_be_floats(self, extractor: type[Any]) -> None:
        space = spaces.Box(0.0, 1.0, (4, 96, 96))
        network = extractor(space, normalized_image=True)
        assert network(th.rand(2, 4, 96, 96)).shape == (2, network.features_dim)


class TestBlog:
    LAYERS = ((4, 8, 4, 2), (8, 16, 3, 2), (16, 32, 3, 2), (32, 64, 3, 2), (64, 128, 3, 1), (128, 256, 3, 1))

    def test_input_is_the_grey_level_over_128_minus_1(self) -> None:
        space = images(4, 96, 96)
        grey = th.as_tensor(np.stack([space.sample(), np.zeros((4, 96, 96)), np.full((4, 96, 96), 255)])).double()
        network = BlogCNN(space)
        first = network.cnn[0]
        assert isinstance(first, nn.Conv2d)
        seen: dict[str, th.Tensor] = {}
        # A copy: the ReLU behind it works in place.
        first.register_forward_hook(lambda module, inputs, output: seen.update(inputs=inputs[0], output=output.clone()))
        network(preprocess_obs(grey.to(th.uint8), space))
        th.testing.assert_close(seen["inputs"].double(), grey / 128.0 - 1.0, rtol=0, atol=1e-6)
        assert first.bias is not None
        expected = F.conv2d(grey / 128.0 - 1.0, first.weight.double(), first.bias.double(), stride=2)
        th.testing.assert_close(seen["output"].double(), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("layout", [th.contiguous_format, th.channels_last], ids=str)
    @pytest.mark.parametrize("size", [(4, 96, 96), (1, 97, 130), (3, 128, 111)], ids=str)
    def test_bytes_are_as_good_as_floats(self, size: tuple[int, int, int], layout: th.memory_format) -> None:
        """Features and gradients of both in float64, where rounding hides no mistake."""
        space = images(*size)
        network = BlogCNN(space).double()
        space.seed(0)
        grey = th.as_tensor(np.stack([space.sample(), np.zeros(size), np.full(size, 255)]).astype(np.uint8))
        outcomes: list[list[th.Tensor]] = []
        for obs in (grey.double() / 255.0, grey.contiguous(memory_format=layout)):
            network.zero_grad()
            features = network(obs)
            (features * th.linspace(-1, 1, features.numel(), dtype=th.float64).view_as(features)).sum().backward()
            gradients: list[Any] = [parameter.grad for parameter in network.parameters()]
            outcomes.append([features.detach(), *(gradient.clone() for gradient in gradients)])
        for floats, from_bytes in zip(*outcomes, strict=True):
            th.testing.assert_close(from_bytes, floats, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("size", [(4, 96, 96), (1, 97, 130), (3, 128, 111)], ids=str)
    def test_is_a_plain_chain_of_convolutions(self, size: tuple[int, int, int]) -> None:
        network = BlogCNN(images(*size)).double()
        plain = nn.Sequential(
            *(
                layer
                for channels, out, kernel, stride in self.LAYERS
                for layer in (nn.Conv2d(size[0] if channels == 4 else channels, out, kernel, stride), nn.ReLU())
            )
        ).double()
        plain.load_state_dict(network.cnn.state_dict())
        obs = th.rand(2, *size, dtype=th.float64)
        results = []
        for layers, features in (
            (plain, plain(obs * 255 / 128 - 1).flatten(1)),
            (network.cnn, network(obs)),
        ):
            features.square().sum().backward()
            results.append([features.detach(), *(parameter.grad for parameter in layers.parameters())])
        for expected, ours in zip(*results, strict=True):
            th.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)

    def test_initialisation_is_xavier_with_the_gain_of_relu(self) -> None:
        for layer in BlogCNN(images(4, 96, 96)).cnn:
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is not None
                assert th.equal(layer.bias, th.full_like(layer.bias, 0.1))
                fan_in, fan_out = (n * layer.kernel_size[0] ** 2 for n in (layer.in_channels, layer.out_channels))
                bound = np.sqrt(2.0) * np.sqrt(6.0 / (fan_in + fan_out))
                assert 0.95 * bound < float(layer.weight.detach().abs().max()) <= bound

    def test_layers_are_the_seeds(self) -> None:
        convolutions = [m for m in BlogCNN(images(4, 96, 96)).modules() if isinstance(m, nn.Conv2d)]
        shapes = [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in convolutions]
        assert shapes == list(self.LAYERS)


class TestNames:
    def test_every_name_is_a_class(self) -> None:
        for name, extractor in EXTRACTORS.items():
            assert issubclass(extractor, BaseFeaturesExtractor)
            assert resolve_extractor(name) is extractor
        assert resolve_extractor("blog") is BlogCNN
        assert resolve_extractor("nature") is NatureCNN
        assert set(IMAGE_EXTRACTORS) < set(EXTRACTORS)

    def test_classes_pass(self) -> None:
        assert resolve_extractor(NatureCNN) is NatureCNN

    def test_unknown_name_lists_the_valid_ones(self) -> None:
        with pytest.raises(ValueError, match=r"features_extractor_class must be one of 'blog'.*got 'resnet'"):
            resolve_extractor("resnet")


class TestNamedCombined:
    SPACE = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (3, 96, 96), dtype=np.uint8),
            "rear": spaces.Box(0, 255, (1, 100, 120), dtype=np.uint8),
            "speed": spaces.Box(-1.0, 1.0, (2, 3)),
            "gear": spaces.Discrete(5),
        }
    )

    @pytest.mark.parametrize("name", sorted(IMAGE_EXTRACTORS))
    def test_images_go_through_the_named_extractor(self, name: str) -> None:
        network = NamedCombinedExtractor(self.SPACE, image_extractor=name)
        assert isinstance(network.extractors["camera"], IMAGE_EXTRACTORS[name])
        assert isinstance(network.extractors["rear"], IMAGE_EXTRACTORS[name])
        obs = {key: th.as_tensor(np.asarray(value))[None] for key, value in self.SPACE.sample().items()}
        prepared = preprocess_obs(obs, self.SPACE)
        assert isinstance(prepared, dict)
        features = network(prepared)
        image_features = sum(network.extractors[key].features_dim for key in ("camera", "rear"))  # type: ignore[misc]
        assert features.shape == (1, image_features + 6 + 5)
        assert network.features_dim == features.shape[1]

    def test_unknown_name(self) -> None:
        with pytest.raises(ValueError, match=r"image_extractor must be one of 'blog'.*got 'combined'"):
            NamedCombinedExtractor(self.SPACE, image_extractor="combined")


FLOATS_LAST = spaces.Box(0.0, 1.0, (96, 96, 3))
ACTIONS = spaces.Box(-1.0, 1.0, (2,))


class TestLayout:
    """SB3 moves the channels of uint8 images alone; all other images with channels last are named."""

    @pytest.mark.parametrize("extractor", OURS)
    @pytest.mark.parametrize("shape", [(96, 96, 3), (96, 96, 1), (96, 100, 4), (100, 96, 12)])
    def test_extractors(self, extractor: type[Any], shape: tuple[int, ...]) -> None:
        with pytest.raises(UserError, match=r"channels first, .*got \({}, {}, {}\). SB3 moves .* uint8".format(*shape)):
            extractor(spaces.Box(0.0, 1.0, shape), normalized_image=True)

    @pytest.mark.parametrize("name", sorted(IMAGE_EXTRACTORS))
    @pytest.mark.parametrize("policy", [CnnPolicy, GaussianCnnPolicy, RecurrentGaussianCnnPolicy])
    def test_policies(self, policy: type[Any], name: str) -> None:
        with pytest.raises(UserError, match=r"channels first, .*got \(96, 96, 3\)"):
            policy(FLOATS_LAST, ACTIONS, lambda _: 0.0, features_extractor_class=name, normalize_images=False)

    @pytest.mark.parametrize("name", [None, *sorted(IMAGE_EXTRACTORS)])
    @pytest.mark.parametrize("policy", [MultiInputPolicy, NamedPartsPolicy])
    def test_dicts(self, policy: type[Any], name: str | None) -> None:
        space = spaces.Dict({"vector": ACTIONS, "camera": FLOATS_LAST})
        options: dict[str, Any] = {"features_extractor_class": "combined"}
        if name is not None:
            options = {"features_extractor_class": "named_combined", "features_extractor_kwargs": {"image_extractor": name}}
        with pytest.raises(UserError, match=r"channels first, .*got \(96, 96, 3\)"):
            policy(space, ACTIONS, lambda _: 0.0, normalize_images=False, **options)

    @pytest.mark.parametrize("name", sorted(IMAGE_EXTRACTORS))
    def test_in_a_policy_of_sb3(self, name: str) -> None:
        space = spaces.Dict({"vector": ACTIONS, "camera": FLOATS_LAST})
        with pytest.raises(UserError, match=r"channels first, .*got \(96, 96, 3\)"):
            MultiInputActorCriticPolicy(
                space,
                ACTIONS,
                lambda _: 0.0,
                features_extractor_class=NamedCombinedExtractor,
                features_extractor_kwargs={"image_extractor": name, "normalized_image": True},
            )

    @pytest.mark.parametrize("policy", ["CnnPolicy", "MultiInputPolicy"])
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_in_an_algorithm(self, policy: str, dtype: Any) -> None:
        image = spaces.Box(0, 255 if dtype is np.uint8 else 1, (40, 44, 3), dtype)
        env = AnySpaces(spaces.Dict({"a": image}) if policy == "MultiInputPolicy" else image, ACTIONS)
        options: dict[str, Any] = {"n_steps": 4, "batch_size": 4, "n_epochs": 1, "device": "cpu"}
        if dtype is np.uint8:
            BetaPPO(policy, env, **options).learn(4)
        else:
            with pytest.raises(UserError, match=r"channels first, .*got \(40, 44, 3\)"):
                BetaPPO(policy, env, policy_kwargs={"normalize_images": False}, **options)

    def test_what_is_no_image_may_have_any_shape(self) -> None:
        for options in ({"normalize_images": False}, {}):
            policy = MlpPolicy(spaces.Box(0.0, 1.0, (9, 8, 3)), ACTIONS, lambda _: 0.0, **options)
            assert policy.predict(np.zeros((9, 8, 3), dtype=np.float32))[0].shape == (2,)
        space = spaces.Dict({"map": spaces.Box(0.0, 1.0, (9, 8, 3))})
        MultiInputPolicy(space, ACTIONS, lambda _: 0.0)

    def test_an_extractor_of_ones_own_may_want_channels_last(self) -> None:
        class Own(BaseFeaturesExtractor):
            def __init__(self, observation_space: spaces.Box):
                super().__init__(observation_space, features_dim=3)

            def forward(self, observations: th.Tensor) -> th.Tensor:
                return observations.mean(dim=(1, 2))

        policy = CnnPolicy(FLOATS_LAST, ACTIONS, lambda _: 0.0, features_extractor_class=Own, normalize_images=False)
        assert policy.predict(FLOATS_LAST.sample())[0].shape == (2,)


@pytest.mark.parametrize("with_forward", [False, True])
def test_a_forward_of_ones_own_gets_floats(with_forward: bool) -> None:
    """A subclass of an extractor that takes bytes may count on [0, 1]."""
    seen = []

    class Own(BlogCNN):
        def forward(self, observations: th.Tensor) -> th.Tensor:
            seen.append(observations)
            return super().forward(observations)

    extractor = Own if with_forward else type("Named", (BlogCNN,), {})
    actions = spaces.Box(-1.0, 1.0, (2,))
    policy = CnnPolicy(images(1, 96, 96), actions, lambda _: 0.0, features_extractor_class=extractor)
    if not with_forward:
        policy.features_extractor.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    policy.get_distribution(th.full((2, 1, 96, 96), 255, dtype=th.uint8))
    assert (seen[0].dtype, float(seen[0].max())) == ((th.float32, 1.0) if with_forward else (th.uint8, 255.0))


@pytest.mark.parametrize("kind", [BlogCNN, IurinCNN, ImpalaCNN])
def test_layout_is_asked_for(kind: type[ImageExtractor]) -> None:
    """Only an extractor that says so gets weights with channels last: `view` in a user's `forward` would fail."""
    other = type("Other", (kind,), {"channels_last": False})
    for extractor, expected in ((kind, True), (other, False)):
        policy = CnnPolicy(images(4, 96, 96), spaces.Box(-1.0, 1.0, (2,)), lambda _: 0.0, features_extractor_class=extractor)
        weight = next(parameter for parameter in policy.features_extractor.parameters() if parameter.dim() == 4)
        assert weight.is_contiguous(memory_format=th.channels_last) == expected


@pytest.mark.parametrize("options", [{"dilation": 2}, {"groups": 3}, {"padding": 1}])
def test_convolution_is_torchs_but_where_it_knows_better(options: dict[str, Any]) -> None:
    ours, theirs = (kind(3, 6, 3, **options) for kind in (Convolution, nn.Conv2d))
    ours.load_state_dict(theirs.state_dict())
    for size in (3, 5):
        batch = th.rand(2, 3, size, size)
        if options.get("dilation") and size == 3:
            with pytest.raises(RuntimeError):
                ours(batch)
        else:
            th.testing.assert_close(ours(batch), theirs(batch))


def test_own_extractor_gets_the_checks() -> None:
    class Tiny(ImageExtractor):
        def __init__(self, observation_space: spaces.Space[Any], normalized_image: bool = False):
            super().__init__(observation_space, normalized_image)
            self.cnn = nn.Sequential(nn.Conv2d(self.image_shape[0], 2, 9))
            self._features_dim = self._flat_size(self.cnn)

    assert Tiny(images(1, 10, 12)).features_dim == 2 * 2 * 4
    with pytest.raises(ValueError, match="Tiny needs images of at least 9 x 9 pixels, got 8 x 12"):
        Tiny(images(1, 8, 12))
