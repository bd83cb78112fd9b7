"""`tune`: arguments of rl-zoo3's `train -optimize`, and ours."""

import argparse
import importlib
import sys
from pathlib import Path

from sb3_carracing.checks import whole_number
from sb3_carracing.cli.table import libraries_of
from sb3_carracing.errors import UserError


def main(argv: list[str]) -> None:
    """Search hyperparameters, or print and train the best found.

    Args:
        argv: arguments of rl-zoo3's `train -optimize`, and ours.

    Raises:
        UserError: the search space, the storage or the study is invalid or missing. Raised before any training.
    """
    with libraries_of("tune"):
        from sb3_carracing.pipelines import env_spec
        from sb3_carracing.zoo.scripts import script_of_rl_zoo3
        from sb3_carracing.zoo.tune import search

    with script_of_rl_zoo3() as work_begins:
        args = _parser().parse_args(argv)
        for module in args.gym_packages:
            importlib.import_module(module)
        env_spec(args.env)
        _check(args)
        if args.best:
            args.study_name = args.study_name or f"{args.algo}_{args.env}"
            file = show_best(args)
        else:
            search(args, work_begins)
            return
    if file is not None:
        train_best(args, file)


def _check(args: argparse.Namespace) -> None:
    """Raise a UserError for numbers out of range and for options that contradict each other."""
    from sb3_carracing.zoo.train_options import or_default, refuse_ranks

    refuse_ranks(args.ranks is not None)
    whole_number("--heartbeat-interval", args.heartbeat_interval, 1)
    whole_number("--n-startup-trials", args.n_startup_trials, 0)
    if args.n_timesteps < 1 and args.n_timesteps != -1:
        raise UserError(f"-n must be at least 1, or -1 for the YAML's n_timesteps, got {args.n_timesteps}")
    if args.n_jobs < 1 and args.n_jobs != -1:
        raise UserError(f"--n-jobs must be at least 1, or -1 for one per core, got {args.n_jobs}")
    or_default("--seed", args.seed, 0)
    or_default("--num-threads", args.num_threads, 1)
    of_train = {"-conf": args.conf_file, "-params": args.hyperparams, "--env-kwargs": args.env_kwargs}
    unused = [option for option, value in of_train.items() if args.best and value]
    if unused:
        raise UserError(f"--best trains its trial's own YAML entry: to change it, pass {unused[0]} to train, after --")
    if not args.best and (args.train_arguments or args.print_only):
        raise UserError("--print-only and arguments after -- go with --best")


def show_best(args: argparse.Namespace) -> Path | None:
    """Print the best trial of `args.study_name` in `args.storage` as a YAML entry.

    Returns:
        The file with the entry, to be trained; None with `args.print_only`.

    Raises:
        UserError: there is no such study, or none of its trials is complete.
    """
    from sb3_carracing.files import next_free
    from sb3_carracing.zoo.study import entry_of, find_trial, load_study

    study = load_study(args.storage, args.study_name)
    text = entry_of(study, find_trial(study))
    print(text, end="")
    if args.print_only:
        return None
    settings = study.user_attrs["settings"]
    args.algo, args.env = settings["algo"], settings["env"]
    file = Path(args.log_folder) / args.algo / f"{study.study_name.replace('/', '_')}_best.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file = next_free(file)
    file.write_text(text)
    return file


def train_best(args: argparse.Namespace, file: Path) -> None:
    """Train a file's entry with our `train`."""
    from sb3_carracing.zoo import commands

    print(f"Training {file}", file=sys.stderr)
    argv = ["--algo", args.algo, "--env", args.env, "-conf", str(file), "-f", args.log_folder, "--device", args.device]
    argv += ["-n", str(args.n_timesteps), "--seed", str(args.seed), "--vec-env", args.vec_env]
    argv += ["--num-threads", str(args.num_threads), "--verbose", str(max(0, args.verbose - 1))]
    argv += ["-P"] if args.progress else []
    # If an option is repeated, the last one counts.
    commands.train([*argv, *args.train_arguments])


