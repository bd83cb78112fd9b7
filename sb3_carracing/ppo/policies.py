"""Actor-critic policies with a Beta distribution, and the Gaussian twin that the stock baselines use.

They differ from SB3's only in what is listed in `NamedPartsPolicy` and `BetaActorCriticPolicy`, so they also run in
stock `PPO` and `A2C` and in sb3-contrib's `TRPO`.
"""

from typing import Any, ClassVar, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_carracing.checks import one_of
from sb3_carracing.ppo.distributions import BetaDistribution
from sb3_carracing.ppo.options import Autocast, DeterministicAction, Parameterization, resolve_activation
from sb3_carracing.ppo.torch_layers import ImageExtractor, NamedCombinedExtractor, resolve_extractor


class _Extraction(BasePolicy):
    """How observations become features: what `super().extract_features` in SB3's `ActorCriticPolicy` and sb3-contrib's finds.

    Hence it stands after `ActorCriticPolicy` among the bases.
    """

    # The type in which features are extracted, "bfloat16", or None: that of the weights. Heads, distribution and losses
    # are not concerned.
    autocast: Autocast | None = None

    def extract_features(self, obs: PyTorchObs, features_extractor: BaseFeaturesExtractor) -> th.Tensor:
        """Return one extractor's features, `(n_batch, features_dim)`; SB3's scaling is skipped where it can be."""
        takes_bytes = self.normalize_images and _takes_bytes(features_extractor)
        if not (takes_bytes and isinstance(obs, th.Tensor) and obs.dtype == th.uint8):
            obs = preprocess_obs(obs, self.observation_space, normalize_images=self.normalize_images)
        if self.autocast is None:
            features: th.Tensor = features_extractor(obs)
            return features
        with th.autocast(self.device.type, getattr(th, self.autocast)):
            features = features_extractor(obs)
        return features.float()


class NamedPartsPolicy(ActorCriticPolicy, _Extraction):  # type: ignore[misc]  # SB3 too gives it another argument
    """SB3's actor-critic policy whose parts may be given by name, as a YAML file must.

    Beyond SB3's: `features_extractor_class` and `activation_fn` take names ("blog", "relu"); an image extractor of this
    package brings its own hidden layers where `net_arch` is None, and keeps an initialisation of its own under
    `ortho_init`, within "named_combined" too; `policy.save` / `policy.load` keep `share_features_extractor`, which
    upstream leaves out.

    Parameters are SB3's (`stable_baselines3.common.policies.ActorCriticPolicy`), and:

    :param initial_mean: mean of the untrained Gaussian before clipping, in the environment's units, one number or one a
        dimension: the head start that a Beta policy gets by the same name. None: SB3's, about 0

    :raises ValueError: for an unknown name, with the valid ones, or an `initial_mean` that does not fit
    """

    default_extractor: ClassVar[str] = "flatten"

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: str | type[nn.Module] = nn.Tanh,
        ortho_init: bool = True,
        use_sde: bool = False,
        log_std_init: float = 0.0,
        full_std: bool = True,
        use_expln: bool = False,
        squash_output: bool = False,
        features_extractor_class: str | type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = True,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        initial_mean: float | list[float] | None = None,
    ):
        extractor = resolve_extractor(features_extractor_class or self.default_extractor)
        extractor_kwargs = dict(features_extractor_kwargs or {})
        if issubclass(extractor, ImageExtractor | NamedCombinedExtractor) and not normalize_images:
            # SB3 tells its own extractors the same thing.
            extractor_kwargs.setdefault("normalized_image", True)
        if net_arch is None and issubclass(extractor, ImageExtractor):
            net_arch = extractor.default_net_arch
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=net_arch,
            activation_fn=resolve_activation(activation_fn),
            ortho_init=ortho_init,
            use_sde=use_sde,
            log_std_init=log_std_init,
            full_std=full_std,
            use_expln=use_expln,
            squash_output=squash_output,
            features_extractor_class=extractor,
            features_extractor_kwargs=extractor_kwargs,
            share_features_extractor=share_features_extractor,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        # oneDNN's convolutions are faster on a CPU with channels last; nothing else changes. After `_build`, since
        # orthogonal initialisation needs the usual layout.
        for module in self.modules():
            if isinstance(module, ImageExtractor) and module.channels_last:
                module.to(memory_format=th.channels_last)  # type: ignore[call-overload]
        self._initial_mean = initial_mean
        if initial_mean is not None:
            start_at_mean(self, initial_mean)

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """Create a features extractor; where SB3's NatureCNN fails on a small image, say what it needs."""
        try:
            return super().make_features_extractor()
        except RuntimeError as error:
            if self.features_extractor_class is not NatureCNN:
                raise
            # The type and the text are stock PPO's; torch alone would speak of a kernel.
            raise RuntimeError(
                f"NatureCNN needs images of at least 36 x 36 pixels, got {self.observation_space.shape}: {error}"
            ) from error

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data["share_features_extractor"] = self.share_features_extractor
        data["initial_mean"] = self._initial_mean
        return data

    def _build(self, lr_schedule: Schedule) -> None:
        """Build as SB3 does, then give extractors with an initialisation of their own their weights back."""
        own_init = [m for m in _distinct(self.pi_features_extractor, self.vf_features_extractor) if _keeps_own_init(m)]
        kept = [{key: value.clone() for key, value in module.state_dict().items()} for module in own_init]
        super()._build(lr_schedule)
        for module, weights in zip(own_init, kept, strict=True):
            module.load_state_dict(weights)


