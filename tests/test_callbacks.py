"""Callbacks: what they count, write, keep and leave alone."""

import csv
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import ARS
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecFrameStack, VecNormalize
from test_runs import write_run

from sb3_carracing import BetaPPO, callbacks
from sb3_carracing.callbacks import ProgressCallback, ValidationCallback
from sb3_carracing.evaluation import TEST_SEED, VALIDATION_SEED, EpisodeResult
from sb3_carracing.runs import read_run

N_STEPS = 16


class Toy(gym.Env[np.ndarray, np.ndarray]):
    """Ten steps of three frames each; the raw score is the seedable start, rewards are something else."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = spaces.Box(-10.0, 10.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, bonus: float = 0.0) -> None:
        self.bonus = bonus

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.frames, self.start = 0, self.np_random.uniform(0, 100)
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.frames += 3
        info = {"frames": self.frames, "score": self.start + self.frames}
        observation = np.array([self.frames / 10, action[0]], np.float32)
        return observation, self.bonus - abs(float(action[0])), self.frames == 30, False, info


gym.register("SB3CarRacingToy-v0", Toy)


def agent(n_envs: int = 2, cls: type[Any] = PPO, **kwargs: Any) -> Any:
    env = make_vec_env("SB3CarRacingToy-v0", n_envs=n_envs, seed=0)
    kwargs = {"n_steps": N_STEPS, "batch_size": 16, "n_epochs": 1, "seed": 0, "device": "cpu"} | kwargs
    return cls("MlpPolicy", env, **kwargs)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def in_folder(callback: Any, folder: Path) -> Any:
    callback.run_dir = folder
    return callback


class Watch(BaseCallback):
    """Notes what every environment says at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.scores: list[float] = []
        self.frames = 0

    def _on_step(self) -> bool:
        self.frames += 3 * len(self.locals["infos"])
        self.scores += [i["score"] for i, done in zip(self.locals["infos"], self.locals["dones"], strict=True) if done]
        return True


def test_progress_csv_holds_scores_frames_and_losses(tmp_path: Path) -> None:
    model, watch = agent(), Watch()
    model.learn(5 * 2 * N_STEPS, [watch, in_folder(ProgressCallback(live_line=False), tmp_path)])
    table = rows(tmp_path / "progress.csv")
    assert len(table) == 6  # SB3 logs before an update: the sixth row has the last one's losses
    assert [float(row["time/frames"]) for row in table[:5]] == [96.0, 192.0, 288.0, 384.0, 480.0]
    assert float(table[4]["rollout/score"]) == pytest.approx(np.mean(watch.scores))
    running = 0.0
    for score in watch.scores:
        running = 0.99 * running + 0.01 * score
    assert float(table[4]["rollout/running_score"]) == pytest.approx(running)
    assert int(table[4]["rollout/episodes"]) == len(watch.scores) == 16
    losses = [row["train/value_loss"] for row in table]
    assert losses[0] == ""
    assert all(losses[1:])
    assert len(set(losses)) == 6


def test_progress_takes_the_last_100_episodes(tmp_path: Path) -> None:
    model, watch = agent(n_envs=4), Watch()
    model.learn(1300, [watch, in_folder(ProgressCallback(live_line=False), tmp_path)])
    assert len(watch.scores) > 120
    assert float(rows(tmp_path / "progress.csv")[-2]["rollout/score"]) == pytest.approx(np.mean(watch.scores[-100:]))


def test_without_reported_scores_monitors_count(tmp_path: Path) -> None:
    """Monitor stands below the repeat, as in rl-zoo3: its lengths are frames."""
    from sb3_carracing.envs.wrappers import ActionRepeat

    env = make_vec_env("Pendulum-v1", 2, wrapper_class=lambda env: ActionRepeat(env, frame_skip=4))
    model = PPO("MlpPolicy", env, n_steps=50, batch_size=50, n_epochs=1, device="cpu")
    model.learn(100, in_folder(ProgressCallback(live_line=False), tmp_path))
    row = rows(tmp_path / "progress.csv")[0]
    assert float(row["time/frames"]) == 2 * 200
    assert float(row["rollout/score"]) == pytest.approx(float(row["rollout/ep_rew_mean"]), rel=1e-4)


