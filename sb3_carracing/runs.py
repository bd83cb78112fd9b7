"""Run folders as rl-zoo3 writes them: which agent, which environment, and what stands between the two.

logs/<algo>/<env-id>_<N>/            the run
    <env-id>.zip                     the last agent
    best_model.zip                   the best one in validation
    best_model_vecnormalize.pkl      its running means, if the run normalised
    rl_model_<steps>_steps.zip       checkpoints
    rl_model_vecnormalize_<steps>_steps.pkl      their running means
    <env-id>/config.yml, args.yml    hyperparameters and command line
    <env-id>/vecnormalize.pkl        running means, if the run normalised
"""

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

from sb3_carracing.files import data_dir

ALGORITHMS = {
    "beta_ppo": "sb3_carracing.BetaPPO",
    **{name: f"stable_baselines3.{name.upper()}" for name in ("a2c", "ddpg", "dqn", "ppo", "sac", "td3")},
    **{name: f"sb3_contrib.{name.upper()}" for name in ("ars", "qrdqn", "tqc", "trpo")},
    "crossq": "sb3_contrib.CrossQ",
    "ppo_lstm": "sb3_contrib.RecurrentPPO",
}
"""rl-zoo3's name of every algorithm and where its class is."""

BEST_AGENT = "best_model.zip"
BEST_STATISTICS = "best_model_vecnormalize.pkl"

TRAINED_AGENTS = "rl-trained-agents"
"""rl-zoo3's name of a folder of trained agents; this package brings one."""


@dataclass(frozen=True)
class WrapperCall:
    """A wrapper by dotted path and its keywords, as in a rl-zoo3 YAML; call it with the environment to wrap."""

    path: str
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __call__(self, env: Any) -> Any:
        """Return `env` in the wrapper."""
        return import_by_path(self.path)(env, **self.kwargs)


@dataclass(frozen=True)
class Pipeline:
    """What a run puts between an environment and its agent.

    env_id, env_kwargs: as given to `gymnasium.make`. wrappers: around each environment, innermost first.
    vec_wrappers: around the vectorised environment. normalize: the run's vecnormalize.pkl, None if it does not
    normalise. frame_stack: pictures that SB3's VecFrameStack stacks; None for no stacking.
    """

    env_id: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    wrappers: tuple[WrapperCall, ...] = ()
    vec_wrappers: tuple[WrapperCall, ...] = ()
    normalize: Path | None = None
    frame_stack: int | None = None

    def wrap_vec_env(self, venv: VecEnv) -> VecEnv:
        """Wrap a vectorised environment in rl-zoo3's order, with frozen normalisation; ValueError if its file lacks."""
        for wrapper in self.vec_wrappers:
            venv = wrapper(venv)
        if self.normalize is not None:
            if not self.normalize.is_file():
                raise ValueError(f"the run normalises, but its statistics {self.normalize} are missing")
            venv = VecNormalize.load(str(self.normalize), venv)
            venv.training = False
            venv.norm_reward = False
        return VecFrameStack(venv, self.frame_stack) if self.frame_stack else venv


@dataclass(frozen=True)
class Run:
    """A run folder: its algorithm's name in `ALGORITHMS`, its pipeline, and the name of its last agent's file."""

    folder: Path
    algo: str
    pipeline: Pipeline
    last_agent: str

    def agent_file(self, *, checkpoint: int | None = None, best: bool = False, last: bool = False) -> Path:
        """Return the file of an agent: the best if there is one, else the last, unless a keyword names one.

        `last` is the one saved at the end; of a run that was killed, its latest checkpoint. `checkpoint` counts steps.

        Raises:
            ValueError: there is no such file; says what there is.
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
            raise ValueError(f"no {wanted.name} in {self.folder}; it holds {_listing(agents, 'no agent')}")
        return wanted

    def pipeline_of(self, file: Path) -> Pipeline:
        """Return the pipeline of one of the run's agents, which may have running means of its own."""
        statistics = statistics_of(file) if self.pipeline.normalize is not None else None
        return replace(self.pipeline, normalize=statistics) if statistics is not None else self.pipeline

    def _last_file(self) -> Path:
        saved = self.folder / self.last_agent
        if saved.is_file():
            return saved
        return max(self.folder.glob("rl_model_*_steps.zip"), key=steps_in_name, default=saved)


def statistics_of(agent: Path) -> Path | None:
    """Return the file of running means that was saved with the best agent or a checkpoint, None if there is none."""
    steps = steps_in_name(agent)
    name = BEST_STATISTICS if agent.name == BEST_AGENT else f"rl_model_vecnormalize_{steps}_steps.pkl"
    statistics = agent.with_name(name)
    return statistics if statistics.is_file() else None


def seed_to_go_on(seed: int, steps: int) -> int:
    """Return a seed for a training that goes on after `steps`: with the first one its tracks would come once more.

    It is at least 2**30, beyond the seeds of the test and validation tracks, and below 2**31.
    """
    return (1 << 30) + int(np.random.SeedSequence((seed, steps)).generate_state(1)[0]) % (1 << 30)


