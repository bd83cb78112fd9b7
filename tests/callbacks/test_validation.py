"""ValidationCallback: what it plays, writes, keeps and leaves alone."""

import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from callback_tasks import FOREIGN_INFOS, N_STEPS, Paying, Toy, agent, in_folder, rows, scripted
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecFrameStack, VecNormalize
from stand_ins import write_run

from sb3_carracing import BetaPPO, evaluation
from sb3_carracing.callbacks import ValidationCallback, validation
from sb3_carracing.errors import UserError
from sb3_carracing.evaluation import TEST_SEED, VALIDATION_SEED, EpisodeResult
from sb3_carracing.runs import read_run
from sb3_carracing.vec_env import WorkerError


def test_validation_plays_the_same_tracks_and_writes_them_down(tmp_path: Path) -> None:
    seeds: list[Sequence[int]] = []
    evaluate = evaluation.evaluate

    def spy(model: Any, make_env: Any, tracks: Sequence[int], **kwargs: Any) -> list[EpisodeResult]:
        seeds.append(list(tracks))
        results = evaluate(model, make_env, tracks, **kwargs)
        assert [result.score for result in results] == [start_of(seed) + 30 for seed in tracks]
        return results

    def start_of(seed: int) -> float:
        return float(np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed))).uniform(0, 100))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "evaluate", spy)
        model = agent()
        model.learn(160, in_folder(ValidationCallback(100, 3, make_env=Toy), tmp_path))
    assert seeds == [[VALIDATION_SEED + i for i in range(3)]] * 5
    table = rows(tmp_path / "evaluations.csv")
    assert [int(row["frames"]) for row in table] == [102, 204, 300, 402, 480]
    assert [int(row["steps"]) for row in table] == [34, 68, 100, 134, 160]
    assert {float(row["mean"]) for row in table} == {np.mean([start_of(seed) + 30 for seed in seeds[0]])}


def test_the_best_agent_is_kept_also_over_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    model = agent()
    save = model.save

    def noting(*args: Any, **kwargs: Any) -> None:
        saved.append(model.num_timesteps)
        save(*args, **kwargs)

    monkeypatch.setattr(model, "save", noting)
    monkeypatch.setattr(validation, "evaluate", scripted([5.0, 9.0, 7.0, 8.0, 11.0]))
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
    with pytest.warns(UserWarning, match="no space left.*tries again"):
        model.learn(96, in_folder(ValidationCallback(96, 1, make_env=Toy), tmp_path))
    assert not (tmp_path / "evaluations.csv").exists()
    assert not (tmp_path / "evaluations.npz").exists()
    monkeypatch.undo()
    model.learn(96, in_folder(ValidationCallback(96, 1, make_env=Toy), tmp_path))
    assert PPO.load(tmp_path / "best_model.zip", device="cpu").num_timesteps == 32


def test_a_training_that_goes_on_is_validated_on_as_many_tracks(tmp_path: Path) -> None:
    model = agent()
    model.learn(96, ValidationCallback(96, 1, make_env=Toy, run_dir=tmp_path))
    with pytest.raises(ValueError, match=r"n_episodes is 2, and .*evaluations.npz .* holds evaluations of 1"):
        model.learn(64, ValidationCallback(96, 2, make_env=Toy, run_dir=tmp_path), reset_num_timesteps=False)
    assert model.num_timesteps == 96


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
    base: Any = env.unwrapped
    assert base.bonus == 5.0  # a keyword that is not our CarRacing's is no training rule
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
        patch.setattr(validation, "evaluate", scripted([1.0, 2.0]))
        model.learn(2, callback)
    validated = callback._factory()
    assert validated.observation_space == env.venv.observation_space
    assert (validated.get_wrapper_attr("frame_skip"), validated.unwrapped.renderer) == (4, "stock")
    assert validated.unwrapped.rules.options["off_road_frames"] == 0
    assert validated.spec.max_episode_steps == 1000  # the id's own, not the training's 300
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
    expected: Any = env.normalize_obs(np.zeros(2, np.float32))
    np.testing.assert_allclose(seen[0], expected, rtol=1e-6)
    assert env.training
    assert (run / "SB3CarRacingToy-v0" / "vecnormalize.pkl").exists() is in_run


def test_the_best_agent_keeps_its_own_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path, {"normalize": True}, env="SB3CarRacingToy-v0")
    monkeypatch.setattr(validation, "evaluate", scripted([5.0, 9.0, 7.0]))
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
        counts[best] = round(venv.obs_rms.count)  # type: ignore[attr-defined]
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


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="every_frames must be a whole number of at least 1, got 0"):
        ValidationCallback(0)
    with pytest.raises(ValueError, match="n_episodes must be a whole number of at least 1, got -1"):
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


