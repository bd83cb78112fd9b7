"""The evaluation protocol: scores are stock CarRacing's own, whatever stands between it and the agent."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from drivers import CentreLineDriver, OutwardDriver, cheap_render
from gymnasium import spaces
from gymnasium.envs.box2d import car_racing as stock
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack
from test_runs import write_run

from sb3_carracing import BetaPPO, evaluation
from sb3_carracing.envs.training_rules import TrainingRules
from sb3_carracing.evaluation import (
    TEST_SEED,
    EpisodeResult,
    RandomPolicy,
    Renderer,
    action_kinds,
    add_agent_arguments,
    evaluate,
    main,
    open_agent,
    pipeline_env,
    summarize,
)
from sb3_carracing.runs import Pipeline, WrapperCall, read_run

ACTION = np.array([0.1, 0.3, 0.0], np.float32)
REPEAT_4 = WrapperCall("sb3_carracing.envs.wrappers.ActionRepeat", {"frame_skip": 4})
STACK_4 = {"stack_size": 4, "padding_type": "reset"}


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock.CarRacing, "_render", cheap_render)


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several environments in this process, so that a test need not start others."""
    monkeypatch.setattr(evaluation, "SubprocVecEnv", DummyVecEnv)


class Constant:
    """A model that always does the same."""

    def __init__(self, action: Any) -> None:
        self.action = action

    def predict(self, observation: Any, **_: Any) -> tuple[np.ndarray, None]:
        assert len(observation) == 1
        return np.array([self.action]), None


