"""The search space of BetaPPO, for `tune` and for rl-zoo3's own `-optimize`.

rl-zoo3 replaces the YAML's `policy_kwargs` as a whole by what is sampled, and rebuilds a trial from its parameters alone
(`--trial-id`). So we store the `policy_kwargs` that are not searched as one more parameter, as JSON with a single choice.
"""

import ast
import json
import math
from typing import Any

import optuna
from rl_zoo3.utils import SimpleLinearSchedule
from stable_baselines3.common.preprocessing import is_image_space

from sb3_carracing.errors import UserError
from sb3_carracing.ppo.torch_layers import IMAGE_EXTRACTORS

UPDATES_PER_REPORT = 4
"""Smallest number of updates between two reports; without an update, two reports have the same value."""

_MIN_BATCH_POW, _MAX_BATCH_POW = 6, 9  # 64 to 512
_MAX_ROLLOUT = 8192  # [steps of all environments]
_NET_ARCHS = {"tiny": [64], "small": [64, 64], "medium": [256, 256]}
# Extractors that take images of 36 x 36 and more.
_SMALL_IMAGE_EXTRACTORS = ("impala", "iurin", "nature")


def sample_beta_ppo_params(
    trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    """Sample one trial's hyperparameters, as arguments of `BetaPPO`; the signature is rl-zoo3's.

    Args:
        trial: of a study whose user attributes hold the YAML's `policy` and `policy_kwargs` as text, as rl-zoo3 writes
            them, unless `additional_args` has them.
        n_actions: number of action dimensions; 0 if the actions are not a Box, for which there is no Beta.
        n_envs: number of environments in the rollout.
        additional_args: `policy` (name or class), `policy_kwargs` (the YAML's), `max_rollout` [steps of all
            environments], `extractors` (names of those that take the images).

    Raises:
        UserError: `max_rollout` is too small for a batch, or `policy_kwargs` are not plain data.
    """
    attributes = {} if "policy" in additional_args else trial.study.user_attrs
    policy = str(additional_args.get("policy", attributes.get("policy", "MlpPolicy")))
    fixed = additional_args.get("policy_kwargs", attributes.get("policy_kwargs"))
    low, high = n_steps_powers(n_envs, additional_args.get("max_rollout", _MAX_ROLLOUT))
    batch_high = min(_MAX_BATCH_POW, int(math.log2(2**low * n_envs)))
    images = "Cnn" in policy

    trial.suggest_int("n_steps_pow", low, high)
    trial.suggest_int("batch_size_pow", _MIN_BATCH_POW, batch_high)
    trial.suggest_int("n_epochs", 2, 12)
    trial.suggest_float("learning_rate", 5e-5, 2e-3, log=True)
    trial.suggest_categorical("lr_schedule", ["constant", "linear"])
    trial.suggest_float("clip_range", 0.1, 0.3)
    trial.suggest_float("one_minus_gamma", 3e-3 if images else 1e-4, 0.03 if images else 0.1, log=True)
    trial.suggest_float("one_minus_gae_lambda", 0.01, 0.2, log=True)
    trial.suggest_float("ent_coef", 1e-6, 0.02, log=True)
    trial.suggest_float("vf_coef", 0.2, 1.0)
    trial.suggest_float("max_grad_norm", 0.3, 2.0)
    if n_actions:
        trial.suggest_categorical("parameterization", ["exp", "mode", "softplus"])
    base = _plain(fixed)
    if images:
        own = base.get("features_extractor_class")
        names = additional_args.get("extractors") or {*_SMALL_IMAGE_EXTRACTORS, *([own] if own else [])}
        trial.suggest_categorical("features_extractor_class", sorted(names))
    else:
        trial.suggest_categorical("net_arch", sorted(_NET_ARCHS))
        trial.suggest_categorical("activation_fn", ["relu", "tanh"])
    trial.suggest_categorical("fixed_policy_kwargs", [json.dumps(base, sort_keys=True)])

    hyperparams = convert_beta_ppo_params(trial.params)
    # rl-zoo3 turns text into schedules only in a YAML file.
    if isinstance(hyperparams["learning_rate"], str):
        hyperparams["learning_rate"] = SimpleLinearSchedule(trial.params["learning_rate"])
    return hyperparams


def convert_beta_ppo_params(params: dict[str, Any]) -> dict[str, Any]:
    """Return a trial's parameters as a YAML's entries, with complete `policy_kwargs`."""
    hyperparams = {
        name: params[name] for name in ("n_epochs", "learning_rate", "clip_range", "ent_coef", "vf_coef", "max_grad_norm")
    }
    hyperparams["n_steps"] = 2 ** params["n_steps_pow"]
    hyperparams["batch_size"] = 2 ** params["batch_size_pow"]
    hyperparams["gamma"] = 1.0 - params["one_minus_gamma"]
    hyperparams["gae_lambda"] = 1.0 - params["one_minus_gae_lambda"]
    if params["lr_schedule"] == "linear":
        hyperparams["learning_rate"] = f"lin_{params['learning_rate']}"

    policy_kwargs = json.loads(params["fixed_policy_kwargs"])
    extractor = params.get("features_extractor_class")
    if extractor is not None and extractor != policy_kwargs.get("features_extractor_class"):
        # They are another extractor's.
        policy_kwargs.pop("features_extractor_kwargs", None)
    for name in ("parameterization", "features_extractor_class", "activation_fn"):
        if name in params:
            policy_kwargs[name] = params[name]
    if "net_arch" in params:
        policy_kwargs["net_arch"] = {part: list(_NET_ARCHS[params["net_arch"]]) for part in ("pi", "vf")}
    return hyperparams | {"policy_kwargs": policy_kwargs}


def n_steps_powers(n_envs: int, max_rollout: int) -> tuple[int, int]:
    """Return the bounds of log2(n_steps): rollouts of up to `max_rollout` [steps of all environments].

    Raises:
        UserError: not even a batch of 64 fits.
    """
    high = min(11, int(math.log2(max(1, max_rollout // n_envs))))
    smallest = _smallest_power(n_envs)
    if high < smallest:
        raise UserError(
            f"a rollout may have {max_rollout} steps for {UPDATES_PER_REPORT} updates between two reports, but the smallest "
            f"of {n_envs} environments has {smallest_rollout(n_envs)}: raise -n, or lower --n-evaluations or n_envs"
        )
    return min(high, max(smallest, math.ceil(math.log2(256 / n_envs)))), high


def smallest_rollout(n_envs: int) -> int:
    """Return the steps of all environments in the smallest rollout that is sampled, which holds a batch of 64."""
    return int(2 ** _smallest_power(n_envs)) * n_envs


def _smallest_power(n_envs: int) -> int:
    return max(5, math.ceil(math.log2(2**_MIN_BATCH_POW / n_envs)))


def fitting_extractors(space: Any) -> list[str]:
    """Return the names of the extractors that take an environment's images, channels first; none where it has none."""
    if not is_image_space(space):
        return []
    fitting = []
    for name, extractor in IMAGE_EXTRACTORS.items():
        try:
            extractor(space)
        except (ValueError, RuntimeError):
            continue
        fitting.append(name)
    return fitting


def _plain(policy_kwargs: Any) -> dict[str, Any]:
    """Return `policy_kwargs`, given as a dict or its text, as data that JSON can hold."""
    try:
        data = ast.literal_eval(policy_kwargs) if isinstance(policy_kwargs, str) else policy_kwargs
        plain: dict[str, Any] = json.loads(json.dumps(data or {}))
    except (ValueError, SyntaxError, TypeError) as error:
        raise UserError(
            f"to tune beta_ppo, policy_kwargs must be plain data, classes by name (activation_fn: relu), got {policy_kwargs}"
        ) from error
    return plain
