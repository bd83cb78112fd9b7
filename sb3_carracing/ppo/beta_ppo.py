"""Proximal Policy Optimization with a Beta policy.

PPO repeats four steps. It plays `n_steps` with the current policy, estimates how much better each action was than expected
(the advantage), improves the policy by a few epochs of minibatches that may not move it far, and forgets the data. The first
two steps are SB3's: `OnPolicyAlgorithm.collect_rollouts`, which adds the value of the state in which a time limit cut an
episode (Pardo et al. 2018), and `RolloutBuffer` with generalized advantage estimation (Schulman et al. 2016, eq. 16), from
which `CompactRolloutBuffer` inherits. The third step is `BetaPPO.train` below.
"""

import copy
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Self

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import (
    DictRolloutBufferSamples,
    GymEnv,
    MaybeCallback,
    RolloutBufferSamples,
    Schedule,
)
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv

from sb3_carracing.errors import UserError
from sb3_carracing.ppo import distributed, hyperparameters, losses, ranks, rollouts
from sb3_carracing.ppo.beta_algorithm import BetaAlgorithm
from sb3_carracing.ppo.buffers import CompactRolloutBuffer
from sb3_carracing.ppo.copying import copy_model
from sb3_carracing.ppo.distributions import BetaDistribution
from sb3_carracing.ppo.finite import (
    NonFiniteLossError,
    check_before_step,
    check_update,
    keeps_good_weights,
    weights_norm,
    with_finite_values,
)
from sb3_carracing.ppo.gradients import clip_gradients
from sb3_carracing.ppo.health import Watch
from sb3_carracing.ppo.losses import ValueLoss
from sb3_carracing.ppo.metrics import outputs_of, share_at_bounds, to_host
from sb3_carracing.ppo.policies import (
    Autocast,
    CnnPolicy,
    MlpPolicy,
    MultiInputPolicy,
    NamedPartsPolicy,
)
from sb3_carracing.ppo.torch_layers import ImageExtractor
from sb3_carracing.system import keep_freed_memory

__all__ = ["BetaPPO", "NonFiniteLossError"]


