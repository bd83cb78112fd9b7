"""`evaluate`: table, JSON, and one line for bad input."""

import argparse
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from rich.console import Console
from stand_ins import REPEAT_4

from sb3_carracing import evaluation
from sb3_carracing.agents import RandomPolicy
from sb3_carracing.cli import evaluate as evaluate_command
from sb3_carracing.cli import main
from sb3_carracing.cli.agent_options import add_agent_arguments, open_agent
from sb3_carracing.drives import DriveRecorder
from sb3_carracing.evaluation import TEST_SEED, evaluate
from sb3_carracing.pipelines import Pipeline, WrapperCall, pipeline_env
from sb3_carracing.runs import read_run


def test_command_on_a_run(blog_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", str(blog_run), "-n", "2", "--n-envs", "1", "--all-actions"])
    table = capsys.readouterr().out
    report = json.loads((blog_run / "evaluation.json").read_text())
    assert report["seeds"] == [TEST_SEED, TEST_SEED + 1]
    assert report["evaluated_in"] == "CarRacing-v3"
    assert set(report["results"]) == {"mean", "mode", "sample"}
    assert {"python", "stable-baselines3", "gymnasium", "torch"} <= set(report["versions"])
    for result in report["results"].values():
        assert [episode["seed"] for episode in result["episodes"]] == [TEST_SEED, TEST_SEED + 1]
        assert all(1 <= episode["frames"] <= 1000 for episode in result["episodes"])
        scores = [episode["score"] for episode in result["episodes"]]
        assert result["summary"]["mean"] == pytest.approx(np.mean(scores))
        assert f"{np.mean(scores):.1f}" in table
    main(["evaluate", str(blog_run), "-n", "1", "--n-envs", "1"])
    again = json.loads((blog_run / "evaluation_2.json").read_text())
    assert json.loads((blog_run / "evaluation.json").read_text()) == report
    (kind,) = again["results"]
    assert again["results"][kind]["episodes"] == report["results"][kind]["episodes"][:1]


def test_command_with_the_fast_picture(blog_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", str(blog_run), "-n", "1", "--n-envs", "1", "--renderer", "fast"])
    assert "on CarRacingFast-v3" in capsys.readouterr().out
    report = json.loads((blog_run / "evaluation.json").read_text())
    assert (report["evaluated_in"], report["env_kwargs"]) == ("CarRacingFast-v3", {"continuous": True})
    assert list(report["wrappers"][0].values()) == [{"frame_skip": 8}]


def test_command_on_a_zip(blog_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent = str(blog_run / "CarRacingBlog-v3.zip")
    output = tmp_path / "results" / "by_hand.json"
    main(
        [
            "evaluate",
            agent,
            "--env-id",
            "CarRacingBlog-v3",
            "--algo",
            "beta_ppo",
            "-n",
            "1",
            "--n-envs",
            "1",
            "-o",
            str(output),
        ]
    )
    by_hand = json.loads(output.read_text())
    main(["evaluate", str(blog_run), "-n", "1", "--n-envs", "1"])
    by_run = json.loads((blog_run / "evaluation.json").read_text())
    episodes = [next(iter(report["results"].values()))["episodes"] for report in (by_hand, by_run)]
    assert episodes[0] == episodes[1]
    assert "95 % interval" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("cheap")
def test_command_on_the_random_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main(["evaluate", "--random", "-n", "3", "--n-envs", "1"])
    report = json.loads((tmp_path / "evaluation_random.json").read_text())
    assert -100.0 < report["results"]["sample"]["summary"]["mean"] < 0.0


@pytest.mark.usefixtures("cheap")
def test_the_random_baseline_of_the_packaged_run_leaves_no_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be taken for the packaged run from then on."""
    monkeypatch.chdir(tmp_path)
    main(["evaluate", "rl-trained-agents/beta_ppo/CarRacingFast-v3_1", "--random", "-n", "1", "--n-envs", "1"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation_random.json", "evaluation_random_drives.npz"]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_table_fits_the_terminal(width: int) -> None:
    results = [evaluation.EpisodeResult(seed, -100.0 - seed, 1000, 125, False) for seed in range(100)]
    console = Console(width=width, file=io.StringIO())
    console.print(evaluate_command.results_table("x", {"deterministic": evaluation.summarize(results)}, width))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "-149.5" in printed
    assert "…" not in printed
    assert ("median" in printed) == (width >= 80)


@pytest.mark.parametrize(("options", "n_tracks"), [([], 10), (["--protocol"], 100), (["-n", "4"], 4)])
def test_it_plays_ten_tracks_or_the_protocol_and_says_how_long_that_takes(
    options: list[str], n_tracks: int, blog_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    played: list[Any] = []

    def play(model: Any, make_env: Any, seeds: range, **_: Any) -> list[evaluation.EpisodeResult]:
        played.append((make_env.args[0].spec.id, seeds))
        return [evaluation.EpisodeResult(seed, 812.5 + 2 * (seed % 2), 1000, 125, False) for seed in seeds]

    monkeypatch.setattr(evaluate_command, "evaluate", play)
    monkeypatch.setattr(evaluate_command, "write_drives", lambda *_: None)
    monkeypatch.setattr(DriveRecorder, "drives", lambda _: None)
    main(["evaluate", str(blog_run), "--n-envs", "2", *options])
    assert played == [("CarRacing-v3", range(TEST_SEED, TEST_SEED + n_tracks))]
    printed = capsys.readouterr()
    assert re.match(rf"{n_tracks} tracks of CarRacing-v3, 2 at a time: about \d+( to \d+)? min\n", printed.err)
    row = next(line.split() for line in printed.out.splitlines() if str(n_tracks) in line.split())
    assert row[2] == "813.5"
    assert (row[3:5] == ["-", "-"]) == (n_tracks < 5)


def test_an_agent_by_hand_takes_wrappers_with_keywords(blog_run: Path) -> None:
    """A stock agent trained behind the blog's wrappers is put behind them again."""
    views = [
        "sb3_carracing.envs.wrappers.ActionRepeat: {frame_skip: 8}",
        "sb3_carracing.envs.wrappers.Grayscale",
        "gymnasium.wrappers.FrameStackObservation: {stack_size: 4, padding_type: reset}",
    ]
    parser = argparse.ArgumentParser()
    add_agent_arguments(parser)
    by_hand = [str(blog_run / "CarRacingBlog-v3.zip"), "--algo", "beta_ppo", "--env-id", "CarRacing-v3"]
    agent = open_agent(parser.parse_args([*by_hand, *(word for view in views for word in ("--wrapper", view))]))
    views_of_the_id = pipeline_env(read_run(blog_run).pipeline).wrappers
    assert pipeline_env(agent.pipeline).wrappers == tuple(
        WrapperCall(view.path.replace(":", "."), view.kwargs) for view in views_of_the_id
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name a run folder"),
        (["missing"], "there is no run folder missing"),
        (["missing.zip"], "pass --env-id"),
        (["missing.zip", "--env-id", "CarRacing-v3"], "there is no agent missing.zip"),
        (["missing.zip", "--env-id", "CarRacng-v3"], "unknown environment 'CarRacng-v3'"),
        (["RUN", "--checkpoint", "5"], "no rl_model_5_steps.zip"),
        (["RUN", "--env-id", "CarRacing-v3"], "--env-id is for a .zip"),
        (["AGENT", "--last", "--env-id", "CarRacing-v3"], "choose from a run folder"),
        (["AGENT", "--env-id", "CarRacing-v3", "--algo", "pp0"], "unknown algorithm 'pp0'"),
        (["AGENT", "--env-id", "CarRacing-v3", "--algo", "beta_ppo"], "the agent's observation space is"),
        (["AGENT", "--env-id", "CarRacing-v3", "--wrapper", "no.such.Wrapper"], "cannot import 'no.such.Wrapper'"),
        (["AGENT", "--env-id", "CarRacing-v3", "--wrapper", "a.B: {"], "--wrapper cannot be read as YAML"),
        (
            ["AGENT", "--env-id", "CarRacing-v3", "--wrapper", f"{REPEAT_4.path}: {{frame_skp: 4}}"],
            "unexpected keyword argument 'frame_skp'",
        ),
        (["AGENT", "--env-id", "Pendulum-v1"], "another environment"),
        (["--random", "-n", "0"], "-n must be a whole number of at least 1, got 0"),
        (["--random", "--protocol", "-n", "5"], "--protocol plays the 100 test tracks of CarRacing-v3: leave -n out"),
        (["--random", "--protocol", "--renderer", "stock"], "leave --renderer out"),
        (["--random", "--actions", "mode"], "cannot play 'mode' actions; valid: sample"),
    ],
)
def test_bad_input_ends_with_one_sentence(
    arguments: list[str],
    sentence: str,
    blog_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(blog_run)
    names = {"RUN": str(blog_run), "AGENT": str(blog_run / "CarRacingBlog-v3.zip")}
    before = sorted(blog_run.iterdir())
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *(names.get(argument, argument) for argument in arguments)])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert sentence in error
    assert error.count("\n") == 1
    assert sorted(blog_run.iterdir()) == before


def test_ctrl_c_leaves_no_empty_file(
    blog_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate_command, "evaluate", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(blog_run)])
    assert ended.value.code == 130
    assert not list(blog_run.glob("*.json"))


