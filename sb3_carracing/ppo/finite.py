"""Stop a training at the first NaN or infinity, with the weights and running means from before it."""

import copy
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecNormalize

from sb3_carracing.ppo.metrics import to_host

_GO_ON = "The model can be saved, and `learn(..., reset_num_timesteps=False)` goes on with it."

Model = TypeVar("Model", bound=OnPolicyAlgorithm)

_LOSSES = {
    "value_loss": "value loss",
    "policy_gradient_loss": "policy loss",
    "entropy_loss": "entropy",
    "loss": "loss",
    "grad_norm": "gradient's norm",
    "weights_norm": "weights' norm",
}


class NonFiniteError(ValueError):
    """A value of the training became NaN or infinite. The model is as it was before, so it can be saved or trained on."""


class NonFiniteLossError(NonFiniteError):
    """The loss, its gradient or a weight became NaN or infinite. The weights are those from before the update."""


# --- observations and rewards -------------------------------------------------------------------------------------


def with_finite_values(model: OnPolicyAlgorithm, callback: MaybeCallback) -> list[BaseCallback]:
    """Return the callbacks of a `learn` with `FiniteValues` before them, so that none of them sees what it refuses."""
    given = callback if isinstance(callback, list) else [] if callback is None else [callback]
    others = [other if isinstance(other, BaseCallback) else ConvertCallback(other) for other in given]
    return [FiniteValues(model.get_vec_normalize_env()), *others]


class FiniteValues(BaseCallback):
    """Raise `NonFiniteError` at the first observation, reward or action that is not finite.

    A `VecNormalize` has seen the value by then, so its running means are set back to those before the step.

    Args:
        normalize: The training's VecNormalize, which this callback has to know before the first reset, or None.
    """

    every_rank = True

    def __init__(self, normalize: VecNormalize | None):
        super().__init__()
        self._normalize = normalize
        self._keep_running_means()

    def _on_training_start(self) -> None:
        if self._normalize is not None and hasattr(self._normalize, "old_obs"):
            self._check("observation", self._normalize.old_obs)
        self._check("observation", self.model._last_obs)
        self._check_running_means()
        self._keep_running_means()

    def _on_step(self) -> bool:
        step = self.locals
        actions = step["clipped_actions"]
        self._check("action", actions)
        if self._normalize is not None:
            self._check("observation", self._normalize.old_obs, actions)
            self._check("reward", self._normalize.old_reward, actions)
        self._check("observation", step["new_obs"], actions)
        self._check("reward", step["rewards"], actions)
        for env in np.flatnonzero(step["dones"]):
            self._check("last observation", step["infos"][env].get("terminal_observation"), actions, int(env))
        self._check_running_means()
        self._keep_running_means()
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.locals["rollout_buffer"]
        for name, what in (("values", "critic's value"), ("log_probs", "log-probability"), ("returns", "return")):
            self._check(what, getattr(buffer, name).swapaxes(0, 1))  # to (n_envs, n_steps)

    def _check(self, what: str, values: Any, actions: Any = None, env: int | None = None) -> None:
        found = _first_not_finite(what, values, env)
        if found is not None:
            what, env, value = found
            after = f" after the action {_as_text(actions[env])}" if actions is not None else ""
            self._stop(f"The {what} of environment {env} is {value}{after}.")

    def _check_running_means(self) -> None:
        for rms in _running_means(self._normalize):
            # A mean that overflows takes the variance with it.
            if not _all_finite(rms.var):
                self._stop("The running means of VecNormalize overflow: an observation or a reward is too large for them.")

    def _keep_running_means(self) -> None:
        # An update gives a RunningMeanStd new arrays and leaves the old ones as they are.
        self._kept = [(rms, dict(vars(rms))) for rms in _running_means(self._normalize)]

    def _stop(self, what: str) -> None:
        for rms, values in self._kept:
            vars(rms).update(values)
        self.model._last_obs = None  # so that the next `learn` resets the environment
        error = NonFiniteError(
            f"{what} This is in step {self.model.num_timesteps}, after update {self.model._n_updates}. Weights and running "
            "means are as they were before. Correct the environment, or limit its observations and rewards."
        )
        error.add_note(_GO_ON)
        raise error


def _as_text(action: Any) -> str:
    return np.array2string(np.asarray(action), max_line_width=1000, precision=3, threshold=10)


