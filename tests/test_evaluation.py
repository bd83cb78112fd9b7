"""The evaluation protocol: scores are stock CarRacing's own, whatever stands between it and the agent."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from drivers import CentreLineDriver, OutwardDriver
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack
from stand_ins import ACTION, REPEAT_4, Constant, Walk

from sb3_carracing import BetaPPO, evaluation
from sb3_carracing.agents import RandomPolicy
from sb3_carracing.envs.training_rules import TrainingRules
from sb3_carracing.evaluation import TEST_SEED, EpisodeResult, action_kinds, evaluate, summarize
from sb3_carracing.pipelines import Pipeline, Renderer, WrapperCall, pipeline_env


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several environments in this process, so that a test need not start others."""
    monkeypatch.setattr(evaluation, "process_vec_env_class", lambda: DummyVecEnv)


def hand_played(seed: int, action_of: Callable[[Any], Any], repeat: int = 1) -> EpisodeResult:
    """Play stock CarRacing by a loop as short as can be."""
    env = gym.make("CarRacing-v3")
    env.reset(seed=seed)
    score, frames, steps, over = 0.0, 0, 0, False
    info: dict[str, Any] = {}
    while not over:
        action = action_of(env)
        steps += 1
        for _ in range(repeat):
            _, reward, terminated, truncated, info = env.step(action)
            score, frames, over = score + float(reward), frames + 1, terminated or truncated
            if over:
                break
    env.close()
    return EpisodeResult(seed, score, frames, steps, info.get("lap_finished", False))


@pytest.mark.usefixtures("cheap")
def test_scores_are_the_stock_environments() -> None:
    make_env = pipeline_env(Pipeline("CarRacing-v3"))
    results = evaluate(Constant(ACTION), make_env, [TEST_SEED, TEST_SEED + 1])
    assert results == [hand_played(TEST_SEED + i, lambda _: ACTION) for i in range(2)]
    assert results[0].frames == 1000


@pytest.mark.usefixtures("cheap")
def test_training_rewards_and_keywords_do_not_count() -> None:
    values = {"grass_rule": "wheels", "truncate_lap": True, "gap_penalty": 5.0, "no_progress_frames": 5, "off_road_frames": 5}
    values |= {"standstill_rate": 1.0}
    options = TrainingRules({}, continuous=True).options
    training_only = {name: values.get(name, 50.0) for name in options} | {"noop_frames": 50, "retry_rate": 1.0}
    wrappers = (
        WrapperCall("sb3_carracing.envs.wrappers.GrassPenalty", {"penalty": 5.0}),
        REPEAT_4,
        WrapperCall("sb3_carracing.envs.wrappers.ScaleReward", {"scale": 0.1}),
    )
    pipeline = Pipeline("CarRacingFast-v3", training_only, wrappers)
    renderers: tuple[Renderer | None, ...] = ("stock", "fast", None)
    for renderer in renderers:
        with pytest.warns(UserWarning, match="ignoring retry_rate, which is no longer a training rule"):
            make_env = pipeline_env(pipeline, renderer=renderer)
        (result,) = evaluate(Constant(ACTION), make_env, [7])
        expected = hand_played(7, lambda _: ACTION, repeat=4)
        assert result.score == pytest.approx(expected.score, abs=1e-9)
        assert (result.frames, result.steps) == (expected.frames, expected.steps) == (1000, 250)


