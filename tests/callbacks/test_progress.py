"""ProgressCallback: what it counts, logs and writes."""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from callback_tasks import FOREIGN_INFOS, N_STEPS, CtrlC, Paying, Toy, Watch, agent, in_folder, make_run_of, rows
from gymnasium import spaces
from sb3_contrib import ARS
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv
from terminals import stderr_in_terminal

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
    for part in ("100%", "32/32 steps", "episode 2", "score ", "mean of 2: ", "frames/s", "training return ", "00:00 left"):
        assert part in line
    assert not (tmp_path / "progress.csv").exists()


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_live_line_fits_the_terminal(tmp_path: Path, columns: int) -> None:
    with stderr_in_terminal(columns) as terminal:
        agent().learn(64, in_folder(ProgressCallback(write_csv=False), tmp_path))
    states = terminal.states()
    assert all(len(state) < columns and state.endswith(" left") for state in states)
    assert "score " in states[-1]
    assert ("episode 6" in states[-1]) == (columns == 200)


def test_the_time_left_is_of_whole_rollouts_with_their_updates(tmp_path: Path) -> None:
    """Updates take most of the time, so frames/s within a rollout would promise too much."""

    class SlowUpdates(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            time.sleep(0.5)

    callback = in_folder(ProgressCallback(write_csv=False), tmp_path)
    seen: list[float | None] = []

    class Reads(BaseCallback):
        def _on_step(self) -> bool:
            seen.append(callback._line.time_left())
            return True

    agent().learn(96, [callback, SlowUpdates(), Reads()])
    assert set(seen[:N_STEPS]) == {None}
    second = seen[N_STEPS]
    assert second is not None
    assert 1.0 < second < 10.0  # two rollouts are left, each with half a second of update


def test_a_training_that_goes_on_after_ctrl_c_writes_each_row_once(tmp_path: Path) -> None:
    model = agent()
    model.set_logger(configure(str(tmp_path), []))
    with pytest.raises(KeyboardInterrupt):
        model.learn(160, [ProgressCallback(live_line=False), CtrlC()])
    model.learn(64, ProgressCallback(live_line=False), reset_num_timesteps=False)
    steps = [int(row["time/total_timesteps"]) for row in rows(tmp_path / "progress.csv")]
    assert steps == sorted(steps)
    assert len(set(steps)) >= len(steps) - 1  # the last update's losses have a row of their own


@pytest.mark.parametrize("info", FOREIGN_INFOS, ids=str)
def test_infos_of_other_environments_are_theirs(tmp_path: Path, info: dict[str, Any]) -> None:
    model = PPO("MlpPolicy", Paying(info), n_steps=16, batch_size=16, n_epochs=1, device="cpu")
    model.learn(32, in_folder(ProgressCallback(live_line=False), tmp_path))
    table = rows(tmp_path / "progress.csv")
    assert [float(row["time/frames"]) for row in table] == [16, 32, 32]
    assert float(table[1]["rollout/score"]) == 20.0


def test_an_episode_that_is_not_monitors_is_no_score(tmp_path: Path) -> None:
    """Here nothing counts: neither CarRacing nor Monitor."""
    told = {"episode": {"r": 1000.0, "l": 50, "t": 1.0}}
    env = DummyVecEnv([lambda: Paying(told)])
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=16, n_epochs=1, device="cpu")
    model.learn(32, in_folder(ProgressCallback(live_line=False), tmp_path))
    table = rows(tmp_path / "progress.csv")
    assert [float(row["time/frames"]) for row in table] == [16, 32, 32]
    assert "rollout/score" not in table[0]


