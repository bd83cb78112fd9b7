"""Films and previews: right images, right speed, small files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sb3_carracing import recording
from sb3_carracing.agents import Agent, read_agent
from sb3_carracing.evaluation import EpisodeResult, evaluate
from sb3_carracing.pipelines import Pipeline, pipeline_env
from sb3_carracing.recording import split_images, write_gif


@pytest.mark.usefixtures("cheap_film")
def test_recording_gives_the_evaluations_results(blog_run: Path, tmp_path: Path) -> None:
    pipeline = Pipeline("CarRacingBlog-v3")
    model = read_agent(blog_run / "CarRacingBlog-v3.zip", "beta_ppo")
    agent = Agent("agent", model, "beta_ppo", pipeline, None, tmp_path)
    assert recording.record(agent, tmp_path, [5], plain=True) == evaluate(model, pipeline_env(pipeline), [5])


@pytest.mark.usefixtures("cheap_film")
def test_a_shot_has_the_agents_decision_and_the_last_one_the_score(blog_run: Path, tmp_path: Path) -> None:
    model = read_agent(blog_run / "CarRacingBlog-v3.zip", "beta_ppo")
    agent = Agent("agent", model, "beta_ppo", Pipeline("CarRacingBlog-v3"), None, tmp_path)
    result, take = recording._film(agent, 5, "deterministic", 50)
    assert take.shots[-1].of_car("score") == result.score
    assert take.shots[-1].of_car("frame") == result.frames
    assert take.shots[0].thought is None
    for shot in take.shots[1:]:
        assert shot.thought is not None
        assert shot.thought.seen is not None
        assert shot.thought.seen.shape == (96, 96)
        assert shot.of_car("steering") == pytest.approx(float(shot.thought.action[0]), abs=1e-6)


def test_the_worst_the_median_and_the_best_are_found() -> None:
    scores = {1: 50.0, 2: 900.0, 3: -20.0, 4: 700.0}
    results = [EpisodeResult(seed, score, 100, 10, False) for seed, score in scores.items()]
    assert recording.pick(results, ["best", "worst", "median"]) == [2, 3, 1]
    assert recording.pick(results[:1], ["best", "worst"]) == [1]


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