@pytest.mark.slow
def test_random_driving_on_the_real_stock_environment(tmp_path: Path) -> None:
    """Nothing is replaced here: pictures are drawn, processes started."""
    output = tmp_path / "random.json"
    main(["evaluate", "--random", "-n", "2", "--n-envs", "2", "-o", str(output)])
    episodes = json.loads(output.read_text())["results"]["sample"]["episodes"]
    model = RandomPolicy(gym.make("CarRacing-v3").action_space)
    again = evaluate(model, pipeline_env(Pipeline("CarRacing-v3")), [TEST_SEED, TEST_SEED + 1])
    assert [SimpleNamespace(**episode) for episode in episodes] == [SimpleNamespace(**vars(result)) for result in again]


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("FOLDER", "is a folder: name a file"),
        ("FOLDER/file/x.json", "is a file: name a folder"),
        ("/proc/x.json", "cannot write to /proc"),
    ],
)
def test_a_result_that_cannot_be_written_is_found_before_the_work(
    output: str,
    sentence: str,
    blog_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    played: list[Any] = []
    monkeypatch.setattr(evaluate_command, "evaluate", lambda *args, **_: played.append(args))
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(blog_run), "-n", "1", "-o", output.replace("FOLDER", str(tmp_path))])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not played


def test_a_disk_that_fills_up_during_the_work_still_shows_the_table(
    blog_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(file: Path, _: str) -> None:
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(evaluate_command, "write_atomically", full)
    monkeypatch.setattr(evaluate_command, "evaluate", lambda *_, **__: [evaluation.EpisodeResult(1, 812.5, 1000, 125, False)])
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(blog_run), "-n", "1"])
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert "812.5" in printed.out
    assert "evaluation.json" in printed.err.splitlines()[-1]
    assert not list(blog_run.glob("*.json"))
