"""Which agent a script of rl-zoo3 plays, and with which running means."""

import argparse
import inspect
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import rl_zoo3
import rl_zoo3.utils
from huggingface_sb3 import EnvironmentName
from rl_zoo3.utils import get_model_path
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_carracing.checks import whole_number
from sb3_carracing.envs.training_rules import evaluation_kwargs
from sb3_carracing.errors import UserError
from sb3_carracing.files import data_dir
from sb3_carracing.pipelines import FAST_ID, env_spec, is_car_racing
from sb3_carracing.runs import BEST_AGENT, TRAINED_AGENTS, readable_agent, statistics_of
from sb3_carracing.zoo.register import ALGO_NAME, BETA_ALGORITHMS


@dataclass(frozen=True)
class AskedAgent:
    """The agent that a script's arguments name, with rl-zoo3's defaults."""

    folder: str | None
    output_folder: str | None
    algo: str
    env: EnvironmentName
    exp_id: int
    load_best: bool
    load_checkpoint: int | None
    load_last_checkpoint: bool

    @classmethod
    def of(cls, command: str, argv: list[str]) -> "AskedAgent":
        """Read the arguments of `enjoy`, `record_video` or `record_training`.

        Raises:
            UserError: two of them contradict each other, or a number is out of range.
        """
        parser = argparse.ArgumentParser(prog=f"python -m sb3_carracing {command}", add_help=False)
        parser.add_argument("-f", "--folder")
        parser.add_argument("-o", "--output-folder")
        parser.add_argument("--algo", default=ALGO_NAME)
        parser.add_argument("--env", type=EnvironmentName, default=EnvironmentName(FAST_ID))
        parser.add_argument("--exp-id", type=int, default=0)
        which = parser.add_mutually_exclusive_group()
        which.add_argument("--load-best", action="store_true")
        which.add_argument("--load-checkpoint", type=int)
        which.add_argument("--load-last-checkpoint", action="store_true")
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--deterministic", action="store_true")
        how.add_argument("--stochastic", action="store_true")
        parser.add_argument("--env-kwargs", nargs="+", default=[])
        parser.add_argument("-n", "--n-timesteps", type=int, default=1)
        parser.add_argument("--n-envs", type=int, default=1)
        arguments = vars(parser.parse_known_args(argv)[0])
        for option, lowest in (("n_timesteps", 1), ("n_envs", 1), ("exp_id", -1)):
            whole_number(f"--{option.replace('_', '-')}", arguments[option], lowest)
        given = [word.partition(":")[0] for word in arguments["env_kwargs"]]
        rules = [name for name in given if name not in evaluation_kwargs(dict.fromkeys(given))]
        if rules:
            raise UserError(f"--env-kwargs {rules[0]} is for training: {command} plays whole episodes without training rules")
        return cls(**{name: arguments[name] for name in cls.__dataclass_fields__})

    def pattern(self) -> str:
        """Return what the agent's file is called, as a pattern for `Path.glob`."""
        if self.load_best:
            return BEST_AGENT
        if self.load_checkpoint is not None:
            return f"rl_model_{self.load_checkpoint}_steps.zip"
        return "rl_model_*_steps.zip" if self.load_last_checkpoint else f"{self.env}.zip"


def options_for(command: str, asked: AskedAgent) -> list[str]:
    """Return options to append to the user's, so that a script finds the agent asked for.

    If the user names no folder and has none, these are the packaged agents. Of several runs, this is the latest one that has
    the agent, because a failed run has none and must not hide earlier runs.

    Raises:
        UserError: the agent is missing. rl-zoo3 would try to download it.
    """
    folder = Path(asked.folder or TRAINED_AGENTS)
    options: list[str] = []
    packaged = data_dir(TRAINED_AGENTS)
    if asked.folder is None and not folder.is_dir() and (asked.algo in BETA_ALGORITHMS or _runs_of(asked, packaged)):
        folder = packaged
        options += ["--folder", str(folder)]
        if command == "record_video" and asked.output_folder is None:
            # By default films go next to the agent, which is in site-packages.
            options += ["--output-folder", "videos"]
    # Of other algorithms rl-zoo3 downloads the agents that a folder of this name lacks.
    may_be_downloaded = asked.algo not in BETA_ALGORITHMS and TRAINED_AGENTS in str(folder)
    if not may_be_downloaded or _runs_of(asked, folder):
        options += ["--exp-id", str(run_number(folder, asked, asked.pattern()))]
    return options


