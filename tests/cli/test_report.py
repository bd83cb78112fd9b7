"""`report`: what it evaluates by itself, where it writes, and one line for bad input."""

from pathlib import Path

import pytest
from stand_ins import write_run

from sb3_carracing.cli import main


def test_a_run_without_an_evaluation_is_evaluated_once(blog_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(blog_run), "--tracks", "1"])
    told = capsys.readouterr().out
    assert "has no evaluation with drives: evaluating 1 track, which takes about " in told
    assert f"written: {blog_run / 'report.html'}" in told
    files = sorted(blog_run.iterdir())
    assert {"evaluation.json", "evaluation_drives.npz", "report.html"} <= {file.name for file in files}
    main(["report", str(blog_run)])
    assert "evaluating" not in capsys.readouterr().out
    assert sorted(blog_run.iterdir()) == files


def test_a_run_of_another_environment_has_no_tracks(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"n_timesteps": 1000.0})
    main(["report", str(run), "-o", str(tmp_path / "new" / "page.html")])
    assert "Pendulum-v1" in (tmp_path / "new" / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing"], "there is no run folder missing"),
        (["RUN", "--tracks", "-1"], "--tracks must be a whole number of at least 0, got -1"),
        (["RUN", "-o", "RUN"], "is a folder: name a file"),
        (["RUN"], "no CarRacingFast-v3.zip in "),
    ],
)
def test_bad_input_ends_with_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path, {}, env="CarRacingFast-v3")
    with pytest.raises(SystemExit) as ended:
        main(["report", *(argument.replace("RUN", str(run)) for argument in arguments)])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert sentence in error
    assert error.count("\n") == 1
