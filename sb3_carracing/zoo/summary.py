"""What `train` says at its start and at its end: what it trains, where, and what to do with the agent."""

import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_carracing.callbacks import CheckpointCallback
from sb3_carracing.pipelines import env_spec, frames_per_step, is_car_racing
from sb3_carracing.ppo import distributed
from sb3_carracing.system import n_cores
from sb3_carracing.zoo.register import ALGO_NAME

_LABEL = 13
STOCK_SPEED = "; gymnasium draws each, some 130 per second and process"


def opening(manager: Any, model: BaseAlgorithm, then: str = "") -> list[str]:
    """Return six lines on the training that is about to begin; more where the terminal is too narrow.

    Args:
        manager: rl-zoo3's ExperimentManager, with callbacks and environments made.
        model: the agent.
        then: what follows the training.
    """
    where = "" if issubclass(manager.vec_env_class, DummyVecEnv) else " in worker processes"
    rows = {
        "algorithm": f"{type(model).__name__} with {type(model.policy).__name__}",
        "environment": f"{manager.env_name.gym_id}, {_count(manager.n_envs, 'copy', 'copies')}{where}",
        "length": _length(manager, model) + (f"; then {then}" if then else ""),
        "machine": f"{_count(n_cores(), 'core')}, {_count(distributed.current().size, 'rank')}, device {model.device}, "
        f"{_count(th.get_num_threads(), 'thread')}",
        "folder": f"{manager.save_path}, seed {manager.seed}",
        "to stop": "Ctrl-C, which saves the agent" + _checkpoints(manager),
    }
    width = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else 1000
    lines = []
    for name, text in rows.items():
        text = textwrap.fill(text, width - _LABEL, break_long_words=False, break_on_hyphens=False)
        lines += f"{name:{_LABEL}}{textwrap.indent(text, ' ' * _LABEL).lstrip()}".splitlines()
    return lines


def commands_for(run: Path, algo: str, env_id: str, log_folder: Path) -> list[str]:
    """Return the lines that say how to look at a run's agent."""
    if is_car_racing(env_spec(env_id)):
        return [_row("evaluate", "evaluate", str(run)), _row("film", "record", str(run))]
    named = ["--env", env_id, "-f", str(log_folder), *(["--algo", algo] if algo != ALGO_NAME else [])]
    return [_row("watch", "enjoy", *named), _row("film", "record_video", *named), _row("plot", "plot", str(run))]


def command_to_train_on(run: Path, argv: Sequence[str], steps: int) -> str:
    """Return the line that says how to train for as long again."""
    rest = without_options(argv, "-i", "--trained-agent", "-n", "--n-timesteps", "--frames")
    return _row("train on", "train", *rest, "-i", str(run), "-n", str(2 * steps))


def without_options(argv: Sequence[str], *options: str) -> list[str]:
    """Return arguments without some options and their values."""
    words = [word for word in argv if word.partition("=")[0] not in options or "=" not in word]
    for option in options:
        while option in words:
            place = words.index(option)
            del words[place : place + 2]
    return words


def command(*words: str) -> str:
    """Return a command of ours as the user starts them."""
    by_module = sys.orig_argv[1:3] == ["-m", "sb3_carracing"]
    return shlex.join([*(sys.orig_argv[:3] if by_module else ["sb3-carracing"]), *words])


def _row(label: str, *words: str) -> str:
    return f"{label:{_LABEL}}{command(*words)}"


def _length(manager: Any, model: BaseAlgorithm) -> str:
    steps, env_id = manager.n_timesteps, manager.env_name.gym_id
    begun = f", of which {model.num_timesteps:,} are done" if model.num_timesteps else ""
    if not is_car_racing(env_spec(env_id)):
        return f"{steps:,} steps{begun}"
    frames = steps * frames_per_step(manager.pipeline())
    return f"{steps:,} steps ({frames:,} frames{'' if _draws_fast(model) else STOCK_SPEED}){begun}"


def _draws_fast(model: BaseAlgorithm) -> bool:
    env = model.get_env()
    return env is not None and env.has_attr("renderer") and env.get_attr("renderer")[0] == "fast"


def _checkpoints(manager: Any) -> str:
    kept = next((callback for callback in manager.callbacks if isinstance(callback, CheckpointCallback)), None)
    return f"; a checkpoint every {kept.interval}" if kept is not None else ""


def _count(number: int, unit: str, units: str = "") -> str:
    return f"{number:,} {unit if number == 1 else units or f'{unit}s'}"
