"""Actor-critic policies with a Beta distribution, and the Gaussian policy that the stock baselines use.

`NamedPartsPolicy` and `BetaActorCriticPolicy` list all differences from SB3's policies. They also run in stock `PPO` and `A2C`
and in sb3-contrib's `TRPO`.
"""

import copy
import inspect
from typing import Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    DiagGaussianDistribution,
    Distribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.utils import get_device
from torch import nn

from sb3_carracing.checks import one_of
from sb3_carracing.errors import UserError
from sb3_carracing.ppo.distributions import BetaDistribution, DeterministicAction
from sb3_carracing.ppo.saving.policy_files import read_policy, write_policy
from sb3_carracing.ppo.torch_layers import ImageExtractor, NamedCombinedExtractor, check_layout, resolve_extractor

Autocast: TypeAlias = Literal["bfloat16"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}

# The options of `BetaDistribution` with their defaults. A Beta policy takes all of them.
BETA_OPTIONS: dict[str, Any] = {
    name: parameter.default
    for name, parameter in inspect.signature(BetaDistribution).parameters.items()
    if name != "action_space"
}


class _FeatureExtraction(BasePolicy):
    """Extract features for the policies of SB3 and sb3-contrib, which call `super().extract_features`.

    It therefore comes after `ActorCriticPolicy` among the base classes.
    """

    # The dtype of the feature extraction, "bfloat16", or None for the dtype of the weights. Heads, distribution and
    # losses are not affected.
    autocast: Autocast | None = None

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> th.Tensor:
        """Return the features of one extractor, `(n_batch, features_dim)`."""
        if isinstance(features_extractor, ImageExtractor) and self.normalize_images and isinstance(obs, th.Tensor):
            obs = features_extractor.preprocess(obs)
        else:
            obs = preprocess_obs(obs, self.observation_space, normalize_images=self.normalize_images)
        if self.autocast is None:
            features: th.Tensor = features_extractor(obs)
            return features
        with th.autocast(self.device.type, getattr(th, self.autocast)):
            features = features_extractor(obs)
        return features.float()


