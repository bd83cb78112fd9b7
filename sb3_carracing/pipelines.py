"""What stands between an environment and its agent: wrappers, stacking, normalization.

A `Pipeline` describes it, `pipeline_env` builds the environment from it, and `wrap_alike` repeats what is around a
training's vectorized environment.
"""

import copy
import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium as gym
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from sb3_carracing.checks import one_of
from sb3_carracing.envs.counts import counts_of, put_counts
from sb3_carracing.envs.registration import FRAME_LIMIT
from sb3_carracing.envs.training_rules import evaluation_kwargs
from sb3_carracing.errors import UserError
from sb3_carracing.ppo.saving.vec_normalize import read_statistics

Env = gym.Env[Any, Any]
EnvFactory = Callable[[], Env]
VecWrapper = Callable[[VecEnv], VecEnv]
Renderer = Literal["stock", "fast"]

STOCK_ID = "CarRacing-v3"
FAST_ID = "CarRacingFast-v3"


@dataclass(frozen=True)
class WrapperCall:
    """A wrapper by dotted path, with its keywords, as in rl-zoo3's YAML. Call it with the environment to wrap."""

    path: str
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __call__(self, env: Any) -> Any:
        """Return `env` in the wrapper."""
        return import_by_path(self.path)(env, **self.kwargs)


@dataclass(frozen=True)
class Pipeline:
    """What a run puts between an environment and its agent.

    Attributes:
        env_id: environment id, for `gymnasium.make`.
        env_kwargs: keywords for `gymnasium.make`.
        wrappers: wrappers around each environment, innermost first.
        vec_wrappers: wrappers around the vectorized environment, innermost first.
        normalize: the run's vecnormalize.pkl; None if the run does not normalize.
        frame_stack: number of observations that `VecFrameStack` stacks; None for no stacking.
        trust: whether the file of running means may run code.
    """

    env_id: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    wrappers: tuple[WrapperCall, ...] = ()
    vec_wrappers: tuple[WrapperCall, ...] = ()
    normalize: Path | None = None
    frame_stack: int | None = None
    trust: bool = field(default=False, compare=False)

    def wrap_vec_env(self, venv: VecEnv) -> VecEnv:
        """Wrap a vectorized environment in rl-zoo3's order, with frozen running means.

        Raises:
            UserError: the run normalizes, and the file of its running means is missing or cannot be read.
        """
        for wrapper in self.vec_wrappers:
            venv = wrapper(venv)
        if self.normalize is not None:
            if not self.normalize.is_file():
                raise UserError(f"the run normalizes, but its statistics {self.normalize} are missing")
            venv = read_statistics(self.normalize, venv, self.trust)
            venv.training = False
            venv.norm_reward = False
        return VecFrameStack(venv, self.frame_stack) if self.frame_stack else venv


def wrapper_calls(entry: Any) -> tuple[WrapperCall, ...]:
    """Read the `env_wrapper` of a YAML file: None, a dotted path, `{path: keywords}`, or a list of these.

    Raises:
        UserError: it is none of them.
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
            raise UserError(f"a wrapper must be a dotted path or {{path: keywords}}, got {item!r}")
    return tuple(calls)


def import_by_path(path: str) -> Any:
    """Return what `package.module.Name` or `package.module:Name` names.

    Raises:
        UserError: it cannot be imported.
    """
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"cannot import {path!r}: {error}") from error


class RawScore(gym.Wrapper[Any, Any, Any, Any]):
    """Count reward and frames if the environment below does not count itself, see `counts_of`.

    It belongs directly around the environment, below wrappers that shape rewards, repeat actions or end episodes. Around
    CarRacing it also adds the `info` entries of our own CarRacing: `score`, `frames` and `episode_over`.
    """

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        # Do not import Box2D: if there is a CarRacing, it is imported already.
        module = sys.modules.get("gymnasium.envs.box2d.car_racing")
        self._is_car_racing = module is not None and isinstance(env.unwrapped, module.CarRacing)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and the counts."""
        self._score, self._frames = 0.0, 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step and report the counts in `info`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._score += float(reward)
        self._frames += 1
        if counts_of(info) is None:
            over, laps = terminated or truncated, self._is_car_racing
            info = {**info, **({"score": self._score, "frames": self._frames, "episode_over": over} if laps else {})}
            put_counts(info, self._score, self._frames, over, laps and info.get("lap_finished", False))
        return observation, reward, terminated, truncated, info