def run_number(folder: Path, asked: AskedAgent, pattern: str, name: str | None = None) -> int:
    """Return the number of the run to play, -1 for a folder that is the run itself.

    Args:
        folder: holds a folder for each algorithm.
        asked: what the user wants.
        pattern: of the agent's file in the run.
        name: of the agent in messages; None means the pattern.

    Raises:
        UserError: there is no such run, or none with such an agent. The message lists the existing ones.
    """
    name = name or pattern
    place = folder / asked.algo
    # In rl-zoo3, -1 means that the folder itself is the run.
    runs = {-1: place} if asked.exp_id == -1 else _runs_of(asked, folder)
    if not runs or (asked.exp_id and asked.exp_id not in runs):
        kind = f"run {asked.exp_id}" if asked.exp_id else "numbered run"
        there = ", ".join(sorted(path.name for path in place.glob("*_*") if path.is_dir())) or "no run"
        raise UserError(f"no {kind} of {asked.env} in {place}, which holds {there}; -f names another folder")
    wanted = asked.exp_id or max(runs)
    candidates = [wanted] if asked.exp_id else sorted(runs, reverse=True)
    chosen = next((number for number in candidates if any(runs[number].glob(pattern))), None)
    if chosen is None:
        there = ", ".join(sorted(path.name for path in runs[wanted].glob("*.zip"))) or "no agent"
        raise UserError(f"No model found: no {name} in {runs[wanted]}, which holds {there}")
    if chosen != wanted:
        print(f"There is no {name} in {runs[wanted]}: taking {runs[chosen]}")
    return chosen


def _runs_of(asked: AskedAgent, folder: Path) -> dict[int, Path]:
    """Return the runs of the algorithm and environment by their numbers."""
    start = f"{asked.env}_"
    found = [path for path in (folder / asked.algo).glob(f"{start}*") if path.is_dir()]
    return {int(path.name[len(start) :]): path for path in found if path.name[len(start) :].isdigit()}


@contextmanager
def with_own_statistics(work_begins: Callable[[], None], note_episode: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Let rl-zoo3's scripts play an agent with the running means that were saved with it.

    rl-zoo3 reads those of the run's last agent, whichever it plays. CarRacing is played without training rules, so that its
    score is that of whole episodes.

    Args:
        work_begins: called before the first step of the environment.
        note_episode: called with the info of each episode's last step.
    """
    played: list[Path] = []
    create = rl_zoo3.utils.create_test_env

    def note_agent(*args: Any, **kwargs: Any) -> tuple[str, str, str]:
        prefix, file, folder = get_model_path(*args, **kwargs)
        asked = inspect.signature(get_model_path).bind(*args, **kwargs).arguments
        played.append(Path(file) if asked.get("load_checkpoint") is not None else readable_agent(Path(file)))
        return prefix, str(played[-1]), folder

    def create_env(env_id: str, *args: Any, stats_path: str | None = None, **kwargs: Any) -> VecEnv:
        if is_car_racing(env_spec(env_id)):
            kwargs["env_kwargs"] = evaluation_kwargs(kwargs.get("env_kwargs") or {})
        statistics = statistics_of(played[-1]) if stats_path is not None else None
        if statistics is None:
            return _Watched(create(env_id, *args, stats_path=stats_path, **kwargs), work_begins, note_episode)
        with tempfile.TemporaryDirectory() as folder:
            # The name under which rl-zoo3 looks for them.
            shutil.copy(statistics, Path(folder, "vecnormalize.pkl"))
            return _Watched(create(env_id, *args, stats_path=folder, **kwargs), work_begins, note_episode)

    with ExitStack() as stack:
        for module in (rl_zoo3, rl_zoo3.utils):
            for name, stand_in in (("get_model_path", note_agent), ("create_test_env", create_env)):
                if hasattr(module, name):
                    stack.enter_context(patch.object(module, name, stand_in))
        yield


class _Watched(VecEnvWrapper):
    """Calls a function before every step, and another at the end of every episode."""

    def __init__(self, venv: VecEnv, before_step: Callable[[], None], note_episode: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(venv)
        self._before_step = before_step
        self._note_episode = note_episode

    def step_async(self, actions: Any) -> None:
        """Note the step and let the environments begin it."""
        self._before_step()
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Return what the environments return, and note finished episodes."""
        observations, rewards, dones, infos = self.venv.step_wait()
        for done, info in zip(dones, infos, strict=True):
            if done:
                self._note_episode(info)
        return observations, rewards, dones, infos

    def reset(self) -> VecEnvObs:
        """Return what the environments return."""
        return self.venv.reset()
