"""CheckpointCallback: when it writes, what stands in the files, and what a full disk does to it."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from callback_tasks import N_STEPS, agent, in_folder
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_carracing import BetaPPO
from sb3_carracing.callbacks import CheckpointCallback, checkpoint
from sb3_carracing.errors import UserError
from sb3_carracing.ppo.saving.vec_normalize import read_statistics
from sb3_carracing.runs import statistics_of, steps_in_name

ROLLOUT = 2 * N_STEPS  # of two environments


def steps_of(folder: Path) -> list[int]:
    return sorted(map(steps_in_name, folder.glob("rl_model_*_steps.zip")))


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"every_seconds": None, "every_steps": ROLLOUT, "keep": None}, [32, 64, 96, 128]),
        ({"every_seconds": None, "every_steps": ROLLOUT + 1, "keep": None}, [64, 96, 128]),  # due at 33, 66 and 99
        ({"every_seconds": None, "every_steps": 1000, "keep": None}, []),
        ({"every_seconds": 0.0}, [64, 96, 128]),
        ({"every_seconds": 0.0, "keep": 1}, [128]),
        ({}, []),
    ],
)
def test_it_is_written_when_it_is_due_and_the_last_are_kept(tmp_path: Path, options: dict[str, Any], steps: list[int]) -> None:
    agent().learn(4 * ROLLOUT, in_folder(CheckpointCallback(**options), tmp_path))
    assert steps_of(tmp_path) == steps


def test_it_holds_the_update_of_its_rollout(tmp_path: Path) -> None:
    agent(cls=BetaPPO, n_epochs=3).learn(2 * ROLLOUT, in_folder(CheckpointCallback(0.0), tmp_path))
    for steps, n_updates in ((ROLLOUT, 3), (2 * ROLLOUT, 6)):
        saved = BetaPPO.load(tmp_path / f"rl_model_{steps}_steps.zip")
        assert (saved.num_timesteps, saved._n_updates) == (steps, n_updates)


def test_an_interrupted_rollout_is_in_no_checkpoint(tmp_path: Path) -> None:
    class Interrupt(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps == ROLLOUT + 4:
                raise KeyboardInterrupt
            return True

    callback = in_folder(CheckpointCallback(every_seconds=None, every_steps=1), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        agent().learn(4 * ROLLOUT, [callback, Interrupt()])
    callback.on_training_end()  # as rl-zoo3 does
    assert steps_of(tmp_path) == [ROLLOUT]


@pytest.mark.parametrize("cls", [PPO, BetaPPO])
def test_running_means_are_in_the_agents_file(tmp_path: Path, cls: type[Any]) -> None:
    """One file that is renamed at once: a kill between two files cannot part an agent from its means."""
    env = VecNormalize(make_vec_env("SB3CarRacingToy-v0", n_envs=2))
    model = cls("MlpPolicy", env, n_steps=N_STEPS, batch_size=16, n_epochs=1, device="cpu")
    model.learn(2 * ROLLOUT, in_folder(CheckpointCallback(0.0, keep=1), tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"rl_model_{2 * ROLLOUT}_steps.zip",
        f"rl_model_vecnormalize_{2 * ROLLOUT}_steps.pkl",
    ]
    file = tmp_path / f"rl_model_{2 * ROLLOUT}_steps.zip"
    assert statistics_of(file) == file
    toys = make_vec_env("SB3CarRacingToy-v0")
    beside = file.with_name(f"rl_model_vecnormalize_{2 * ROLLOUT}_steps.pkl")
    for path in (file, beside):
        assert read_statistics(path, toys).obs_rms.mean.tolist() == env.obs_rms.mean.tolist()  # type: ignore[attr-defined]
    assert cls.load(file).num_timesteps == 2 * ROLLOUT, "the additional entries are in the way"


def test_a_full_disk_is_warned_of_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "RETRY_AFTER", 0.0)
    fsync, full = os.fsync, [True, True, False]

    def on_a_full_disk(descriptor: int) -> None:
        if full and full.pop(0):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", on_a_full_disk)
    with pytest.warns(UserWarning, match=rf"No space left on device: '{tmp_path}/rl_model_64_steps.zip'.*tries again"):
        agent().learn(4 * ROLLOUT, in_folder(CheckpointCallback(None, every_steps=2 * ROLLOUT - 1), tmp_path))
    assert steps_of(tmp_path) == [128]
    assert not list(tmp_path.glob(".*")), "a temporary file is left"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_seconds": -1}, "every_seconds must be a finite number of at least 0"),
        ({"every_steps": 0}, "every_steps must be a whole number of at least 1"),
        ({"keep": 0}, "keep must be a whole number of at least 1"),
    ],
)
def test_numbers_out_of_range_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CheckpointCallback(**options)
