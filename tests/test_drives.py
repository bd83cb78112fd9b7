"""Drives: where the car was and what the policy wanted, against the environment and the policy themselves."""

import functools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stand_ins import Walk

from sb3_carracing import BetaPPO
from sb3_carracing.drives import COLUMNS, DriveRecorder, Drives, decision_of, read_drives, with_car_states, write_drives
from sb3_carracing.evaluation import EpisodeResult, evaluate
from sb3_carracing.pipelines import Pipeline, WrapperCall, pipeline_env

REPEAT_8 = WrapperCall("sb3_carracing.envs.wrappers.ActionRepeat", {"frame_skip": 8})


@pytest.fixture(scope="module")
def model() -> BetaPPO:
    env = gym.make("CarRacingFast-v3")
    network = {"features_extractor_class": "flatten", "net_arch": [4], "initial_mean": [0.0, 0.4, 0.05]}
    model = BetaPPO("CnnPolicy", env, seed=0, device="cpu", n_steps=8, batch_size=8, policy_kwargs=network)
    env.close()
    return model


def play(model: Any, seeds: list[int], **options: Any) -> tuple[list[EpisodeResult], Drives]:
    recorder = DriveRecorder(model)
    make_env = pipeline_env(Pipeline("CarRacingFast-v3", wrappers=(REPEAT_8,)), renderer="fast")
    results = evaluate(model, functools.partial(with_car_states, make_env), seeds, watch=recorder, **options)
    return results, recorder.drives()


@pytest.fixture(scope="module")
def played(model: BetaPPO) -> tuple[list[EpisodeResult], Drives]:
    return play(model, [3, 7])


def column(states: np.ndarray, name: str) -> np.ndarray:
    return np.asarray(states[:, COLUMNS.index(name)])


def test_a_drive_ends_with_the_episodes_score(played: tuple[list[EpisodeResult], Drives]) -> None:
    results, drives = played
    for result, drive in zip(results, drives.drives, strict=True):
        assert drive.seed == result.seed
        assert len(drive.states) == result.steps + 1 == len(drive.actions) + 1
        assert column(drive.states, "frame")[-1] == result.frames
        assert column(drive.states, "score")[-1] == pytest.approx(result.score, rel=1e-6)


def test_the_car_moves_at_its_speed_and_starts_on_the_road(played: tuple[list[EpisodeResult], Drives]) -> None:
    for drive in played[1].drives:
        x, y, speed, frame = (column(drive.states, name) for name in ("x", "y", "speed", "frame"))
        seconds = np.diff(frame) / 50
        driven = np.hypot(np.diff(x), np.diff(y))
        # Between two decisions the speed lies about between theirs, but for bends and collisions.
        mean = (speed[1:] + speed[:-1]) / 2
        assert np.median(np.abs(driven / seconds - mean)) < 1.0
        assert np.hypot(*(drive.road - [x[0], y[0]]).T).min() < 7.0
        assert column(drive.states, "wheels_on_grass")[0] == 0


def test_the_road_is_the_tracks(played: tuple[list[EpisodeResult], Drives]) -> None:
    env = gym.make("CarRacing-v3")
    for drive in played[1].drives:
        env.reset(seed=drive.seed)
        np.testing.assert_allclose(drive.road, [place[2:4] for place in env.unwrapped.track], rtol=1e-6)  # type: ignore[attr-defined]
    env.close()


def test_the_action_is_the_mode_of_the_density(played: tuple[list[EpisodeResult], Drives]) -> None:
    drives = played[1]
    assert drives.density == "beta"
    for drive in drives.drives:
        alpha, beta = drive.parameters[:, :, 0].astype(float), drive.parameters[:, :, 1].astype(float)
        mode = drives.low + (drives.high - drives.low) * (alpha - 1) / (alpha + beta - 2)
        np.testing.assert_allclose(drive.actions, mode, atol=1e-4)
        assert np.isfinite(drive.values).all()
        steering, gas = (column(drive.states, name)[1:] for name in ("steering", "gas"))
        np.testing.assert_allclose(steering, drive.actions[:, 0], atol=1e-6)
        np.testing.assert_allclose(gas[5:], drive.actions[5:, 1], atol=0.2)  # it rises by 0.1 a frame


@pytest.mark.slow
def test_watching_changes_nothing_and_workers_see_the_same(model: BetaPPO, played: tuple[list[EpisodeResult], Drives]) -> None:
    make_env = pipeline_env(Pipeline("CarRacingFast-v3", wrappers=(REPEAT_8,)), renderer="fast")
    assert evaluate(model, make_env, [3, 7]) == played[0]
    results, drives = play(model, [3, 7], n_envs=2)
    assert results == played[0]
    for one, other in zip(drives.drives, played[1].drives, strict=True):
        for first, second in zip(one, other, strict=True):
            np.testing.assert_array_equal(first, second)


def test_stored_drives_are_read_back(played: tuple[list[EpisodeResult], Drives], tmp_path: Path) -> None:
    file = tmp_path / "drives.npz"
    write_drives(file, {"mean": played[1], "sample": played[1]})
    stored = read_drives(file)
    assert list(stored) == ["mean", "sample"]
    for drives in stored.values():
        assert drives.density == "beta"
        np.testing.assert_array_equal(drives.high, [1.0, 1.0, 1.0])
        for one, other in zip(drives.drives, played[1].drives, strict=True):
            for first, second in zip(one, other, strict=True):
                np.testing.assert_array_equal(first, second)


def test_a_damaged_file_is_named_and_left_out(played: tuple[list[EpisodeResult], Drives], tmp_path: Path) -> None:
    file = tmp_path / "drives.npz"
    assert read_drives(file) == {}
    write_drives(file, {"mean": played[1]})
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no archive", whole.replace(b"mean/seeds", b"mean/seats")):
        file.write_bytes(content)
        with pytest.warns(UserWarning, match=r"drives\.npz is damaged and left out"):
            assert read_drives(file) == {}


def test_a_gaussian_policy_has_mean_deviation_and_value() -> None:
    model = PPO("MlpPolicy", Walk(), device="cpu", policy_kwargs={"log_std_init": -1.0})
    observation = np.array([[0.5, 1.0]], np.float32)
    decision = decision_of(model, observation)
    assert decision.density == "gaussian"
    mean, std = decision.parameters[0]
    assert std == pytest.approx(np.exp(-1.0))
    assert model.predict(observation, deterministic=True)[0] == pytest.approx(mean)
    assert decision.value == pytest.approx(model.policy.predict_values(th.as_tensor(observation)).item())


def test_a_discrete_policy_has_probabilities() -> None:
    decision = decision_of(PPO("MlpPolicy", "CartPole-v1", device="cpu"), np.zeros((1, 4), np.float32))
    assert decision.density == "categorical"
    assert decision.parameters.shape == (2, 1)
    assert decision.parameters.sum() == pytest.approx(1.0)


def test_other_policies_have_none() -> None:
    class Space:
        action_space = spaces.Discrete(3)

    for model in (SAC("MlpPolicy", Walk(), device="cpu", buffer_size=1), Space()):
        decision = decision_of(model, np.zeros((1, 2), np.float32))
        assert decision.density == ""
        assert np.isnan(decision.value)
