"""What `BetaPPO.learn` keeps equal on all ranks: settings, weights, counters, episodes and running means.

Rank 0 logs, validates and saves. The other ranks are silent and run only callbacks with `every_rank = True`.
"""

import io
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, ProgressBarCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_carracing.errors import UserError
from sb3_carracing.ppo.distributed import Group, alive, check_shares, rest
from sb3_carracing.ppo.saving import training_state

T = TypeVar("T")

_MUST_AGREE = (
    *("n_envs", "n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm"),
    *("target_kl", "normalize_advantage", "value_loss", "autocast"),
)
_MAY_CHANGE = ("n_epochs", "ent_coef", "vf_coef", "max_grad_norm", "target_kl")


def begin(
    group: Group, model: OnPolicyAlgorithm, total_timesteps: int, callback: MaybeCallback, progress_bar: bool
) -> MaybeCallback:
    """Make all ranks begin `learn` in the same state, and return the callbacks of this rank.

    Raises:
        UserError: The ranks' settings differ, or they cannot share a minibatch equally. All ranks raise it.
    """
    callbacks = callback if isinstance(callback, list) else [callback] if callback is not None else []
    own = [item if isinstance(item, BaseCallback) else ConvertCallback(item) for item in callbacks]
    own += [ProgressBarCallback()] if progress_bar else []
    own = [_ProgressBar() if type(item) is ProgressBarCallback else item for item in own]
    _check_agreement(group, {name: getattr(model, name, None) for name in _MUST_AGREE} | {"total_timesteps": total_timesteps})
    check_shares("batch_size", vars(model)["batch_size"], group.size)
    _copy_state_of_rank_0(group, model)
    if group.rank > 0:
        _draw_differently(group, model)
        model.verbose = 0
        model.set_logger(Logger(folder=None, output_formats=[]))
        own = [item for item in own if getattr(item, "every_rank", False)]
    return RankCallbacks(group, own, model.get_vec_normalize_env())


def agree(group: Group, model: OnPolicyAlgorithm, clip_ranges: T) -> T:
    """Return the clip ranges of rank 0, and take its other settings, which its callbacks may have changed."""
    if group.size == 1:
        return clip_ranges
    rates = [part["lr"] for part in model.policy.optimizer.param_groups]
    rates, settings, clip_ranges = group.same((rates, {name: vars(model)[name] for name in _MAY_CHANGE}, clip_ranges))
    for part, rate in zip(model.policy.optimizer.param_groups, rates, strict=True):
        part["lr"] = rate
    vars(model).update(settings)
    return clip_ranges


class RankCallbacks(CallbackList):
    """The callbacks of one rank. They count the steps of all ranks and exchange what the rollouts have shown.

    Args:
        group: The ranks.
        callbacks: Those that this rank runs.
        normalize: The training's VecNormalize, if it has one.

    Attributes:
        stops: Whether a callback of any rank has stopped the training. All ranks finish the rollout first.
        states: By the number of steps, what an agent's file holds of all ranks' trainings at the start of the latest rollout.
    """

    def __init__(self, group: Group, callbacks: list[BaseCallback], normalize: VecNormalize | None):
        super().__init__(callbacks)
        self._group = group
        self._means = _RunningMeans(group, normalize)
        self._episodes: list[dict[str, Any]] = []
        self._successes: list[bool] = []
        self.stops = False
        self.states: dict[int, dict[str, bytes]] = {}

    def _on_training_start(self) -> None:
        super()._on_training_start()
        alive()

    def _on_rollout_start(self) -> None:
        self._gather_states()
        super()._on_rollout_start()

    def _on_step(self) -> bool:
        alive()
        self.model.num_timesteps += (self._group.size - 1) * self.training_env.num_envs
        for info, done in zip(self.locals["infos"], self.locals["dones"], strict=True):
            if info.get("episode") is not None:
                self._episodes.append(info["episode"])
            if done and info.get("is_success") is not None:
                self._successes.append(info["is_success"])
        self.stops = self.stops or not super()._on_step()
        return True

    def _on_rollout_end(self) -> None:
        self._means.merge()
        weights = [float(parameter.detach().double().sum()) for parameter in self.model.policy.parameters()]
        reports = self._group.gather((self.stops, self._episodes, self._successes, weights))
        self._episodes, self._successes = [], []
        self.stops = any(stops for stops, *_ in reports)
        # Machines of different kinds may round differently.
        if not all(np.allclose(of_rank, weights, rtol=1e-3, atol=1e-3, equal_nan=True) for *_, of_rank in reports):
            raise RuntimeError("the ranks' weights differ: something in the policy or in a callback differs between them")
        assert self.model.ep_info_buffer is not None
        assert self.model.ep_success_buffer is not None
        for rank, (_, episodes, successes, _) in enumerate(reports):
            if rank != self._group.rank:
                self.model.ep_info_buffer.extend(episodes)
                self.model.ep_success_buffer.extend(successes)
        super()._on_rollout_end()

    def _on_training_end(self) -> None:
        self._gather_states()
        super()._on_training_end()
        rest()

    def _gather_states(self) -> None:
        of_ranks = self._group.gather(training_state.entries(self.model, self._group.rank))
        self.states = {self.model.num_timesteps: {name: content for rank in of_ranks for name, content in rank.items()}}


