"""rl-zoo3's own scripts with `beta_ppo` registered and as the default of `--algo`."""

import argparse
import contextlib
import functools
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from sb3_carracing.errors import UserError
from sb3_carracing.pipelines import FAST_ID
from sb3_carracing.ppo import distributed
from sb3_carracing.runs import TRAINED_AGENTS
from sb3_carracing.zoo.manager import CarRacingExperimentManager
from sb3_carracing.zoo.played_agents import AskedAgent, options_for, run_number, with_own_statistics
from sb3_carracing.zoo.ranks import LaunchingManager, RankManager, launch, silent_unless_first, without_ranks
from sb3_carracing.zoo.register import ALGO_NAME
from sb3_carracing.zoo.safe_files import known_wrappers, whole_files
from sb3_carracing.zoo.score_report import ScoreReport
from sb3_carracing.zoo.scripts import (
    arguments_of,
    asks_for_help,
    hub_errors,
    rl_zoo3_is_silent,
    run_module,
    script_of_rl_zoo3,
    without_trust,
)
from sb3_carracing.zoo.train_options import (
    check_seed,
    check_train_options,
    refuse_ranks,
    with_readable_agent,
    with_verbosity,
    without_frames,
)
from sb3_carracing.zoo.tune import OptimizingManager


def train(argv: list[str], then: str = "") -> Path | None:
    """Train an agent with rl-zoo3's arguments.

    Args:
        argv: arguments of rl-zoo3's train, and `--ranks N|auto` and `--max-restarts K`, see `zoo.ranks`.
        then: what the caller does with the agent afterwards. Without it, the command says what the user can do.

    Returns:
        The run's folder. None after `-optimize`, and if a signal stopped the training, which saves the agent.

    Raises:
        SystemExit: the agent could not be written into the run's folder, and is kept elsewhere.
    """
    managers: list[CarRacingExperimentManager] = []
    given = argv
    argv, ranks, max_restarts = without_ranks(argv)
    argv, trust = without_trust(argv)
    argv, frames = without_frames(argv)
    if asks_for_help(argv):
        print("Besides rl-zoo3's options: --frames N (length in frames, such as 1e6, instead of -n in steps),")
        print("--ranks N|auto (processes that train together), --max-restarts K (how often they are started again when one")
        print("fails), --trust. --verbose is 0 by default. Where the YAML has a ValidationCallback, rl-zoo3's own evaluation")
        print("runs only with --eval-freq.\n")
    argv, shows_tables = with_verbosity(argv)
    quiet = contextlib.nullcontext() if shows_tables else rl_zoo3_is_silent()
    with script_of_rl_zoo3(trust) as work_begins, whole_files(), silent_unless_first(), quiet:
        check_seed(argv)
        script = importlib.import_module("rl_zoo3.train")

        def create(args: argparse.Namespace, *further: object, **kwargs: object) -> CarRacingExperimentManager:
            check_train_options(args)
            manager_class = _manager_class(args.optimize_hyperparameters, ranks)
            managers.append(manager_class(args, *further, **kwargs))
            if isinstance(managers[-1], LaunchingManager):
                managers[-1].ranks = ranks
                managers[-1].launch = functools.partial(launch, functools.partial(train, then=then), given, max_restarts)
            managers[-1].work_begins = work_begins
            managers[-1].trust = trust
            managers[-1].argv = given
            managers[-1].n_frames = frames
            managers[-1].evaluates = any(word.partition("=")[0] == "--eval-freq" for word in given)
            managers[-1].then = then
            return managers[-1]

        # The script names the class as a global of its module.
        with (
            arguments_of("train", with_readable_agent(_with_defaults(argv))),
            patch.object(script, "ExperimentManager", create),
        ):
            script.train()
    manager = managers[-1]
    if manager.interrupted or manager.optimize_hyperparameters:
        return None
    run = Path(manager.save_path)
    if manager.saved_as is not None and manager.saved_as.parent != run:
        sys.exit(1)
    return run


