"""Proximal Policy Optimization with a Beta policy.

PPO is four steps in a loop: play `n_steps` with the current policy, estimate how much better each action was than
expected (the advantage), improve the policy by a few epochs of minibatches that may not move it far, forget the data.
The first two are SB3's `OnPolicyAlgorithm.collect_rollouts` (it also adds the value of the state in which a time limit
cut an episode, Pardo et al. 2018) and its `RolloutBuffer` (generalised advantage estimation, Schulman et al. 2016,
eq. 16), which `CompactRolloutBuffer` inherits. The third is `BetaPPO.train` below.
"""

import io
import pathlib
import warnings
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, ClassVar, Self, get_args

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import (
    DictRolloutBufferSamples,
    GymEnv,
    MaybeCallback,
    RolloutBufferSamples,
    Schedule,
    TensorDict,
)
from stable_baselines3.common.utils import FloatSchedule, explained_variance

from sb3_carracing.checks import one_of
from sb3_carracing.ppo import losses
from sb3_carracing.ppo.buffers import CompactRolloutBuffer
from sb3_carracing.ppo.distributions import BetaDistribution
from sb3_carracing.ppo.options import Autocast, ValueLoss
from sb3_carracing.ppo.policies import BetaActorCriticPolicy, CnnPolicy, MlpPolicy, MultiInputPolicy, NamedPartsPolicy
from sb3_carracing.ppo.torch_layers import ImageExtractor
from sb3_carracing.system import keep_freed_memory

__all__ = ["BetaPPO"]


class NonFiniteLossError(ValueError):
    """The loss became NaN or infinite: the weights are lost."""