def _parser() -> argparse.ArgumentParser:
    """Return a parser with rl-zoo3's options of a search, followed by ours."""
    from sb3_carracing.pipelines import FAST_ID
    from sb3_carracing.zoo.register import ALGO_NAME, tunable_algorithms
    from sb3_carracing.zoo.scripts import StoreDict
    from sb3_carracing.zoo.storage import HEARTBEAT_INTERVAL
    from sb3_carracing.zoo.study import PRUNERS, SAMPLERS
    from sb3_carracing.zoo.tune import N_EVALUATIONS

    parser = argparse.ArgumentParser(prog="python -m sb3_carracing tune", description=str(main.__doc__).splitlines()[0])
    add = parser.add_argument
    add("--algo", default=ALGO_NAME, choices=tunable_algorithms(), help="default: %(default)s")
    add("--env", default=FAST_ID, help="environment id (default: %(default)s)")
    add("-n", "--n-timesteps", type=int, default=-1, help="steps per trial (default: the YAML's n_timesteps)")
    add("--n-trials", type=int, default=500, help="trials that this worker starts (default: %(default)s)")
    add("--max-total-trials", type=int, help="complete and pruned trials of all workers; replaces --n-trials")
    add("--n-jobs", type=int, default=1, help="trials run in parallel threads; more workers are faster (default: %(default)s)")
    add("--sampler", default="tpe", choices=SAMPLERS, help="default: %(default)s")
    add("--pruner", default="median", choices=PRUNERS, help="default: %(default)s")
    add("--n-startup-trials", type=int, default=10, help="random trials before the sampler starts (default: %(default)s)")
    add("--n-evaluations", type=int, default=N_EVALUATIONS, help="reports per trial (default: %(default)s)")
    add("--eval-episodes", type=int, default=5, help="episodes per report (default: %(default)s)")
    add("--n-eval-envs", type=int, default=1, help="evaluation processes (default: %(default)s)")
    add("--storage", help="database URL (postgresql://user@host/name, sqlite:///file.db) or journal file (*.log)")
    add("--study-name", help="default: <algo>_<env>; workers with one storage and study name share its trials")
    add("--optimization-log-path", help="folder for evaluations.csv and best_model.zip of each trial")
    add("--seed", type=int, default=-1, help="seed of the study (default: the study's, else a random one)")
    add("-conf", "--conf-file", help="hyperparameters, YAML or Python (default: the package's)")
    add("-params", "--hyperparams", nargs="+", action=StoreDict, help="overwrite hyperparameters that are not searched")
    add("--env-kwargs", nargs="+", action=StoreDict, help="keyword arguments of the environment, key:value")
    add("--eval-env-kwargs", nargs="+", action=StoreDict, help="the same for the evaluation (default: --env-kwargs)")
    add("--vec-env", default="dummy", choices=["dummy", "subproc"], help="default: %(default)s")
    add("--device", default="auto", help="default: %(default)s")
    add("--num-threads", type=int, default=-1, help="PyTorch threads")
    add("-f", "--log-folder", default="logs", help="default: %(default)s")
    add("--verbose", type=int, default=1, help="0: only warnings, 2: each trial's log")
    add("--gym-packages", nargs="+", default=[], help="modules to import that register environments")
    add("-P", "--progress", action="store_true", help="show a progress bar for each trial")
    add("-optimize", "--optimize-hyperparameters", action="store_true", help="implied, so that rl-zoo3's command works here")
    add("--no-optim-plots", action="store_true", help="implied: tune shows no plots")
    ours = parser.add_argument_group("not in rl-zoo3")
    ours.add_argument(
        "--heartbeat-interval",
        type=int,
        default=HEARTBEAT_INTERVAL,
        help="seconds between two heartbeats of a trial in a database (default: %(default)s)",
    )
    ours.add_argument("--ranks", help=argparse.SUPPRESS)  # refused with the reason
    ours.add_argument("--best", action="store_true", help="print the study's best trial as YAML and train it")
    ours.add_argument("--print-only", action="store_true", help="with --best: only print")
    ours.add_argument("train_arguments", nargs="*", help="with --best, after --: further arguments of train")
    return parser