class BetaActorCriticPolicy(NamedPartsPolicy):
    """Actor and critic whose actor is a Beta distribution on Box actions; other action spaces get SB3's distributions.

    :param parameterization: how network outputs become alpha and beta, see `BetaDistribution`
    :param initial_mean: the untrained policy's mean action, in the environment's units, see `BetaDistribution`
    :param deterministic_action: what `predict(deterministic=True)` plays, "mean" or "mode"; may be changed later
    :param max_concentration: upper bound of alpha + beta

    These four have no effect on other action spaces. All other parameters are `NamedPartsPolicy`'s. Those that shape a
    Gaussian (`use_sde`, `log_std_init`, `full_std`, `use_expln`, `squash_output`) are refused on a Box.

    :raises ValueError: for options of a Gaussian, a Box without finite bounds or of whole numbers, or an unknown name
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: str | type[nn.Module] = nn.Tanh,
        ortho_init: bool = True,
        use_sde: bool = False,
        log_std_init: float = 0.0,
        full_std: bool = True,
        use_expln: bool = False,
        squash_output: bool = False,
        features_extractor_class: str | type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = True,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        parameterization: Parameterization = "exp",
        initial_mean: float | list[float] | None = None,
        deterministic_action: DeterministicAction = "mode",
        max_concentration: float = 1e4,
    ):
        if isinstance(action_space, spaces.Box):
            _refuse_gaussian_options(use_sde, log_std_init, full_std, use_expln, squash_output)
        self._beta_options: dict[str, Any] = {
            "parameterization": parameterization,
            "initial_mean": initial_mean,
            "deterministic_action": deterministic_action,
            "max_concentration": max_concentration,
        }
        # Here rather than in _build, so that a bad option is named before any network is made.
        one_of("parameterization", parameterization, sorted(get_args(Parameterization)))
        one_of("deterministic_action", deterministic_action, sorted(get_args(DeterministicAction)))
        if isinstance(action_space, spaces.Box):
            BetaDistribution(action_space, **self._beta_options)
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=net_arch,
            activation_fn=activation_fn,
            ortho_init=ortho_init,
            use_sde=use_sde,
            log_std_init=log_std_init,
            full_std=full_std,
            use_expln=use_expln,
            squash_output=squash_output,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=features_extractor_kwargs,
            share_features_extractor=share_features_extractor,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )

    @property
    def deterministic_action(self) -> DeterministicAction:
        """What `predict(deterministic=True)` plays on Box actions: "mean" or "mode"."""
        action: DeterministicAction = self._beta_options["deterministic_action"]
        return action

    @deterministic_action.setter
    def deterministic_action(self, action: DeterministicAction) -> None:
        one_of("deterministic_action", action, sorted(get_args(DeterministicAction)))
        self._beta_options["deterministic_action"] = action
        if isinstance(self.action_dist, BetaDistribution):
            self.action_dist.deterministic_action = action

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(self._beta_options)
        if isinstance(self.action_space, spaces.Box):
            # SB3 reports None for what no gSDE was given; a Beta has none of them.
            data.update(use_sde=False, squash_output=False, full_std=True, use_expln=False)
        return data

    def _build(self, lr_schedule: Schedule) -> None:
        """Create the networks and the optimiser, its learning rate being `lr_schedule(1)`."""
        if not isinstance(self.action_space, spaces.Box):
            super()._build(lr_schedule)
            return
        self.action_dist = BetaDistribution(self.action_space, **self._beta_options)
        self._build_mlp_extractor()
        self.action_net = self.action_dist.proba_distribution_net(self.mlp_extractor.latent_dim_pi)
        self.value_net = nn.Linear(self.mlp_extractor.latent_dim_vf, 1)
        if self.ortho_init:
            self._initialize_orthogonally()
        self.action_dist.initialize_bias(self.action_net)
        # The optimizer's own arguments are the user's business, hence untyped.
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _initialize_orthogonally(self) -> None:
        """Initialise with SB3's gains: sqrt(2) for hidden layers, 0.01 for the actor's and 1 for the critic's head."""
        extractors = _distinct(self.pi_features_extractor, self.vf_features_extractor)
        hidden = [self.mlp_extractor, *(module for module in extractors if not _keeps_own_init(module))]
        for module, gain in [*((m, float(np.sqrt(2))) for m in hidden), (self.action_net, 0.01), (self.value_net, 1.0)]:
            for layer in module.modules():
                self.init_weights(layer, gain)

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> Distribution:
        """Return the distribution for the actor's latent code, `(n_batch, latent_dim_pi)`."""
        if isinstance(self.action_dist, BetaDistribution):
            return self.action_dist.proba_distribution(self.action_net(latent_pi))
        return super()._get_action_dist_from_latent(latent_pi)