class _ProgressBar(ProgressBarCallback):
    """SB3's progress bar, for the steps of all ranks."""

    def _on_step(self) -> bool:
        self.pbar.update(self.model.num_timesteps - self.model._num_timesteps_at_start - self.pbar.n)
        return True


class _RunningMeans:
    """The running means of VecNormalize, which each rank updates from its own environments until they are merged."""

    def __init__(self, group: Group, normalize: VecNormalize | None):
        self._group = group
        self._means: list[RunningMeanStd] = []
        if normalize is not None:
            observations = getattr(normalize, "obs_rms", None)  # it has none without norm_obs
            parts = list(observations.values()) if isinstance(observations, dict) else [observations]
            self._means = [mean for mean in (*parts, normalize.ret_rms) if mean is not None]
        for mean, of_rank_0 in zip(self._means, group.same(self._means), strict=True):
            mean.mean, mean.var, mean.count = of_rank_0.mean, of_rank_0.var, of_rank_0.count
        self._before = [mean.copy() for mean in self._means]

    def merge(self) -> None:
        """Add to the means of the last merge what each rank has seen since."""
        if not self._means:
            return
        gathered = self._group.gather([_since(mean, before) for mean, before in zip(self._means, self._before, strict=True)])
        for number, mean in enumerate(self._means):
            merged = self._before[number]
            for rank in gathered:
                merged.update_from_moments(*rank[number])
            mean.mean, mean.var, mean.count = merged.mean, merged.var, merged.count
        self._before = [mean.copy() for mean in self._means]


def _since(mean: RunningMeanStd, before: RunningMeanStd) -> tuple[np.ndarray, np.ndarray, float]:
    """Return mean, variance and count of what was added to `before` to give `mean`."""
    count = mean.count - before.count
    if count <= 0:
        return np.zeros_like(mean.mean), np.zeros_like(mean.var), 0.0
    added = before.mean + (mean.mean - before.mean) * mean.count / count
    squares = mean.var * mean.count - before.var * before.count
    between = np.square(added - before.mean) * before.count * count / mean.count
    return added, np.maximum(squares - between, 0.0) / count, count


def _check_agreement(group: Group, settings: dict[str, Any]) -> None:
    of_ranks = group.gather(settings)
    for name in settings:
        values = [of_rank[name] for of_rank in of_ranks]
        if any(value != values[0] for value in values):
            raise UserError(f"{name} must be the same on all ranks, got {', '.join(map(repr, values))}")


def _copy_state_of_rank_0(group: Group, model: OnPolicyAlgorithm) -> None:
    """Give all ranks the weights, optimizer and counters of rank 0."""
    block = io.BytesIO()
    if group.rank == 0:
        th.save(model.get_parameters(), block)
    content, counters = group.same((block.getvalue(), (model.num_timesteps, model._n_updates)))
    model.num_timesteps, model._n_updates = counters
    if group.rank > 0:
        model.set_parameters(th.load(io.BytesIO(content), map_location=model.device, weights_only=True), device=model.device)


def _draw_differently(group: Group, model: OnPolicyAlgorithm) -> None:
    """Seed this rank's generators and environments differently from the other ranks'.

    The environments continue the seeds of the ranks before: SB3 gives environment number `i` the seed `seed + i`.
    """
    if model._last_obs is None:  # otherwise they have drawn before
        state = np.random.randint(2**31)  # noqa: NPY002 - the generator that `seed` has seeded, on each rank alike
        set_random_seed(int(np.random.SeedSequence((state, group.rank)).generate_state(1)[0]), model.device.type == "cuda")
    assert isinstance(model.env, VecEnv)
    pending = model.env.unwrapped
    first = group.rank * model.n_envs
    pending._seeds = [seed if seed is None else seed + first for seed in pending._seeds]
