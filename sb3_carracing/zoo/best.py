"""A study's best trial as a YAML entry that rl-zoo3 reads, and its training."""

import argparse
import sys
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER
from torch import nn

from sb3_carracing.files import next_free
from sb3_carracing.zoo.study import find_trial, load_study


def as_yaml(data: dict[str, Any]) -> str:
    """Return plain data as YAML.

    :raises ValueError: it holds objects
    """
    try:
        text: str = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=120)
    except yaml.representer.RepresenterError as error:
        raise ValueError(f"the hyperparameters have to be plain data to be kept in a study: {error}") from error
    return text


def trial_entry(study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
    """Return the YAML entry that the study began with, replaced by what the trial sampled.

    :raises ValueError: the study is not one of `tune`
    """
    settings = study.user_attrs.get("settings")
    if settings is None:
        raise ValueError(f"the study {study.study_name!r} is not one of `tune`: `train --trial-id N` reads rl-zoo3's")
    entry: dict[str, Any] = yaml.safe_load(settings["entry"]) | HYPERPARAMS_CONVERTER[settings["algo"]](trial.params)
    if "policy_kwargs" in entry:
        entry["policy_kwargs"] = _as_data(entry["policy_kwargs"])
    return entry


def entry_of(study: optuna.Study, trial: FrozenTrial) -> str:
    """Return a trial as a file for `-conf`, see `trial_entry`.

    :raises ValueError: the study is not one of `tune`
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


def show_and_train(args: argparse.Namespace) -> None:
    """Print the best trial of `args.study_name` in `args.storage`; unless `args.print_only`, train it with our `train`.

    :raises ValueError: there is no such study, or none of its trials is complete
    """
    from sb3_carracing.zoo import commands

    study = load_study(args.storage, args.study_name)
    text = entry_of(study, find_trial(study))
    print(text, end="")
    if args.print_only:
        return
    settings = study.user_attrs["settings"]
    file = Path(args.log_folder) / settings["algo"] / f"{study.study_name.replace('/', '_')}_best.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file = next_free(file)
    file.write_text(text)
    print(f"Training it: {file}", file=sys.stderr)
    argv = ["--algo", settings["algo"], "--env", settings["env"], "-conf", str(file), "-f", args.log_folder]
    argv += ["-n", str(args.n_timesteps), "--seed", str(args.seed), "--vec-env", args.vec_env, "--device", args.device]
    argv += ["--num-threads", str(args.num_threads), "--verbose", str(args.verbose), *(["-P"] if args.progress else [])]
    # The last of two equal options counts.
    commands.run("train", [*argv, *args.train_arguments])
