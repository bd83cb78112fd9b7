"""The Beta policies in BetaPPO, stock PPO, A2C and TRPO; their options, initialisation and files."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import NatureCNN
from tasks import AnySpaces
from torch import nn

from sb3_carracing import BetaPPO
from sb3_carracing.errors import UserError
from sb3_carracing.ppo.distributions import BetaDistribution
from sb3_carracing.ppo.policies import (
    BETA_OPTIONS,
    BetaActorCriticPolicy,
    CnnPolicy,
    GaussianCnnPolicy,
    MlpPolicy,
    MultiInputPolicy,
    NamedPartsPolicy,
)
from sb3_carracing.ppo.torch_layers import BlogCNN, ImpalaCNN, IurinCNN, NamedCombinedExtractor

sb3_contrib = pytest.importorskip("sb3_contrib")

ALGORITHMS = [BetaPPO, PPO, A2C, sb3_contrib.TRPO]
VECTOR = spaces.Box(-1.0, 1.0, (3,))
IMAGE = spaces.Box(0, 255, (2, 96, 96), dtype=np.uint8)
DICT = spaces.Dict({"camera": spaces.Box(0, 255, (1, 96, 96), dtype=np.uint8), "speed": VECTOR, "gear": spaces.Discrete(3)})
MATRIX_ACTION = spaces.Box(
    np.array([[-1.0, 0.0, 1000.0], [-5.0, -1e-3, -7.0]], dtype=np.float32),
    np.array([[1.0, 5.0, 1001.0], [-4.0, 1e-3, 70.0]], dtype=np.float32),
)
OTHER_ACTIONS = [spaces.Discrete(4), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3)]


def schedule(_progress: float) -> float:
    return 1e-3


def policy_of(observation_space: spaces.Space[Any] = VECTOR, action_space: Any = MATRIX_ACTION, **options: Any) -> Any:
    th.manual_seed(0)
    return MlpPolicy(observation_space, action_space, schedule, **options)


def small_model(algorithm: Any, policy: Any, env: AnySpaces, **options: Any) -> OnPolicyAlgorithm:
    sizes = {"n_steps": 32} if algorithm is A2C else {"n_steps": 64, "batch_size": 32}
    if algorithm in (PPO, BetaPPO):
        sizes["n_epochs"] = 2
    model = algorithm(policy, env, seed=0, device="cpu", **sizes, **options)
    assert isinstance(model, OnPolicyAlgorithm)
    return model


def learns(algorithm: Any, policy: Any, env: AnySpaces, n_steps: int = 192, **options: Any) -> OnPolicyAlgorithm:
    """Train a little and assert that every weight moved to a finite number and that predictions fit the space."""
    model = small_model(algorithm, policy, env, **options)
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.learn(n_steps)
    after = model.policy.state_dict()
    assert all(th.isfinite(value).all() for value in after.values())
    assert any(not th.equal(before[key], after[key]) for key in before if "action_net" in key)
    obs, _ = env.reset(seed=1)
    for deterministic in (True, False):
        action, _ = model.predict(obs, deterministic=deterministic)
        if isinstance(env.action_space, spaces.Box):
            assert action.shape == env.action_space.shape
        assert env.action_space.contains(action if np.ndim(action) else np.int64(action))
    return model


class TestAlgorithms:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_vectors_and_a_matrix_of_actions(self, algorithm: Any) -> None:
        model = learns(algorithm, MlpPolicy, AnySpaces(VECTOR, MATRIX_ACTION))
        assert isinstance(model.policy.action_dist, BetaDistribution)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_images(self, algorithm: Any) -> None:
        learns(algorithm, CnnPolicy, AnySpaces(IMAGE, MATRIX_ACTION), 64, policy_kwargs={"features_extractor_class": "blog"})

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_dicts(self, algorithm: Any) -> None:
        options = {
            "features_extractor_class": "named_combined",
            "features_extractor_kwargs": {"image_extractor": "iurin"},
            "share_features_extractor": False,
        }
        learns(algorithm, MultiInputPolicy, AnySpaces(DICT, MATRIX_ACTION), 64, policy_kwargs=options)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize("action_space", OTHER_ACTIONS, ids=str)
    def test_other_actions_get_sb3s_distributions(self, algorithm: Any, action_space: spaces.Space[Any]) -> None:
        model = learns(algorithm, MlpPolicy, AnySpaces(VECTOR, action_space))
        assert not isinstance(model.policy.action_dist, BetaDistribution)

    @pytest.mark.parametrize("parameterization", ["softplus", "exp", "mode"])
    def test_trpo_steps_with_every_parameterization(self, parameterization: str) -> None:
        options = {"parameterization": parameterization, "max_concentration": 50.0}
        learns(sb3_contrib.TRPO, MlpPolicy, AnySpaces(VECTOR, MATRIX_ACTION), policy_kwargs=options)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_actions_stay_in_a_float64_box(self, dtype: Any) -> None:
        """The environment refuses an action outside; 0.1 as float32 lies above 0.1."""
        space = spaces.Box(np.array([-0.1, 1 / 3], dtype=dtype), np.array([0.1, 0.7], dtype=dtype), dtype=dtype)
        learns(BetaPPO, MlpPolicy, AnySpaces(VECTOR, space))

    @pytest.mark.parametrize(
        ("names", "observation_space", "policy"),
        [("MlpPolicy", VECTOR, MlpPolicy), ("CnnPolicy", IMAGE, CnnPolicy), ("MultiInputPolicy", DICT, MultiInputPolicy)],
    )
    def test_names(self, names: str, observation_space: spaces.Space[Any], policy: type[ActorCriticPolicy]) -> None:
        assert type(BetaPPO(names, AnySpaces(observation_space, MATRIX_ACTION), device="cpu").policy) is policy

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_a_dimension_without_a_range_is_named(self, algorithm: Any) -> None:
        space = spaces.Box(np.array([0.0, 2.0], dtype=np.float32), np.array([1.0, 2.0], dtype=np.float32))
        with pytest.raises(ValueError, match=r"dimension 1 .*low=2, high=2"):
            algorithm(MlpPolicy, AnySpaces(VECTOR, space), device="cpu")

    def test_infinite_bounds_are_refused_in_sb3s_words(self) -> None:
        space = spaces.Box(-np.inf, np.inf, (2,))
        with pytest.raises(AssertionError, match="Continuous action space must have a finite lower and upper bound"):
            BetaPPO("MlpPolicy", AnySpaces(VECTOR, space), device="cpu")
        with pytest.raises(ValueError, match=r"dimension 0 .*low=-inf"):
            MlpPolicy(VECTOR, space, schedule)

    def test_whole_numbered_actions_are_refused(self) -> None:
        """SB3's buffer would store 2 where 2.88 was played."""
        with pytest.raises(ValueError, match=r"floating-point actions, got .*int64"):
            BetaPPO("MlpPolicy", AnySpaces(VECTOR, spaces.Box(0, 4, (1,), np.int64)), device="cpu")

    def test_stock_policies_run_in_beta_ppo(self) -> None:
        model = learns(BetaPPO, ActorCriticPolicy, AnySpaces(VECTOR, spaces.Box(-1.0, 1.0, (2,))))
        assert isinstance(model.policy.action_dist, DiagGaussianDistribution)


