"""Logs of killed runs: what is whole is read, nothing else."""

import json
import resource
import warnings
from pathlib import Path

import numpy as np
import pytest

from sb3_carracing.logs import CsvLog, Evaluations, read_episodes, read_evaluations, read_table, write_evaluations

HEADER = '#{"t_start": 1.0, "env_id": "x"}\nr,l,t\n'
ROWS = "1.0,10,1.0\n2.0,20,2.0\n"


@pytest.mark.parametrize(
    ("content", "returns"),
    [
        (HEADER + ROWS, [1.0, 2.0]),
        (HEADER.replace("\n", "\r\n") + ROWS.replace("\n", "\r\n"), [1.0, 2.0]),
        (HEADER + ROWS + "3.0,30,3.0", [1.0, 2.0]),  # perhaps it is 3.07
        (HEADER + ROWS + "3.0,10,3.02.5,10,3.9\n", [1.0, 2.0]),
        (HEADER + ROWS + "3.4.0,30,3.0\n", [1.0, 2.0]),
        (HEADER + ROWS + "\0" * 4096, [1.0, 2.0]),
        (HEADER + ROWS + "\0" * 9 + "3.0,30,3.0\n4.0,40,4.0\n", [1.0, 2.0, 4.0]),
        (HEADER + ROWS + HEADER + ROWS + "5.0,50,5.0\n", [1.0, 2.0, 5.0]),
        (HEADER + "1.0,10,1.0\n" + ROWS, [1.0, 2.0]),
        (HEADER + "nan,10,1.0\n" + ROWS, [1.0, 2.0]),
        ('#{"t_st\nr,l,t\n' + ROWS, [1.0, 2.0]),
        (HEADER + ROWS + '"' + "x" * 200_000 + "\n", [1.0, 2.0]),
        (HEADER + "\xff\n" + ROWS, [1.0, 2.0]),
        (HEADER, None),
        (HEADER[:-4], None),
        ("", None),
        ("\0" * 4096, None),
        (ROWS, None),  # no header: whose columns are these?
    ],
)
def test_episodes_of_damaged_files(tmp_path: Path, content: str, returns: list[float] | None) -> None:
    (tmp_path / "monitor.csv").write_bytes(content.encode("latin-1"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        episodes = read_episodes(tmp_path)
    assert (None if episodes is None else episodes["r"].tolist()) == returns
    assert all("monitor.csv is damaged" in str(warning.message) for warning in caught)


def test_episodes_of_several_files_are_in_the_order_of_time(tmp_path: Path) -> None:
    for number, start in ((0, 100.0), (1, 100.5)):
        text = f"#{json.dumps({'t_start': start})}\nr,l,t,score\n" + "".join(
            f"{10 * number + i},5,{i}.0,7\n" for i in range(3)
        )
        (tmp_path / f"{number}.monitor.csv").write_text(text)
    (tmp_path / "2.monitor.csv").touch()
    episodes = read_episodes(tmp_path)
    assert episodes is not None
    assert episodes["r"].tolist() == [0, 10, 1, 11, 2, 12]
    assert episodes["score"].tolist() == [7] * 6


def test_a_warning_names_the_file_and_says_how_much_is_left(tmp_path: Path) -> None:
    file = tmp_path / "progress.csv"
    file.write_text("a,b\n1,2\n3\n4,5")
    with pytest.warns(UserWarning, match=rf"{file} is damaged: of its rows 1 are read and 2 left out"):
        table = read_table(file)
    assert table is not None
    assert table.rows == (("1", "2"),)


def test_cells_that_are_no_numbers_are_nan(tmp_path: Path) -> None:
    (tmp_path / "progress.csv").write_text('a,b,c\n1,,"text, with comma"\n,2,\n3,inf,4\n')
    table = read_table(tmp_path / "progress.csv")
    assert table is not None
    np.testing.assert_array_equal(table.numbers("a"), [1, np.nan, 3])
    np.testing.assert_array_equal(table.where_finite("a", "c"), [[3], [4]])
    assert all(len(column) == 0 for column in table.where_finite("a", "b"))


def archive(file: Path, n: int = 5) -> bytes:
    returns = np.arange(3.0 * n).reshape(n, 3)
    write_evaluations(file, Evaluations(np.arange(n), returns, np.ones((n, 3), int)))
    return file.read_bytes()


def test_evaluations_come_back(tmp_path: Path) -> None:
    archive(tmp_path / "evaluations.npz")
    evaluations = read_evaluations(tmp_path / "evaluations.npz")
    assert evaluations is not None
    assert evaluations.results[1].tolist() == [3.0, 4.0, 5.0]
    assert read_evaluations(tmp_path / "missing.npz") is None


def test_damaged_evaluations_are_right_or_left_out(tmp_path: Path) -> None:
    """Bytes are cut off, zeroed and changed, at random places."""
    file = tmp_path / "evaluations.npz"
    good, rng = archive(file), np.random.default_rng(0)
    for trial in range(600):
        content = bytearray(good)
        start = int(rng.integers(len(content)))
        if trial % 3 == 0:
            del content[start:]
        elif trial % 3 == 1:
            content[start : start + 200] = bytes(len(content[start : start + 200]))
        else:
            content[start] = rng.integers(256)
        file.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluations = read_evaluations(file)
        assert evaluations is None or np.array_equal(evaluations.results, np.arange(15.0).reshape(5, 3))


def test_evaluations_whose_arrays_differ_in_length_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "evaluations.npz"
    np.savez(file, timesteps=np.arange(3), results=np.zeros((2, 4)), ep_lengths=np.zeros((2, 4)))
    with pytest.warns(UserWarning, match=r"evaluations\.npz is damaged and left out: its arrays do not belong together"):
        assert read_evaluations(file) is None


def test_rows_are_appended_and_columns_added(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    log = CsvLog(file)
    log.append({"a": 1, "b": "x, y"})
    log.append({"b": None, "a": 2.5})
    again = CsvLog(file)
    again.append({"c": 3})
    assert file.read_text() == 'a,b,c\n1,"x, y",\n2.5,,\n,,3\n'
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_rows_wait_while_the_disk_is_full(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    log = CsvLog(file)
    log.append({"a": 1, "b": 2})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 2, limits[1]))  # two bytes of the next row
    try:
        with pytest.warns(UserWarning, match=f"File too large: '{file}'.*tries again"):
            log.append({"a": 3, "b": 4})
        with pytest.warns(UserWarning, match=f"File too large: '{file}'.*tries again"):
            log.append({"a": 5, "b": 6, "c": 7})
        assert file.read_text() == "a,b\n1,2\n"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.append({"a": 8})
    assert file.read_text() == "a,b,c\n1,2,\n3,4,\n5,6,7\n8,,\n"