class BetaPPO(OnPolicyAlgorithm):
    """PPO, clip version (Schulman et al. 2017), with a Beta policy (Chou et al. 2017) on bounded continuous actions.

    A drop-in for `stable_baselines3.PPO`: same arguments, defaults, log keys, warnings and errors, but for what a Beta
    cannot have and a loss that is no finite number, which ends the training at once (`NonFiniteLossError`). On Discrete,
    MultiDiscrete and MultiBinary actions it is PPO with SB3's own distributions.

    Logged under `train/` besides PPO's keys: `grad_norm` (mean before clipping), and on Box actions
    `concentration_mean` and `concentration_max` (alpha + beta; 2 is uniform, thousands are certainty) and
    `actions_at_bounds` (share of the rollout's actions within 1 % of the range from a bound): what to look at when the
    entropy collapses.

    :param policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class
    :param env: environment, or the id of a registered one
    :param learning_rate: step size of Adam, or a schedule of it over the remaining progress (1 to 0)
    :param n_steps: steps [decisions] of each environment between two updates
    :param batch_size: size of a minibatch [decisions]
    :param n_epochs: passes over the rollout at each update
    :param gamma: discount factor
    :param gae_lambda: lambda of generalised advantage estimation: 0 is one-step, 1 Monte Carlo
    :param clip_range: how far the probability ratio may leave 1 before it stops to pay, or a schedule of it
    :param clip_range_vf: how far the value may leave the rollout's [units of return], a schedule, or None: no limit
    :param normalize_advantage: whether each minibatch's advantages are normalised
    :param ent_coef: weight of the entropy bonus
    :param vf_coef: weight of the value loss
    :param max_grad_norm: the gradient's norm is clipped to this; `inf`: never
    :param use_sde: gSDE; refused with a Beta policy
    :param sde_sample_freq: as in SB3, for policies with gSDE
    :param rollout_buffer_class: rollout storage, None: `CompactRolloutBuffer`, for Dict observations SB3's; saved with the
        agent, so that `load(..., rollout_buffer_class=None)` chooses anew
    :param rollout_buffer_kwargs: its further arguments
    :param target_kl: an update ends when the approximate KL divergence exceeds 1.5 times this; None: never
    :param stats_window_size: episodes over which `rollout/` values are averaged
    :param tensorboard_log: folder for TensorBoard events, None: none
    :param policy_kwargs: further arguments of the policy, see `BetaActorCriticPolicy`
    :param verbose: 0 nothing, 1 progress, 2 debugging
    :param seed: seed of the pseudo-random generators
    :param device: "cpu", "cuda", "auto"
    :param _init_setup_model: whether to build the network now
    :param value_loss: "mse" as in SB3, or "huber" (linear beyond an error of 1)
    :param keep_memory: on a CPU under glibc, let the process keep freed memory from the first `learn()` on, which spares
        image policies page faults; see `keep_freed_memory`
    :param autocast: "bfloat16" extracts features in it, which is faster on CPUs and GPUs that have it; weights, heads,
        distribution and losses stay as they are. None: everything in float32. It is the algorithm's: a policy that is
        saved and loaded by itself computes in float32
    :raises ValueError: for a Box without finite bounds or of whole numbers, options of a Gaussian, or unknown names
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: ActorCriticPolicy
    rollout_buffer: RolloutBuffer
    # Saved with the agent: which policy defaults hold for what its policy_kwargs leave out. Release 0.1.0 saved none.
    defaults_version: int = 1

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        value_loss: ValueLoss = "mse",
        keep_memory: bool = True,
        autocast: Autocast | None = None,
    ):
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            device=device,
            seed=seed,
            _init_setup_model=False,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
        )
        self.batch_size = batch_size
        self.n_epochs = n_epochs
        self.clip_range = clip_range
        self.clip_range_vf = clip_range_vf
        self.normalize_advantage = normalize_advantage
        self.target_kl = target_kl
        self.value_loss: ValueLoss = value_loss
        self.keep_memory = keep_memory
        self.autocast: Autocast | None = autocast
        self._check_sizes()
        if _init_setup_model:  # not so in `load`, where the file says it
            self.defaults_version = 2
            self._setup_model()

    def _check_sizes(self) -> None:
        """Refuse what cannot be normalised and warn of a truncated minibatch, with stock PPO's types and words."""
        # A single advantage has no standard deviation.
        assert self.batch_size > 1 or not self.normalize_advantage, (
            "`batch_size` must be greater than 1. See https://github.com/DLR-RM/stable-baselines3/issues/440"
        )
        if self.env is None:
            return
        n_envs, buffer_size = self.env.num_envs, self.env.num_envs * self.n_steps
        assert buffer_size > 1 or not self.normalize_advantage, (
            f"`n_steps * n_envs` must be greater than 1. Currently n_steps={self.n_steps} and n_envs={n_envs}"
        )
        full_batches, rest = divmod(buffer_size, self.batch_size)
        if rest > 0:
            warnings.warn(
                f"You have specified a mini-batch size of {self.batch_size}, but because the `RolloutBuffer` is of size "
                f"`n_steps * n_envs = {buffer_size}`, after every {full_batches} untruncated mini-batches, there will be "
                f"a truncated mini-batch of size {rest}\nWe recommend using a `batch_size` that is a factor of "
                f"`n_steps * n_envs`.\nInfo: (n_steps={self.n_steps} and n_envs={n_envs})",
                stacklevel=3,
            )

    def _setup_model(self) -> None:
        if self.defaults_version < 2 and issubclass(self.policy_class, BetaActorCriticPolicy):
            self.policy_kwargs = {"parameterization": "softplus", **self.policy_kwargs}
        self.defaults_version = 2
        # Here, since `load` and rl-zoo3's resume bring arguments past the constructor.
        one_of("value_loss", self.value_loss, sorted(get_args(ValueLoss)))
        if self.autocast is not None:
            one_of("autocast", self.autocast, sorted(get_args(Autocast)))
        if self.rollout_buffer_class is None and not isinstance(self.observation_space, spaces.Dict):
            self.rollout_buffer_class = CompactRolloutBuffer
        super()._setup_model()
        extractor = self.policy.features_extractor
        wants_channels_last = isinstance(extractor, ImageExtractor) and extractor.channels_last
        if wants_channels_last and isinstance(self.rollout_buffer, CompactRolloutBuffer):
            self.rollout_buffer.keep_channels_last()
        if self.autocast is not None:
            if not isinstance(self.policy, NamedPartsPolicy):
                name = type(self.policy).__name__
                raise ValueError(f"autocast={self.autocast!r} needs a policy of sb3_carracing.ppo.policies, got {name}")
            self.policy.autocast = self.autocast
        # Like stock PPO, so that scripts may call `model.clip_range(progress)`; wrapping twice changes nothing.
        self.clip_range = FloatSchedule(self.clip_range)
        if self.clip_range_vf is not None:
            if isinstance(self.clip_range_vf, int | float):
                assert self.clip_range_vf > 0, "`clip_range_vf` must be positive, pass `None` to deactivate vf clipping"
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """Set weights and optimiser state, as in SB3, and leave the optimiser's count of steps on the CPU.

        A new optimiser counts there; loaded to a GPU, the count of each weight would be waited for in every minibatch.
        """
        super().set_parameters(load_path_or_dict, exact_match, device)
        optimizer = self.policy.optimizer
        if not any(group.get("capturable") or group.get("fused") for group in optimizer.param_groups):
            for state in optimizer.state.values():
                if th.is_tensor(state.get("step")):
                    state["step"] = state["step"].cpu()

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save as SB3 does; a `deterministic_action` that was changed on the policy is what the loaded agent plays."""
        action = getattr(self.policy, "deterministic_action", None)
        if action is not None and action != self.policy_kwargs.get("deterministic_action", "mode"):
            self.policy_kwargs = {**self.policy_kwargs, "deterministic_action": action}
        super().save(path, exclude, include)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """Keep the remaining progress at 0 or above.

        The last rollout may end beyond `total_timesteps`. Stock PPO's progress is negative then, and a learning rate
        that decays to 0 with it: its last update climbs the loss (an approximate KL of 0.1 in one CarRacing run).
        """
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        self._current_progress_remaining = max(0.0, self._current_progress_remaining)

    def _maybe_recommend_cpu(self, mlp_class_name: str = MlpPolicy.__name__) -> None:
        """Warn, as stock PPO does, when a small network is trained on a GPU."""
        super()._maybe_recommend_cpu(mlp_class_name)

    def train(self) -> None:
        """Update actor and critic with the rollout: `n_epochs` passes over it in shuffled minibatches."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        clip_range, clip_range_vf = self._clip_ranges()

        # Metrics stay on the device, one tensor a minibatch, until the end of the update.
        metrics: dict[str, list[th.Tensor]] = defaultdict(list)
        within_target_kl = True
        for epoch in range(self.n_epochs):
            metrics["approx_kl"].clear()  # like SB3, the last epoch's divergence is reported
            for minibatch in self.rollout_buffer.get(self.batch_size):
                loss = self._loss(minibatch, clip_range, clip_range_vf, metrics)

                if self.target_kl is not None and metrics["approx_kl"][-1] > 1.5 * self.target_kl:
                    within_target_kl = False
                    if self.verbose >= 1:
                        print(f"Early stopping at step {epoch} due to reaching max kl: {metrics['approx_kl'][-1]:.2f}")
                    break

                self.policy.optimizer.zero_grad()
                loss.backward()
                grad_norm = th.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                metrics["grad_norm"].append(grad_norm.detach())
                self.policy.optimizer.step()

            self._n_updates += 1
            if not within_target_kl:
                break

        self._log_update(metrics, clip_range, clip_range_vf)

    def _loss(
        self,
        minibatch: RolloutBufferSamples | DictRolloutBufferSamples,
        clip_range: float,
        clip_range_vf: float | None,
        metrics: dict[str, list[th.Tensor]],
    ) -> th.Tensor:
        """Return PPO's loss of one minibatch, Schulman et al. 2017 eq. 9 negated, a scalar; append to the metrics."""
        actions = minibatch.actions
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()  # the rollout stores them as floats, (n_batch, 1)
        values, log_prob, entropy = self.policy.evaluate_actions(minibatch.observations, actions)
        log_ratio = log_prob - minibatch.old_log_prob
        advantages = losses.normalized(minibatch.advantages) if self.normalize_advantage else minibatch.advantages

        policy_loss = losses.clipped_surrogate_loss(log_ratio, advantages, clip_range)
        value_loss = losses.value_loss(
            values.flatten(), minibatch.returns, minibatch.old_values, clip_range_vf, self.value_loss
        )
        # Without a closed form the entropy is estimated from the sampled actions.
        entropy_loss = log_prob.mean() if entropy is None else -entropy.mean()
        loss = policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss

        with th.no_grad():
            metrics["policy_gradient_loss"].append(policy_loss.detach())
            metrics["value_loss"].append(value_loss.detach())
            metrics["entropy_loss"].append(entropy_loss.detach())
            metrics["loss"].append(loss.detach())
            metrics["approx_kl"].append(losses.approximate_kl(log_ratio))
            metrics["clip_fraction"].append(losses.clip_fraction(log_ratio, clip_range))
            if isinstance(self.policy.action_dist, BetaDistribution):
                concentration = self.policy.action_dist.concentration
                metrics["concentration_mean"].append(concentration.mean())
                metrics["concentration_max"].append(concentration.max())
        return loss

    def _clip_ranges(self) -> tuple[float, float | None]:
        """Return the clip ranges of policy and value at the current progress."""
        assert callable(self.clip_range)
        clip_range = self.clip_range(self._current_progress_remaining)
        if self.clip_range_vf is None:
            return clip_range, None
        assert callable(self.clip_range_vf)
        return clip_range, self.clip_range_vf(self._current_progress_remaining)

    def _log_update(self, metrics: dict[str, list[th.Tensor]], clip_range: float, clip_range_vf: float | None) -> None:
        """Hand the update's means to the logger; the only crossing from device to host.

        :raises NonFiniteLossError: if the loss became NaN or inf; the weights are lost then, the last checkpoint is not
        """
        gathered = {key: th.stack(values).double() for key, values in metrics.items() if values}
        summary = {key: values.mean() for key, values in gathered.items()}
        summary["last_loss"] = gathered["loss"][-1]
        if "concentration_max" in gathered:
            summary["concentration_max"] = gathered["concentration_max"].max()
        means: dict[str, float] = dict(zip(summary, th.stack(list(summary.values())).tolist(), strict=True))
        last_loss = means.pop("last_loss")
        if not np.isfinite(means["loss"]):
            raise NonFiniteLossError(
                f"The loss became {means['loss']} in update {self._n_updates} (after {self.num_timesteps} steps): look at "
                "the rewards' scale and the observations, lower learning_rate or max_grad_norm, and go on from the last "
                "checkpoint."
            )
        means["loss"] = last_loss  # as SB3 logs it
        if "concentration_max" in metrics:
            means["actions_at_bounds"] = self._share_of_actions_at_bounds()
        for key, value in means.items():
            self.logger.record(f"train/{key}", value)
        self.logger.record(
            "train/explained_variance",
            # Environment by environment, as SB3 adds them up.
            explained_variance(self.rollout_buffer.values.flatten("F"), self.rollout_buffer.returns.flatten("F")),
        )
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)

    def _share_of_actions_at_bounds(self, margin: float = 0.01) -> float:
        """Return the share of the rollout's actions within `margin` of the range from either bound."""
        assert isinstance(self.action_space, spaces.Box)
        # float64: the width of a float32 range may overflow float32.
        low, high = (bound.astype(np.float64).flatten() for bound in (self.action_space.low, self.action_space.high))
        actions = self.rollout_buffer.actions.reshape(-1, low.size)
        unit = (actions - low) / (high - low)
        return float(np.mean((unit < margin) | (unit > 1.0 - margin)))

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "BetaPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train for `total_timesteps` [decisions, summed over environments] and return the model; arguments as in SB3."""
        if self.keep_memory and self.device.type == "cpu":
            keep_freed_memory()
        return super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )
