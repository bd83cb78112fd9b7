"""Run folders as rl-zoo3 writes them: which agent, which environment, and what stands between the two.

logs/<algo>/<env-id>_<N>/            the run
    <env-id>.zip                     the last agent
    best_model.zip                   the best agent in validation
    best_model_vecnormalize.pkl      its running means, if the run normalized
    rl_model_<steps>_steps.zip       checkpoints
    rl_model_vecnormalize_<steps>_steps.pkl      their running means
    <env-id>/config.yml, args.yml    hyperparameters and command line
    <env-id>/vecnormalize.pkl        running means, if the run normalized
"""

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sb3_carracing.agents import Agent, check_algorithm, read_agent
from sb3_carracing.deprecated import old_names
from sb3_carracing.errors import UserError
from sb3_carracing.files import data_dir, listing
from sb3_carracing.pipelines import Pipeline, wrapper_calls
from sb3_carracing.ppo.saving.archives import damage
from sb3_carracing.ppo.saving.vec_normalize import has_statistics
from sb3_carracing.run_safety import check_run_folder, read_yaml

__getattr__ = old_names(__name__)

BEST_AGENT = "best_model.zip"
BEST_STATISTICS = "best_model_vecnormalize.pkl"

TRAINED_AGENTS = "rl-trained-agents"
"""rl-zoo3's name of a folder of trained agents. This package brings one."""


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        folder: where it is.
        algo: its algorithm, a key of `ALGORITHMS`.
        pipeline: what its training put between the environment and the agent.
        last_agent: the file name of its last agent.
    """

    folder: Path
    algo: str
    pipeline: Pipeline
    last_agent: str

    def agent_file(self, *, checkpoint: int | None = None, best: bool = False, last: bool = False) -> Path:
        """Return the file of the best agent if there is one, else of the last, unless an argument names another.

        Args:
            checkpoint: the checkpoint after this many steps.
            best: the best agent in validation.
            last: the agent saved at the end, or the latest checkpoint of a run that was killed.

        If a killed training or a full disk has damaged the best or the last agent, this is the newest readable one, and a
        line on stderr says so.

        Raises:
            UserError: there is no such file. The message lists the files that exist.
        """
        best_file, last_file = self.folder / BEST_AGENT, self._last_file()
        if checkpoint is not None:
            wanted = self.folder / f"rl_model_{checkpoint}_steps.zip"
        elif best or (best_file.is_file() and not last):
            wanted = best_file
        else:
            wanted = last_file
        if not wanted.is_file():
            agents = sorted(path.name for path in self.folder.glob("*.zip"))
            raise UserError(f"no {wanted.name} in {self.folder}; it holds {listing(agents, 'no agent')}")
        return wanted if checkpoint is not None else readable_agent(wanted)

    def pipeline_of(self, file: Path) -> Pipeline:
        """Return the pipeline of one of the run's agents, which may have running means of its own."""
        statistics = statistics_of(file) if self.pipeline.normalize is not None else None
        return replace(self.pipeline, normalize=statistics) if statistics is not None else self.pipeline

    def agent(self, file: Path, results: Path | None = None, device: str = "cpu") -> Agent:
        """Load one of the run's agents.

        Args:
            file: the agent's file, see `agent_file`.
            results: folder for its results; None for the run's.
            device: torch device that it computes on.

        Raises:
            UserError: it cannot be loaded.
        """
        model, name = read_agent(file, self.algo, device, self.pipeline.trust), f"{self.folder.name}/{file.name}"
        return Agent(name, model, self.algo, self.pipeline_of(file), file, results or self.folder)

    def _last_file(self) -> Path:
        newest_first = [file for file in agents_of(self.folder) if file.name != BEST_AGENT]
        return next(iter(newest_first), self.folder / self.last_agent)


def agents_of(folder: Path) -> list[Path]:
    """Return a run's agents from the newest to the oldest: the one saved at its end, checkpoints, the best in validation."""
    checkpoints = sorted(folder.glob("rl_model_*_steps.zip"), key=steps_in_name, reverse=True)
    best = folder / BEST_AGENT
    at_its_end = [file for file in sorted(folder.glob("*.zip")) if file.with_suffix("").is_dir()]  # beside its config.yml
    return [*at_its_end, *checkpoints, *([best] if best.is_file() else [])]