class Walk(gym.Env[np.ndarray, np.ndarray]):
    """Sum of position over 20 steps of a random walk with the agent's actions; its start is random."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self) -> None:
        self.n_resets = self.n_steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.n_resets += 1
        self.time, self.position = 0, self.np_random.normal()
        self.limit = int(self.np_random.integers(5, 30))
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.time < self.limit, "stepped after the end"
        self.n_steps += 1
        self.time += 1
        self.position += float(action[0]) + self.np_random.normal()
        return self._observe(), self.position, self.time == self.limit, False, {}

    def _observe(self) -> np.ndarray:
        return np.array([self.position, self.time], np.float32)


def hand_played(seed: int, action_of: Callable[[Any], Any], repeat: int = 1) -> EpisodeResult:
    """Play stock CarRacing by a loop as short as can be."""
    env = gym.make("CarRacing-v3")
    env.reset(seed=seed)
    score, frames, steps, over, info = 0.0, 0, 0, False, {}
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
        assert (result.frames, result.steps, result.score) == (1000, 1000, pytest.approx(whole[0].score, abs=1e-9))


class TakesNoops(Walk):
    """Another environment whose keyword has the name of a training rule of ours."""

    def __init__(self, noop_frames: int) -> None:
        super().__init__()
        self.noop_frames = noop_frames


def test_keywords_of_other_environments_are_theirs() -> None:
    gym.register("SB3CarRacingNoops-v0", TakesNoops)
    try:
        env = pipeline_env(Pipeline("SB3CarRacingNoops-v0", {"noop_frames": 3}), renderer=None)()
        assert env.unwrapped.noop_frames == 3  # type: ignore[attr-defined]
    finally:
        del gym.registry["SB3CarRacingNoops-v0"]


@pytest.mark.parametrize(("driver", "finished"), [(CentreLineDriver, True), (OutwardDriver, False)])
@pytest.mark.usefixtures("cheap")
def test_the_ends_of_laps_and_crashes(driver: type, finished: bool) -> None:
    seed = 0
    made: list[Any] = []

    def make_env() -> gym.Env[Any, Any]:
        made.append(pipeline_env(Pipeline("CarRacing-v3"))())
        return made[-1]

    class Privileged:
        drive: Any = None

        def predict(self, observation: Any, episode_start: Any = None, **_: Any) -> tuple[np.ndarray, None]:
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


@pytest.mark.parametrize("env_id", ["CarRacingBlog-v3", "CarRacingIurin-v3"])
def test_the_stock_pipeline_shows_what_the_id_shows(env_id: str) -> None:
    original, rebuilt = gym.make(env_id), pipeline_env(Pipeline(env_id))()
    assert rebuilt.observation_space == original.observation_space
    assert rebuilt.action_space == original.action_space
    assert type(rebuilt.unwrapped) is stock.CarRacing
    rebuilt.action_space.seed(0)
    np.testing.assert_array_equal(rebuilt.reset(seed=3)[0], original.reset(seed=3)[0])
    for _ in range(5):
        action = rebuilt.action_space.sample()
        np.testing.assert_array_equal(rebuilt.step(action)[0], original.step(action)[0])


@pytest.mark.usefixtures("cheap")
def test_keywords_of_the_view_become_wrappers_around_stock() -> None:
    kwargs = {"frame_skip": 4, "grayscale": True, "continuous": False}
    env = pipeline_env(Pipeline("CarRacingFast-v3", kwargs))()
    env.reset(seed=0)
    info = env.step(0)[4]
    assert env.observation_space == spaces.Box(0, 255, (96, 96), np.uint8)
    assert env.action_space == spaces.Discrete(5)
    assert info["frames"] == 4


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
        def predict(self, observation: Any, episode_start: Any = None, **_: Any) -> tuple[np.ndarray, None]:
            if episode_start[0]:
                seen.append(observation)
            return np.array([self.action]), None

    evaluate(Watching([0.0]), Walk, range(3), wrap_vec_env=lambda venv: VecFrameStack(venv, 3))
    assert len(seen) == 3
    assert all(stack.shape == (1, 6) and not stack[0, :4].any() and stack[0, 4:].any() for stack in seen)


def test_ways_to_act() -> None:
    beta, gauss = BetaPPO("MlpPolicy", Walk(), device="cpu"), PPO("MlpPolicy", Walk(), device="cpu")
    default = beta.policy.deterministic_action  # type: ignore[union-attr]
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
    assert beta.policy.deterministic_action == default  # type: ignore[union-attr]


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
    noise = model.policy.action_dist.exploration_matrices  # type: ignore[union-attr]
    evaluate(model, Walk, [0], actions="sample")
    assert model.policy.action_dist.exploration_matrices is noise  # type: ignore[union-attr]


def test_training_rules_of_a_registered_id_are_left_out_too() -> None:
    gym.register(
        "SB3CarRacingStrict-v0", "sb3_carracing.envs.car_racing:CarRacing", kwargs={"off_road_frames": 5, "frame_skip": 2}
    )
    try:
        env = pipeline_env(Pipeline("SB3CarRacingStrict-v0"), renderer=None)()
        assert env.unwrapped.rules.off_road_frames == 0  # type: ignore[attr-defined]
        assert env.unwrapped.frame_skip == 2  # type: ignore[attr-defined]
        env.close()
    finally:
        del gym.registry["SB3CarRacingStrict-v0"]


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
    with pytest.raises(ValueError, match="n_envs must be at least 1, got 0"):
        evaluate(Constant([0.0]), Walk, [0], n_envs=0)
    with pytest.raises(ValueError, match=r"unknown environment 'CarRacng-v3'.*CarRacing"):
        pipeline_env(Pipeline("CarRacng-v3"))
    with pytest.raises(ValueError, match="'Pendulum-v1' is another environment"):
        pipeline_env(Pipeline("Pendulum-v1"))
    with pytest.raises(ValueError, match="renderer must be one of 'stock', 'fast', got 'Stock'"):
        pipeline_env(Pipeline("CarRacing-v3"), renderer="Stock")  # type: ignore[arg-type]


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
    constant = summarize(of_scores(5.0, 5.0))
    assert constant.ci_low == constant.ci_high == constant.mean == 5.0


def test_random_baseline_fills_the_space() -> None:
    box = spaces.Box(np.array([-1, 0, 5], np.float32), np.array([1, 1, 9], np.float32))
    actions = np.concatenate([RandomPolicy(box).predict(None)[0] for _ in range(2000)])
    assert actions.dtype == np.float32
    assert all(box.contains(action) for action in actions)
    np.testing.assert_allclose(actions.mean(axis=0), [0.0, 0.5, 7.0], atol=0.1)
    discrete = RandomPolicy(spaces.Discrete(5))
    assert {int(discrete.predict(None)[0][0]) for _ in range(200)} == set(range(5))
    with pytest.raises(ValueError, match="need a Box or Discrete"):
        RandomPolicy(spaces.MultiBinary(3))


@pytest.fixture
def blog_run(tmp_path: Path, cheap: None) -> Path:
    """A run of the second seed's id: an untrained agent, and the config that rl-zoo3 writes."""
    run = write_run(tmp_path, {"env_kwargs": {"end_bonus": 100.0}}, env="CarRacingBlog-v3")
    env = gym.make("CarRacingBlog-v3")
    network = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}}
    model = BetaPPO("CnnPolicy", env, seed=0, device="cpu", n_steps=8, batch_size=8, policy_kwargs=network)
    model.save(run / "CarRacingBlog-v3.zip")
    env.close()
    return run


