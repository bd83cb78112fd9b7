"""The evaluation protocol: the test tracks of stock CarRacing, raw score, whole episodes, any SB3 model.

The test tracks are `reset(seed)` of gymnasium's `CarRacing-v3` with seeds 1,000,000 to 1,000,099 and are used for
nothing else; validation during training takes 2,000,000 and up. The score is the sum of the stock reward over every
physics frame until the lap is finished, the car has left the field, or frame 1000; what a training run adds to the
reward or takes from the episode does not count. The agent sees the environment through its own run's pipeline.
"""

import argparse
import copy
import functools
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import gymnasium as gym
import numpy as np
import torch as th
import yaml
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator
from rich import box
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from tqdm import tqdm

from sb3_carracing.checks import one_of
from sb3_carracing.envs.training_rules import evaluation_kwargs
from sb3_carracing.files import next_free
from sb3_carracing.runs import Pipeline, WrapperCall, load_agent, read_run, wrapper_calls
from sb3_carracing.system import n_cores, no_window

Env = gym.Env[Any, Any]
EnvFactory = Callable[[], Env]
VecWrapper = Callable[[VecEnv], VecEnv]
Renderer = Literal["stock", "fast"]

STOCK_ID = "CarRacing-v3"
FAST_ID = "CarRacingFast-v3"
TEST_SEED = 1_000_000
VALIDATION_SEED = 2_000_000
RECORDING_SEED = 3_000_000
N_TEST_TRACKS = 100


class Model(Protocol):
    """What `evaluate` asks of a model: SB3's `predict`."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Return the actions for a batch of observations and the next recurrent state."""


@dataclass(frozen=True)
class EpisodeResult:
    """One episode: track seed, raw score, physics frames, the agent's steps, whether the lap was finished."""

    seed: int
    score: float
    frames: int
    steps: int
    lap_finished: bool


@dataclass(frozen=True)
class Summary:
    """Statistics of scores over episodes; `std` divides by n; `ci_low`, `ci_high` bound the mean (bootstrap, 95 %)."""

    n_episodes: int
    mean: float
    std: float
    median: float
    min: float
    max: float
    laps_finished: float
    at_least_900: float
    ci_low: float
    ci_high: float
    frames_mean: float


class RawScore(gym.Wrapper[Any, Any, Any, Any]):
    """Count reward and frames right around the environment, below whatever shapes, repeats or cuts.

    Puts `score`, `frames` and `episode_over` (the environment's own end) into `info`.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start counting anew."""
        self._score, self._frames = 0.0, 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step and report the counts in `info`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._score += float(reward)
        self._frames += 1
        counts = {"score": self._score, "frames": self._frames, "episode_over": terminated or truncated}
        return observation, reward, terminated, truncated, info | counts


