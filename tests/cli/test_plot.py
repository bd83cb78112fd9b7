"""`plot`: PNG files, and one line for bad input."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.font_manager  # noqa: F401  # on a new machine it says on stderr that it builds a cache
import numpy as np
import pytest
from PIL import Image
from stand_ins import EVALUATIONS, PROGRESS, write_logged_run, write_run

from sb3_carracing.cli import main
from sb3_carracing.curves import PANELS
from sb3_carracing.plotting import plot_runs

MONITOR = '#{"t_start": 0.0, "env_id": "None"}\nr,l,t,score,frames\n1.0,5,1.0,10.0,20\n'


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_logged_run(tmp_path)


@pytest.mark.slow
def test_each_alone_and_all_together(run: Path) -> None:
    main(["plot", str(run)])
    names = sorted([*PANELS, "all"])
    assert sorted(file.name for file in (run / "plots").iterdir()) == sorted(f"{n}.{e}" for n in names for e in ("png", "svg"))
    for name in names:
        picture = np.asarray(Image.open(run / "plots" / f"{name}.png").convert("RGB"))
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_runs_of_rl_zoo3_alone_have_what_they_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "evaluations.npz", timesteps=[10, 20], results=[[1.0, 3.0], [4.0, 4.0]])
    main(["plot", str(tmp_path), "-o", str(tmp_path / "out")])
    assert sorted(file.stem for file in (tmp_path / "out").glob("*.png")) == ["all", "evaluation"]
    assert "no data for: score, actor_loss, critic_loss, entropy, kl" in capsys.readouterr().out
    curve = PANELS["evaluation"].read(tmp_path, "steps")
    np.testing.assert_array_equal(curve.y, [2.0, 4.0])  # type: ignore[union-attr]
    np.testing.assert_array_equal(curve.low, [1.0, 4.0])  # type: ignore[union-attr]


def test_several_runs_share_the_diagrams(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "ppo" / run.name
    other.mkdir(parents=True)
    (other / "evaluations.csv").write_text(EVALUATIONS.replace("50.0", "99.0"))
    monkeypatch.chdir(tmp_path)
    main(["plot", str(run), str(other)])
    alone = plot_runs([run], tmp_path / "alone")
    assert sorted(file.name for file in (tmp_path / "plots").iterdir()) == sorted(file.name for file in alone)
    texts = svg_texts(tmp_path / "plots" / "evaluation.svg")
    assert {"BetaPPO, mean and std", "PPO, mean and std", "CarRacing", "environment frames", "raw score [points]"} <= texts
    assert not any("beta_ppo" in text for text in texts)
    shared, single = (np.asarray(Image.open(tmp_path / folder / "evaluation.png")) for folder in ("plots", "alone"))
    assert shared.shape == single.shape
    assert (shared != single).any()


def svg_texts(file: Path) -> set[str]:
    return {str(element.text) for element in ElementTree.parse(file).iter("{http://www.w3.org/2000/svg}text")}


def test_seeds_of_one_algorithm_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for seed in (1, 2, 3):
        runs.append(write_run(tmp_path / str(seed), {}, env="CarRacingFast-v3", seed=seed))
        (runs[-1] / "evaluations.csv").write_text(EVALUATIONS)
    monkeypatch.chdir(tmp_path)
    main(["plot", *map(str, runs), "-x", "minutes"])
    texts = svg_texts(tmp_path / "plots" / "evaluation.svg")
    assert {"BetaPPO, mean and range of 3 runs", "CarRacingFast-v3", "training time [min]"} <= texts
    main(["plot", *map(str, runs), "--separate", "-o", "apart"])
    assert sum("CarRacingFast-v3_1" in text for text in svg_texts(tmp_path / "apart" / "evaluation.svg")) == 3


def test_bad_input_ends_with_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "progress.csv").touch()
    for folder, sentence in (("missing", "there is no run folder"), ("empty", "nothing to plot: no progress.csv")):
        with pytest.raises(SystemExit) as ended:
            main(["plot", str(tmp_path / folder)])
        error = capsys.readouterr().err
        assert ended.value.code == 2
        assert sentence in error
        assert error.count("\n") == 1


DAMAGES: dict[str, dict[str, str]] = {
    "two rows in one line": {"0.monitor.csv": MONITOR + "3.0,10,3.02.5,10,3.9,1,1\n"},
    "cut off": {"evaluations.npz": "PK\x03\x04cut", "progress.csv": PROGRESS[:-9], "evaluations.csv": EVALUATIONS[:-3]},
    "zeros": dict.fromkeys(("progress.csv", "evaluations.csv", "0.monitor.csv", "evaluations.npz"), "\0" * 4096),
    "other columns": {"evaluations.csv": "time,value\n1,2\n", "0.monitor.csv": "a,b\n1,2\n"},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_rest_of_a_damaged_run_is_drawn(run: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in DAMAGES[damage].items():
        (run / name).write_text(content)
    main(["plot", str(run)])
    printed = capsys.readouterr()
    assert "written: " in printed.out
    assert (run / "plots" / "all.png").stat().st_size > 1000
    warned = printed.err.splitlines()
    assert all(line.startswith("warning: ") and "is damaged" in line for line in warned), printed.err
    if damage != "other columns":
        assert {Path(line.split()[1]).name for line in warned} == set(DAMAGES[damage]) - {
            "evaluations.npz"
        } or damage == "zeros"


def test_a_run_of_which_nothing_is_left_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in DAMAGES["zeros"]:
        (tmp_path / name).write_bytes(bytes(4096))
    with pytest.raises(SystemExit) as ended:
        main(["plot", str(tmp_path)])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    for name in DAMAGES["zeros"]:
        assert f"{tmp_path / name} is damaged" in error
    assert "Traceback" not in error


def test_plot_needs_neither_pandas_nor_torch(run: Path) -> None:
    program = (
        "import sys; sys.modules['pandas'] = None\n"
        f"from sb3_carracing.__main__ import main; main(['plot', {str(run)!r}])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)