@dataclass(frozen=True)
class PipelineEnv:
    """Factory of an environment with a run's wrappers around it; picklable.

    A `RawScore` counts below all wrappers. This package's CarRacing needs none, since it counts by itself, and its wrappers
    need direct access to it.
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
    """Return a factory of the environment that a pipeline's agent drives in, without training rules.

    Args:
        pipeline: that of the agent's training.
        renderer: "stock": gymnasium's CarRacing-v3 with the view wrappers of the id and of the YAML file around it.
            "fast": the same around CarRacingFast-v3, which differs in how observations are drawn.
            None: the pipeline's own id with its keywords.
        render_mode: see `CarRacing`.
        innermost: wrappers below all others.

    Raises:
        UserError: the id or the renderer is unknown, or a renderer is given for an id that is not a CarRacing.
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
            raise UserError(f"the protocol is for CarRacing, but {pipeline.env_id!r} is another environment")
        if kwargs.get("frame_skip", 1) != 1:
            views.append(WrapperCall("sb3_carracing.envs.wrappers.ActionRepeat", {"frame_skip": kwargs["frame_skip"]}))
        if kwargs.get("grayscale"):
            views.append(WrapperCall("sb3_carracing.envs.wrappers.Grayscale"))
        views += [
            WrapperCall(view.entry_point, dict(view.kwargs or {})) for view in spec.additional_wrappers if view != FRAME_LIMIT
        ]
        # Colors and the share of tiles in a lap are stock's as well, so that scores are comparable.
        spec, kwargs = env_spec(STOCK_ID if renderer == "stock" else FAST_ID), {"continuous": kwargs.get("continuous", True)}
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    return PipelineEnv(spec, kwargs, (*innermost, *views, *pipeline.wrappers))


def frames_per_step(pipeline: Pipeline) -> int:
    """Return how many frames a decision takes, by taking one in the environment."""
    env = pipeline_env(pipeline, renderer=None)()
    try:
        env.reset(seed=0)
        counts = counts_of(env.step(env.action_space.sample())[4])
    finally:
        env.close()
    return counts.frames if counts is not None else 1


def env_spec(env_id: str) -> EnvSpec:
    """Return gymnasium's registration of an id.

    Raises:
        UserError: there is none.
    """
    try:
        return gym.spec(env_id)
    except gym.error.Error as error:
        raise UserError(f"unknown environment {env_id!r}: {error}") from error


def is_car_racing(spec: EnvSpec) -> bool:
    """Return whether an id is gymnasium's CarRacing or a subclass of it, as ours is."""
    from gymnasium.envs.box2d.car_racing import CarRacing

    maker = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    return isinstance(maker, type) and issubclass(maker, CarRacing)


def wrap_alike(training: VecEnv, venv: VecEnv, calls: Sequence[WrapperCall] = ()) -> VecEnv:
    """Wrap a vectorized environment like a training's, with frozen running means.

    Args:
        training: the training's environment; `not_repeated` names its wrappers that are left out.
        venv: the environment to wrap.
        calls: wrappers of the training whose arguments are known.
    """
    if not isinstance(training, VecEnvWrapper):
        return venv
    venv = wrap_alike(training.venv, venv, calls)
    repeat = _way_to_repeat(training, calls)
    return repeat(venv) if repeat is not None else venv


def not_repeated(training: VecEnv, calls: Sequence[WrapperCall] = ()) -> list[str]:
    """Return the names of wrappers that `wrap_alike` leaves out although they may change what the agent sees or does."""
    names = []
    while isinstance(training, VecEnvWrapper):
        if _way_to_repeat(training, calls) is None:
            names.append(type(training).__name__)
        training = training.venv
    return names


def _way_to_repeat(wrapper: VecEnvWrapper, calls: Sequence[WrapperCall]) -> VecWrapper | None:
    """Return a function that wraps an environment in the same type with the same arguments, None if that is impossible."""
    # Exact types, here and below, because we do not know what a subclass adds.
    if type(wrapper) in (VecMonitor, VecCheckNan, VecVideoRecorder):
        return _leave_out
    for call in calls:
        if import_by_path(call.path) is type(wrapper):
            return call
    if isinstance(wrapper, VecNormalize):
        return functools.partial(_freeze_normalize, wrapper)
    if type(wrapper) is VecFrameStack:
        stack = wrapper.stacked_obs
        return functools.partial(VecFrameStack, n_stack=stack.n_stack, channels_order=_channels_order(stack))
    if type(wrapper) is VecTransposeImage:
        return functools.partial(_transpose, wrapper)
    if type(wrapper) is VecExtractDictObs:
        return functools.partial(VecExtractDictObs, key=wrapper.key)
    return None


def _leave_out(venv: VecEnv) -> VecEnv:
    return venv


def _transpose(wrapper: VecTransposeImage, venv: VecEnv) -> VecEnv:
    is_done = venv.observation_space == wrapper.observation_space and not wrapper.skip
    return venv if is_done else VecTransposeImage(venv, skip=wrapper.skip)


def _freeze_normalize(wrapper: VecNormalize, venv: VecEnv) -> VecNormalize:
    twin = copy.deepcopy(wrapper)
    twin.set_venv(venv)
    twin.training = False
    twin.norm_reward = False
    return twin


def _channels_order(stack: StackedObservations[Any]) -> Any:
    """Return the `channels_order` that gives this stack, since SB3 keeps only what it derives from the argument."""
    if isinstance(stack.observation_space, spaces.Dict):
        return {key: _channels_order(part) for key, part in stack.sub_stacked_observations.items()}
    return "first" if stack.channels_first else "last"