def readable_agent(wanted: Path) -> Path:
    """Return an agent's file, or if it is damaged, the newest readable one of its run, with a line on stderr."""
    problem = damage(wanted)
    if problem is None:
        return wanted
    found = next((file for file in agents_of(wanted.parent) if file != wanted and damage(file) is None), None)
    if found is None:
        return wanted
    print(f"{problem}: taking {found.name}, the newest readable agent of {found.parent}", file=sys.stderr)
    return found


def statistics_of(agent: Path) -> Path | None:
    """Return the file with an agent's running means, which may be the agent's own file; None if there is none."""
    if agent.is_file() and has_statistics(agent):
        return agent
    steps = steps_in_name(agent)
    name = BEST_STATISTICS if agent.name == BEST_AGENT else f"rl_model_vecnormalize_{steps}_steps.pkl"
    statistics = agent.with_name(name)
    return statistics if statistics.is_file() else None


def steps_in_name(checkpoint: Path) -> int:
    """Return the number of steps in a checkpoint's name `rl_model_N_steps.zip`, -1 if there is none."""
    steps = re.search(r"_(\d+)_steps", checkpoint.name)
    return int(steps[1]) if steps else -1


def seed_to_go_on(seed: int, steps: int) -> int:
    """Derive a seed for resuming at `steps`, so that the initial tracks are not replayed.

    It is at least 2**30, beyond the seeds of the test and validation tracks, and below 2**31.
    """
    return (1 << 30) + int(np.random.SeedSequence((seed, steps)).generate_state(1)[0]) % (1 << 30)


def shipped_agents() -> dict[str, Path]:
    """Return the run folders of the packaged agents by environment id; of several, the last by name."""
    runs = sorted(path for path in data_dir(TRAINED_AGENTS).glob("*/*/") if any(path.glob("*/args.yml")))
    return {_parameter_folder(run).name: run for run in runs}


def is_run(subject: str | Path) -> bool:
    """Return whether a path is a folder here, or in the packaged `rl-trained-agents`."""
    return Path(subject).is_dir() or Path(subject).parts[:1] == (TRAINED_AGENTS,)


def read_run(folder: str | Path, trust: bool = False) -> Run:
    """Read what a run folder of rl-zoo3 says about its agent's pipeline.

    Args:
        folder: the run. If there is none here, `rl-trained-agents/...` means the packaged folder, and an environment id the
            packaged agent of that id.
        trust: allow wrappers, environments and running means that run their own code.

    Raises:
        UserError: there is no such folder, it is not a run folder, or it needs trust. The message says what is there.
    """
    folder = Path(folder)
    if not folder.is_dir() and folder.parts[:1] == (TRAINED_AGENTS,):
        folder = data_dir(TRAINED_AGENTS).joinpath(*folder.parts[1:])
    if not folder.is_dir():
        folder = shipped_agents().get(str(folder), folder)
    if not folder.is_dir():
        near = sorted(path.name for path in folder.parent.glob("*/")) if folder.parent.is_dir() else []
        raise UserError(f"there is no run folder {folder}; {folder.parent} holds {listing(near, 'no folder')}")
    parameters = _parameter_folder(folder)
    check_run_folder(folder, trust)
    config, args = read_yaml(parameters / "config.yml"), read_yaml(parameters / "args.yml")
    pipeline = Pipeline(
        env_id=str(args.get("env") or parameters.name),
        env_kwargs=_mapping(args.get("env_kwargs") or config.get("env_kwargs") or {}, f"env_kwargs of {parameters}"),
        wrappers=wrapper_calls(config.get("env_wrapper")),
        vec_wrappers=wrapper_calls(config.get("vec_env_wrapper")),
        normalize=parameters / "vecnormalize.pkl" if config.get("normalize") else None,
        frame_stack=config.get("frame_stack"),
        trust=trust,
    )
    return Run(folder, check_algorithm(str(args.get("algo") or folder.parent.name)), pipeline, f"{parameters.name}.zip")


def is_run_folder(folder: Path) -> bool:
    """Return whether a folder holds the configuration of a run."""
    return len(_configurations(folder)) == 1


def _configurations(folder: Path) -> list[Path]:
    return sorted({path.parent for name in ("config.yml", "args.yml") for path in folder.glob(f"*/{name}")})


def _parameter_folder(folder: Path) -> Path:
    found = _configurations(folder)
    if len(found) == 1:
        return found[0]
    content = sorted(path.name for path in folder.iterdir())
    problem = "holds several of" if found else "has no"
    raise UserError(f"{folder} is not a run folder: it {problem} <env-id>/config.yml; it holds {listing(content)}")


def _mapping(content: Any, name: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"{name} must hold a mapping, got {type(content).__name__}")
    return dict(content)