@pytest.mark.parametrize("steps", [(256, 256), (100, 12, 400), (510, 2)])
def test_steps_of_an_episode_are_counted_once_over_several_trainings(tmp_path: Path, steps: tuple[int, ...]) -> None:
    """Monitor tells the length of a whole episode, part of which an earlier `learn` has counted."""
    model = PPO("MlpPolicy", Paying(), n_steps=2, batch_size=2, n_epochs=1, device="cpu")
    for number, n in enumerate(steps):
        model.learn(n, in_folder(ProgressCallback(live_line=False), tmp_path), reset_num_timesteps=number == 0)
    assert model.num_frames == model.num_timesteps == 512  # type: ignore[attr-defined]


def test_off_policy_agents_count_once_as_well(tmp_path: Path) -> None:
    # Of an environment that counts, the first step of each further `learn` only tells where its episode is.
    for env, per_step, untold in ((Paying(discrete=True), 1, 0), (Discrete(Toy()), 3, 2)):
        model = DQN("MlpPolicy", env, learning_starts=10, buffer_size=100, device="cpu")
        for number, n in enumerate((25, 30, 7)):
            model.learn(n, in_folder(ProgressCallback(live_line=False), tmp_path), reset_num_timesteps=number == 0)
        assert model.num_frames == per_step * (model.num_timesteps - untold)  # type: ignore[attr-defined]


class Discrete(gym.ActionWrapper[Any, Any, Any]):
    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.action_space = spaces.Discrete(2)

    def action(self, action: Any) -> np.ndarray:
        return np.array([action], np.float32)


def test_off_policy_agents_have_them_too(tmp_path: Path) -> None:
    model = DQN("MlpPolicy", "CartPole-v1", learning_starts=10, buffer_size=100, device="cpu")
    both = [in_folder(ProgressCallback(live_line=False), tmp_path), in_folder(ValidationCallback(50, 1), tmp_path)]
    model.learn(120, both)
    assert [int(row["frames"]) for row in rows(tmp_path / "evaluations.csv")] == [50, 100, 120]
    assert rows(tmp_path / "progress.csv")


def test_an_algorithm_that_tells_callbacks_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ProgressCallback needs the infos of every step, which ARS does not give"):
        ARS("LinearPolicy", "Pendulum-v1", device="cpu").learn(10, in_folder(ProgressCallback(live_line=False), tmp_path))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda content: content[:-7],
    "filled with zeros": lambda content: content[:-20] + bytes(500),
    "two rows in one line": lambda content: content[: content[:-1].rindex(b"\n")] + content[content[:-1].rindex(b"\n") + 1 :],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_resumed_run_uses_the_rest_of_a_damaged_file(tmp_path: Path, damage: str) -> None:
    model, file = agent(), tmp_path / "progress.csv"
    model.learn(128, in_folder(ProgressCallback(live_line=False), tmp_path))
    before = rows(file)
    damaged = DAMAGES[damage](file.read_bytes())
    file.write_bytes(damaged)
    with pytest.warns(UserWarning, match=r"progress\.csv is damaged: of its rows \d are read and \d left out"):
        model.learn(64, in_folder(ProgressCallback(live_line=False), tmp_path), reset_num_timesteps=False)
    after = rows(file)
    n_whole = 3 if damage == "two rows in one line" else 4
    assert after[:n_whole] == before[:n_whole]
    assert [float(row["time/total_timesteps"]) for row in after[n_whole:]] == [160, 192, 192]
    assert (tmp_path / "progress_2.csv").read_bytes() == damaged


@pytest.mark.parametrize("content", [b"", bytes(300), b"time/fra"])
def test_a_resumed_run_begins_a_file_anew_that_holds_nothing(tmp_path: Path, content: bytes) -> None:
    model, file = agent(), tmp_path / "progress.csv"
    model.learn(32, in_folder(ProgressCallback(live_line=False), tmp_path))
    file.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        model.learn(32, in_folder(ProgressCallback(live_line=False), tmp_path), reset_num_timesteps=False)
    assert [float(row["time/total_timesteps"]) for row in rows(file)] == [64, 64]
    assert any("progress.csv is damaged" in str(warning.message) for warning in caught) is bool(content)
    assert (tmp_path / "progress_2.csv").exists() is bool(content)
