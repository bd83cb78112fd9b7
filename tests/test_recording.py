"""Films and previews: right pictures, right speed, small files."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from drivers import cheap_render
from gymnasium.envs.box2d import car_racing as stock
from PIL import Image
from test_evaluation import blog_run, cheap  # noqa: F401

from sb3_carracing import recording
from sb3_carracing.evaluation import RECORDING_SEED, RandomPolicy, env_spec
from sb3_carracing.recording import main, preview_main, split_pictures, write_gif
from sb3_carracing.runs import Pipeline


@pytest.fixture
def cheap_film(monkeypatch: pytest.MonkeyPatch) -> None:
    def render(car_racing: Any, mode: str) -> Any:
        if mode != "rgb_array":
            return cheap_render(car_racing, mode)
        if "t" not in vars(car_racing):
            return None
        picture = np.zeros((400, 600, 3), np.uint8)
        picture[:, : round(car_racing.t * 25)] = (200, 30, 60)  # a bar as long as the time
        return picture

    monkeypatch.setattr(stock.CarRacing, "_render", render)


@pytest.mark.usefixtures("cheap_film")
def test_a_film_has_every_fifth_frame_at_the_games_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--random", "-n", "2", "-o", str(tmp_path)])
    films = sorted(tmp_path.glob(f"track_{RECORDING_SEED}_score_*.gif"))
    assert len(films) == 1
    assert len(list(tmp_path.glob("*.gif"))) == 2
    with Image.open(films[0]) as film:
        assert film.size == recording.GIF_SIZE
        assert film.n_frames == 201  # type: ignore[attr-defined]
        bars = []
        for number in (0, 50, 100, 200):
            film.seek(number)
            assert film.info["duration"] == (2000 if number == 200 else 100)
            row = np.asarray(film.convert("RGB"))[-1].astype(int)
            bars.append(int((row[:, 0] > 100).sum()))
    # Frame 250 is 5 seconds into the game: a bar of 125 of 600 pixels, which is 62 of 300.
    assert bars == pytest.approx([0, 62, 125, 250], abs=2)
    assert f"track {RECORDING_SEED}: score" in capsys.readouterr().out


@pytest.mark.usefixtures("cheap_film")
def test_films_of_a_run_lie_in_it_and_none_is_overwritten(blog_run: Path) -> None:  # noqa: F811
    main([str(blog_run), "--seed", "5"])
    (first,) = (blog_run / "recordings").iterdir()
    content = first.read_bytes()
    main([str(blog_run), "--seed", "5"])
    main([str(blog_run), "--seed", "5", "--stochastic"])
    assert len(list((blog_run / "recordings").iterdir())) == 3
    assert first.read_bytes() == content


@pytest.mark.usefixtures("cheap_film")
def test_recording_gives_the_evaluations_results(blog_run: Path, tmp_path: Path) -> None:  # noqa: F811
    from sb3_carracing.evaluation import Agent, evaluate, pipeline_env
    from sb3_carracing.runs import load_agent

    pipeline = Pipeline("CarRacingBlog-v3")
    model = load_agent(blog_run / "CarRacingBlog-v3.zip", "beta_ppo")
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
        assert film.n_frames == 11  # type: ignore[attr-defined]
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
    pictures = split_pictures(observation)
    assert [picture.shape for picture in pictures] == [each] * count
    assert sorted(np.concatenate([picture.ravel() for picture in pictures])) == sorted(observation.ravel())


def test_what_is_no_picture_is_named() -> None:
    with pytest.raises(ValueError, match=r"no pictures in observations of shape \(3,\) and type float32"):
        split_pictures(np.zeros(3, np.float32))


@pytest.mark.parametrize("env_id", ["CarRacing-v3", "CarRacingFast-v3", "CarRacingBlog-v3", "CarRacingIurin-v3"])
def test_preview_of_every_id(env_id: str, tmp_path: Path) -> None:
    preview_main([env_id, "--frames", "10", "-o", str(tmp_path / "new" / "preview.png")])
    n_pictures = 2 if env_id in ("CarRacing-v3", "CarRacingFast-v3") else 5
    with Image.open(tmp_path / "new" / "preview.png") as picture:
        assert picture.width > 300 * n_pictures


def test_preview_of_a_run(blog_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # noqa: F811
    monkeypatch.undo()  # the fixture's cheap pictures
    monkeypatch.chdir(tmp_path)
    preview_main([str(blog_run), "--frames", "8"])
    assert (tmp_path / "preview_CarRacingBlog-v3.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        (main, [], "name a run folder"),
        (main, ["missing"], "there is no run folder missing"),
        (main, ["--random", "-n", "0"], "-n must be at least 1"),
        (main, ["--random", "--env-id", "CarRacng-v3"], "unknown environment 'CarRacng-v3'"),
        (preview_main, ["CarRacng-v3"], "unknown environment 'CarRacng-v3'"),
        (preview_main, ["Pendulum-v1"], "no pictures"),
        (preview_main, ["CarRacing-v3", "--frames", "0"], "--frames must be from 1 to 900"),
    ],
)
def test_bad_input_ends_with_one_sentence(
    command: Any, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert sentence in error
    assert error.count("\n") == 1


def test_mp4_without_moviepy_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "moviepy.video.io.ImageSequenceClip", None)
    with pytest.raises(SystemExit) as ended:
        main(["--random", "--mp4"])
    assert ended.value.code == 2
    assert "pip install 'sb3-carracing[video]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("cheap_film")
def test_mp4_has_every_frame(tmp_path: Path) -> None:
    moviepy = pytest.importorskip("moviepy")
    main(["--random", "--mp4", "-o", str(tmp_path)])
    (film,) = tmp_path.glob("*.mp4")
    with moviepy.VideoFileClip(str(film)) as clip:
        assert clip.fps == 50
        assert clip.duration == pytest.approx(1001 / 50, abs=0.05)


@pytest.mark.slow
def test_a_real_film_without_a_screen(tmp_path: Path) -> None:
    """Nothing is replaced, and no variable names a display or a driver."""
    program = f"from sb3_carracing.recording import main; main(['--random', '-o', {str(tmp_path)!r}])"
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    (film,) = tmp_path.glob("*.gif")
    assert 50_000 < film.stat().st_size < recording.GIF_LIMIT


def test_the_random_driver_has_the_pipelines_actions() -> None:
    discrete = gym.make(env_spec("CarRacingIurin-v3"))
    assert RandomPolicy(discrete.action_space).predict(None)[0].shape == (1,)
    discrete.close()
