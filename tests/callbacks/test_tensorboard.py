"""What TensorBoard's own reader finds in the files of a training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.logger import configure

from sb3_carracing import BetaPPO
from sb3_carracing.callbacks import TensorBoardCallback
from sb3_carracing.errors import UserError


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"histograms": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def train(model: Any, folder: Path, steps: int, **options: Any) -> Any:
    model.set_logger(configure(str(folder), ["tensorboard", "csv", "json"]))
    model.learn(steps, callback=TensorBoardCallback(**options))
    model.logger.close()
    return events(folder)


SHORT: dict[str, Any] = {"n_steps": 64, "batch_size": 64, "n_epochs": 1, "device": "cpu", "seed": 0}


def test_actions_and_shape_parameters_are_histograms(tmp_path: Path) -> None:
    written = train(BetaPPO("MlpPolicy", "Pendulum-v1", **SHORT), tmp_path, 128)
    tags = written.Tags()["histograms"]
    assert sorted(tags) == ["actions/action 0", "density/action 0/alpha", "density/action 0/beta"]
    actions = written.Histograms("actions/action 0")
    assert len(actions) == 2
    assert actions[0].histogram_value.num == 64
    assert -2.0 <= actions[0].histogram_value.min < actions[0].histogram_value.max <= 2.0
    assert written.Histograms("density/action 0/alpha")[0].histogram_value.min >= 1.0


def test_a_discrete_policy_has_its_choices(tmp_path: Path) -> None:
    written = train(PPO("MlpPolicy", "CartPole-v1", **SHORT), tmp_path, 64)
    assert sorted(written.Tags()["histograms"]) == [
        "actions/choice",
        "density/action 0/probability",
        "density/action 1/probability",
    ]
    choices = written.Histograms("actions/choice")[0].histogram_value
    assert (choices.min, choices.max, choices.num) == (0.0, 1.0, 64)


def test_an_algorithm_without_rollouts_is_left_alone(tmp_path: Path) -> None:
    model = SAC("MlpPolicy", "Pendulum-v1", buffer_size=100, learning_starts=100, device="cpu")
    assert train(model, tmp_path, 20).Tags()["histograms"] == []


def test_it_changes_nothing_in_the_training(tmp_path: Path) -> None:
    with_it = BetaPPO("MlpPolicy", "Pendulum-v1", **SHORT)  # which seeds the generators
    train(with_it, tmp_path, 128)
    without = BetaPPO("MlpPolicy", "Pendulum-v1", **SHORT).learn(128)
    for one, other in zip(with_it.policy.parameters(), without.policy.parameters(), strict=True):
        np.testing.assert_array_equal(one.detach(), other.detach())


def test_a_film_of_another_environment_is_refused(tmp_path: Path) -> None:
    from stand_ins import write_run

    run = write_run(tmp_path, {})
    with pytest.raises(UserError, match="film_every_frames is for CarRacing, and Pendulum-v1"):
        train(BetaPPO("MlpPolicy", "Pendulum-v1", **SHORT), run, 64, film_every_frames=32, run_dir=run)
    with pytest.raises(UserError, match="film_every_frames must be a whole number of at least 1, got 0"):
        TensorBoardCallback(film_every_frames=0)


@pytest.mark.slow
def test_a_film_is_an_animated_image(blog_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gymnasium as gym

    network = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}}
    model = BetaPPO("CnnPolicy", gym.make("CarRacingBlog-v3"), policy_kwargs=network, **SHORT)
    written = train(model, blog_run, 64, film_every_frames=400, run_dir=blog_run)
    (film,) = written.Images("films/validation")
    assert film.encoded_image_string.startswith(b"GIF89a")
    assert (film.width, film.step) == (600, 50)
    assert "density/steering/alpha" in written.Tags()["histograms"]