class TestNetworks:
    def test_sb3s_defaults(self) -> None:
        ours, stock = policy_of(), ActorCriticPolicy(VECTOR, MATRIX_ACTION, schedule)
        assert str(ours.mlp_extractor) == str(stock.mlp_extractor)
        assert ours.action_net.out_features == 12
        images = CnnPolicy(IMAGE, MATRIX_ACTION, schedule)
        assert isinstance(images.features_extractor, NatureCNN)
        assert images.net_arch == []

    @pytest.mark.parametrize(("name", "extractor"), [("blog", BlogCNN), ("iurin", IurinCNN), ("impala", ImpalaCNN)])
    def test_extractors_bring_their_hidden_layers(self, name: str, extractor: type[Any]) -> None:
        for policy_class in (CnnPolicy, GaussianCnnPolicy):
            policy = policy_class(IMAGE, MATRIX_ACTION, schedule, features_extractor_class=name, activation_fn="relu")
            assert isinstance(policy.features_extractor, extractor)
            assert policy.net_arch == extractor.default_net_arch
            assert policy.activation_fn is nn.ReLU
        own = CnnPolicy(IMAGE, MATRIX_ACTION, schedule, features_extractor_class=name, net_arch=[8])
        assert own.net_arch == [8]

    @pytest.mark.parametrize("policy_class", [CnnPolicy, GaussianCnnPolicy])
    @pytest.mark.parametrize("ortho_init", [True, False])
    @pytest.mark.parametrize("share", [True, False])
    def test_blog_keeps_its_initialisation(self, policy_class: Any, ortho_init: bool, share: bool) -> None:
        policy = policy_class(
            IMAGE,
            MATRIX_ACTION,
            schedule,
            features_extractor_class="blog",
            ortho_init=ortho_init,
            share_features_extractor=share,
        )
        for extractor in (policy.pi_features_extractor, policy.vf_features_extractor):
            for layer in extractor.cnn:
                if isinstance(layer, nn.Conv2d):
                    assert layer.bias is not None
                    assert th.equal(layer.bias, th.full_like(layer.bias, 0.1))

    @pytest.mark.parametrize("name", ["iurin", "impala", "nature"])
    def test_other_extractors_are_initialised_orthogonally(self, name: str) -> None:
        policy = CnnPolicy(IMAGE, MATRIX_ACTION, schedule, features_extractor_class=name)
        first = next(m for m in policy.features_extractor.modules() if isinstance(m, nn.Conv2d))
        rows = first.weight.detach().flatten(1)
        th.testing.assert_close(rows @ rows.T, 2.0 * th.eye(len(rows)), rtol=0, atol=1e-4)

    @pytest.mark.parametrize("ortho_init", [True, False])
    @pytest.mark.parametrize("name", ["blog", "iurin", "impala"])
    def test_convolutions_are_laid_out_for_speed(self, name: str, ortho_init: bool) -> None:
        policy = CnnPolicy(IMAGE, spaces.Discrete(3), schedule, features_extractor_class=name, ortho_init=ortho_init)
        for layer in policy.modules():
            if isinstance(layer, nn.Conv2d):
                assert layer.weight.is_contiguous(memory_format=th.channels_last)

    def test_heads_have_sb3s_gains(self) -> None:
        policy = policy_of()
        for head, gain in [(policy.action_net, 0.01), (policy.value_net, 1.0)]:
            weight = head.weight.detach()
            th.testing.assert_close(weight @ weight.T, gain**2 * th.eye(len(weight)), rtol=0, atol=1e-5)
            assert th.equal(head.bias, th.zeros_like(head.bias))

    @pytest.mark.parametrize("parameterization", ["softplus", "exp", "mode"])
    def test_untrained_policy_meets_the_initial_mean(self, parameterization: Any) -> None:
        wanted = np.array([[0.0, 4.0, 1000.05], [-4.5, -9e-4, 0.0]])
        policy = policy_of(parameterization=parameterization, initial_mean=wanted.tolist(), deterministic_action="mean")
        policy.observation_space.seed(0)
        obs = np.stack([VECTOR.sample() for _ in range(50)])
        actions, _ = policy.predict(obs, deterministic=True)
        share = np.abs(actions - wanted) / (MATRIX_ACTION.high - MATRIX_ACTION.low)
        assert share.max() < 0.02

    def test_untrained_policy_meets_the_initial_concentration(self) -> None:
        policy = policy_of(initial_concentration=50.0)
        policy.observation_space.seed(0)
        obs = th.as_tensor(np.stack([VECTOR.sample() for _ in range(50)]))
        distribution: Any = policy.get_distribution(obs)
        assert th.all((distribution.concentration > 47.0) & (distribution.concentration < 53.0))

    def test_stock_observation_scaling_reaches_our_extractors(self) -> None:
        """normalize_images=False hands over floats in [0, 1] as they are."""
        floats = spaces.Box(0.0, 1.0, (2, 96, 96))
        policy = CnnPolicy(floats, MATRIX_ACTION, schedule, features_extractor_class="blog", normalize_images=False)
        as_bytes = CnnPolicy(IMAGE, MATRIX_ACTION, schedule, features_extractor_class="blog")
        as_bytes.load_state_dict(policy.state_dict())
        obs = np.random.default_rng(0).integers(0, 256, (3, 2, 96, 96), dtype=np.uint8)
        expected = as_bytes.predict(obs, deterministic=True)[0]
        got = policy.predict(obs.astype(np.float32) / 255.0, deterministic=True)[0]
        np.testing.assert_allclose(got, expected, rtol=1e-5)

    def test_an_extractor_as_sb3_documents_it_may_be_ours(self) -> None:
        """SB3 hands over normalized_image only where images are not scaled."""

        class Own(BlogCNN):
            def __init__(self, observation_space: spaces.Space[Any], features_dim: int):
                super().__init__(observation_space)
                self.linear = nn.Linear(self.features_dim, features_dim)
                self._features_dim = features_dim

            def forward(self, observations: th.Tensor) -> th.Tensor:
                features: th.Tensor = self.linear(super().forward(observations))
                return features

        policy = CnnPolicy(
            IMAGE, MATRIX_ACTION, schedule, features_extractor_class=Own, features_extractor_kwargs={"features_dim": 7}
        )
        assert policy.features_dim == 7
        assert policy.predict(IMAGE.sample())[0].shape == MATRIX_ACTION.shape

    def test_bfloat16_autocast(self) -> None:
        policy = policy_of(activation_fn=nn.ReLU)
        obs = th.rand(64, 3)
        with th.no_grad():
            actions, _, log_prob = policy(obs)
            with th.autocast("cpu", dtype=th.bfloat16):
                _, low_log_prob, low_entropy = policy.evaluate_actions(obs, actions)
            _, _, entropy = policy.evaluate_actions(obs, actions)
        assert low_log_prob.dtype == th.float32
        assert entropy is not None
        assert low_entropy is not None
        # bfloat16 has 8 bits: an output of the untrained network, about 0.05, is off by less than 1e-3.
        th.testing.assert_close(low_log_prob, log_prob, rtol=0, atol=0.02)
        th.testing.assert_close(low_entropy, entropy, rtol=0, atol=0.02)


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"use_sde": True}, r"use_sde=True has no meaning with a Beta policy.*stable_baselines3\.PPO"),
            ({"log_std_init": -1.0}, "standard deviation of a Gaussian; a Beta has none.*initial_concentration"),
            ({"full_std": False}, "a Beta has none"),
            ({"use_expln": True}, "a Beta has none"),
            ({"parameterization": "tanh"}, "parameterization must be one of 'exp', 'mode', 'softplus', got 'tanh'"),
            ({"deterministic_action": "best"}, "deterministic_action must be one of 'mean', 'mode', got 'best'"),
            ({"initial_mean": [0.0, 0.0]}, "initial_mean must hold 1 or 6 numbers"),
            ({"initial_mean": "0.5"}, "initial_mean must be a number, or one per dimension, got '0.5'"),
            ({"initial_mean": [None] * 6}, "initial_mean must be a number, or one per dimension, got"),
            ({"max_concentration": 1.0}, "max_concentration must be a finite number above 2"),
            ({"max_concentration": "50"}, "max_concentration must be a finite number above 2.*got 50"),
            ({"activation_fn": "swish"}, "activation_fn must be one of 'elu'.*got 'swish'"),
            ({"features_extractor_class": "resnet"}, "features_extractor_class must be one of 'blog'.*got 'resnet'"),
            ({"features_extractor_class": "blog"}, r"BlogCNN takes images.*For vectors use MlpPolicy"),
        ],
    )
    def test_bad_options_are_named(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            policy_of(**options)

    @pytest.mark.parametrize("action_space", OTHER_ACTIONS, ids=str)
    @pytest.mark.parametrize(
        "options",
        [
            {"parameterization": "softplus"},
            {"parameterization": "tanh"},
            {"deterministic_action": "mean"},
            {"max_concentration": 50.0},
            {"margin": 0.1},
            {"initial_mean": 0.0},
            {"initial_mean": np.zeros(3)},
        ],
        ids=str,
    )
    def test_options_of_a_beta_are_refused_where_there_is_none(self, options: dict[str, Any], action_space: Any) -> None:
        (name,) = options
        with pytest.raises(UserError, match=rf"{name}=.* has no meaning with .*{type(action_space).__name__}"):
            policy_of(action_space=action_space, **options)

    def test_the_defaults_of_a_beta_pass_where_there_is_none(self) -> None:
        policy_of(action_space=spaces.Discrete(3), **BETA_OPTIONS)

    def test_a_policy_for_other_actions_that_release_0_1_0_saved_is_read(self) -> None:
        """Its file holds that release's defaults, and None for the options of gSDE."""
        options: dict[str, Any] = {"parameterization": "softplus", "initial_mean": None, "deterministic_action": "mode"}
        of_gsde: dict[str, Any] = dict.fromkeys(("squash_output", "full_std", "use_expln"))
        policy_of(action_space=spaces.Discrete(3), use_sde=False, max_concentration=1e4, **options, **of_gsde)

    def test_every_option_of_the_distribution_reaches_it(self) -> None:
        options: dict[str, Any] = {
            "parameterization": "mode",
            "initial_mean": [0.3, 1.0, 1000.1, -4.2, 0.0, 30.0],
            "deterministic_action": "mean",
            "max_concentration": 77.0,
            "margin": 0.1,
            "initial_concentration": 40.0,
        }
        assert options.keys() == BETA_OPTIONS.keys()
        policy = policy_of(**options)
        assert {name: getattr(policy.action_dist, name) for name in options} == options

    @pytest.mark.parametrize("action_space", [MATRIX_ACTION, spaces.Discrete(3)], ids=str)
    def test_an_unknown_option_is_named(self, action_space: Any) -> None:
        with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rate'"):
            policy_of(action_space=action_space, learning_rate=1e-3)

    def test_arguments_may_be_given_by_position(self) -> None:
        policy = MlpPolicy(VECTOR, MATRIX_ACTION, schedule, [5], "relu", False)
        assert (policy.net_arch, policy.activation_fn, policy.ortho_init) == ([5], nn.ReLU, False)

    def test_squashing_is_refused_with_sb3s_type(self) -> None:
        with pytest.raises(AssertionError, match=r"squash_output=True is only available .*Beta"):
            policy_of(squash_output=True)

    def test_small_image_is_named(self) -> None:
        with pytest.raises(ValueError, match="BlogCNN needs images of at least 96 x 96 pixels, got 64 x 64"):
            CnnPolicy(
                spaces.Box(0, 255, (4, 64, 64), dtype=np.uint8), MATRIX_ACTION, schedule, features_extractor_class="blog"
            )

    def test_gaussian_options_pass_where_there_is_no_beta(self) -> None:
        policy_of(action_space=spaces.Discrete(3), log_std_init=-1.0, full_std=False)

    def test_deterministic_action_may_be_changed_later(self) -> None:
        policy = policy_of(ortho_init=False)
        obs = np.full((1, 3), 0.5, dtype=np.float32)
        played = {}
        for action in ("mean", "mode"):
            policy.deterministic_action = action
            assert policy.deterministic_action == action
            played[action] = policy.predict(obs, deterministic=True)[0]
        dist = policy.get_distribution(th.as_tensor(obs))
        assert isinstance(dist, BetaDistribution)
        np.testing.assert_allclose(played["mean"][0].ravel(), dist.mean().detach()[0])
        np.testing.assert_allclose(played["mode"][0].ravel(), dist.mode().detach()[0])
        assert not np.allclose(played["mean"], played["mode"])
        with pytest.raises(ValueError, match="deterministic_action must be one of 'mean', 'mode', got 'sampled'"):
            policy.deterministic_action = "sampled"
        assert policy.deterministic_action == policy.action_dist.deterministic_action == "mode"

    def test_other_actions_have_no_mean(self) -> None:
        policy = policy_of(action_space=spaces.Discrete(3))
        policy.deterministic_action = "mode"
        assert policy.deterministic_action == "mode"
        with pytest.raises(UserError, match=r"deterministic_action='mean' has no meaning with Discrete\(3\)"):
            policy.deterministic_action = "mean"

    def test_the_blogs_network_keeps_its_own_weights_within_named_combined(self) -> None:
        """Its convolutions' biases start at 0.1; orthogonal initialisation would make them 0."""
        policy = MultiInputPolicy(DICT, MATRIX_ACTION, schedule, features_extractor_class="named_combined")
        biases = [
            layer.bias
            for part in policy.features_extractor.modules()
            if isinstance(part, BlogCNN)
            for layer in part.modules()
            if isinstance(layer, th.nn.Conv2d)
        ]
        assert biases
        for bias in biases:
            assert bias is not None
            th.testing.assert_close(bias, th.full_like(bias, 0.1))

    def test_the_way_to_act_can_be_exported(self) -> None:
        policy = policy_of(deterministic_action="mean")

        class Acting(th.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.policy = policy

            def forward(self, obs: th.Tensor) -> th.Tensor:
                actions: th.Tensor = self.policy._predict(obs, deterministic=True)
                return actions

        obs = th.tensor([[0.1, -0.4, 0.9]])
        exported = th.export.export(Acting(), (obs,)).module()
        th.testing.assert_close(exported(obs), policy._predict(obs, deterministic=True))

    def test_nan_observation_is_named(self) -> None:
        with pytest.raises(ValueError, match="network returned NaN: the observations or the weights"):
            policy_of().predict(np.array([np.nan, 0.0, 0.0], dtype=np.float32))


class TestFiles:
    """`policy.save` and `policy.load` give the same predictions without the algorithm."""

    @staticmethod
    def assert_same(policy: ActorCriticPolicy, obs: Any, path: Path) -> ActorCriticPolicy:
        for parameter in policy.parameters():
            parameter.data += 0.05 * th.randn_like(parameter)
        policy.set_training_mode(False)
        policy.save(str(path / "policy"))
        assert set(zipfile.ZipFile(path / "policy").namelist()) == {"policy.json", "arrays.safetensors", "policy.safetensors"}
        loaded = type(policy).load(str(path / "policy"), device="cpu")
        assert set(loaded.state_dict()) == set(policy.state_dict())
        np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], policy.predict(obs, deterministic=True)[0])
        tensors = policy.obs_to_tensor(obs)[0]
        assert th.equal(loaded.predict_values(tensors), policy.predict_values(tensors))
        return loaded

    @pytest.mark.parametrize("share", [True, False])
    @pytest.mark.parametrize("action", ["mean", "mode"])
    @pytest.mark.parametrize("parameterization", ["softplus", "exp", "mode"])
    def test_beta(self, tmp_path: Path, share: bool, action: Any, parameterization: str) -> None:
        policy = policy_of(
            share_features_extractor=share,
            parameterization=parameterization,
            initial_mean=[0.3, 1.0, 1000.1, -4.2, 0.0, 30.0],
            max_concentration=30.0,
            margin=0.1,
            net_arch={"pi": [16], "vf": [8]},
            activation_fn="elu",
            optimizer_kwargs={"eps": 1e-7},
        )
        policy.deterministic_action = action  # after construction, so that the change too is kept
        loaded = self.assert_same(policy, np.array([[0.1, -0.4, 0.9]], dtype=np.float32), tmp_path)
        assert isinstance(loaded, BetaActorCriticPolicy)
        assert loaded.deterministic_action == action
        assert loaded.share_features_extractor is share
        assert loaded.optimizer.defaults["eps"] == 1e-7

    @pytest.mark.parametrize("share", [True, False])
    @pytest.mark.parametrize("name", ["blog", "iurin", "impala", "nature"])
    @pytest.mark.parametrize("policy_class", [CnnPolicy, GaussianCnnPolicy])
    def test_images(self, tmp_path: Path, policy_class: Any, name: str, share: bool) -> None:
        policy = policy_class(IMAGE, MATRIX_ACTION, schedule, features_extractor_class=name, share_features_extractor=share)
        IMAGE.seed(0)
        self.assert_same(policy, IMAGE.sample()[None], tmp_path)

    def test_dicts(self, tmp_path: Path) -> None:
        policy = MultiInputPolicy(
            DICT,
            MATRIX_ACTION,
            schedule,
            features_extractor_class="named_combined",
            features_extractor_kwargs={"image_extractor": "blog"},
            share_features_extractor=False,
        )
        DICT.seed(0)
        loaded = self.assert_same(policy, DICT.sample(), tmp_path)
        assert isinstance(loaded.features_extractor, NamedCombinedExtractor)

    @pytest.mark.parametrize("share", [True, False])
    @pytest.mark.parametrize("action_space", OTHER_ACTIONS, ids=str)
    def test_other_actions(self, tmp_path: Path, action_space: Any, share: bool) -> None:
        policy = policy_of(action_space=action_space, share_features_extractor=share)
        self.assert_same(policy, np.array([[0.1, -0.4, 0.9]], dtype=np.float32), tmp_path)

    def test_a_saved_policy_is_whole_without_the_algorithm(self) -> None:
        """torch.save of the module itself, as some deployments do."""
        policy, stream = policy_of(), io.BytesIO()
        th.save(policy, stream)
        stream.seek(0)
        loaded = th.load(stream, weights_only=False)
        obs = np.zeros((1, 3), dtype=np.float32)
        np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], policy.predict(obs, deterministic=True)[0])

    def test_named_parts_without_a_beta(self, tmp_path: Path) -> None:
        policy = NamedPartsPolicy(VECTOR, MATRIX_ACTION, schedule, activation_fn="gelu", log_std_init=-0.5)
        self.assert_same(policy, np.array([[0.1, -0.4, 0.9]], dtype=np.float32), tmp_path)
