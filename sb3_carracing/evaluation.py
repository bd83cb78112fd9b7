"""The evaluation protocol: the test tracks of stock CarRacing, raw score, whole episodes, any SB3 model.

The test tracks are `reset(seed)` of gymnasium's `CarRacing-v3` with seeds 1,000,000 to 1,000,099. No training uses them;
validation during training uses seeds from 2,000,000 on. The score is the sum of the stock reward over every frame until the
lap is finished, the car has left the field, or frame 1000. Reward shaping and early ends of the training do not affect it. The
agent sees the environment through its own run's pipeline.
"""

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_carracing.agents import RandomPolicy
from sb3_carracing.checks import whole_number
from sb3_carracing.deprecated import old_names
from sb3_carracing.envs.counts import Counts, counts_of
from sb3_carracing.envs.training_rules import MAX_FRAMES
from sb3_carracing.errors import UserError
from sb3_carracing.pipelines import Env, EnvFactory, RawScore, VecWrapper
from sb3_carracing.progress import ProgressLine
from sb3_carracing.system import no_window
from sb3_carracing.vec_env import WorkerError, process_vec_env_class

__getattr__ = old_names(__name__)

TEST_SEED = 1_000_000
VALIDATION_SEED = 2_000_000
RECORDING_SEED = 3_000_000
N_TEST_TRACKS = 100
MIN_EPISODES_FOR_INTERVAL = 5

_WORKERS_ENDED = (WorkerError, EOFError, ConnectionError)


class Model(Protocol):
    """What `evaluate` needs of a model: SB3's `predict`."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Return the actions for a batch of observations and the next recurrent state."""


class Watch(Protocol):
    """Someone who looks on while `evaluate` plays, in its process."""

    def decided(self, seed: int, observation: Any, action: Any) -> None:
        """Take note of an action on the track of `seed` for a batch of one observation, before it is played."""

    def ended(self, seed: int, info: dict[str, Any]) -> None:
        """Take note of the end of the episode on the track of `seed`, with the `info` of its last step."""


@dataclass(frozen=True)
class EpisodeResult:
    """One episode.

    Attributes:
        seed: random seed of the track.
        score: raw score.
        frames: frames played.
        steps: decisions of the agent.
        lap_finished: whether the lap was finished.
    """

    seed: int
    score: float
    frames: int
    steps: int
    lap_finished: bool


@dataclass(frozen=True)
class Summary:
    """Statistics of scores over episodes.

    `std` divides by n. `ci_low` and `ci_high` are the 95 % bootstrap interval of the mean, None for fewer than
    `MIN_EPISODES_FOR_INTERVAL` episodes. `laps_finished` and `at_least_900` are shares of the episodes.
    """

    n_episodes: int
    mean: float
    std: float
    median: float
    min: float
    max: float
    laps_finished: float
    at_least_900: float
    ci_low: float | None
    ci_high: float | None
    frames_mean: float


class _SeededEpisodes(gym.Wrapper[Any, Any, Any, Any]):
    """Play one episode for each of `seeds`, whatever seed the caller of `reset` passes, then stand still.

    At an episode's end `info["result"]` is its `EpisodeResult`. Ends that a wrapper causes before the environment itself are
    ignored, since an early end would spare the agent the cost of the skipped frames.
    """

    def __init__(self, env: Env, seeds: Sequence[int]) -> None:
        super().__init__(env)
        self._seeds = iter(seeds)
        self._seed: int | None = None
        self._last_observation: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._seed = next(self._seeds, None)
        self._steps = 0
        if self._seed is None:
            return self._last_observation, {}
        self._last_observation, info = self.env.reset(seed=self._seed, options=options)
        return self._last_observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._seed is None:
            return self._last_observation, 0.0, False, False, {}
        self._last_observation, reward, _, truncated, info = self.env.step(action)
        self._steps += 1
        counts = counts_of(info)
        assert counts is not None
        if counts.over:
            info["result"] = EpisodeResult(self._seed, counts.score, counts.frames, self._steps, counts.lap_finished)
        return self._last_observation, reward, counts.over and not truncated, counts.over and truncated, info


def action_kinds(model: Any) -> tuple[str, ...]:
    """Return the kinds of action that a model offers, its default first.

    A policy whose `deterministic_action` can be set offers "mean", "mode" and "sample". Other policies offer
    "deterministic" and "sample". The random baseline offers only "sample".
    """
    if isinstance(model, RandomPolicy):
        return ("sample",)
    default = getattr(getattr(model, "policy", None), "deterministic_action", None)
    if default is None or not isinstance(model.action_space, spaces.Box):
        return ("deterministic", "sample")
    return (default, "mode" if default == "mean" else "mean", "sample")