def _running_means(normalize: VecNormalize | None) -> Iterator[RunningMeanStd]:
    if normalize is None:
        return
    yield normalize.ret_rms
    of_observations = getattr(normalize, "obs_rms", None)
    if isinstance(of_observations, dict):
        yield from of_observations.values()
    elif of_observations is not None:
        yield of_observations


def _all_finite(array: np.ndarray) -> bool:
    # The sum of squares, which is the fastest to get, may overflow.
    flat = array.ravel()
    return math.isfinite(flat.dot(flat)) or bool(np.isfinite(array).all())


def _first_not_finite(what: str, values: Any, env: int | None) -> tuple[str, int, float] | None:
    """Return name, environment and value of what is NaN or infinite, None if all is finite.

    Args:
        what: Name of the values.
        values: `(n_envs, ...)`, or a dict of such arrays; those of one environment if `env` is given.
        env: Index of the environment, or None.
    """
    if isinstance(values, dict):
        parts = (_first_not_finite(f"{what} {key!r}", value, env) for key, value in values.items())
        return next((part for part in parts if part is not None), None)
    array = np.asarray(values)
    if array.dtype.kind != "f" or _all_finite(array):
        return None
    index = tuple(np.argwhere(~np.isfinite(array))[0])
    return what, int(index[0]) if env is None else env, float(array[index])


# --- losses, gradients and weights --------------------------------------------------------------------------------


def keeps_good_weights(train: Callable[[Model], None]) -> Callable[[Model], None]:
    """Decorate `train`: an update that fails or is interrupted leaves weights and optimizer as they were before it."""

    @functools.wraps(train)
    def train_or_restore(model: Model) -> None:
        good, n_updates = copy.deepcopy(model.get_parameters()), model._n_updates
        try:
            train(model)
        except BaseException as error:
            lost = isinstance(error, Exception) and not th.isfinite(weights_norm(model.policy))
            model.set_parameters(good, device=model.device)  # type: ignore[arg-type]  # SB3's annotation is too narrow
            failed, model._n_updates = model._n_updates, n_updates
            if lost and not isinstance(error, NonFiniteError):
                # torch's distributions refuse a network that returns NaN.
                raise _error(f"A weight became NaN or infinite in update {failed}", model) from error
            raise

    return train_or_restore


def check_before_step(model: OnPolicyAlgorithm, metrics: dict[str, list[th.Tensor]]) -> None:
    """Raise `NonFiniteLossError` if the optimizer must not take its step with the last minibatch's gradient.

    A GPU would have to wait for it. There, only `check_update` looks, and `keeps_good_weights` takes the steps back.
    """
    grad_norm = metrics["grad_norm"][-1]
    if grad_norm.device.type == "cpu" and not math.isfinite(grad_norm.item()):
        check_update(model, to_host({name: metrics[name] for name in _LOSSES if name in metrics}))


def check_update(model: OnPolicyAlgorithm, on_host: dict[str, np.ndarray]) -> None:
    """Raise `NonFiniteLossError` if a loss, a gradient or a weight is not finite.

    Args:
        model: What is trained.
        on_host: Losses and norms by name, one for each minibatch. The earliest minibatch is named.

    Raises:
        NonFiniteLossError: One of them is NaN or infinite.
    """
    bad = [
        (int(np.argmin(np.isfinite(on_host[name]))), name) for name in _LOSSES if not np.isfinite(on_host.get(name, 0)).all()
    ]
    if bad:
        minibatch, name = min(bad, key=lambda first: first[0])
        where = f"in minibatch {minibatch + 1} of" if name != "weights_norm" else "at the end of"
        value = on_host[name][minibatch]
        raise _error(f"The {_LOSSES[name]} became {value} {where} update {model._n_updates}", model)


def weights_norm(policy: th.nn.Module) -> th.Tensor:
    """Return the norm of all weights and buffers, a scalar on their device."""
    tensors = [tensor.detach() for tensor in (*policy.parameters(), *policy.buffers()) if tensor.is_floating_point()]
    return th.nn.utils.get_total_norm(tensors)


def _error(what: str, model: OnPolicyAlgorithm) -> NonFiniteLossError:
    largest = float(np.abs(model.rollout_buffer.returns).max())
    error = NonFiniteLossError(
        f"{what} (after {model.num_timesteps} steps). Weights and optimizer are as they were before that update. The largest "
        f"return of the rollout is {largest:.3g}: if that is far above 1, scale the reward or use VecNormalize, else lower "
        "learning_rate."
    )
    error.add_note(_GO_ON)
    return error