class BetaPPO(BetaAlgorithm):
    """PPO, clip version (Schulman et al. 2017), with a Beta policy (Chou et al. 2017) on bounded continuous actions.

    A drop-in replacement for `stable_baselines3.PPO`, with the same arguments, defaults, log keys, warnings and errors. It
    refuses options that a Beta cannot support, checks hyperparameters before the first step, and raises `NonFiniteError`
    before it learns from NaN or infinity. It warns once of each sign that a training goes wrong, see `health.Watch`. On
    Discrete, MultiDiscrete and MultiBinary actions it is PPO with SB3's own distributions.

    It logs PPO's keys under `train/`, and `grad_norm` (the mean before clipping). On Box actions it also logs
    `concentration_mean` and `concentration_max` of alpha + beta (2 is uniform, thousands mean certainty) and
    `actions_at_bounds`, the share of the rollout's actions within 1 % of the range from a bound. Look at these when the
    entropy collapses.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class.
        env: Environment, or the id of a registered one.
        learning_rate: Step size of Adam, or a schedule over the remaining progress (1 to 0).
        n_steps: Steps [decisions] per environment between two updates.
        batch_size: Size of a minibatch [decisions].
        n_epochs: Passes over the rollout in each update.
        gamma: Discount factor.
        gae_lambda: Lambda of generalized advantage estimation: 0 is one-step, 1 is Monte Carlo.
        clip_range: Clipping range of the probability ratio around 1, or a schedule.
        clip_range_vf: Clipping range of the value around the rollout's value [units of return], or a schedule. None does not
            clip.
        normalize_advantage: Whether to normalize the advantages of each minibatch.
        ent_coef: Weight of the entropy bonus.
        vf_coef: Weight of the value loss.
        max_grad_norm: Upper limit of the gradient's norm. `inf` does not clip.
        use_sde: Whether to use gSDE. A Beta policy does not support it.
        sde_sample_freq: As in SB3, for policies with gSDE.
        rollout_buffer_class: Rollout storage. None means `CompactRolloutBuffer`, or SB3's storage for Dict observations. It is
            saved with the agent; `load(..., rollout_buffer_class=None)` chooses again.
        rollout_buffer_kwargs: Further arguments of the rollout storage.
        target_kl: An update stops when the approximate KL divergence exceeds 1.5 times this value. None means no limit.
        stats_window_size: Number of episodes over which the `rollout/` values are averaged.
        tensorboard_log: Folder for TensorBoard's files, or None.
        policy_kwargs: Further arguments of the policy, see `BetaActorCriticPolicy`.
        verbose: 0 for no output, 1 for progress, 2 for debugging.
        seed: Seed of the pseudo-random generators.
        device: "cpu", "cuda" or "auto".
        _init_setup_model: Whether to build the network now.
        value_loss: "mse" as in SB3, or "huber", which is linear beyond an error of 1.
        keep_memory: Whether the process keeps freed memory from the first `learn()` on. On a CPU with glibc, this saves image
            policies page faults, see `keep_freed_memory`.
        autocast: "bfloat16" extracts features in bfloat16, which is faster on CPUs and GPUs that support it. Weights, heads,
            distribution and losses stay in float32. None computes everything in float32. The algorithm owns this option: a
            policy that is saved and loaded by itself computes in float32.

    Raises:
        UserError: A hyperparameter is not valid, a Box has infinite bounds or an integer dtype, an option belongs to a
            Gaussian, or a name is unknown.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: ActorCriticPolicy
    rollout_buffer: RolloutBuffer
    _callback: Callable[[], BaseCallback | None] = staticmethod(lambda: None)
    _on_resume: BaseCallback | None = None

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
            device=distributed.own_device(device),
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
        if _init_setup_model:
            self._setup_model()
        hyperparameters.warn_of_truncated_minibatch(self)

    def _setup_model(self) -> None:
        # Checked here, since `load` and rl-zoo3's resume set attributes without the constructor.
        hyperparameters.check(self)
        if self.rollout_buffer_class is None and not isinstance(self.observation_space, spaces.Dict):
            self.rollout_buffer_class = CompactRolloutBuffer
        super()._setup_model()
        self._watch = Watch()
        if isinstance(self.action_space, spaces.Box) and not np.can_cast(np.float32, self.action_space.dtype):
            # SB3 would round stored actions to the dtype of the action space, but they have to equal those played.
            self.rollout_buffer.action_space = spaces.Box(-np.inf, np.inf, self.action_space.shape, np.float32)
            self.rollout_buffer.reset()
        extractor = self.policy.features_extractor
        wants_channels_last = isinstance(extractor, ImageExtractor) and extractor.channels_last
        if wants_channels_last and isinstance(self.rollout_buffer, CompactRolloutBuffer):
            self.rollout_buffer.keep_channels_last()
        if self.autocast is not None:
            if not isinstance(self.policy, NamedPartsPolicy):
                name = type(self.policy).__name__
                raise UserError(f"autocast={self.autocast!r} needs a policy of sb3_carracing.ppo.policies, got {name}")
            self.policy.autocast = self.autocast
        # As in stock PPO, so that scripts may call `model.clip_range(progress)`.
        self.clip_range = hyperparameters.as_schedule("clip_range", self.clip_range)
        if self.clip_range_vf is not None:
            self.clip_range_vf = hyperparameters.as_schedule("clip_range_vf", self.clip_range_vf)

    def _setup_lr_schedule(self) -> None:
        self.lr_schedule = hyperparameters.as_schedule("learning_rate", self.learning_rate)
        self._scheduled_learning_rate = self.learning_rate

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        """Set the optimizer's learning rate, including a `learning_rate` that a callback has changed."""
        if self.learning_rate is not self._scheduled_learning_rate:
            self._setup_lr_schedule()
        super()._update_learning_rate(optimizers)

    def _excluded_save_params(self) -> list[str]:
        unsaved = ["_scheduled_learning_rate", "_watch", "_callback", "_on_resume"]
        return [*super()._excluded_save_params(), *unsaved]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy the model and its environment; both copies share the logger."""
        return copy_model(self, memo)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """Prepare `learn` as in SB3, for `resume`: it reads the callbacks, and its own starts last."""
        total_timesteps, callback = super()._setup_learn(*args, **kwargs)
        if self._on_resume is not None:
            self._on_resume.init_callback(self)
            if isinstance(callback, ranks.RankCallbacks):
                callback.callbacks.append(self._on_resume)
            else:
                callback = CallbackList([callback, self._on_resume])
                callback.model = self
            self._on_resume = None
        self._callback = weakref.ref(callback)  # a copy of the model does not copy its callbacks
        return total_timesteps, callback

    def _maybe_recommend_cpu(self, mlp_class_name: str = MlpPolicy.__name__) -> None:
        """Warn, as stock PPO does, when a small network is trained on a GPU."""
        super()._maybe_recommend_cpu(mlp_class_name)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Collect as in SB3; a callback that stops the training on one rank stops it on all."""
        if rollouts.can_collect(self.policy, rollout_buffer):
            completed = rollouts.collect(self, env, callback, rollout_buffer, n_rollout_steps)
        else:
            completed = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        return completed and not (isinstance(callback, ranks.RankCallbacks) and callback.stops)

    @keeps_good_weights
    def train(self) -> None:
        """Update actor and critic with the rollout: `n_epochs` passes over it in shuffled minibatches.

        Several ranks each take a share of every minibatch; with the mean gradient, they all do the same step.
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        group = distributed.current()
        clip_range, clip_range_vf = ranks.agree(group, self, self._clip_ranges())

        parameters = list(self.policy.parameters())
        gradients = distributed.Gradients(group, parameters)
        # Metrics stay on the device until the end of the update, one tensor per minibatch.
        metrics: dict[str, list[th.Tensor]] = defaultdict(list)
        within_target_kl = True
        for epoch in range(self.n_epochs):
            metrics["approx_kl"].clear()  # as in SB3, the divergence of the last epoch is reported
            minibatches: Iterable[RolloutBufferSamples] = self.rollout_buffer.get(self.batch_size // group.size)
            if self.normalize_advantage:
                minibatches = distributed.with_normalized_advantages(minibatches, group)
            for minibatch in minibatches:
                loss = self._loss(minibatch, clip_range, clip_range_vf, metrics)
                self.policy.optimizer.zero_grad()
                loss.backward()
                gradients.average(metrics)

                if self.target_kl is not None and metrics["approx_kl"][-1] > 1.5 * self.target_kl:
                    within_target_kl = False
                    if self.verbose >= 1:
                        print(f"Early stopping at step {epoch} due to reaching max kl: {metrics['approx_kl'][-1]:.2f}")
                    break

                metrics["grad_norm"].append(clip_gradients(parameters, self.max_grad_norm))
                check_before_step(self, metrics)
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
        has_beta = isinstance(self.policy.action_dist, BetaDistribution)
        with outputs_of(self.policy.action_net if has_beta else None) as params:
            values, log_prob, entropy = self.policy.evaluate_actions(minibatch.observations, actions)
        log_ratio = log_prob - minibatch.old_log_prob

        policy_loss = losses.clipped_surrogate_loss(log_ratio, minibatch.advantages, clip_range)
        value_loss = losses.value_loss(
            values.flatten(), minibatch.returns, minibatch.old_values, clip_range_vf, self.value_loss
        )
        # Without a closed form, estimate the entropy from the sampled actions.
        entropy_loss = log_prob.mean() if entropy is None else -entropy.mean()
        loss = policy_loss + self.vf_coef * value_loss
        if self.ent_coef != 0.0:
            loss = loss + self.ent_coef * entropy_loss

        with th.no_grad():
            metrics["policy_gradient_loss"].append(policy_loss.detach())
            metrics["value_loss"].append(value_loss.detach())
            metrics["entropy_loss"].append(entropy_loss.detach())
            metrics["loss"].append(loss.detach())
            metrics["approx_kl"].append(losses.approximate_kl(log_ratio))
            metrics["clip_fraction"].append(losses.clip_fraction(log_ratio, clip_range))
            metrics["params"] += params
        return loss

    def _clip_ranges(self) -> tuple[float, float | None]:
        """Return the clip ranges of policy and value at the current progress."""
        progress = self._current_progress_remaining
        # A callback may have set numbers in place of schedules.
        clip_range = hyperparameters.as_schedule("clip_range", self.clip_range)(progress)
        if self.clip_range_vf is None:
            return clip_range, None
        return clip_range, hyperparameters.as_schedule("clip_range_vf", self.clip_range_vf)(progress)

    def _log_update(self, metrics: dict[str, list[th.Tensor]], clip_range: float, clip_range_vf: float | None) -> None:
        """Hand the means of the update to the logger.

        Raises:
            NonFiniteLossError: A loss, a gradient or a weight became NaN or infinite.
        """
        group = distributed.current()
        params = metrics.pop("params", [])
        if params:
            assert isinstance(self.policy.action_dist, BetaDistribution)
            concentration = copy.copy(self.policy.action_dist).proba_distribution(th.cat(params)).concentration
            metrics["concentration_mean"], metrics["concentration_max"] = [concentration.mean()], [concentration.max()]
        metrics["weights_norm"] = [weights_norm(self.policy)]
        on_host = to_host(metrics)
        check_update(self, on_host)
        means = {key: float(values.mean()) for key, values in on_host.items() if key != "weights_norm"}
        means["loss"] = float(on_host["loss"][-1])  # as SB3 logs it
        if params:
            assert isinstance(self.action_space, spaces.Box)
            means["actions_at_bounds"] = group.mean(share_at_bounds(self.rollout_buffer.actions, self.action_space))
            means["concentration_mean"] = group.mean(means["concentration_mean"])
            means["concentration_max"] = max(group.gather(means["concentration_max"]))
        # Environment by environment, in the order in which SB3 adds them up.
        parts = (self.rollout_buffer.values, self.rollout_buffer.returns)
        values, returns = (np.concatenate(group.gather(part.flatten("F"))) for part in parts)
        means["explained_variance"] = float(explained_variance(values, returns))
        for key, value in means.items():
            self.logger.record(f"train/{key}", value)
        self._watch.look(self._n_updates, means, self.max_grad_norm, self.action_space)
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "BetaPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train for `total_timesteps` [decisions, summed over environments] and return the model.

        The other arguments are SB3's.
        """
        hyperparameters.check_learn(self, total_timesteps, log_interval)
        if self.keep_memory and self.device.type == "cpu":
            keep_freed_memory()
        group = distributed.join()
        callback = with_finite_values(self, callback)
        if group.size > 1:
            callback, progress_bar = ranks.begin(group, self, total_timesteps, callback, progress_bar), False
        return super().learn(
            total_timesteps=total_timesteps,
            callback=callback,
            log_interval=log_interval,
            tb_log_name=tb_log_name,
            reset_num_timesteps=reset_num_timesteps,
            progress_bar=progress_bar,
        )