class EarlyStop(gym.Wrapper[Any, Any, Any, Any]):
    """Ends the episode at the tenth step."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, _, truncated, info = self.env.step(action)
        return observation, reward, info["frames"] >= 10, truncated, info


@pytest.mark.parametrize("renderer", ["stock", "fast", None])
@pytest.mark.usefixtures("cheap")
def test_an_early_stop_among_the_wrappers_is_overruled(renderer: Renderer | None) -> None:
    whole = evaluate(Constant(ACTION), pipeline_env(Pipeline("CarRacing-v3")), [7])
    assert whole[0].frames == 1000
    for stop in (
        WrapperCall(f"{__name__}.EarlyStop"),
        WrapperCall("gymnasium.wrappers.TimeLimit", {"max_episode_steps": 10}),
    ):
        make_env = pipeline_env(Pipeline("CarRacingFast-v3", wrappers=(stop,)), renderer=renderer)
        (result,) = evaluate(Constant(ACTION), make_env, [7])
        score: Any = pytest.approx(whole[0].score, abs=1e-9)
        assert (result.frames, result.steps, result.score) == (1000, 1000, score)


@pytest.mark.parametrize(("driver", "finished"), [(CentreLineDriver, True), (OutwardDriver, False)])
@pytest.mark.usefixtures("cheap")
def test_the_ends_of_laps_and_crashes(driver: type, finished: bool) -> None:
    seed = 0
    made: list[gym.Env[Any, Any]] = []

    def make_env() -> gym.Env[Any, Any]:
        made.append(pipeline_env(Pipeline("CarRacing-v3"))())
        return made[-1]

    class Privileged:
        drive: Any = None

        def predict(
            self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
        ) -> tuple[np.ndarray, None]:
            if episode_start[0]:
                self.drive = driver(made[-1])
            return np.array([self.drive()]), None

    by_hand: dict[str, Any] = {}
    expected = hand_played(seed, lambda env: by_hand.setdefault("drive", driver(env))())
    (result,) = evaluate(Privileged(), make_env, [seed])
    assert result == expected
    assert result.frames < 1000
    assert result.lap_finished is finished
    assert (result.score > 850) is finished


def test_results_follow_the_order_of_the_seeds_for_any_number_of_environments(one_process: None) -> None:
    seeds = [5, 3, 9, 3, 11, 2, 8]
    model = RandomPolicy(Walk.action_space)
    one = evaluate(model, Walk, seeds)
    assert [result.seed for result in one] == seeds
    assert one[1] == one[3]
    for n_envs in (2, 3, 20):
        assert evaluate(model, Walk, seeds, n_envs=n_envs) == one


def test_learned_policies_do_not_depend_on_the_number_of_environments_either(one_process: None) -> None:
    seeds = range(7)
    for model in (PPO("MlpPolicy", Walk(), seed=0, device="cpu"), BetaPPO("MlpPolicy", Walk(), seed=0, device="cpu")):
        for actions in ("deterministic", "sample"):
            one = evaluate(model, Walk, seeds, actions=actions)
            assert one == evaluate(model, Walk, seeds, actions=actions, n_envs=3)
            assert len({result.score for result in one}) == len(seeds)


def test_recurrent_states_belong_to_their_environments(one_process: None) -> None:
    recurrent_ppo = pytest.importorskip("sb3_contrib").RecurrentPPO
    model = recurrent_ppo("MlpLstmPolicy", Walk(), seed=0, device="cpu")
    one = evaluate(model, Walk, range(5))
    assert one == evaluate(model, Walk, range(5), n_envs=3)
    # By hand, as SB3's documentation plays it: the state starts anew with the episode.
    env = Walk()
    for expected in one:
        observation, state, over, start, score = env.reset(seed=expected.seed)[0], None, False, np.ones(1, bool), 0.0
        while not over:
            action, state = model.predict(observation[None], state, start, deterministic=True)
            observation, reward, over, _, _ = env.step(action[0])
            score, start = score + reward, np.zeros(1, bool)
        assert score == pytest.approx(expected.score, abs=1e-4)


@pytest.mark.slow
def test_processes_change_nothing() -> None:
    model = PPO("MlpPolicy", "Pendulum-v1", seed=0, device="cpu")
    make_env = pipeline_env(Pipeline("Pendulum-v1"), renderer=None)
    for actions in ("deterministic", "sample"):
        one = evaluate(model, make_env, range(5), actions=actions)
        assert one == evaluate(model, make_env, range(5), actions=actions, n_envs=2)


def test_no_step_is_wasted(one_process: None) -> None:
    made: list[Walk] = []

    def make_env() -> Walk:
        made.append(Walk())
        return made[-1]

    results = evaluate(Constant([0.0]), make_env, range(5), n_envs=2)
    assert [env.n_resets for env in made] == [3, 2]
    assert sum(env.n_steps for env in made) == sum(result.steps for result in results)


def test_stacking_starts_anew_with_every_episode(one_process: None) -> None:
    seen: list[np.ndarray] = []

    class Watching(Constant):
        def predict(
            self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
        ) -> tuple[np.ndarray, None]:
            if episode_start[0]:
                seen.append(observation)
            return np.array([self.action]), None

    evaluate(Watching([0.0]), Walk, range(3), wrap_vec_env=lambda venv: VecFrameStack(venv, 3))
    assert len(seen) == 3
    assert all(stack.shape == (1, 6) and not stack[0, :4].any() and stack[0, 4:].any() for stack in seen)


def test_ways_to_act() -> None:
    beta, gauss = BetaPPO("MlpPolicy", Walk(), device="cpu"), PPO("MlpPolicy", Walk(), device="cpu")
    default: Any = beta.policy.deterministic_action
    assert action_kinds(beta)[0] == default
    assert set(action_kinds(beta)) == {"mean", "mode", "sample"}
    assert action_kinds(BetaPPO("MlpPolicy", "CartPole-v1", device="cpu")) == ("deterministic", "sample")
    assert action_kinds(gauss) == ("deterministic", "sample")
    assert action_kinds(RandomPolicy(Walk.action_space)) == ("sample",)
    with pytest.raises(ValueError, match=r"PPO cannot play 'mode' actions; valid: deterministic, sample"):
        evaluate(gauss, Walk, [0], actions="mode")
    results = {kind: evaluate(beta, Walk, [0], actions=kind) for kind in ("mean", "mode", "sample", "deterministic")}
    assert results["deterministic"] == results[default]
    assert results["mean"] != results["mode"] != results["sample"] != results["mean"]
    assert beta.policy.deterministic_action == default


def test_nothing_outside_is_disturbed() -> None:
    model = PPO("MlpPolicy", Walk(), device="cpu")
    n_threads = th.get_num_threads()
    th.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    expected = th.rand(1), np.random.rand()  # noqa: NPY002
    th.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    evaluate(model, Walk, [0], actions="sample")
    assert (th.rand(1), np.random.rand()) == expected  # noqa: NPY002
    assert th.get_num_threads() == n_threads


def test_exploration_of_dqn_is_repeatable_and_left_alone() -> None:
    model = DQN("MlpPolicy", "CartPole-v1", device="cpu", seed=0)
    model.exploration_rate = 1.0
    model.action_space.seed(3)
    once, again = (evaluate(model, lambda: gym.make("CartPole-v1"), range(5), actions="sample") for _ in range(2))
    assert once == again
    space = spaces.Discrete(2, seed=3)
    assert [model.action_space.sample() for _ in range(20)] == [space.sample() for _ in range(20)]


def test_noise_of_gsde_is_left_alone() -> None:
    model = PPO("MlpPolicy", DummyVecEnv([Walk] * 4), use_sde=True, device="cpu")
    model.policy.reset_noise(4)
    noise = model.policy.action_dist.exploration_matrices  # type: ignore[attr-defined]
    evaluate(model, Walk, [0], actions="sample")
    assert model.policy.action_dist.exploration_matrices is noise  # type: ignore[attr-defined]


def test_other_spaces_are_refused_before_any_episode() -> None:
    made: list[Walk] = []

    def make_env() -> Walk:
        made.append(Walk())
        return made[-1]

    model = PPO("MlpPolicy", "Pendulum-v1", device="cpu")
    with pytest.raises(ValueError, match=r"agent's observation space is Box.*\(3,\).*environment's is Box.*\(2,\)"):
        evaluate(model, make_env, [0])
    assert [env.n_resets for env in made] == [0]


def test_bad_numbers() -> None:
    assert evaluate(Constant([0.0]), Walk, []) == []
    with pytest.raises(ValueError, match="n_envs must be a whole number of at least 1, got 0"):
        evaluate(Constant([0.0]), Walk, [0], n_envs=0)


def of_scores(*scores: float) -> list[EpisodeResult]:
    return [EpisodeResult(i, score, 1000 - i, 10, score > 900) for i, score in enumerate(scores)]


def test_summary() -> None:
    summary = summarize(of_scores(800.0, 900.0, 910.0, -30.0))
    assert (summary.n_episodes, summary.mean, summary.median) == (4, 645.0, 850.0)
    assert (summary.min, summary.max, summary.frames_mean) == (-30.0, 910.0, 998.5)
    assert (summary.at_least_900, summary.laps_finished) == (0.5, 0.25)
    assert summary.std == pytest.approx(np.std([800.0, 900.0, 910.0, -30.0]))
    assert summary == summarize(of_scores(800.0, 900.0, 910.0, -30.0))
    with pytest.raises(ValueError, match="no episode"):
        summarize([])


def test_bootstrap_interval_is_the_normal_one_for_many_scores() -> None:
    scores = np.random.default_rng(1).normal(500.0, 100.0, 400)
    summary = summarize(of_scores(*scores))
    half = 1.96 * scores.std() / np.sqrt(len(scores))
    assert summary.ci_low == pytest.approx(scores.mean() - half, abs=1.0)
    assert summary.ci_high == pytest.approx(scores.mean() + half, abs=1.0)
    constant = summarize(of_scores(*[5.0] * 5))
    assert constant.ci_low == constant.ci_high == constant.mean == 5.0


def test_fewer_than_five_episodes_have_no_interval() -> None:
    summary = summarize(of_scores(*[5.0] * 4))
    assert (summary.ci_low, summary.ci_high) == (None, None)


class Told(Walk):
    """Another environment that puts what it likes into its infos."""

    info: dict[str, Any]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return (*super().step(action)[:4], self.info)


@pytest.mark.parametrize(
    "info",
    [
        {"score": 7},
        {"score": "3:1"},
        {"frames": 5},
        {"frames": None, "lap_finished": True},
        {"episode_over": True},
        {"episode_over": False},
        {"episode": 3},
        {"result": "draw"},
    ],
    ids=str,
)
def test_infos_of_other_environments_are_theirs(info: dict[str, Any]) -> None:
    expected = evaluate(Constant([0.5]), Walk, range(3))
    assert [(result.frames, result.lap_finished) for result in expected] == [(result.steps, False) for result in expected]
    assert evaluate(Constant([0.5]), type("TellsThis", (Told,), {"info": info}), range(3)) == expected


@pytest.mark.usefixtures("cheap")
def test_laps_of_the_stock_environment_are_seen_without_a_pipeline() -> None:
    made: list[gym.Env[Any, Any]] = []

    def make_env() -> gym.Env[Any, Any]:
        made.append(gym.make("CarRacing-v3"))
        return made[-1]

    class Privileged:
        drive: Any = None

        def predict(
            self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
        ) -> tuple[np.ndarray, None]:
            if episode_start[0]:
                self.drive = CentreLineDriver(made[-1])
            return np.array([self.drive()]), None

    (result,) = evaluate(Privileged(), make_env, [0])
    assert result.lap_finished
    assert result.score > 850