def test_command_on_a_run(blog_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(blog_run), "-n", "2", "--n-envs", "1", "--all-actions"])
    table = capsys.readouterr().out
    report = json.loads((blog_run / "evaluation.json").read_text())
    assert report["seeds"] == [TEST_SEED, TEST_SEED + 1]
    assert report["evaluated_in"] == "CarRacing-v3"
    assert set(report["results"]) == {"mean", "mode", "sample"}
    assert {"python", "stable-baselines3", "gymnasium", "torch"} <= set(report["versions"])
    for result in report["results"].values():
        assert [episode["seed"] for episode in result["episodes"]] == [TEST_SEED, TEST_SEED + 1]
        assert all(1 <= episode["frames"] <= 1000 for episode in result["episodes"])
        scores = [episode["score"] for episode in result["episodes"]]
        assert result["summary"]["mean"] == pytest.approx(np.mean(scores))
        assert f"{np.mean(scores):.1f}" in table
    main([str(blog_run), "-n", "1", "--n-envs", "1"])
    again = json.loads((blog_run / "evaluation_2.json").read_text())
    assert json.loads((blog_run / "evaluation.json").read_text()) == report
    (kind,) = again["results"]
    assert again["results"][kind]["episodes"] == report["results"][kind]["episodes"][:1]


def test_command_with_the_fast_picture(blog_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(blog_run), "-n", "1", "--n-envs", "1", "--renderer", "fast"])
    assert "on CarRacingFast-v3" in capsys.readouterr().out
    report = json.loads((blog_run / "evaluation.json").read_text())
    assert (report["evaluated_in"], report["env_kwargs"]) == ("CarRacingFast-v3", {"continuous": True})
    assert list(report["wrappers"][0].values()) == [{"frame_skip": 8}]


def test_command_on_a_zip(blog_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = str(blog_run / "CarRacingBlog-v3.zip")
    output = tmp_path / "results" / "by_hand.json"
    main([agent, "--env-id", "CarRacingBlog-v3", "--algo", "beta_ppo", "-n", "1", "--n-envs", "1", "-o", str(output)])
    by_hand = json.loads(output.read_text())
    main([str(blog_run), "-n", "1", "--n-envs", "1"])
    by_run = json.loads((blog_run / "evaluation.json").read_text())
    episodes = [next(iter(report["results"].values()))["episodes"] for report in (by_hand, by_run)]
    assert episodes[0] == episodes[1]
    assert "95 % interval" in capsys.readouterr().out


@pytest.mark.usefixtures("cheap")
def test_command_on_the_random_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["--random", "-n", "3", "--n-envs", "1"])
    report = json.loads((tmp_path / "evaluation_random.json").read_text())
    assert -100.0 < report["results"]["sample"]["summary"]["mean"] < 0.0


