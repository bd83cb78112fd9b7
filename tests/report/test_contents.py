"""What a report says about a run, against its files."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from stand_ins import write_run

from sb3_carracing.cli import main
from sb3_carracing.drives import COLUMNS, read_drives
from sb3_carracing.files import hyperparams_file
from sb3_carracing.report.contents import as_text, contents_of, flat, read_evaluations_of
from sb3_carracing.runs import read_run


def differing(folder: Path) -> list[str]:
    run = read_run(folder)
    return [key for key, _, _, differs in contents_of(run, "a run", [])["config"] if differs]


def test_only_what_differs_from_the_preset_is_marked(tmp_path: Path) -> None:
    preset = yaml.safe_load(hyperparams_file("beta_ppo").read_text())["CarRacingFast-v3"]
    assert differing(write_run(tmp_path / "same", preset, env="CarRacingFast-v3")) == []
    other = {**preset, "learning_rate": 1e-4, "policy_kwargs": {**preset["policy_kwargs"], "margin": 0.1}}
    other.pop("vf_coef")
    folder = write_run(tmp_path / "other", other, env="CarRacingFast-v3")
    assert sorted(differing(folder)) == ["learning_rate", "policy_kwargs.margin", "vf_coef"]


def test_values_are_short_text() -> None:
    wrappers = ["a.module.Gray", {"a.module.Repeat": {"frame_skip": 4, "also": [1.0, 0.5]}}]
    assert as_text(wrappers) == "Gray\nRepeat(also=[1, 0.5], frame_skip=4)"
    assert as_text([0.0, 0.35]) == "[0, 0.35]"
    assert flat({"a": {"b": 1e6, "c": {"d": None}}}) == {"a.b": "1e+06", "a.c.d": "None"}


def test_evaluations_are_those_of_the_runs_agents_only(blog_run: Path, tmp_path: Path) -> None:
    main(["evaluate", str(blog_run), "-n", "1", "--n-envs", "1"])
    run = read_run(blog_run)
    (blog_run / "else.json").write_text("[1, 2]")
    (blog_run / "broken.json").write_text('{"results": ')
    found = read_evaluations_of(run, [blog_run])
    assert [(evaluation.file.name, evaluation.kind) for evaluation in found] == [("evaluation.json", "mode")]
    assert found[0].drives is not None
    agent = blog_run / "CarRacingBlog-v3.zip"
    agent.write_bytes(agent.read_bytes() + b" ")  # another agent
    assert read_evaluations_of(run, [blog_run]) == []


def test_numbers_in_16_bits_are_the_drives_own(blog_run: Path) -> None:
    main(["evaluate", str(blog_run), "-n", "2", "--n-envs", "1"])
    run = read_run(blog_run)
    stored = json.loads((blog_run / "evaluation.json").read_text())["results"]["mode"]["episodes"]
    drives = read_drives(blog_run / "evaluation_drives.npz")["mode"].drives
    for every in (1, 4):
        content = contents_of(run, "a run", read_evaluations_of(run, [blog_run]), every)["drives"]
        low, high = np.array(content["low"]), np.array(content["high"])
        for track, drive, episode in zip(content["tracks"], drives, stored, strict=True):
            assert track["score"] == pytest.approx(episode["score"], abs=0.05)
            whole = np.frombuffer(base64.b64decode(track["rows"]), "<u2").reshape(-1, len(low)).astype(float)
            kept = drive.states[np.unique([*range(0, len(drive.states), every), len(drive.states) - 1])]
            assert len(whole) == len(kept)
            for name in ("frame", "score", "x", "y", "angle", "speed"):
                place = COLUMNS.index(name)
                decoded = low[place] + (high[place] - low[place]) * whole[:, place] / 65534
                np.testing.assert_allclose(decoded, kept[:, place], atol=(high[place] - low[place]) / 65000 + 1e-6)
            assert (whole[-1, -6:] == 65535).all()  # no decision is made at the end