def test_bad_numbers_are_named_before_the_training() -> None:
    for wrong in (0.5, float("nan"), "10", True, None):
        with pytest.raises(ValueError, match=f"every_frames must be a whole number of at least 1, got {wrong!r}"):
            ValidationCallback(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("info", FOREIGN_INFOS, ids=str)
def test_infos_of_other_environments_are_theirs(tmp_path: Path, info: dict[str, Any]) -> None:
    model = PPO("MlpPolicy", Paying(info), n_steps=16, batch_size=16, n_epochs=1, device="cpu")
    model.learn(64, ValidationCallback(32, 1, make_env=lambda: Paying(info), run_dir=tmp_path))
    assert [(int(row["frames"]), float(row["mean"])) for row in rows(tmp_path / "evaluations.csv")] == [(32, 20.0), (64, 20.0)]


def test_workers_that_do_not_start_stop_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any, **__: Any) -> None:
        raise WorkerError("worker 0 of 2 (pid 7, environment 0) died: exit status 1\nTraceback ...")

    monkeypatch.setattr(evaluation, "process_vec_env_class", lambda: dies)
    model = agent()
    with pytest.raises(UserError, match=r"use n_envs=1, or .*__main__.*exit status 1\)$"):
        model.learn(32, ValidationCallback(16, 2, n_envs=2, make_env=Toy, run_dir=tmp_path))
    assert model.num_timesteps == 0


SCRIPT = """
import sys, warnings
warnings.simplefilter("ignore")
from sb3_carracing import BetaPPO
from sb3_carracing.callbacks import ValidationCallback
model = BetaPPO("MlpPolicy", "Pendulum-v1", n_steps=64, batch_size=32, n_epochs=1, device="cpu")
model.learn(128, callback=ValidationCallback(every_frames=64, n_episodes=2, n_envs=2, run_dir={folder!r}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
@pytest.mark.parametrize("way", ["script", "stdin"])
def test_worker_processes_need_no_main_guard(tmp_path: Path, way: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(folder=str(tmp_path)))
    command, source = ([str(script)], None) if way == "script" else (["-"], script.read_text())
    subprocess.run([sys.executable, *command], input=source, text=True, check=True, timeout=300, capture_output=True)
    assert len(rows(tmp_path / "evaluations.csv")) == 2


@pytest.mark.parametrize("content", [b"", bytes(500), b"PK\x03\x04cut", b"frames,steps,mean\n"])
@pytest.mark.parametrize("name", ["evaluations.csv", "evaluations.npz"])
def test_a_resumed_run_finds_its_best_score_in_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    monkeypatch.setattr(validation, "evaluate", scripted([9.0, 7.0, 8.0, 11.0]))
    model = agent()
    model.learn(64, ValidationCallback(9999, 1, make_env=Toy, run_dir=tmp_path))
    (tmp_path / name).write_bytes(content)
    kept = []
    for _ in range(3):
        model.learn(32, ValidationCallback(9999, 1, make_env=Toy, run_dir=tmp_path), reset_num_timesteps=False)
        kept.append(PPO.load(tmp_path / "best_model.zip", device="cpu").num_timesteps)
    assert kept == [64, 64, 160]  # 7 and 8 are no better than the 9 of before
    assert [float(row["mean"]) for row in rows(tmp_path / "evaluations.csv")][-3:] == [7.0, 8.0, 11.0]
    with np.load(tmp_path / "evaluations.npz") as stored:
        assert stored["results"][-3:].tolist() == [[7.0], [8.0], [11.0]]


def test_a_best_agent_whose_score_is_lost_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "evaluate", scripted([9.0, 5.0]))
    model = agent()
    model.learn(32, ValidationCallback(96, 1, make_env=Toy, run_dir=tmp_path))
    best = (tmp_path / "best_model.zip").read_bytes()
    for name in ("evaluations.csv", "evaluations.npz"):
        (tmp_path / name).unlink()
    model.learn(32, ValidationCallback(96, 1, make_env=Toy, run_dir=tmp_path), reset_num_timesteps=False)
    assert (tmp_path / "best_model_2.zip").read_bytes() == best
    assert PPO.load(tmp_path / "best_model.zip", device="cpu").num_timesteps == 64


def test_new_columns_do_not_shift_old_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluations.csv of another version has other columns."""
    monkeypatch.setattr(validation, "evaluate", scripted([9.0, 5.0]))
    model = agent()
    model.learn(32, ValidationCallback(96, 1, make_env=Toy, run_dir=tmp_path))
    (tmp_path / "evaluations.csv").write_text("steps,mean,note\n32,9.0,old\n")
    model.learn(32, ValidationCallback(96, 1, make_env=Toy, run_dir=tmp_path), reset_num_timesteps=False)
    table = rows(tmp_path / "evaluations.csv")
    assert [(row["steps"], row["mean"], row["note"], row["frames"]) for row in table] == [
        ("32", "9.0", "old", ""),
        ("64", "5.0", "", "186"),
    ]


class Monitor(Ninefold):
    """Not SB3's."""


def test_a_wrapper_with_a_known_name_is_named_all_the_same(tmp_path: Path) -> None:
    env = make_vec_env("SB3CarRacingToy-v0", wrapper_class=Monitor)
    with pytest.warns(UserWarning, match="plays without Monitor, "):
        PPO("MlpPolicy", env, n_steps=16, batch_size=16, device="cpu").learn(16, ValidationCallback(9999, 1, run_dir=tmp_path))
