"""Studies and their trials: by name and number, as YAML, and the samplers, pruners and seeds that a study has."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER
from sqlalchemy.engine import make_url
from torch import nn

from sb3_carracing.checks import one_of
from sb3_carracing.errors import UserError
from sb3_carracing.zoo.storage import open_storage, quiet, shown

SAMPLERS = ("tpe", "gp", "random")
PRUNERS = ("median", "hyperband", "none")
_MAX_SEED = 2**32


def load_study(url: str | None, name: str | None) -> optuna.Study:
    """Return a study that exists.

    Raises:
        UserError: there is no such study. The message lists the existing ones.
    """
    if url is None or name is None:
        raise UserError("to read a study, both --storage and --study-name are needed")
    file = make_url(url).database if url.startswith("sqlite:///") else url if url.endswith(".log") else None
    if file is not None and not Path(file).is_file():
        raise UserError(f"there is no storage {url}")
    storage = open_storage(url)
    names = sorted(optuna.get_all_study_names(storage))
    if name not in names:
        raise UserError(f"there is no study {name!r} in {shown(url)}; it holds {', '.join(map(repr, names)) or 'none'}")
    return optuna.load_study(study_name=name, storage=storage)


def find_trial(study: optuna.Study, number: int | None = None) -> FrozenTrial:
    """Return a trial by its number, complete or pruned, or the best one.

    Raises:
        UserError: there is none.
    """
    if number is None:
        if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            raise UserError(f"no trial of the study {study.study_name!r} is complete yet")
        return study.best_trial
    trials = study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials):
        raise UserError(f"there is no trial {number} in the study {study.study_name!r}, which has {len(trials)}")
    trial = trials[number]
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        state = trial.state.name.lower()
        raise UserError(f"trial {number} of the study {study.study_name!r} is {state}, neither complete nor pruned")
    return trial


def as_yaml(data: dict[str, Any]) -> str:
    """Return plain data as YAML.

    Raises:
        UserError: it holds objects.
    """
    try:
        text: str = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=120)
    except yaml.representer.RepresenterError as error:
        raise UserError(f"the hyperparameters have to be plain data to be kept in a study: {error}") from error
    return text


def trial_entry(study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
    """Return the YAML entry that the study was created with, updated with what the trial sampled.

    Raises:
        UserError: the study is not one of `tune`.
    """
    settings = study.user_attrs.get("settings")
    if settings is None:
        raise UserError(f"the study {study.study_name!r} is not one of `tune`: `train --trial-id N` reads rl-zoo3's")
    entry: dict[str, Any] = yaml.safe_load(settings["entry"]) | HYPERPARAMS_CONVERTER[settings["algo"]](trial.params)
    if "policy_kwargs" in entry:
        entry["policy_kwargs"] = _as_data(entry["policy_kwargs"])
    return entry


def entry_of(study: optuna.Study, trial: FrozenTrial) -> str:
    """Return a trial as a file for `-conf`, see `trial_entry`.

    Raises:
        UserError: the study is not one of `tune`.
    """
    entry = trial_entry(study, trial)
    settings = study.user_attrs["settings"]
    comment = f"# {settings['algo']}: trial {trial.number} of study {study.study_name!r}, value {trial.value}"
    return f"{comment}\n{as_yaml({settings['env']: entry})}"


def _as_data(policy_kwargs: Any) -> Any:
    """Return `policy_kwargs` as they are if they are data, else as the text that rl-zoo3 evaluates."""
    if not isinstance(policy_kwargs, dict) or not any(isinstance(value, type) for value in policy_kwargs.values()):
        return policy_kwargs
    return f"dict({', '.join(f'{key}={_as_code(value)}' for key, value in policy_kwargs.items())})"


def _as_code(value: Any) -> str:
    known = isinstance(value, type) and getattr(nn, value.__name__, None) is value
    return f"nn.{value.__name__}" if known else repr(value)


def retried_number(trial: FrozenTrial) -> int | None:
    """Return the number of the killed trial that this one repeats, or None."""
    with quiet():
        number: int | None = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return number


def trial_seed(study_seed: int, trial: FrozenTrial) -> int:
    """Return the study's seed plus the trial's number; a repeated trial keeps its first number."""
    number = retried_number(trial)
    return (study_seed + (trial.number if number is None else number)) % _MAX_SEED


class TrialSeededSampler(BaseSampler):  # type: ignore[misc]
    """Creates a new sampler for every trial, seeded with the study's seed plus the trial's number.

    A single generator per study would start over when the study is resumed, and workers started by the same command would all
    sample the same trials.
    """

    def __init__(self, make: Callable[[int], BaseSampler], study_seed: int) -> None:
        self._make = make
        self._study_seed = study_seed
        self._samplers: dict[int, BaseSampler] = {}

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Make the trial's sampler."""
        self._samplers[trial.number] = self._make(trial_seed(self._study_seed, trial))
        self._samplers[trial.number].before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are sampled together."""
        space: dict[str, BaseDistribution] = self._samplers[trial.number].infer_relative_search_space(study, trial)
        return space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample the parameters that are sampled together."""
        params: dict[str, Any] = self._samplers[trial.number].sample_relative(study, trial, search_space)
        return params

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Sample one parameter by itself."""
        return self._samplers[trial.number].sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """Drop the trial's sampler."""
        self._samplers.pop(trial.number).after_trial(study, trial, state, values)