def test_a_resumed_run_appends_and_counts_on(tmp_path: Path) -> None:
    model = agent()
    model.learn(64, in_folder(ProgressCallback(live_line=False), tmp_path))
    before = (tmp_path / "progress.csv").read_text()
    model.save(tmp_path / "agent.zip")
    resumed = PPO.load(tmp_path / "agent.zip", env=model.get_env(), device="cpu")
    resumed.learn(64, in_folder(ProgressCallback(live_line=False), tmp_path), reset_num_timesteps=False)
    after = (tmp_path / "progress.csv").read_text()
    assert after.startswith(before)
    table = rows(tmp_path / "progress.csv")
    assert [float(row["time/total_timesteps"]) for row in table] == [32, 64, 64, 96, 128, 128]
    assert [float(row["time/frames"]) for row in table] == [96, 192, 192, 288, 384, 384]
    # An environment of 10 steps; the resumed run begins with new episodes.
    rollouts = [row for row in table if row["rollout/episodes"]]  # not the last update's losses
    assert [int(row["rollout/episodes"]) for row in rollouts] == [2, 6, 6 + 2, 6 + 6]
    running = [float(row["rollout/running_score"]) for row in rollouts]
    assert running == sorted(running)


def test_a_second_learn_in_the_middle_of_episodes_counts_no_frame_twice(tmp_path: Path) -> None:
    model = agent()
    for reset in (True, False, False):
        model.learn(32, in_folder(ProgressCallback(live_line=False), tmp_path), reset_num_timesteps=reset)
    # Frames of the step at which each of two environments shows how far its episode is are left out, twice.
    assert model.num_frames == 3 * 96 - 2 * 2 * 3


def test_a_resumed_run_may_log_more_columns(tmp_path: Path) -> None:
    class More(BaseCallback):
        def _on_step(self) -> bool:
            self.logger.record("more/new", 1.5)
            return True

    model = agent()
    model.learn(32, in_folder(ProgressCallback(live_line=False), tmp_path))
    before = rows(tmp_path / "progress.csv")
    model.learn(32, [in_folder(ProgressCallback(live_line=False), tmp_path), More()], reset_num_timesteps=False)
    table = rows(tmp_path / "progress.csv")
    assert [{key: row[key] for key in before[0]} for row in table[: len(before)]] == before
    assert [row["more/new"] for row in table] == ["", "", "1.5", ""]


def test_a_new_run_in_an_old_folder_keeps_the_old_files(tmp_path: Path) -> None:
    for name in ("progress.csv", "evaluations.csv", "best_model.zip"):
        (tmp_path / name).write_text("precious")
    both = [ProgressCallback(live_line=False), ValidationCallback(96, 1)]
    agent().learn(64, [in_folder(callback, tmp_path) for callback in make_run_of(tmp_path, both)])
    for name in ("progress_2.csv", "evaluations_2.csv", "best_model_2.zip"):
        assert (tmp_path / name).read_text() == "precious"
    assert len(rows(tmp_path / "progress.csv")) == 3
    assert len(rows(tmp_path / "evaluations.csv")) == 2


def make_run_of(folder: Path, callbacks_: Sequence[Any]) -> Sequence[Any]:
    """Give callbacks that read a run's config an environment instead."""
    for callback in callbacks_:
        if isinstance(callback, ValidationCallback):
            callback._make_env = Toy
    return callbacks_


def test_two_trainings_with_one_logger_write_each_row_once(tmp_path: Path) -> None:
    model = agent()
    model.set_logger(configure(str(tmp_path), []))
    callback = ProgressCallback(live_line=False)  # no run_dir: the logger's folder
    model.learn(32, callback)
    model.learn(32, callback, reset_num_timesteps=False)
    assert [float(row["time/total_timesteps"]) for row in rows(tmp_path / "progress.csv")] == [32, 32, 64, 64]
    assert model.logger.output_formats == []


def test_rl_zoo3_ends_the_training_twice(tmp_path: Path) -> None:
    callback = in_folder(ProgressCallback(), tmp_path)
    agent().learn(32, callback)
    callback.on_training_end()
    assert len(rows(tmp_path / "progress.csv")) == 2


def test_the_live_line_shows_score_speed_and_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent().learn(32, in_folder(ProgressCallback(write_csv=False), tmp_path))
    line = capsys.readouterr().err
    for part in ("100%", "32/32 steps", "episode 2", "score ", "last 100 ", "frames/s", "00:00 left"):
        assert part in line
    assert not (tmp_path / "progress.csv").exists()