class BetaCnnPolicy(BetaActorCriticPolicy):
    """`BetaActorCriticPolicy` for images; NatureCNN as in SB3 unless another extractor is named."""

    default_extractor = "nature"


class BetaMultiInputPolicy(BetaActorCriticPolicy):
    """`BetaActorCriticPolicy` for Dict observations; SB3's CombinedExtractor unless another extractor is named."""

    default_extractor = "combined"


class GaussianCnnPolicy(NamedPartsPolicy):
    """SB3's Gaussian policy for images with parts given by name: what stock PPO is compared with."""

    default_extractor = "nature"


MlpPolicy = BetaActorCriticPolicy
CnnPolicy = BetaCnnPolicy
MultiInputPolicy = BetaMultiInputPolicy


def start_at_mean(policy: ActorCriticPolicy, mean: float | list[float]) -> None:
    """Let an untrained Gaussian policy act around `mean`, in the environment's units.

    :raises ValueError: for a mean outside the action space's bounds or of another shape, or an action space that is no Box
    """
    space = policy.action_space
    if not isinstance(space, spaces.Box) or policy.squash_output:
        raise ValueError(f"initial_mean={mean} needs a Gaussian on Box actions without squash_output, got {space}")
    bias = np.asarray(mean, dtype=np.float32)
    if bias.shape not in ((), space.shape) or not np.all((space.low <= bias) & (bias <= space.high)):
        raise ValueError(f"initial_mean must lie within {space}, as one number or one a dimension; got {mean}")
    with th.no_grad():
        policy.get_parameter("action_net.bias").copy_(th.as_tensor(np.broadcast_to(bias, space.shape).flatten()))


def _distinct(*modules: nn.Module) -> list[nn.Module]:
    """Return the modules without repetition: a shared extractor serves actor and critic."""
    return list(dict.fromkeys(modules))


def _takes_bytes(module: nn.Module) -> bool:
    """Whether the class whose `forward` runs says that it takes bytes: one that overrides it may count on floats."""
    runs = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    return bool(vars(runs).get("takes_bytes", False))


def _keeps_own_init(module: nn.Module) -> bool:
    return any(isinstance(part, ImageExtractor) and part.keeps_own_init for part in module.modules())


def _refuse_gaussian_options(use_sde: bool, log_std_init: float, full_std: bool, use_expln: bool, squash_output: bool) -> None:
    """Raise for options that only a Gaussian has; their defaults pass, since SB3 hands them over."""
    if use_sde:
        raise ValueError(
            "use_sde=True has no meaning with a Beta policy: gSDE perturbs a Gaussian's mean by noise that depends on "
            "the state, and a Beta has no such noise. Leave it out, or use stable_baselines3.PPO."
        )
    # SB3's type and its first words.
    assert not squash_output, (
        "squash_output=True is only available when using gSDE (use_sde=True), which a Beta policy has not: its actions are "
        "within the bounds already."
    )
    if log_std_init != 0.0 or not full_std or use_expln:
        raise ValueError(
            "log_std_init, full_std and use_expln shape the standard deviation of a Gaussian; a Beta has none. "
            "Use initial_mean, parameterization or max_concentration instead."
        )