class _SeededEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Play one episode for each of `seeds`, whatever seed the caller of `reset` gives, then stand still.

    At an episode's end `info["result"]` is its `EpisodeResult`. A wrapper around `RawScore` that ends the episode before
    the environment does is overruled: an early stop would spare the agent the cost of the frames that it skips.
    """

    def __init__(self, env: Env, seeds: Sequence[int]) -> None:
        super().__init__(env)
        self._seeds = iter(seeds)
        self._seed: int | None = None
        self._last_observation: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._seed = next(self._seeds, None)
        self._return, self._steps = 0.0, 0
        if self._seed is None:
            return self._last_observation, {}
        self._last_observation, info = self.env.reset(seed=self._seed, options=options)
        return self._last_observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._seed is None:
            return self._last_observation, 0.0, False, False, {}
        self._last_observation, reward, terminated, truncated, info = self.env.step(action)
        self._return += float(reward)
        self._steps += 1
        over = bool(info.get("episode_over", terminated or truncated))
        if over:
            info["result"] = EpisodeResult(
                seed=self._seed,
                score=float(info.get("score", self._return)),
                frames=int(info.get("frames", self._steps)),
                steps=self._steps,
                lap_finished=bool(info.get("lap_finished", False)),
            )
        return self._last_observation, reward, over and not truncated, over and truncated, info


@dataclass(frozen=True)
class PipelineEnv:
    """Factory of an environment with a run's wrappers around it; picklable. Inside all of them `RawScore` counts.

    Our own CarRacing counts by itself, and its wrappers have to reach it.
    """

    spec: EnvSpec
    kwargs: dict[str, Any]
    wrappers: tuple[WrapperCall, ...]

    def __call__(self) -> Env:
        """Make the environment."""
        from sb3_carracing.envs.car_racing import CarRacing

        env: Env = gym.make(self.spec, disable_env_checker=True, **self.kwargs)
        if not isinstance(env.unwrapped, CarRacing):
            env = RawScore(env)
        for wrapper in self.wrappers:
            env = wrapper(env)
        return env


def pipeline_env(
    pipeline: Pipeline,
    *,
    renderer: Renderer | None = "stock",
    render_mode: str | None = None,
    innermost: Sequence[WrapperCall] = (),
) -> PipelineEnv:
    """Return a factory of the environment that a pipeline's agent drives in, without what is for training only.

    Args:
        pipeline: of the agent's training.
        renderer: "stock" is gymnasium's CarRacing-v3 with the id's view wrappers and the YAML's around it, "fast" the same
            around CarRacingFast-v3, which has other pictures only; None is the pipeline's own id with its keywords.
        render_mode: see `CarRacing`.
        innermost: wrappers below all others.

    Raises:
        ValueError: the id or the renderer is unknown, or with a renderer the id is not a CarRacing.
    """
    spec = env_spec(pipeline.env_id)
    kwargs = spec.kwargs | pipeline.env_kwargs
    if is_car_racing(spec):
        kwargs = evaluation_kwargs(kwargs)
    spec = replace(spec, kwargs={})  # `gym.make` would add what was filtered out.
    views: list[WrapperCall] = []
    if renderer is not None:
        one_of("renderer", renderer, get_args(Renderer))
        if not is_car_racing(spec):
            raise ValueError(f"the protocol is for CarRacing, and {pipeline.env_id!r} is another environment")
        if kwargs.get("frame_skip", 1) != 1:
            views.append(WrapperCall("sb3_carracing.envs.wrappers.ActionRepeat", {"frame_skip": kwargs["frame_skip"]}))
        if kwargs.get("grayscale"):
            views.append(WrapperCall("sb3_carracing.envs.wrappers.Grayscale"))
        views += [WrapperCall(view.entry_point, dict(view.kwargs or {})) for view in spec.additional_wrappers]
        # Colours and the share of tiles that makes a lap are stock's as well: scores have to be comparable.
        spec, kwargs = env_spec(STOCK_ID if renderer == "stock" else FAST_ID), {"continuous": kwargs.get("continuous", True)}
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    return PipelineEnv(spec, kwargs, (*innermost, *views, *pipeline.wrappers))


def env_spec(env_id: str) -> EnvSpec:
    """Return gymnasium's registration of an id; ValueError if there is none."""
    try:
        return gym.spec(env_id)
    except gym.error.Error as error:
        raise ValueError(f"unknown environment {env_id!r}: {error}") from error


def is_car_racing(spec: EnvSpec) -> bool:
    """Whether an id is of gymnasium's CarRacing or of a class made from it, as ours is."""
    from gymnasium.envs.box2d.car_racing import CarRacing

    maker = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    return isinstance(maker, type) and issubclass(maker, CarRacing)