def test_validation_plays_the_same_tracks_and_writes_them_down(tmp_path: Path) -> None:
    seeds: list[Sequence[int]] = []
    evaluate = callbacks.evaluate

    def spy(model: Any, make_env: Any, tracks: Sequence[int], **kwargs: Any) -> list[EpisodeResult]:
        seeds.append(list(tracks))
        results = evaluate(model, make_env, tracks, **kwargs)
        assert [result.score for result in results] == [start_of(seed) + 30 for seed in tracks]
        return results

    def start_of(seed: int) -> float:
        return float(np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed))).uniform(0, 100))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "evaluate", spy)
        model = agent()
        model.learn(160, in_folder(ValidationCallback(100, 3, make_env=Toy), tmp_path))
    assert seeds == [[VALIDATION_SEED + i for i in range(3)]] * 5
    table = rows(tmp_path / "evaluations.csv")
    assert [int(row["frames"]) for row in table] == [102, 204, 300, 402, 480]
    assert [int(row["steps"]) for row in table] == [34, 68, 100, 134, 160]
    assert {float(row["mean"]) for row in table} == {np.mean([start_of(seed) + 30 for seed in seeds[0]])}


def scripted(scores: Sequence[float]) -> Callable[..., list[EpisodeResult]]:
    remaining = iter(scores)
    return lambda *_, **__: [EpisodeResult(0, next(remaining), 1, 1, False)]


def test_the_best_agent_is_kept_also_over_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    model = agent()
    save = model.save

    def noting(*args: Any, **kwargs: Any) -> None:
        saved.append(model.num_timesteps)
        save(*args, **kwargs)

    monkeypatch.setattr(model, "save", noting)
    monkeypatch.setattr(callbacks, "evaluate", scripted([5.0, 9.0, 7.0, 8.0, 11.0]))
    model.learn(96, in_folder(ValidationCallback(96, 1, make_env=Toy), tmp_path))
    assert saved == [32, 64]
    model.learn(64, in_folder(ValidationCallback(96, 1, make_env=Toy), tmp_path), reset_num_timesteps=False)
    assert saved == [32, 64, 160]  # 8 is better than -inf, but not than the 9 of before
    assert PPO.load(tmp_path / "best_model.zip", device="cpu").num_timesteps == 160
    assert [float(row["mean"]) for row in rows(tmp_path / "evaluations.csv")] == [5.0, 9.0, 7.0, 8.0, 11.0]