class NamedPartsPolicy(ActorCriticPolicy, _FeatureExtraction):  # type: ignore[misc]  # SB3's signatures differ as well
    """SB3's actor-critic policy, with parts that a YAML file can name.

    Differences from SB3:

    * `features_extractor_class` and `activation_fn` also take names, such as "blog" and "relu".
    * An image extractor of this package brings its own hidden layers if `net_arch` is None. If it has its own initialization,
      `ortho_init` does not change it, even within "named_combined".
    * `policy.save` stores every argument of the constructor. SB3 leaves out `share_features_extractor`.
    * Each call gets its own distribution, so that several threads can share a policy.

    This class forwards arguments that it does not use, so a subclass may combine it with any policy derived from SB3's.

    Args:
        *args: As for `stable_baselines3.common.policies.ActorCriticPolicy`.
        initial_mean: Mean action of the untrained Gaussian before clipping, in the environment's units. One number, or one
            per dimension in the shape of the action space. None keeps SB3's initial mean of about 0.
        **kwargs: As for `stable_baselines3.common.policies.ActorCriticPolicy`.

    Raises:
        UserError: A name is unknown, or `initial_mean` does not fit.
    """

    default_extractor: ClassVar[str] = "flatten"

    def __init__(self, *args: Any, initial_mean: float | list[float] | None = None, **kwargs: Any):
        if initial_mean is not None and np.asarray(initial_mean).dtype.kind not in "iuf":
            raise UserError(f"initial_mean must be a number, or one per dimension, got {initial_mean!r}")
        bound = inspect.signature(super().__init__).bind(*args, **kwargs)
        extractor = resolve_extractor(bound.arguments.get("features_extractor_class") or self.default_extractor)
        bound.apply_defaults()
        options = bound.arguments
        options["features_extractor_class"] = extractor
        options["activation_fn"] = resolve_activation(options["activation_fn"])
        options["features_extractor_kwargs"] = dict(options["features_extractor_kwargs"] or {})
        check_layout(extractor, options["observation_space"], normalized_image=not options["normalize_images"])
        if issubclass(extractor, ImageExtractor | NamedCombinedExtractor) and not options["normalize_images"]:
            # SB3 passes the same argument to its own extractors.
            options["features_extractor_kwargs"].setdefault("normalized_image", True)
        if options["net_arch"] is None and issubclass(extractor, ImageExtractor):
            options["net_arch"] = extractor.default_net_arch
        self._check_options(options)
        # What `save` stores. A policy loaded by itself needs no schedule, and a schedule may not be picklable.
        self._constructor_arguments = {name: value for name, value in options.items() if name != "lr_schedule"}
        self._constructor_arguments["initial_mean"] = initial_mean
        super().__init__(*bound.args, **bound.kwargs)
        # oneDNN's convolutions are faster on a CPU with channels last. This comes after `_build`, since orthogonal
        # initialization needs the usual layout.
        for module in self.modules():
            if isinstance(module, ImageExtractor) and module.channels_last:
                module.to(memory_format=th.channels_last)  # type: ignore[call-overload]
        self._initialize_head(initial_mean)

    def _check_options(self, options: dict[str, Any]) -> None:
        """Refuse options without effect; a hook for subclasses that gets the arguments of SB3's constructor by name."""

    def _initialize_head(self, mean: float | list[float] | None) -> None:
        """Let the untrained policy act around `mean`, by the bias of its last layer."""
        if mean is None:
            return
        space = self.action_space
        if not isinstance(space, spaces.Box) or self.squash_output:
            raise UserError(f"initial_mean={mean} needs a Gaussian on Box actions without squash_output, got {space}")
        bias = np.asarray(mean, dtype=np.float32)
        if bias.shape not in ((), space.shape) or not np.all((space.low <= bias) & (bias <= space.high)):
            raise UserError(f"initial_mean must lie within {space}, as one number or one per dimension; got {mean}")
        with th.no_grad():
            self.get_parameter("action_net.bias").copy_(th.as_tensor(np.broadcast_to(bias, space.shape).flatten()))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self._constructor_arguments}

    def save(self, path: str) -> None:
        """Save the policy by itself, without pickle."""
        arguments = self._get_constructor_parameters()
        write_policy(path, self, {name: value for name, value in arguments.items() if name != "lr_schedule"})

    @classmethod
    def load(cls, path: str, device: th.device | str = "auto", trust: bool = False) -> Self:
        """Load a policy that `save` wrote; a file of SB3's needs `trust`, because that runs code from the file."""
        return read_policy(cls, path, get_device(device), trust, super().load)

    def _build(self, lr_schedule: Schedule) -> None:
        """Build as SB3 does, then restore the weights of extractors with their own initialization."""
        own_init = [m for m in _distinct(self.pi_features_extractor, self.vf_features_extractor) if _keeps_own_init(m)]
        kept = [{key: value.clone() for key, value in module.state_dict().items()} for module in own_init]
        super()._build(lr_schedule)
        for module, weights in zip(own_init, kept, strict=True):
            module.load_state_dict(weights)

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Distribution:
        """Return the distribution for the actor's latent code, `(n_batch, latent_dim_pi)`.

        SB3 returns `self.action_dist`, which the next call changes. This method returns a new object and does not change
        `self.action_dist`.
        """
        params = self.action_net(latent_pi)
        if isinstance(self.action_dist, BetaDistribution):
            return copy.copy(self.action_dist.to(params.device)).proba_distribution(params)
        action_dist: Any = copy.copy(self.action_dist)
        distribution: Distribution
        if isinstance(action_dist, StateDependentNoiseDistribution):
            distribution = action_dist.proba_distribution(params, self.log_std, latent_pi)
        elif isinstance(action_dist, DiagGaussianDistribution):
            distribution = action_dist.proba_distribution(params, self.log_std)
        else:
            distribution = action_dist.proba_distribution(params)
        return distribution