@pytest.mark.usefixtures("cheap")
def test_the_random_baseline_of_the_packaged_run_leaves_no_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be taken for the packaged run from then on."""
    monkeypatch.chdir(tmp_path)
    main(["rl-trained-agents/beta_ppo/CarRacingFast-v3_1", "--random", "-n", "1", "--n-envs", "1"])
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation_random.json"]


def test_an_agent_by_hand_takes_wrappers_with_keywords(blog_run: Path) -> None:
    """A stock agent trained behind the blog's wrappers is put behind them again."""
    views = [
        "sb3_carracing.envs.wrappers.ActionRepeat: {frame_skip: 8}",
        "sb3_carracing.envs.wrappers.Grayscale",
        "gymnasium.wrappers.FrameStackObservation: {stack_size: 4, padding_type: reset}",
    ]
    parser = argparse.ArgumentParser()
    add_agent_arguments(parser)
    by_hand = [str(blog_run / "CarRacingBlog-v3.zip"), "--algo", "beta_ppo", "--env-id", "CarRacing-v3"]
    agent = open_agent(parser.parse_args([*by_hand, *(word for view in views for word in ("--wrapper", view))]))
    views_of_the_id = pipeline_env(read_run(blog_run).pipeline).wrappers
    assert pipeline_env(agent.pipeline).wrappers == tuple(
        WrapperCall(view.path.replace(":", "."), view.kwargs) for view in views_of_the_id
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name a run folder"),
        (["missing"], "there is no run folder missing"),
        (["missing.zip"], "pass --env-id"),
        (["missing.zip", "--env-id", "CarRacing-v3"], "there is no agent missing.zip"),
        (["missing.zip", "--env-id", "CarRacng-v3"], "unknown environment 'CarRacng-v3'"),
        (["RUN", "--checkpoint", "5"], "no rl_model_5_steps.zip"),
        (["RUN", "--env-id", "CarRacing-v3"], "--env-id is for a .zip"),
        (["AGENT", "--last", "--env-id", "CarRacing-v3"], "choose from a run folder"),
        (["AGENT", "--env-id", "CarRacing-v3", "--algo", "pp0"], "unknown algorithm 'pp0'"),
        (["AGENT", "--env-id", "CarRacing-v3", "--algo", "beta_ppo"], "the agent's observation space is"),
        (["AGENT", "--env-id", "CarRacing-v3", "--wrapper", "no.such.Wrapper"], "cannot import 'no.such.Wrapper'"),
        (["AGENT", "--env-id", "CarRacing-v3", "--wrapper", "a.B: {"], "--wrapper cannot be read as YAML"),
        (
            ["AGENT", "--env-id", "CarRacing-v3", "--wrapper", f"{REPEAT_4.path}: {{frame_skp: 4}}"],
            "unexpected keyword argument 'frame_skp'",
        ),
        (["AGENT", "--env-id", "Pendulum-v1"], "another environment"),
        (["--random", "-n", "0"], "-n must be at least 1"),
        (["--random", "--actions", "mode"], "cannot play 'mode' actions; valid: sample"),
    ],
)
def test_bad_input_ends_with_one_sentence(
    arguments: list[str],
    sentence: str,
    blog_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(blog_run)
    names = {"RUN": str(blog_run), "AGENT": str(blog_run / "CarRacingBlog-v3.zip")}
    before = sorted(blog_run.iterdir())
    with pytest.raises(SystemExit) as ended:
        main([names.get(argument, argument) for argument in arguments])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert sentence in error
    assert error.count("\n") == 1
    assert sorted(blog_run.iterdir()) == before


def test_ctrl_c_leaves_no_empty_file(
    blog_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate", interrupted)
    with pytest.raises(SystemExit) as ended:
        main([str(blog_run)])
    assert ended.value.code == 130
    assert not list(blog_run.glob("*.json"))


@pytest.mark.slow
def test_random_driving_on_the_real_stock_environment(tmp_path: Path) -> None:
    """Nothing is replaced here: pictures are drawn, processes started."""
    output = tmp_path / "random.json"
    main(["--random", "-n", "2", "--n-envs", "2", "-o", str(output)])
    episodes = json.loads(output.read_text())["results"]["sample"]["episodes"]
    model = RandomPolicy(gym.make("CarRacing-v3").action_space)
    again = evaluate(model, pipeline_env(Pipeline("CarRacing-v3")), [TEST_SEED, TEST_SEED + 1])
    assert [SimpleNamespace(**episode) for episode in episodes] == [SimpleNamespace(**vars(result)) for result in again]
