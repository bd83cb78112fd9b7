"""The speed benchmarks run from end to end in small, and their files say what they were measured with."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import provenance
from benchmarks.provenance import ROOT

SMALL = {
    "collection": ("--rounds 1 --steps 4 --envs 2 --workers 2", "processor_seconds"),
    "learn": ("--rounds 1 --steps 128 --envs 2 --threads 1 --variants ours", "frames_per_second"),
    "learn_mlp": ("--rounds 1 --env Pendulum-v1", "processor_seconds"),
    "update": ("--rounds 1 --steps 8 --envs 2 --epochs 1 --batch-size 8 --threads 1", "samples_per_second"),
    "resume": ("--rounds 1 --envs 2 --stock-envs 1 --frames 24", "seconds"),
    "rollout_memory": ("--steps 8 --envs 2 --batch-size 8", "peak_bytes"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SMALL))
def test_a_benchmark_writes_its_figures_and_what_it_was_made_with(name: str, tmp_path: Path) -> None:
    arguments, key = SMALL[name]
    file = tmp_path / f"{name}.json"
    command = [sys.executable, "-m", f"benchmarks.speed.{name}", *arguments.split(), "--out", str(file)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    written = json.loads(file.read_text())
    assert written[key]
    assert written["versions"] == provenance.versions()
    assert written["machine"] == provenance.machine()
    assert f"-m benchmarks.speed.{name} {arguments}" in written["command"]


@pytest.mark.slow
def test_the_renderers_are_drawn_side_by_side(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.speed.compare_renderers", "--frames", "20", "--out", str(tmp_path / "a.png")]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_race_shows_as_many_laps_as_were_measured(tmp_path: Path) -> None:
    figures, film = tmp_path / "race.json", tmp_path / "race.gif"
    command = [sys.executable, "-m", "benchmarks.speed.race", "--rounds", "1", "--out", str(figures), "--film", str(film)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    measured = json.loads(figures.read_text())
    stock, ours = (measured["seconds_per_lap"][name][0]["cpu"] for name in ("gymnasium", "ours"))
    assert 1.0 < measured["laps_of_ours"] == pytest.approx(stock / ours, rel=1e-3)
    assert f"{measured['laps_of_ours']:.1f} laps" in done.stdout
    with Image.open(film) as images:
        assert images.n_frames == 80


@pytest.mark.parametrize("name", [*SMALL, "env_speed", "compare_renderers", "race", "scaling"])
def test_a_benchmark_says_how_it_is_run(name: str) -> None:
    module = importlib.import_module(f"benchmarks.speed.{name}")
    assert f"python -m benchmarks.speed.{name}" in (module.__doc__ or "")


def test_every_stored_file_is_named_like_its_benchmark() -> None:
    stored = {file.stem for file in (ROOT / "benchmarks" / "results" / "speed").glob("*.json")}
    assert stored == {*SMALL, "env_speed", "race", "scaling_carracing", "scaling_pendulum"}


def test_the_command_line_is_told_without_a_machines_path() -> None:
    assert provenance.command().startswith("python ")
    row = provenance.described()
    assert {"date", "command", "commit", "machine", "platform", "python", "torch"} <= row.keys()


def test_a_recorded_command_names_no_path_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(provenance.ROOT / "logs" / "runs"), "/elsewhere/table.csv", "hyperparams/beta_ppo.yml"]
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", "-m", "benchmarks.train", *paths])
    assert provenance.command() == "python -m benchmarks.train logs/runs table.csv hyperparams/beta_ppo.yml"