def test_a_score_is_written_down_only_once_its_agent_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = agent()

    def full_disk(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(model, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        model.learn(96, in_folder(ValidationCallback(96, 1, make_env=Toy), tmp_path))
    assert not (tmp_path / "evaluations.csv").exists()


def test_a_training_that_goes_on_is_validated_on_as_many_tracks(tmp_path: Path) -> None:
    model = agent()
    model.learn(96, ValidationCallback(96, 1, make_env=Toy, run_dir=tmp_path))
    with pytest.raises(ValueError, match=r"n_episodes is 2, and .*evaluations.npz .* holds evaluations of 1"):
        model.learn(64, ValidationCallback(96, 2, make_env=Toy, run_dir=tmp_path), reset_num_timesteps=False)
    assert model.num_timesteps == 96


class CtrlC(BaseCallback):
    """Presses it in the second rollout."""

    def _on_step(self) -> bool:
        if self.num_timesteps > 3 * N_STEPS:
            raise KeyboardInterrupt
        return True


def test_a_training_that_goes_on_after_ctrl_c_writes_each_row_once(tmp_path: Path) -> None:
    model = agent()
    model.set_logger(configure(str(tmp_path), []))
    with pytest.raises(KeyboardInterrupt):
        model.learn(160, [ProgressCallback(live_line=False), CtrlC()])
    model.learn(64, ProgressCallback(live_line=False), reset_num_timesteps=False)
    steps = [int(row["time/total_timesteps"]) for row in rows(tmp_path / "progress.csv")]
    assert steps == sorted(steps)
    assert len(set(steps)) >= len(steps) - 1  # the last update's losses have a row of their own


@pytest.mark.parametrize("actions", ["deterministic", "sample"])
def test_validation_does_not_change_the_training(tmp_path: Path, actions: str) -> None:
    weights = []
    for callback in (None, ValidationCallback(50, 2, actions=actions, make_env=Toy)):
        model = agent(cls=BetaPPO)
        model.learn(96, in_folder(callback, tmp_path) if callback else None)
        weights.append(th.nn.utils.parameters_to_vector(model.policy.parameters()))
    assert th.equal(*weights)


def test_in_a_run_the_environment_is_the_runs_without_what_is_for_training(tmp_path: Path) -> None:
    config = {"env_kwargs": {"bonus": 5.0}, "env_wrapper": "gymnasium.wrappers.FlattenObservation"}
    run = write_run(tmp_path, config, env="SB3CarRacingToy-v0")
    callback = in_folder(ValidationCallback(10_000, 1), run)
    agent().learn(32, callback)
    env = callback._factory()
    assert isinstance(env, gym.wrappers.FlattenObservation)
    assert env.unwrapped.bonus == 5.0  # a keyword that is not our CarRacing's is no training rule
    assert len(rows(run / "evaluations.csv")) == 1


def test_elsewhere_the_environment_is_the_training_environments_id(tmp_path: Path) -> None:
    callback = in_folder(ValidationCallback(10_000, 1), tmp_path)
    env = make_vec_env("SB3CarRacingToy-v0", 2, env_kwargs={"bonus": 2.0})
    PPO("MlpPolicy", env, n_steps=16, batch_size=16, device="cpu").learn(32, callback)
    assert callback._factory().unwrapped.bonus == 2.0
    limited = make_vec_env("SB3CarRacingToy-v0", env_kwargs={"max_episode_steps": 4})
    PPO("MlpPolicy", limited, n_steps=16, batch_size=16, device="cpu").learn(16, callback)
    assert callback._factory().spec.max_episode_steps == 4
    unlimited = make_vec_env("Pendulum-v1", env_kwargs={"max_episode_steps": -1})
    callback.init_callback(PPO("MlpPolicy", unlimited, n_steps=16, device="cpu"))
    assert callback._factory_like_training()[0]().spec.max_episode_steps is None
    unnamed = PPO("MlpPolicy", Toy(), n_steps=16, batch_size=16, device="cpu")
    with pytest.raises(ValueError, match="no id: pass make_env"):
        unnamed.learn(16, in_folder(ValidationCallback(10_000, 1), tmp_path))


def test_wrappers_of_the_training_are_repeated_without_those_for_rewards_or_ends(tmp_path: Path) -> None:
    from sb3_carracing.envs.wrappers import ActionRepeat, Grayscale

    def wrap(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        return Grayscale(ActionRepeat(env, frame_skip=4))

    rules = {"off_road_frames": 1, "renderer": "stock", "max_episode_steps": 300}
    env = VecFrameStack(make_vec_env("CarRacingFast-v3", env_kwargs=rules, wrapper_class=wrap), 2)
    model = PPO("MlpPolicy", env, n_steps=2, batch_size=2, policy_kwargs={"net_arch": [2]}, device="cpu")
    callback = in_folder(ValidationCallback(10_000, 1), tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "evaluate", scripted([1.0, 2.0]))
        model.learn(2, callback)
    validated = callback._factory()
    assert validated.observation_space == env.venv.observation_space
    assert (validated.get_wrapper_attr("frame_skip"), validated.unwrapped.renderer) == (4, "stock")
    assert validated.unwrapped.rules.off_road_frames == 0
    assert validated.spec.max_episode_steps is None
    blog = PPO("MlpPolicy", "CarRacingBlog-v3", n_steps=2, policy_kwargs={"net_arch": [2]}, device="cpu")
    callback.init_callback(blog)
    assert callback._factory_like_training()[0]().observation_space.shape == (4, 96, 96)


@pytest.mark.parametrize("in_run", [True, False])
def test_normalised_agents_are_validated_with_their_present_statistics(tmp_path: Path, in_run: bool) -> None:
    run = write_run(tmp_path, {"normalize": True}, env="SB3CarRacingToy-v0")
    seen: list[np.ndarray] = []

    class Seeing(PPO):
        def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(observation[0])
            return super().predict(observation, *args, **kwargs)

    env = VecNormalize(make_vec_env("SB3CarRacingToy-v0", 2, seed=0))
    model = Seeing("MlpPolicy", env, n_steps=N_STEPS, batch_size=16, n_epochs=1, seed=0, device="cpu")
    callback = ValidationCallback(10_000, 1) if in_run else ValidationCallback(10_000, 1, make_env=Toy)
    model.learn(32, in_folder(callback, run if in_run else tmp_path))
    np.testing.assert_allclose(seen[0], env.normalize_obs(np.zeros(2, np.float32)), rtol=1e-6)
    assert env.training
    assert (run / "SB3CarRacingToy-v0" / "vecnormalize.pkl").exists() is in_run


def test_the_best_agent_keeps_its_own_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path, {"normalize": True}, env="SB3CarRacingToy-v0")
    monkeypatch.setattr(callbacks, "evaluate", scripted([5.0, 9.0, 7.0]))
    env = VecNormalize(make_vec_env("SB3CarRacingToy-v0", 2, seed=0))
    PPO("MlpPolicy", env, n_steps=N_STEPS, batch_size=16, n_epochs=1, device="cpu").learn(
        96, in_folder(ValidationCallback(96, 1), run)
    )
    read = read_run(run)
    counts = {}
    for best in (True, False):
        file = run / ("best_model.zip" if best else "SB3CarRacingToy-v0.zip")
        venv = read.pipeline_of(file).wrap_vec_env(DummyVecEnv([lambda: Toy()]))
        assert isinstance(venv, VecNormalize)
        counts[best] = round(venv.obs_rms.count)  # type: ignore[union-attr]
    # 64 steps of two environments, and SB3 counts their first observations.
    assert counts == {True: 66, False: 98}


class Ninefold(gym.ObservationWrapper[Any, Any, Any]):
    """Unlike gymnasium's own wrappers, it does not tell its arguments."""

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return 9 * observation


class VecNinefold(VecEnvWrapper):
    def reset(self) -> Any:
        return 9 * self.venv.reset()  # type: ignore[operator]

    def step_wait(self) -> Any:
        return self.venv.step_wait()


def test_what_validation_cannot_repeat_is_named(tmp_path: Path) -> None:
    env = make_vec_env("SB3CarRacingToy-v0", 2, wrapper_class=Ninefold)
    with pytest.warns(UserWarning, match=r"plays without Ninefold, .*pass make_env"):
        PPO("MlpPolicy", env, n_steps=16, batch_size=16, device="cpu").learn(32, ValidationCallback(9999, 1, run_dir=tmp_path))
    venv = VecNinefold(make_vec_env("SB3CarRacingToy-v0", 2))
    with pytest.warns(UserWarning, match="plays without VecNinefold"):
        PPO("MlpPolicy", venv, n_steps=16, batch_size=16, device="cpu").learn(
            32, ValidationCallback(9999, 1, run_dir=tmp_path)
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        agent().learn(32, ValidationCallback(9999, 1, run_dir=tmp_path))


class TellsFrames(Toy):
    """`frames` is a picture here."""

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"frames": np.zeros((2, 2))}


def test_frames_that_are_no_number_are_not_counted_as_one(tmp_path: Path) -> None:
    model = PPO("MlpPolicy", TellsFrames(), n_steps=16, batch_size=16, n_epochs=1, device="cpu")
    model.learn(32, in_folder(ProgressCallback(live_line=False), tmp_path))
    assert [float(row["time/frames"]) for row in rows(tmp_path / "progress.csv")] == [16, 32, 32]


def test_off_policy_agents_have_them_too(tmp_path: Path) -> None:
    model = DQN("MlpPolicy", "CartPole-v1", learning_starts=10, buffer_size=100, device="cpu")
    both = [in_folder(ProgressCallback(live_line=False), tmp_path), in_folder(ValidationCallback(50, 1), tmp_path)]
    model.learn(120, both)
    assert [int(row["frames"]) for row in rows(tmp_path / "evaluations.csv")] == [50, 100, 120]
    assert rows(tmp_path / "progress.csv")


def test_an_algorithm_that_tells_callbacks_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ProgressCallback needs the infos of every step, which ARS does not give"):
        ARS("LinearPolicy", "Pendulum-v1", device="cpu").learn(10, in_folder(ProgressCallback(live_line=False), tmp_path))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="every_frames must be at least 1, got 0"):
        ValidationCallback(0)
    with pytest.raises(ValueError, match="n_episodes must be at least 1, got -1"):
        ValidationCallback(10, -1)
    with pytest.raises(ValueError, match="takes test tracks"):
        ValidationCallback(10, 5, first_seed=TEST_SEED - 4)
    with pytest.raises(ValueError, match="renderer must be one of 'stock', 'fast', got 'Stock'"):
        ValidationCallback(10, renderer="Stock")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"actions must be one of .*, got 'x'"):
        ValidationCallback(10, actions="x")


def test_an_environment_that_does_not_fit_stops_before_the_training(tmp_path: Path) -> None:
    callback = in_folder(ValidationCallback(10, make_env=lambda: gym.make("Pendulum-v1")), tmp_path)
    model = agent()
    with pytest.raises(ValueError, match=r"agent's observation space is Box.*environment's is Box"):
        model.learn(32, callback)
    assert model.num_timesteps == 0
    with pytest.raises(ValueError, match="cannot play 'mode' actions"):
        agent().learn(32, in_folder(ValidationCallback(10, actions="mode", make_env=Toy), tmp_path))
