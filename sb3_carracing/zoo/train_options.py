"""Options of rl-zoo3's train that it would silently ignore."""

import argparse
from pathlib import Path
from typing import Any

from sb3_carracing.checks import whole_number
from sb3_carracing.errors import UserError
from sb3_carracing.files import listing
from sb3_carracing.ppo.distributed import n_ranks
from sb3_carracing.runs import agents_of, readable_agent

# Options of a search, with rl-zoo3's defaults.
_OF_A_SEARCH: dict[str, Any] = {
    "n_trials": 500,
    "max_total_trials": None,
    "no_optim_plots": False,
    "n_jobs": 1,
    "sampler": "tpe",
    "pruner": "median",
    "n_startup_trials": 10,
    "n_evaluations": None,
    "optimization_log_path": None,
}
# The smallest value of a number; below 0 they mean rl-zoo3's default, which is spelled -1 only.
_NUMBERS = {"n_timesteps": 1, "num_threads": 1}


def check_train_options(args: argparse.Namespace) -> None:
    """Refuse, by name, options that have no effect.

    Args:
        args: arguments of rl-zoo3's train.

    Raises:
        UserError: an option has no effect. The message names the option and its value.
    """
    for name, smallest in _NUMBERS.items():
        or_default(_spelled(name), getattr(args, name), smallest)
    if args.log_interval == 0:
        raise UserError("--log-interval must be at least 1, -1 for the default or -2 for no log, got 0")
    whole_number("--eval-episodes", args.eval_episodes, 1)
    whole_number("--n-eval-envs", args.n_eval_envs, 1)
    if args.optimize_hyperparameters:
        if args.trial_id is not None or args.trained_agent:
            raise UserError("--trial-id and -i train an agent: they do not go with -optimize")
        for option, given in (("-tb", args.tensorboard_log), ("--save-freq", args.save_freq > 0)):
            if given:
                raise UserError(f"{option} does not go with -optimize: a trial writes no such files")
        return
    given = [name for name, default in _OF_A_SEARCH.items() if getattr(args, name) != default]
    if given:
        raise UserError(f"{_spelled(given[0])} is for a search: it goes with -optimize")
    if args.trial_id is None and (args.storage or args.study_name):
        raise UserError("--storage and --study-name go with --trial-id or -optimize")
    if args.trial_id is not None and not (args.storage and args.study_name):
        raise UserError("--trial-id needs --storage and --study-name")
    kept = sorted({"policy", "policy_kwargs"} & set(args.hyperparams or ()))
    if args.trained_agent and kept:
        raise UserError(f"-params {kept[0]} does not go with -i: the network is the agent's own")


def with_readable_agent(argv: list[str]) -> list[str]:
    """Return the arguments with a file after `-i` that rl-zoo3 can resume.

    A run folder means its last agent. In place of a damaged agent, it is the newest readable one of the run.

    Raises:
        UserError: the folder holds no agent.
    """
    parser = argparse.ArgumentParser(prog="python -m sb3_carracing train", add_help=False)
    parser.add_argument("-i", "--trained-agent", type=Path)
    wanted: Path | None = parser.parse_known_args(argv)[0].trained_agent
    if wanted is None or not (wanted.is_dir() or (wanted.suffix == ".zip" and wanted.is_file())):
        return argv
    if wanted.is_dir():
        agents = agents_of(wanted)
        if not agents:
            there = sorted(path.name for path in wanted.iterdir())
            raise UserError(f"-i {wanted} holds no agent; it holds {listing(there)}")
        wanted = agents[0]
    # If an option is repeated, the last one counts.
    return [*argv, "-i", str(readable_agent(wanted))]


def check_seed(argv: list[str]) -> None:
    """Refuse negative seeds other than -1, which rl-zoo3 would silently replace by a random one."""
    parser = argparse.ArgumentParser(prog="python -m sb3_carracing train", add_help=False)
    parser.add_argument("--seed", type=int, default=-1)
    or_default("--seed", parser.parse_known_args(argv)[0].seed, 0)


def without_frames(argv: list[str]) -> tuple[list[str], int | None]:
    """Return the arguments without our `--frames`, which rl-zoo3 does not know, and its value.

    Raises:
        UserError: it is not a whole number of at least 1, or `-n` is given as well.
    """
    parser = argparse.ArgumentParser(prog="python -m sb3_carracing train", add_help=False, allow_abbrev=False)
    parser.add_argument("--frames", type=float)
    parser.add_argument("-n", "--n-timesteps")
    asked, _ = parser.parse_known_args(argv)
    if asked.frames is None:
        return argv, None
    if asked.n_timesteps is not None:
        raise UserError("--frames and -n both set the length of the training: leave one out")
    frames = whole_number("--frames", int(asked.frames) if asked.frames.is_integer() else asked.frames, 1)
    only_frames = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    only_frames.add_argument("--frames")
    return only_frames.parse_known_args(argv)[1], frames


def with_verbosity(argv: list[str]) -> tuple[list[str], bool]:
    """Return the arguments with our `--verbose 0` if they have none, and whether rl-zoo3 is to print its tables.

    A search keeps rl-zoo3's default of 1.
    """
    parser = argparse.ArgumentParser(prog="python -m sb3_carracing train", add_help=False)
    parser.add_argument("--verbose", type=int)
    parser.add_argument("-optimize", "--optimize-hyperparameters", action="store_true")
    given, _ = parser.parse_known_args(argv)
    if given.verbose is None and not given.optimize_hyperparameters:
        return ["--verbose", "0", *argv], False
    return argv, given.verbose != 0


def refuse_ranks(given: bool) -> None:
    """Raise a UserError if a search is to run on several ranks."""
    if given or n_ranks() > 1:
        raise UserError(
            "a search runs each trial in one process, since trials need nothing from each other: start one worker per core "
            "with the same --storage instead of ranks"
        )


def or_default(name: str, value: int, smallest: int) -> None:
    """Raise a UserError for a number below `smallest` that is not -1, which means the default."""
    if value != -1 and value < smallest:
        raise UserError(f"{name} must be at least {smallest}, or -1 for the default, got {value}")


def _spelled(name: str) -> str:
    return {"n_timesteps": "-n", "no_optim_plots": "--no-optim-plots"}.get(name, f"--{name.replace('_', '-')}")
