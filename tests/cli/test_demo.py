"""`demo`: a window, or a film whose path is printed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pygame
import pytest
from PIL import Image
from terminals import Terminal

from sb3_carracing.agents import Agent
from sb3_carracing.cli import demo, main
from sb3_carracing.evaluation import RECORDING_SEED, EpisodeResult


def test_without_a_display_it_films_an_unseen_track_and_prints_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def record(agent: Agent, folder: Path, seeds: list[int], **_: Any) -> list[EpisodeResult]:
        assert agent.pipeline.env_id == "CarRacingFast-v3"
        folder.mkdir()
        (folder / f"track_{seeds[0]}_score_905.gif").touch()
        return [EpisodeResult(seeds[0], 905.0, 700, 175, True)]

    monkeypatch.setattr(demo, "record", record)
    monkeypatch.chdir(tmp_path)
    main(["demo"])
    track, film = capsys.readouterr().out.splitlines()
    seed = int(track.split()[1].removesuffix(":"))
    assert RECORDING_SEED <= seed < RECORDING_SEED + 1000
    assert film == f"film: demo/track_{seed}_score_905.gif"
    assert (tmp_path / film.removeprefix("film: ")).is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("cheap_film")
def test_the_film_is_a_gif(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["demo", "--seed", "5", "-o", str(tmp_path / "films")])
    *_, track, film = capsys.readouterr().out.splitlines()
    assert track.startswith("track 5: score ")
    with Image.open(film.removeprefix("film: ")) as image:
        assert image.n_frames > 100


def test_closing_the_window_ends_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    frames: list[int] = []

    def drive(model: Any, make_env: Any, seeds: list[int], **further: Any) -> None:
        env = make_env()
        env.reset(seed=seeds[0])
        for _ in range(3):
            frames.append(env.step(env.action_space.sample())[4]["frames"])
        pygame.event.post(pygame.event.Event(pygame.QUIT))
        env.step(env.action_space.sample())
        pytest.fail("the window stays")

    monkeypatch.setattr(demo, "has_window", lambda: True)
    monkeypatch.setattr(demo, "evaluate", drive)
    main(["demo", "--seed", "5"])
    assert frames == [4, 8, 12]
    assert capsys.readouterr().err.splitlines()[-1] == "stopped"


def test_another_environment_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stand_ins import write_run

    with pytest.raises(SystemExit, match="2"):
        main(["demo", str(write_run(tmp_path, {}))])
    assert "demo shows CarRacing, and " in capsys.readouterr().err


@pytest.mark.slow
def test_on_a_terminal_it_says_at_once_that_it_loads_and_then_how_far_it_is(tmp_path: Path) -> None:
    terminal = Terminal(80)
    command = [sys.executable, "-m", "sb3_carracing", "demo", "--film"]
    subprocess.run(command, cwd=tmp_path, check=True, stdout=terminal.writing, stderr=terminal.writing, timeout=300)
    terminal.close()
    first, *progress, track, film = terminal.states()
    assert first == "sb3-carracing demo: loading"
    assert len(progress) > 2
    assert all(len(state) < 80 and state.endswith(" left") for state in progress)
    assert track.startswith("track 3000")
    assert (tmp_path / film.removeprefix("film: ")).is_file()