def make_sampler(name: str, n_startup_trials: int, seed: int) -> BaseSampler:
    """Return a sampler by its name; CMA-ES is not offered, since it has no categorical parameters.

    Raises:
        UserError: the name is not in `SAMPLERS`.
    """
    one_of("sampler", name, sorted(SAMPLERS))
    if name == "random":
        return RandomSampler(seed=seed)
    if name == "gp":
        return GPSampler(seed=seed, n_startup_trials=n_startup_trials)
    # constant_liar: trials that run elsewhere count as bad, so that workers do not all try the same.
    return TPESampler(
        seed=seed,
        n_startup_trials=n_startup_trials,
        multivariate=True,
        constant_liar=True,
    )


def make_pruner(name: str, n_startup_trials: int, n_evaluations: int) -> optuna.pruners.BasePruner:
    """Return a pruner by its name, for trials that report `n_evaluations` times.

    Raises:
        UserError: the name is not in `PRUNERS`.
    """
    one_of("pruner", name, sorted(PRUNERS))
    if name == "none":
        return optuna.pruners.NopPruner()
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max(n_evaluations, 2), reduction_factor=3)
    return optuna.pruners.MedianPruner(n_startup_trials=n_startup_trials, n_warmup_steps=n_evaluations // 3)


def agree_on_settings(study: optuna.Study, settings: dict[str, Any], seed: int | None, random_seed: int) -> int:
    """Store the settings that all workers must share, or compare them with those that an earlier worker stored.

    Args:
        study: the study.
        settings: the settings that all workers must share.
        seed: the study's seed; None means the one that an earlier worker stored, else `random_seed`.
        random_seed: see `seed`.

    Returns:
        The study's seed.

    Raises:
        UserError: an earlier worker's settings or seed differ.
    """
    if "settings" not in study.user_attrs:
        study.set_user_attr("seed", random_seed if seed is None else seed)
        study.set_user_attr("settings", settings)
    # Read again: if several workers start at once, all follow the last one to write.
    known = study.user_attrs
    # As the storage returns them: lists for tuples.
    settings = json.loads(json.dumps(settings))
    before = known["settings"]
    differing = [f"{key} {before.get(key)!r} (now {value!r})" for key, value in settings.items() if before.get(key) != value]
    if seed is not None and seed != known["seed"]:
        differing.append(f"seed {known['seed']} (now {seed})")
    if differing:
        raise UserError(
            f"the study {study.study_name!r} was begun with {'; '.join(differing)}: its trials would not be comparable. Give "
            "the same options, or another --study-name"
        )
    return int(known["seed"])