def check_actions(model: Any, actions: str) -> str:
    """Return the requested kind of action, with "deterministic" replaced by the kind that it stands for.

    Raises:
        UserError: the model does not offer it. The message lists the kinds that it offers.
    """
    kinds = action_kinds(model)
    if actions == "deterministic":
        return kinds[0]
    if actions not in kinds:
        raise UserError(f"{type(model).__name__} cannot play {actions!r} actions; valid: {', '.join(kinds)}")
    return actions


def evaluate(
    model: Model,
    make_env: EnvFactory,
    seeds: Sequence[int],
    *,
    actions: str = "deterministic",
    n_envs: int = 1,
    wrap_vec_env: VecWrapper | None = None,
    watch: Watch | None = None,
    progress: ProgressLine | bool = False,
) -> list[EpisodeResult]:
    """Play one whole episode on each track and return the results in the order of `seeds`.

    The results do not depend on `n_envs`. Actions are computed one environment at a time, because the batch size changes the
    last bits of a float32 product and a lap amplifies them. Sampled actions come from generators seeded by track and step.

    Args:
        model: any SB3 model, including recurrent ones, or anything else with SB3's `predict`.
        make_env: makes the environment that the agent sees; picklable by cloudpickle if `n_envs` is above 1.
        seeds: random seeds of the tracks, for `reset`.
        actions: "deterministic" (the model's own default), "sample", or "mean" or "mode" if the policy has both.
        n_envs: number of environments; above 1 they run in worker processes.
        wrap_vec_env: wraps the vectorized environment, see `Pipeline.wrap_vec_env`. None means `make_env.wrap_vec_env` if
            there is one, as in the factory that `load_agent` returns.
        watch: is told of every decision and of every end.
        progress: show progress and the time left on stderr, in a line of its own or in the given one.

    Raises:
        UserError: the spaces differ from the model's, or it does not offer `actions`. Raised before the first episode.
    """
    if not seeds:
        return []
    whole_number("n_envs", n_envs, 1)
    kind = check_actions(model, actions)
    wrap_vec_env = wrap_vec_env or getattr(make_env, "wrap_vec_env", None)
    venv = _seeded_vec_env(make_env, seeds, min(n_envs, len(seeds)), wrap_vec_env)
    try:
        check_spaces(model, venv)
        line = progress
        if isinstance(line, bool):
            line = ProgressLine(f"{kind} actions", len(seeds), disable=not line)
        with _acting(model, kind), line.ticking():
            return _play(model, venv, seeds, kind != "sample", line, watch)
    finally:
        # After Ctrl-C, SB3's own workers have closed their ends already.
        with suppress(EOFError, ConnectionError):
            venv.close()


def check_spaces(model: Any, venv: VecEnv) -> None:
    """Compare an environment's spaces with the model's.

    Raises:
        UserError: they differ. The message names both.
    """
    for name in ("observation_space", "action_space"):
        trained, found = getattr(model, name, None), getattr(venv, name)
        if trained is not None and trained != found:
            raise UserError(f"the agent's {name.replace('_', ' ')} is {trained}, the environment's is {found}")


def check_pipeline(model: Any, make_env: EnvFactory, wrap_vec_env: VecWrapper | None, n_envs: int = 1) -> None:
    """Make the environments as `evaluate` will, without playing.

    Raises:
        UserError: a wrapper does not fit, the spaces are not the model's, or worker processes do not start.
    """
    try:
        venv = _seeded_vec_env(make_env, [0], 1, wrap_vec_env)
    except UserError:
        raise
    except (ValueError, TypeError, AssertionError, gym.error.Error) as error:
        raise UserError(f"the environment cannot be made: {error}") from error
    try:
        check_spaces(model, venv)
    finally:
        venv.close()
    if n_envs > 1:
        try:
            _seeded_vec_env(make_env, range(n_envs), n_envs, wrap_vec_env).close()
        except _WORKERS_ENDED as error:
            raise UserError(
                f"the {n_envs} evaluation environments do not start in worker processes: use n_envs=1, or put the "
                f"script under `if __name__ == '__main__':` ({str(error).partition(chr(10))[0] or type(error).__name__})"
            ) from error