def _manager_class(optimizes: bool, ranks: int | None) -> type[CarRacingExperimentManager]:
    if optimizes:
        refuse_ranks(ranks != 1)
        return OptimizingManager
    if distributed.n_ranks() > 1:
        return RankManager
    return CarRacingExperimentManager if ranks == 1 else LaunchingManager


def enjoy(argv: list[str]) -> None:
    """Watch a trained agent, with rl-zoo3's arguments, without training rules."""
    _play("enjoy", argv)


def record_video(argv: list[str]) -> None:
    """Film a trained agent, with rl-zoo3's arguments."""
    _play("record_video", argv)


def _play(command: str, argv: list[str]) -> None:
    argv, trust = without_trust(_with_defaults(argv))
    report = ScoreReport()
    with script_of_rl_zoo3(trust) as work_begins, known_wrappers(trust), with_own_statistics(work_begins, report.note):
        if not asks_for_help(argv):
            argv = [*argv, *options_for(command, AskedAgent.of(command, argv))]
        with arguments_of(command, argv), hub_errors(command):
            run_module(f"rl_zoo3.{command}", print=report.print)


def record_training(argv: list[str]) -> None:
    """Film a run's checkpoints, best and last agent one after the other, with rl-zoo3's arguments.

    It does not film packaged agents: the films would go into the package, and it has no checkpoints.

    Raises:
        UserError: rl-zoo3 would delete the contents of a folder, or there is nothing to film.
    """
    argv, trust = without_trust(_with_defaults(argv))
    with script_of_rl_zoo3(trust), _ffmpeg():
        if not asks_for_help(argv):
            asked = AskedAgent.of("record_training", argv)
            folder = Path(asked.folder or TRAINED_AGENTS)
            number = run_number(folder, asked, "*.zip", "agent to film")
            run = folder / asked.algo / (f"{asked.env}_{number}" if number > 0 else "")
            films = Path(asked.output_folder or run / "videos")
            if films.exists() and (not films.is_dir() or any(films.iterdir())):
                raise UserError(f"record_training would empty {films}, which is not an empty folder: -o names another one")
            argv = [*argv, "--exp-id", str(number)]
        with arguments_of("record_training", argv):
            run_module("rl_zoo3.record_training", trust)


def load_from_hub(argv: list[str]) -> None:
    """Download an agent from the Hugging Face hub, with rl-zoo3's arguments."""
    with script_of_rl_zoo3(), arguments_of("load_from_hub", _with_defaults(argv)), hub_errors("load_from_hub"):
        run_module("rl_zoo3.load_from_hub")


def push_to_hub(argv: list[str]) -> None:
    """Upload an agent to the Hugging Face hub, with rl-zoo3's arguments.

    Raises:
        UserError: its libraries are incompatible. With the current releases, this is so for every algorithm.
    """
    with script_of_rl_zoo3():
        try:
            importlib.import_module("rl_zoo3.push_to_hub")
        except ImportError as error:
            sentence = (
                f"push_to_hub cannot run with what is installed: {error}; upload the run's folder with `hf upload` instead"
            )
            if not asks_for_help(argv):
                raise UserError(sentence) from error
            print(sentence)
            return
        with arguments_of("push_to_hub", _with_defaults(argv)), hub_errors("push_to_hub"):
            run_module("rl_zoo3.push_to_hub")


def _with_defaults(argv: list[str]) -> list[str]:
    """Return the arguments, with our algorithm and environment if they name none."""
    defaults = {"--algo": ALGO_NAME, "--env": FAST_ID}
    named = {argument.partition("=")[0] for argument in argv}
    return [*(word for name, value in defaults.items() if name not in named for word in (name, value)), *argv]


@contextmanager
def _ffmpeg() -> Iterator[None]:
    """Put an `ffmpeg` on the path: the system's, or the one that moviepy brings.

    Raises:
        ImportError: there is none.
    """
    if shutil.which("ffmpeg"):
        yield
        return
    import imageio_ffmpeg

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
        with patch.dict(os.environ, PATH=f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"):
            yield