class BetaActorCriticPolicy(NamedPartsPolicy):
    """Actor and critic whose actor is a Beta distribution on Box actions; other action spaces get SB3's distributions.

    Args:
        *args: As for `NamedPartsPolicy`.
        **kwargs: The options of `BetaDistribution` (`parameterization`, `initial_mean`, `initial_concentration`,
            `deterministic_action`, `max_concentration`, `margin`), and all arguments of `NamedPartsPolicy`. On a Box, options
            of a Gaussian (`use_sde`, `log_std_init`, `full_std`, `use_expln`, `squash_output`) raise an error. On other action
            spaces, the options of `BetaDistribution` do.

    Raises:
        UserError: An option has no effect, a Box has infinite bounds or an integer dtype, or a name is unknown.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self._beta_options = {name: kwargs.pop(name, default) for name, default in BETA_OPTIONS.items()}
        super().__init__(*args, initial_mean=self._beta_options["initial_mean"], **kwargs)

    @property
    def deterministic_action(self) -> DeterministicAction:
        """The action of `predict(deterministic=True)`, "mean" or "mode"; always "mode" unless the actions are a Box."""
        action: DeterministicAction = self._beta_options["deterministic_action"]
        return action

    @deterministic_action.setter
    def deterministic_action(self, action: DeterministicAction) -> None:
        options = {**self._beta_options, "deterministic_action": action}
        if isinstance(self.action_space, spaces.Box):
            self.action_dist = BetaDistribution(self.action_space, **options)
        else:
            _refuse_beta_options(options, self.action_space)
        self._beta_options = options

    def _check_options(self, options: dict[str, Any]) -> None:
        if isinstance(options["action_space"], spaces.Box):
            _refuse_gaussian_options(options)
        elif options["full_std"] is not None:  # None comes from a file of release 0.1.0, which had other defaults
            _refuse_beta_options(self._beta_options, options["action_space"])

    def _initialize_head(self, mean: float | list[float] | None) -> None:
        """Let the untrained policy start with the mean and concentration that its distribution has checked."""
        if isinstance(self.action_dist, BetaDistribution):
            assert isinstance(self.action_net, nn.Linear)
            self.action_dist.initialize_bias(self.action_net)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        return {**data, **self._beta_options} if isinstance(self.action_space, spaces.Box) else data

    def _build(self, lr_schedule: Schedule) -> None:
        """Create the networks and the optimizer with the learning rate `lr_schedule(1)`."""
        if not isinstance(self.action_space, spaces.Box):
            super()._build(lr_schedule)
            return
        self.action_dist = BetaDistribution(self.action_space, **self._beta_options)
        self._build_mlp_extractor()
        self.action_net = self.action_dist.proba_distribution_net(self.mlp_extractor.latent_dim_pi)
        self.value_net = nn.Linear(self.mlp_extractor.latent_dim_vf, 1)
        if self.ortho_init:
            self._initialize_orthogonally()
        # The optimizer's own arguments are the user's business, hence untyped.
        options = {**_fused(self.optimizer_class, self.optimizer_kwargs), **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **options)  # type: ignore[call-arg]

    def _initialize_orthogonally(self) -> None:
        """Initialize with SB3's gains: sqrt(2) for hidden layers, 0.01 for the head of the actor, 1 for the critic's."""
        extractors = _distinct(self.pi_features_extractor, self.vf_features_extractor)
        hidden = [self.mlp_extractor, *(module for module in extractors if not _keeps_own_init(module))]
        for module, gain in [*((m, float(np.sqrt(2))) for m in hidden), (self.action_net, 0.01), (self.value_net, 1.0)]:
            for layer in module.modules():
                self.init_weights(layer, gain)


class BetaCnnPolicy(BetaActorCriticPolicy):
    """`BetaActorCriticPolicy` for images. The default extractor is NatureCNN, as in SB3."""

    default_extractor = "nature"


class BetaMultiInputPolicy(BetaActorCriticPolicy):
    """`BetaActorCriticPolicy` for Dict observations. The default extractor is SB3's CombinedExtractor."""

    default_extractor = "combined"


class GaussianCnnPolicy(NamedPartsPolicy):
    """SB3's Gaussian policy for images, with parts that a YAML file can name: the policy of the stock PPO baseline."""

    default_extractor = "nature"


MlpPolicy = BetaActorCriticPolicy
CnnPolicy = BetaCnnPolicy
MultiInputPolicy = BetaMultiInputPolicy


def resolve_activation(activation: str | type[nn.Module]) -> type[nn.Module]:
    """Return the activation class for its name; a class is returned as it is."""
    if not isinstance(activation, str):
        return activation
    return ACTIVATIONS[one_of("activation_fn", activation, sorted(ACTIVATIONS))]


def _fused(optimizer: type[th.optim.Optimizer], options: dict[str, Any]) -> dict[str, bool]:
    """Return the option of Adam that does a step in one pass over the weights, unless others exclude it."""
    if optimizer not in (th.optim.Adam, th.optim.AdamW) or {"foreach", "differentiable"} & options.keys():
        return {}
    return {"fused": True}


def _distinct(*modules: nn.Module) -> list[nn.Module]:
    """Return the modules without duplicates, since actor and critic may share an extractor."""
    return list(dict.fromkeys(modules))


def _keeps_own_init(module: nn.Module) -> bool:
    return any(isinstance(part, ImageExtractor) and part.keeps_own_init for part in module.modules())


def _refuse_beta_options(beta_options: dict[str, Any], action_space: spaces.Space[Any]) -> None:
    """Raise UserError for options of a Beta if the action space is not a Box."""
    for name, value in beta_options.items():
        if not np.array_equal(value, BETA_OPTIONS[name]):  # an initial_mean may be an array
            raise UserError(
                f"{name}={value!r} has no meaning with {action_space} actions: it is an option of the Beta distribution for a "
                "Box. Leave it out."
            )


def _refuse_gaussian_options(options: dict[str, Any]) -> None:
    """Raise an error for options that only a Gaussian has; allow the defaults, since SB3 passes them."""
    if options["use_sde"]:
        raise UserError(
            "use_sde=True has no meaning with a Beta policy: gSDE adds state-dependent noise to a Gaussian's mean, and a "
            "Beta has no such noise. Leave it out, or use stable_baselines3.PPO."
        )
    # SB3's exception and its first words.
    assert not options["squash_output"], (
        "squash_output=True is only available when using gSDE (use_sde=True), which a Beta policy does not have. Its actions "
        "are within the bounds already."
    )
    if options["log_std_init"] != 0.0 or not options["full_std"] or options["use_expln"]:
        raise UserError(
            "log_std_init, full_std and use_expln shape the standard deviation of a Gaussian; a Beta has none. "
            "Use initial_concentration, initial_mean or parameterization instead."
        )
