"""ProgressCallback: what it counts, logs and writes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from callback_tasks import N_STEPS, CtrlC, Toy, Watch, agent, in_folder, make_run_of, rows
from sb3_contrib import ARS
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure

from sb3_carracing.callbacks import ProgressCallback, ValidationCallback


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


def test_a_training_that_goes_on_after_ctrl_c_writes_each_row_once(tmp_path: Path) -> None:
    model = agent()
    model.set_logger(configure(str(tmp_path), []))
    with pytest.raises(KeyboardInterrupt):
        model.learn(160, [ProgressCallback(live_line=False), CtrlC()])
    model.learn(64, ProgressCallback(live_line=False), reset_num_timesteps=False)
    steps = [int(row["time/total_timesteps"]) for row in rows(tmp_path / "progress.csv")]
    assert steps == sorted(steps)
    assert len(set(steps)) >= len(steps) - 1  # the last update's losses have a row of their own


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