def read_run(folder: str | Path) -> Run:
    """Read what a rl-zoo3 run folder says about its agent's pipeline.

    `rl-trained-agents/...` is the packaged folder where there is none here.

    Raises:
        ValueError: there is no such folder, or it is not a run's; says what is there.
    """
    folder = Path(folder)
    if not folder.is_dir() and folder.parts[:1] == (TRAINED_AGENTS,):
        folder = data_dir(TRAINED_AGENTS).joinpath(*folder.parts[1:])
    if not folder.is_dir():
        near = sorted(path.name for path in folder.parent.glob("*/")) if folder.parent.is_dir() else []
        raise ValueError(f"there is no run folder {folder}; {folder.parent} holds {_listing(near, 'no folder')}")
    parameters = _parameter_folder(folder)
    config, args = _read_yaml(parameters / "config.yml"), _read_yaml(parameters / "args.yml")
    algo = str(args.get("algo") or folder.parent.name)
    check_algorithm(algo)
    pipeline = Pipeline(
        env_id=str(args.get("env") or parameters.name),
        env_kwargs=dict(args.get("env_kwargs") or config.get("env_kwargs") or {}),
        wrappers=wrapper_calls(config.get("env_wrapper")),
        vec_wrappers=wrapper_calls(config.get("vec_env_wrapper")),
        normalize=parameters / "vecnormalize.pkl" if config.get("normalize") else None,
        frame_stack=config.get("frame_stack"),
    )
    return Run(folder, algo, pipeline, f"{parameters.name}.zip")


def wrapper_calls(entry: Any) -> tuple[WrapperCall, ...]:
    """Read a YAML's `env_wrapper`: None, a dotted path, `{path: keywords}` or a list of these.

    Raises:
        ValueError: it is none of them.
    """
    if entry is None:
        return ()
    calls = []
    for item in entry if isinstance(entry, list | tuple) else [entry]:
        if isinstance(item, str):
            calls.append(WrapperCall(item))
        elif isinstance(item, dict) and len(item) == 1:
            ((path, kwargs),) = item.items()
            calls.append(WrapperCall(str(path), dict(kwargs or {})))
        else:
            raise ValueError(f"a wrapper must be a dotted path or {{path: keywords}}, got {item!r}")
    return tuple(calls)


def import_by_path(path: str) -> Any:
    """Return what `package.module.Name` or `package.module:Name` names; ValueError if there is nothing."""
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot import {path!r}: {error}") from error


def check_algorithm(algo: str) -> None:
    """Raise ValueError that lists the valid names unless `algo` is one."""
    if algo not in ALGORITHMS:
        raise ValueError(f"unknown algorithm {algo!r}; valid: {', '.join(sorted(ALGORITHMS))}")


def load_agent(file: str | Path, algo: str, device: str = "cpu") -> BaseAlgorithm:
    """Load an agent to act, not to train on: schedules and replay memory are left out.

    Raises:
        ValueError: the algorithm is unknown or not installed, or the file is missing or no agent of it.
    """
    check_algorithm(algo)
    file = Path(file)
    if not file.is_file():
        beside = sorted(path.name for path in file.parent.glob("*.zip")) if file.parent.is_dir() else []
        raise ValueError(f"there is no agent {file}; {file.parent} holds {_listing(beside, 'no .zip file')}")
    algorithm: type[BaseAlgorithm] = import_by_path(ALGORITHMS[algo])
    # A schedule made by rl-zoo3 would import rl-zoo3, which patches gymnasium; nobody trains here.
    idle = {"learning_rate": 0.0, "lr_schedule": _zero, "clip_range": _zero, "clip_range_vf": None}
    off_policy = issubclass(algorithm, OffPolicyAlgorithm)
    memory: dict[str, Any] = {"buffer_size": 1, "optimize_memory_usage": False} if off_policy else {}
    try:
        return algorithm.load(file, device=device, custom_objects=idle, **memory)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{file} is no agent that {algo!r} can load: {error}") from error


def _zero(_: float) -> float:
    return 0.0


def _parameter_folder(folder: Path) -> Path:
    found = sorted({path.parent for name in ("config.yml", "args.yml") for path in folder.glob(f"*/{name}")})
    if len(found) == 1:
        return found[0]
    content = sorted(path.name for path in folder.iterdir())
    problem = "holds several of" if found else "has no"
    raise ValueError(f"{folder} is not a run folder: it {problem} <env-id>/config.yml; it holds {_listing(content)}")


def steps_in_name(checkpoint: Path) -> int:
    """Return the steps that a checkpoint's name `rl_model_N_steps.zip` tells, -1 if it tells none."""
    steps = re.search(r"_(\d+)_steps", checkpoint.name)
    return int(steps[1]) if steps else -1


def _listing(names: Sequence[str], nothing: str = "nothing", limit: int = 8) -> str:
    shown = ", ".join(names[:limit]) or nothing
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


class _RunLoader(yaml.SafeLoader):
    """Reads rl-zoo3's YAML, which holds tagged Python objects, without making any of them."""


def _read_ordered_dict(loader: _RunLoader, node: yaml.Node) -> dict[Any, Any]:
    assert isinstance(node, yaml.SequenceNode)
    (pairs,) = loader.construct_sequence(node, deep=True)
    return dict(pairs)


def _read_other_tag(loader: _RunLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return suffix


_RunLoader.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _read_ordered_dict)
_RunLoader.add_multi_constructor("tag:yaml.org,2002:python/", _read_other_tag)


def _read_yaml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = yaml.load(file.read_text(), _RunLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold a mapping, got {type(content).__name__}")
    return content
