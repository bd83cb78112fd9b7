"""`record` and `preview`: films of laps, and what an agent sees."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sb3_carracing import recording
from sb3_carracing.cli import main
from sb3_carracing.cockpit import PANEL_HEIGHT
from sb3_carracing.evaluation import RECORDING_SEED


@pytest.mark.usefixtures("cheap_film")
def test_a_film_has_every_fifth_frame_at_the_games_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["record", "--random", "--plain", "-n", "2", "-o", str(tmp_path)])
    films = sorted(tmp_path.glob(f"track_{RECORDING_SEED}_score_*.gif"))
    assert len(films) == 1
    assert len(list(tmp_path.glob("*.gif"))) == 2
    with Image.open(films[0]) as film:
        assert film.size == recording.GIF_SIZE
        assert film.n_frames == 201
        bars = []
        for number in (0, 50, 100, 200):
            film.seek(number)
            assert film.info["duration"] == (2000 if number == 200 else 100)
            row = np.asarray(film.convert("RGB"))[-1].astype(int)
            bars.append(int((row[:, 0] > 100).sum()))
    # Frame 250 is 5 seconds into the game: a bar of 125 of 600 pixels, which is 62 of 300.
    assert bars == pytest.approx([0, 62, 125, 250], abs=2)
    assert f"track {RECORDING_SEED}: score" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("cheap_film")
def test_a_film_has_instruments_at_full_size(tmp_path: Path) -> None:
    main(["record", "--random", "-o", str(tmp_path)])
    (file,) = tmp_path.iterdir()
    with Image.open(file) as film:
        assert film.size == (600, 400 + PANEL_HEIGHT)
        assert film.n_frames == 201


@pytest.mark.slow
@pytest.mark.usefixtures("cheap_film")
def test_checkpoints_are_side_by_side(blog_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for steps in (1000, 2000, 3000, 4000):
        shutil.copy(blog_run / "CarRacingBlog-v3.zip", blog_run / f"rl_model_{steps}_steps.zip")
    main(["record", str(blog_run), "--checkpoints", "2"])
    (film,) = (blog_run / "recordings").iterdir()
    assert film.name == f"track_{RECORDING_SEED}_2_agents.gif"
    with Image.open(film) as images:
        assert images.size == (1200, 400 + PANEL_HEIGHT)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == ["1,000 steps", "4,000 steps"]


@pytest.mark.slow
@pytest.mark.usefixtures("cheap_film")
def test_the_picked_lap_is_the_worst_of_those_driven(blog_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", str(blog_run), "-n", "3", "--seed-start", "5", "--n-envs", "1"])
    episodes = json.loads((blog_run / "evaluation.json").read_text())["results"]["mode"]["episodes"]
    worst = min(episodes, key=lambda episode: float(episode["score"]))
    main(["record", str(blog_run), "-n", "3", "--seed", "5", "--pick", "worst", "--plain"])
    assert f"track {worst['seed']}: score {worst['score']:.1f}" in capsys.readouterr().out
    (film,) = (blog_run / "recordings").iterdir()
    assert film.name == f"track_{worst['seed']}_score_{worst['score']:.0f}.gif"


@pytest.mark.usefixtures("cheap_film")
def test_films_of_a_run_lie_in_it_and_none_is_overwritten(blog_run: Path) -> None:
    main(["record", str(blog_run), "--seed", "5", "--plain"])
    (first,) = (blog_run / "recordings").iterdir()
    content = first.read_bytes()
    main(["record", str(blog_run), "--seed", "5", "--plain"])
    main(["record", str(blog_run), "--seed", "5", "--plain", "--stochastic"])
    assert len(list((blog_run / "recordings").iterdir())) == 3
    assert first.read_bytes() == content


@pytest.mark.parametrize("env_id", ["CarRacing-v3", "CarRacingFast-v3", "CarRacingBlog-v3", "CarRacingIurin-v3"])
def test_preview_of_every_id(env_id: str, tmp_path: Path) -> None:
    main(["preview", env_id, "--frames", "10", "-o", str(tmp_path / "new" / "preview.png")])
    n_pictures = 2 if env_id in ("CarRacing-v3", "CarRacingFast-v3") else 5
    with Image.open(tmp_path / "new" / "preview.png") as picture:
        assert picture.width > 300 * n_pictures


def test_preview_of_a_run(blog_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()  # the fixture's cheap pictures
    monkeypatch.chdir(tmp_path)
    main(["preview", str(blog_run), "--frames", "8"])
    assert (tmp_path / "preview_CarRacingBlog-v3.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        ("record", [], "name a run folder"),
        ("record", ["missing"], "there is no run folder missing"),
        ("record", ["--random", "-n", "0"], "-n must be a whole number of at least 1, got 0"),
        ("record", ["--checkpoints", "3"], "--checkpoints takes a run folder"),
        ("record", ["rl-trained-agents/beta_ppo/CarRacingFast-v3_1", "--checkpoints", "3"], "holds no checkpoint"),
        ("record", ["--random", "--beside", "missing"], "there is no run folder missing"),
        ("record", ["--random", "--env-id", "CarRacng-v3"], "unknown environment 'CarRacng-v3'"),
        ("preview", ["CarRacng-v3"], "unknown environment 'CarRacng-v3'"),
        ("preview", ["Pendulum-v1"], "no images"),
        ("preview", ["CarRacing-v3", "--frames", "0"], "--frames must be a whole number from 1 to 900"),
    ],
)
def test_bad_input_ends_with_one_sentence(
    command: str, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, *arguments])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert sentence in error
    assert error.count("\n") == 1


def test_mp4_without_moviepy_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "moviepy.video.VideoClip", None)
    with pytest.raises(SystemExit) as ended:
        main(["record", "--random", "--mp4"])
    assert ended.value.code == 2
    assert "pip install 'sb3-carracing[video]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("cheap_film")
def test_mp4_has_every_frame(tmp_path: Path) -> None:
    moviepy = pytest.importorskip("moviepy")
    main(["record", "--random", "--mp4", "-o", str(tmp_path)])
    (film,) = tmp_path.glob("*.mp4")
    with moviepy.VideoFileClip(str(film)) as clip:
        assert clip.fps == 50
        assert clip.duration == pytest.approx(1001 / 50, abs=0.05)


@pytest.mark.slow
def test_a_real_film_without_a_screen(tmp_path: Path) -> None:
    """Nothing is replaced, and no variable names a display or a driver."""
    program = f"from sb3_carracing.__main__ import main; main(['record', '--random', '-o', {str(tmp_path)!r}])"
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    (film,) = tmp_path.glob("*.gif")
    assert 50_000 < film.stat().st_size < recording.GIF_LIMIT


class SilentClip:
    """A moviepy whose ffmpeg ends without writing anything."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def write_videofile(self, *_: Any, **__: Any) -> None:
        pass