class RandomPolicy:
    """The baseline: uniform actions from a space, by torch's generator, which `evaluate` seeds for every step."""

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        if not isinstance(action_space, spaces.Box | spaces.Discrete):
            raise ValueError(f"random actions need a Box or Discrete action space, got {action_space}")
        self.action_space = action_space

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Return a batch of one random action."""
        space = self.action_space
        if isinstance(space, spaces.Box):
            unit = th.rand(1, *space.shape, dtype=th.float64).numpy()
            return (space.low + unit * (space.high - space.low)).astype(space.dtype), None
        return space.start + th.randint(int(space.n), (1,)).numpy(), None


def action_kinds(model: Any) -> tuple[str, ...]:
    """Return the ways to act that a model offers, its default first.

    Policies whose `deterministic_action` can be set offer "mean" and "mode" beside "sample", others "deterministic";
    the random baseline only "sample".
    """
    if isinstance(model, RandomPolicy):
        return ("sample",)
    default = getattr(getattr(model, "policy", None), "deterministic_action", None)
    if default is None or not isinstance(model.action_space, spaces.Box):
        return ("deterministic", "sample")
    return (default, "mode" if default == "mean" else "mean", "sample")


def check_actions(model: Any, actions: str) -> str:
    """Return the kind of action asked for, "deterministic" by its proper name; ValueError lists what there is."""
    kinds = action_kinds(model)
    if actions == "deterministic":
        return kinds[0]
    if actions not in kinds:
        raise ValueError(f"{type(model).__name__} cannot play {actions!r} actions; valid: {', '.join(kinds)}")
    return actions


def evaluate(
    model: Model,
    make_env: EnvFactory,
    seeds: Sequence[int],
    *,
    actions: str = "deterministic",
    n_envs: int = 1,
    wrap_vec_env: VecWrapper | None = None,
    progress: bool = False,
) -> list[EpisodeResult]:
    """Play one whole episode on each track and return the results in the order of `seeds`.

    The results do not depend on `n_envs`: actions are computed one environment at a time, since the size of a batch
    changes the last bits of a float32 product and a lap amplifies them, and samples are drawn from generators seeded
    by the track and the step.

    Args:
        model: any SB3 model, recurrent ones too; anything with its `predict`.
        make_env: makes the environment that the agent sees; picklable if `n_envs` is above 1 (cloudpickle).
        seeds: of the tracks, for `reset`.
        actions: "deterministic" (the model's own default), "sample", or "mean" or "mode" where the policy has both.
        n_envs: environments, each in a process of its own if above 1.
        wrap_vec_env: wraps the vectorised environment, see `Pipeline.wrap_vec_env`.
        progress: show a bar.

    Raises:
        ValueError: before the first episode, if the spaces are not the model's or it cannot act like this.
    """
    if not seeds:
        return []
    if n_envs < 1:
        raise ValueError(f"n_envs must be at least 1, got {n_envs}")
    kind = check_actions(model, actions)
    venv = _seeded_vec_env(make_env, seeds, min(n_envs, len(seeds)), wrap_vec_env)
    try:
        check_spaces(model, venv)
        with _acting(model, kind), tqdm(total=len(seeds), unit="lap", desc=kind, disable=not progress) as bar:
            return _play(model, venv, seeds, kind != "sample", bar)
    finally:
        # Interrupted workers have closed their ends already.
        with suppress(EOFError, ConnectionError):
            venv.close()


def check_spaces(model: Any, venv: VecEnv) -> None:
    """Raise ValueError that names both spaces unless the environment's are the model's."""
    for name in ("observation_space", "action_space"):
        trained, found = getattr(model, name, None), getattr(venv, name)
        if trained is not None and trained != found:
            raise ValueError(f"the agent's {name.replace('_', ' ')} is {trained}, the environment's is {found}")


def check_pipeline(model: Any, make_env: EnvFactory, wrap_vec_env: VecWrapper | None) -> None:
    """Make the environment once, without playing; ValueError if a wrapper does not fit or spaces are not the model's."""
    try:
        venv = _seeded_vec_env(make_env, [0], 1, wrap_vec_env)
    except (TypeError, AssertionError, gym.error.Error) as error:
        raise ValueError(f"the environment cannot be made: {error}") from error
    try:
        check_spaces(model, venv)
    finally:
        venv.close()


def _seeded_vec_env(make_env: EnvFactory, seeds: Sequence[int], n_envs: int, wrap_vec_env: VecWrapper | None) -> VecEnv:
    """Deal the seeds out to `n_envs` environments in turn."""
    no_window()
    factories = [functools.partial(_seeded_env, make_env, list(seeds[i::n_envs])) for i in range(n_envs)]
    venv: VecEnv = SubprocVecEnv(list(factories)) if n_envs > 1 else DummyVecEnv(list(factories))
    try:
        # As SB3 wraps the environment that a model gets: pictures with channels last are turned.
        return BaseAlgorithm._wrap_env(wrap_vec_env(venv) if wrap_vec_env else venv, monitor_wrapper=False)
    except BaseException:
        venv.close()
        raise


def _seeded_env(make_env: EnvFactory, seeds: list[int]) -> Env:
    return _SeededEpisodes(make_env(), seeds)


@contextmanager
def _acting(model: Any, kind: str) -> Iterator[None]:
    """Make the model act in a way, on one thread, and leave model and random numbers as they were."""
    policy = getattr(model, "policy", None)
    default = getattr(policy, "deterministic_action", None)
    random_state, n_threads = np.random.get_state(), th.get_num_threads()  # noqa: NPY002
    action_space = getattr(model, "action_space", None)
    action_dist = getattr(getattr(policy, "actor", policy), "action_dist", None)
    noise_of_gsde = dict(vars(action_dist)) if action_dist is not None else {}
    device = th.device(getattr(model, "device", "cpu"))
    with th.random.fork_rng([device] if device.type == "cuda" else []):
        th.set_num_threads(1)
        if action_space is not None:
            model.action_space = copy.deepcopy(action_space)
        try:
            if kind in ("mean", "mode") and default is not None:
                policy.deterministic_action = kind  # type: ignore[union-attr]
            yield
        finally:
            if default is not None:
                policy.deterministic_action = default  # type: ignore[union-attr]
            if action_dist is not None:
                vars(action_dist).update(noise_of_gsde)
            if action_space is not None:
                model.action_space = action_space
            th.set_num_threads(n_threads)
            np.random.set_state(random_state)  # noqa: NPY002


def _play(model: Any, venv: VecEnv, seeds: Sequence[int], deterministic: bool, bar: Any) -> list[EpisodeResult]:
    n_envs = venv.num_envs
    results: dict[int, EpisodeResult] = {}
    playing = dict(enumerate(range(n_envs)))  # environment -> index of its seed
    steps, states, starts = [0] * n_envs, [None] * n_envs, np.ones(n_envs, dtype=bool)
    actions: list[Any] = [None] * n_envs
    observations = venv.reset()
    while playing:
        for env, index in playing.items():
            if not deterministic:
                _seed_sampling(model, seeds[index], steps[env])
            batch, states[env] = model.predict(
                _row(observations, env),
                state=states[env],
                episode_start=starts[env : env + 1],
                deterministic=deterministic,
            )
            actions[env] = batch[0]
            steps[env] += 1
        observations, _, dones, infos = venv.step(np.stack(actions))
        starts = np.asarray(dones, dtype=bool)
        for env in map(int, np.flatnonzero(starts)):
            index = playing.pop(env)
            results[index] = infos[env]["result"]
            steps[env] = 0
            if index + n_envs < len(seeds):
                playing[env] = index + n_envs
            bar.set_postfix_str(f"mean {np.mean([result.score for result in results.values()]):.1f}", refresh=False)
            bar.update()
    return [results[index] for index in range(len(seeds))]


def _row(observations: Any, env: int) -> Any:
    if isinstance(observations, dict):
        return {key: value[env : env + 1] for key, value in observations.items()}
    return observations[env : env + 1]


def _seed_sampling(model: Any, seed: int, step: int) -> None:
    """Seed what models draw actions with: torch, numpy and the space (DQN explores), gSDE's noise (a matrix an episode)."""
    if getattr(model, "use_sde", False):
        th.manual_seed(seed)
        model.policy.reset_noise(1)
    th.manual_seed(seed * 10_000 + step)
    np.random.seed((seed * 10_000 + step) % 2**32)  # noqa: NPY002
    if hasattr(model, "action_space"):
        model.action_space.seed(seed * 10_000 + step)


def summarize(results: Sequence[EpisodeResult]) -> Summary:
    """Summarise episodes; the 95 % interval of the mean is the percentile bootstrap of 10,000 draws, seeded.

    Raises:
        ValueError: there is no episode.
    """
    if not results:
        raise ValueError("there is no episode to summarise")
    scores = np.array([result.score for result in results])
    draws = np.random.default_rng(0).choice(scores, (10_000, len(scores))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Summary(
        n_episodes=len(results),
        mean=float(scores.mean()),
        std=float(scores.std()),
        median=float(np.median(scores)),
        min=float(scores.min()),
        max=float(scores.max()),
        laps_finished=float(np.mean([result.lap_finished for result in results])),
        at_least_900=float(np.mean(scores >= 900.0)),
        ci_low=float(low),
        ci_high=float(high),
        frames_mean=float(np.mean([result.frames for result in results])),
    )


@dataclass(frozen=True)
class Agent:
    """An agent with all it needs to drive; `file` is None for the random baseline, `folder` is where results go."""

    name: str
    model: Any
    algo: str
    pipeline: Pipeline
    file: Path | None
    folder: Path


def add_agent_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what names an agent on the command line."""
    parser.add_argument("agent", nargs="?", metavar="RUN", help="run folder, or an agent's .zip with --env-id")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", type=int, metavar="N", help="the run's checkpoint after N steps")
    which.add_argument("--last", action="store_true", help="the run's last agent (default: its best, if there is one)")
    which.add_argument("--best", action="store_true", help="the run's best agent")
    which.add_argument("--random", action="store_true", help="uniform random actions, in the run's pipeline if given")
    parser.add_argument("--env-id", metavar="ID", help="for a .zip: the environment that it was trained in")
    parser.add_argument("--algo", help="for a .zip: its algorithm (default: beta_ppo)")
    parser.add_argument("--frame-stack", type=int, metavar="N", help="for a .zip: pictures stacked by VecFrameStack")
    parser.add_argument(
        "--wrapper",
        action="append",
        metavar="WRAPPER",
        help="for a .zip: wrapper by dotted path, innermost first; with keywords as in a YAML: 'PATH: {frame_skip: 4}'",
    )
    parser.add_argument("--device", default="cpu", help="where the agent computes (default: cpu)")


def open_agent(args: argparse.Namespace) -> Agent:
    """Open the agent that `add_agent_arguments` describe.

    Raises:
        ValueError: in one sentence, whatever is missing, unknown or does not fit together.
    """
    path = Path(args.agent) if args.agent else None
    by_hand = [name for name in ("env_id", "algo", "frame_stack", "wrapper") if getattr(args, name) is not None]
    if path is None and not args.random:
        raise ValueError("name a run folder or an agent's .zip, or pass --random")
    if path is not None and path.suffix != ".zip":
        if by_hand:
            raise ValueError(f"--{by_hand[0].replace('_', '-')} is for a .zip; the run folder {path} says it itself")
        return _agent_of_run(path, args)
    if path is not None and (args.last or args.best or args.checkpoint is not None):
        raise ValueError(f"--checkpoint, --last and --best choose from a run folder, and {path} is a .zip")
    return _agent_by_hand(path, args)


def _agent_of_run(folder: Path, args: argparse.Namespace) -> Agent:
    run = read_run(folder)
    env_spec(run.pipeline.env_id)
    # What is written about an agent of the package goes here: into site-packages it must not, and a folder of its name
    # would be taken for the run.
    results = folder if folder.is_dir() else Path()
    if args.random:
        return _random_agent(run.pipeline, results)
    file = run.agent_file(checkpoint=args.checkpoint, best=args.best, last=args.last)
    model = load_agent(file, run.algo, args.device)
    return Agent(f"{folder.name}/{file.name}", model, run.algo, run.pipeline_of(file), file, results)


def _agent_by_hand(file: Path | None, args: argparse.Namespace) -> Agent:
    if file is not None and args.env_id is None:
        raise ValueError(f"{file} does not say where it drives: pass --env-id (or its run folder instead)")
    wrappers = wrapper_calls(_from_yaml(args.wrapper or []))
    pipeline = Pipeline(args.env_id or STOCK_ID, wrappers=wrappers, frame_stack=args.frame_stack)
    spec = env_spec(pipeline.env_id)
    if file is None or args.random:
        return _random_agent(pipeline, Path())
    algo = args.algo or "beta_ppo"
    model = load_agent(file, algo, args.device)
    if isinstance(model.action_space, spaces.Discrete) and is_car_racing(spec) and "continuous" not in spec.kwargs:
        pipeline.env_kwargs["continuous"] = False
    return Agent(file.name, model, algo, pipeline, file, file.parent)


def _from_yaml(texts: Sequence[str]) -> list[Any]:
    try:
        return [yaml.safe_load(text) for text in texts]
    except yaml.YAMLError as error:
        raise ValueError(f"--wrapper cannot be read as YAML: {' '.join(str(error).split())}") from error


def _random_agent(pipeline: Pipeline, folder: Path) -> Agent:
    env = pipeline_env(pipeline)()
    model = RandomPolicy(env.action_space)
    env.close()
    return Agent("random", model, "random", pipeline, None, folder)


def _report(agent: Agent, make_env: PipelineEnv, seeds: Sequence[int]) -> dict[str, Any]:
    """Return what the JSON says beside the results."""
    packages = ("sb3-carracing", "stable-baselines3", "sb3-contrib", "gymnasium", "torch", "numpy", "box2d", "pygame-ce")
    installed = {name: version for name in packages if (version := _version(name)) is not None}
    return {
        "agent": str(agent.file or "random"),
        "sha256": hashlib.sha256(agent.file.read_bytes()).hexdigest() if agent.file else None,
        "algorithm": agent.algo,
        "trained_in": agent.pipeline.env_id,
        "evaluated_in": make_env.spec.id,
        "env_kwargs": make_env.kwargs,
        "wrappers": [{wrapper.path: wrapper.kwargs} for wrapper in make_env.wrappers],
        "frame_stack": agent.pipeline.frame_stack,
        "normalized": agent.pipeline.normalize is not None,
        "seeds": [seeds[0], seeds[-1]],
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]],
        "versions": {"python": platform.python_version(), **installed},
        "machine": {"platform": platform.platform(), "processor": platform.machine(), "cpus": os.cpu_count()},
        "results": {},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def results_table(title: str, summaries: dict[str, Summary]) -> Table:
    """Return a table with a row for every kind of action; the interval is of the mean, laps are those finished."""
    # Narrow, for 80 characters.
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("actions", no_wrap=True)
    for column in ("tracks", "mean", "std", "95 % interval", "median", "min", "laps", ">= 900"):
        table.add_column(column, justify="right", no_wrap=True)
    for kind, summary in summaries.items():
        table.add_row(
            kind,
            str(summary.n_episodes),
            f"{summary.mean:.1f}",
            f"{summary.std:.1f}",
            f"{summary.ci_low:.1f} .. {summary.ci_high:.1f}",
            f"{summary.median:.1f}",
            f"{summary.min:.1f}",
            f"{summary.laps_finished:.0%}",
            f"{summary.at_least_900:.0%}",
        )
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sb3_carracing evaluate",
        description="Play test tracks of stock CarRacing-v3 (raw score, whole episodes) and write a table and JSON.",
    )
    add_agent_arguments(parser)
    parser.add_argument("-n", type=int, default=N_TEST_TRACKS, metavar="N", help="number of tracks (default: 100)")
    parser.add_argument(
        "--renderer",
        choices=("stock", "fast"),
        default="stock",
        help=f"who draws what the agent sees: gymnasium's {STOCK_ID} (default) or {FAST_ID}, the same laps several times "
        "as fast, for a first look",
    )
    parser.add_argument(
        "--seed-start", type=int, default=TEST_SEED, metavar="S", help="seed of the first track (default: 1000000)"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--actions",
        nargs="+",
        choices=("deterministic", "mean", "mode", "sample"),
        default=["deterministic"],
        help="how to act (default: deterministic, which is the agent's own choice of mean or mode)",
    )
    how.add_argument("--all-actions", action="store_true", help="every way to act that the agent has")
    parser.add_argument("--n-envs", type=int, metavar="K", help="environments, each a process (default: one a core)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="JSON (default: evaluation.json in RUN); never overwritten, but numbered",
    )
    return parser


def main(argv: list[str]) -> None:
    """Run `python -m sb3_carracing evaluate`; bad input ends with one sentence and exit code 2."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        agent, make_env, kinds, output = _prepare(args)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    seeds = range(args.seed_start, args.seed_start + args.n)
    report = _report(agent, make_env, seeds)
    summaries: dict[str, Summary] = {}
    try:
        for kind in kinds:
            start = time.perf_counter()
            results = evaluate(
                agent.model,
                make_env,
                seeds,
                actions=kind,
                n_envs=args.n_envs or n_cores(),
                wrap_vec_env=agent.pipeline.wrap_vec_env,
                progress=True,
            )
            summaries[kind] = summarize(results)
            report["results"][kind] = {
                "seconds": round(time.perf_counter() - start, 1),
                "summary": asdict(summaries[kind]),
                "episodes": [asdict(result) for result in results],
            }
            output.write_text(json.dumps(report, indent=1) + "\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted\n")
    finally:
        if not summaries:
            output.unlink()
    Console().print(results_table(f"{agent.name} on {make_env.spec.id}", summaries))
    print(f"written: {output}")


def _prepare(args: argparse.Namespace) -> tuple[Agent, PipelineEnv, list[str], Path]:
    """Check everything that can be wrong before the first episode; ValueError or OSError says what is."""
    for option, value in (("-n", args.n), ("--n-envs", args.n_envs)):
        if value is not None and value < 1:
            raise ValueError(f"{option} must be at least 1, got {value}")
    if args.seed_start < 0:
        raise ValueError(f"--seed-start must be at least 0, got {args.seed_start}")
    agent = open_agent(args)
    wanted = action_kinds(agent.model) if args.all_actions else args.actions
    kinds = list(dict.fromkeys(check_actions(agent.model, kind) for kind in wanted))
    make_env = pipeline_env(agent.pipeline, renderer=args.renderer)
    check_pipeline(agent.model, make_env, agent.pipeline.wrap_vec_env)
    default = agent.folder / ("evaluation.json" if agent.file else "evaluation_random.json")
    output = next_free(args.output or default)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.touch()
    return agent, make_env, kinds, output
