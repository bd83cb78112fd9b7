"""Tables keep every bit, replace a run's rows as a whole, and the stored ones are complete."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import tables
from benchmarks.provenance import ROOT

STUDIES = [folder.parent for folder in sorted(tables.RESULTS.glob(f"*/{tables.RUNS}"))]


def test_floats_are_read_to_the_last_bit(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(900.0, 50.0, 1000).tolist()
    tables.write(tmp_path / tables.EPISODES, [{"run": "a-1", "track": i, "score": x} for i, x in enumerate(scores)])
    assert tables.read(tmp_path, tables.EPISODES)["score"].tolist() == scores


def test_rows_of_a_run_replace_those_that_it_has(tmp_path: Path) -> None:
    for frames in (1, 2):
        for run in ("a-1", "b-1"):
            progress_rows: list[dict[str, Any]] = [{"time/frames": frames}, {"new/key": 0.1}]
            new = {tables.RUNS: [{"config": run[0], "seed": 1}], tables.PROGRESS: progress_rows}
            tables.add(tmp_path, new, run)
    progress = tables.read(tmp_path, tables.PROGRESS)
    assert progress["run"].tolist() == ["a-1", "a-1", "b-1", "b-1"]
    assert progress["time/frames"].dropna().tolist() == [2, 2]
    assert progress["new/key"].dropna().tolist() == [0.1, 0.1]
    assert sorted(tables.finished(tmp_path)["run"]) == ["a-1", "b-1"]


def test_the_same_rows_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tables.write(tmp_path / name / tables.PROGRESS, [{"run": "a-1", "x": 1.5, "y": True}])
    assert (tmp_path / "a" / tables.PROGRESS).read_bytes() == (tmp_path / "b" / tables.PROGRESS).read_bytes()
    assert tables.read_rows(tmp_path / "a" / tables.PROGRESS) == [{"run": "a-1", "x": "1.5", "y": "1"}]


def test_two_processes_do_not_lose_each_others_rows(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from benchmarks import tables\n"
        "for i in range(20): tables.add(pathlib.Path(sys.argv[1]), {tables.RUNS: [{'config': 'c'}]}, f'{sys.argv[2]}-{i}')"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], cwd=ROOT) for name in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(tables.read(tmp_path, tables.RUNS)) == 40


def test_an_unfinished_study_is_an_empty_table(tmp_path: Path) -> None:
    assert tables.read(tmp_path, tables.RUNS).empty
    assert tables.finished(tmp_path, ["a"]).empty
    assert tables.read_configs(tmp_path) == {}


def test_runs_come_in_the_order_of_configurations_and_seeds(tmp_path: Path) -> None:
    for config, seed in (("b", 10), ("a", 2), ("b", 9), ("c", 1)):
        tables.add(tmp_path, {tables.RUNS: [{"config": config, "seed": seed}]}, f"{config}-{seed}")
    assert tables.finished(tmp_path, ["b", "a"])["run"].tolist() == ["b-9", "b-10", "a-2"]


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_what_is_stored_is_complete(folder: Path) -> None:
    """Every run has a configuration, no table names another run, and `score` is the mean of the first kind of action."""
    runs, configs = tables.read(folder, tables.RUNS), tables.read_configs(folder)
    assert runs["run"].is_unique
    assert set(runs["config"]) <= set(configs)
    for table in (tables.EPISODES, tables.VALIDATION, tables.PROGRESS):
        assert set(tables.read(folder, table)["run"]) <= set(runs["run"]), table
    episodes = tables.read(folder, tables.EPISODES)
    if episodes.empty:
        assert folder.name == "tasks", "only the small tasks were stored without episodes"
        return
    episodes = episodes[~episodes["track"].between(2_000_000, 2_999_999)]  # validation tracks
    first = episodes.groupby("run")["actions"].first()
    main = episodes[episodes["actions"] == episodes["run"].map(first)].groupby("run")["score"].mean()
    scores = runs.set_index("run")["score"].dropna()
    assert np.allclose(scores, main.reindex(scores.index), rtol=1e-12)
    assert not episodes.duplicated(["run", "actions", "track"]).any()


def test_the_results_are_few_files() -> None:
    assert len([file for file in tables.RESULTS.rglob("*") if file.is_file()]) <= 80