class FailingClip(SilentClip):
    def write_videofile(self, *_: Any, **__: Any) -> None:
        raise OSError("MoviePy error: FFMPEG encountered the following error:\nUnknown encoder")


@pytest.mark.parametrize("clip", [SilentClip, FailingClip])
def test_an_ffmpeg_that_does_not_work_is_found_before_the_work(
    clip: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recording, "_clip_class", lambda: clip)
    monkeypatch.setattr(recording, "evaluate", None)
    with pytest.raises(SystemExit) as ended:
        main(["record", "--random", "--mp4", "-o", str(tmp_path)])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert "--mp4 needs a working ffmpeg: " in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["record", "--random", "-o", "FOLDER/file"], "is a file: name a folder"),
        (["record", "--random", "-o", "/proc/films"], "cannot write to /proc/films"),
        (["preview", "CarRacing-v3", "-o", "FOLDER"], "is a folder: name a file"),
        (["preview", "CarRacing-v3", "-o", "FOLDER/x"], "the ending of the image file must be one of '.png', "),
        (["preview", "CarRacing-v3", "-o", "FOLDER/x.gif"], "'.svg', got '.gif'"),
        (["preview", "CarRacing-v3", "-o", "/proc/x.png"], "cannot write to /proc"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_found_before_the_work(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(recording, "evaluate", None)
    monkeypatch.setattr(recording, "DummyVecEnv", None)
    with pytest.raises(SystemExit) as ended:
        main([argument.replace("FOLDER", str(tmp_path)) for argument in arguments])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_preview_has_the_format_that_its_name_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for ending, start in ((".svg", b"<?xml"), (".pdf", b"%PDF"), (".jpg", b"\xff\xd8")):
        main(["preview", "CarRacingFast-v3", "--frames", "1", "-o", str(tmp_path / f"preview{ending}")])
        assert (tmp_path / f"preview{ending}").read_bytes().startswith(start)
        assert f"preview{ending}" in capsys.readouterr().out
