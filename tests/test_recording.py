"""Films and previews: right images, right speed, small files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sb3_carracing import recording
from sb3_carracing.agents import Agent, read_agent
from sb3_carracing.evaluation import evaluate
from sb3_carracing.pipelines import Pipeline, pipeline_env
from sb3_carracing.recording import split_images, write_gif


@pytest.mark.usefixtures("cheap_film")
def test_recording_gives_the_evaluations_results(blog_run: Path, tmp_path: Path) -> None:
    pipeline = Pipeline("CarRacingBlog-v3")
    model = read_agent(blog_run / "CarRacingBlog-v3.zip", "beta_ppo")
    agent = Agent("agent", model, "beta_ppo", pipeline, None, tmp_path)
    assert recording.record(agent, tmp_path, [5]) == evaluate(model, pipeline_env(pipeline), [5])


def test_a_gif_that_would_be_too_large_loses_colours_then_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (60, 60, 3)).astype(np.uint8) for _ in range(40)]
    write_gif(noise, tmp_path / "large.gif")
    size = (tmp_path / "large.gif").stat().st_size
    monkeypatch.setattr(recording, "GIF_LIMIT", size // 3)
    write_gif(noise, tmp_path / "small.gif")
    assert (tmp_path / "small.gif").stat().st_size < size // 3
    with Image.open(tmp_path / "small.gif") as film:
        assert film.n_frames == 11
        assert film.info["duration"] == 400


@pytest.mark.parametrize(
    ("shape", "count", "each"),
    [
        ((96, 96), 1, (96, 96)),
        ((96, 96, 3), 1, (96, 96, 3)),
        ((4, 96, 96), 4, (96, 96)),
        ((96, 96, 4), 4, (96, 96)),
        ((96, 96, 12), 4, (96, 96, 3)),
        ((4, 96, 96, 3), 4, (96, 96, 3)),
        ((4, 84, 84), 4, (84, 84)),
    ],
)
def test_all_pictures_of_an_observation_are_found(shape: tuple[int, ...], count: int, each: tuple[int, ...]) -> None:
    observation = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    pictures = split_images(observation)
    assert [picture.shape for picture in pictures] == [each] * count
    assert sorted(np.concatenate([picture.ravel() for picture in pictures])) == sorted(observation.ravel())


def test_what_is_no_picture_is_named() -> None:
    with pytest.raises(ValueError, match=r"no images in observations of shape \(3,\) and type float32"):
        split_images(np.zeros(3, np.float32))