def _seeded_vec_env(make_env: EnvFactory, seeds: Sequence[int], n_envs: int, wrap_vec_env: VecWrapper | None) -> VecEnv:
    """Return `n_envs` environments, with the seeds distributed among them in turn."""
    no_window()
    factories = [functools.partial(_seeded_env, make_env, list(seeds[i::n_envs])) for i in range(n_envs)]
    venv: VecEnv = process_vec_env_class()(list(factories)) if n_envs > 1 else DummyVecEnv(list(factories))
    try:
        # Wrap the environment as SB3 does for a model: images with channels last are transposed.
        return BaseAlgorithm._wrap_env(wrap_vec_env(venv) if wrap_vec_env else venv, monitor_wrapper=False)
    except BaseException:
        venv.close()
        raise


def _seeded_env(make_env: EnvFactory, seeds: list[int]) -> Env:
    # The outer `RawScore` counts if nothing below does, or if a wrapper does not pass the counts on.
    return _SeededEpisodes(RawScore(make_env()), seeds)


@contextmanager
def _acting(model: Any, kind: str) -> Iterator[None]:
    """Make the model act in the given way, on one thread; restore the model and the random generators afterwards."""
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


def _play(
    model: Any, venv: VecEnv, seeds: Sequence[int], deterministic: bool, line: ProgressLine, watch: Watch | None
) -> list[EpisodeResult]:
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
            observation = _row(observations, env)
            batch, states[env] = model.predict(
                observation,
                state=states[env],
                episode_start=starts[env : env + 1],
                deterministic=deterministic,
            )
            actions[env] = batch[0]
            if watch is not None:
                watch.decided(seeds[index], observation, batch[0])
            steps[env] += 1
        observations, _, dones, infos = venv.step(np.stack(actions))
        starts = np.asarray(dones, dtype=bool)
        for env in map(int, np.flatnonzero(starts)):
            index = playing.pop(env)
            results[index] = infos[env]["result"]
            if watch is not None:
                watch.ended(seeds[index], infos[env])
            steps[env] = 0
            if index + n_envs < len(seeds):
                playing[env] = index + n_envs
        _show(line, results, [counts_of(infos[env]) for env in playing])
    return [results[index] for index in range(len(seeds))]


def _show(line: ProgressLine, results: dict[int, EpisodeResult], running: Sequence[Counts | None]) -> None:
    """Show how many episodes are played, with those under way counted by their frames."""
    if line.disable:
        return
    finished = list(results.values())
    expected = float(np.mean([result.frames for result in finished])) if finished else MAX_FRAMES
    under_way = sum(min(counts.frames / expected, 0.99) for counts in running if counts is not None and not counts.over)
    score = [f"mean score {np.mean([result.score for result in finished]):.1f}"] if finished else []
    line.reach(len(finished) + under_way, *score, f"{len(finished)}/{line.total} tracks")


def _row(observations: Any, env: int) -> Any:
    if isinstance(observations, dict):
        return {key: value[env : env + 1] for key, value in observations.items()}
    return observations[env : env + 1]


def _seed_sampling(model: Any, seed: int, step: int) -> None:
    """Seed every source of sampled actions: torch, numpy, the action space (DQN), gSDE's noise (once per episode)."""
    if getattr(model, "use_sde", False):
        th.manual_seed(seed)
        model.policy.reset_noise(1)
    th.manual_seed(seed * 10_000 + step)
    np.random.seed((seed * 10_000 + step) % 2**32)  # noqa: NPY002
    if hasattr(model, "action_space"):
        model.action_space.seed(seed * 10_000 + step)


def summarize(results: Sequence[EpisodeResult]) -> Summary:
    """Summarize episodes; the interval of the mean is a seeded percentile bootstrap with 10,000 draws.

    Raises:
        UserError: there is no episode.
    """
    if not results:
        raise UserError("there is no episode to summarize")
    scores = np.array([result.score for result in results])
    low, high = _interval(scores)
    return Summary(
        n_episodes=len(results),
        mean=float(scores.mean()),
        std=float(scores.std()),
        median=float(np.median(scores)),
        min=float(scores.min()),
        max=float(scores.max()),
        laps_finished=float(np.mean([result.lap_finished for result in results])),
        at_least_900=float(np.mean(scores >= 900.0)),
        ci_low=low,
        ci_high=high,
        frames_mean=float(np.mean([result.frames for result in results])),
    )


def _interval(scores: np.ndarray) -> tuple[float | None, float | None]:
    """Return the 95 % bootstrap interval of the mean, or nothing if there are too few scores for one."""
    if len(scores) < MIN_EPISODES_FOR_INTERVAL:
        return None, None
    draws = np.random.default_rng(0).choice(scores, (10_000, len(scores))).mean(axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
