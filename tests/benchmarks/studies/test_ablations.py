"""The plan of the ablations is sound, and their tables and figures say what is stored."""

import importlib
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import tables
from benchmarks.provenance import ROOT
from benchmarks.runner import run_id
from benchmarks.studies.ablations import report
from benchmarks.studies.ablations.plan import evaluation_env, merged, read_plan
from sb3_carracing.agents import ALGORITHMS
from sb3_carracing.pipelines import import_by_path
from sb3_carracing.runs import read_run


def test_settings_are_merged_and_taken_away() -> None:
    settings = {"a": {"x": 1, "y": 2}, "b": 3}
    assert merged(settings, {"a": {"x": 5, "y": None}, "c": {"z": 1}}) == {"a": {"x": 5}, "b": 3, "c": {"z": 1}}
    assert settings == {"a": {"x": 1, "y": 2}, "b": 3}


def differing(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> set[str]:
    """Return the dotted keys in which two nested settings differ."""
    keys: set[str] = set()
    for key in one.keys() | other.keys():
        left, right = one.get(key), other.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            keys |= differing(left, right, f"{prefix}{key}.")
        elif left != right:
            keys.add(f"{prefix}{key}")
    return keys


def settings(hyperparams: dict[str, Any]) -> dict[str, Any]:
    """Return hyperparameters with their wrappers as a mapping."""
    wrappers = {path: keywords for wrapper in hyperparams["env_wrapper"] for path, keywords in wrapper.items()}
    return hyperparams | {"env_wrapper": wrappers}


def test_each_run_of_the_study_switches_one_thing() -> None:
    plan = read_plan()
    base = settings(plan["matters_base"].hyperparams)
    configs = {config.name: settings(config.hyperparams) for config in plan.values() if config.group == "matters"}
    switched = {name: differing(base, own) for name, own in configs.items()}
    # Repeat keeps the frames; free roads lose cost and end; NatureCNN brings its own last layer; one pedal starts elsewhere.
    two = {name for name, keys in switched.items() if len(keys) > 1}
    assert two <= {"repeat_2", "repeat_8", "off_road_free", "off_road_dear", "extractor_nature", "signed_pedals"}
    assert [name for name, keys in switched.items() if not keys] == ["matters_base"]
    assert {own["n_timesteps"] * _repeat(own) for own in configs.values()} == {500_000}


def _repeat(own: dict[str, Any]) -> int:
    return int(own["env_wrapper"]["sb3_carracing.envs.wrappers.ActionRepeat"]["frame_skip"])


@pytest.mark.parametrize("name", list(read_plan()))
def test_every_run_of_the_plan_can_be_made(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real command sets it up; what it trains in and what it is evaluated in look alike to the agent."""
    manager = pytest.importorskip("sb3_carracing.zoo.manager")
    config = read_plan()[name]
    path = config.algo if "." in config.algo else "sb3_carracing.BetaPPO"
    monkeypatch.setitem(importlib.import_module("rl_zoo3.utils").ALGOS, config.algo, import_by_path(path))
    monkeypatch.setitem(ALGORITHMS, config.algo, path)
    conf = tmp_path / "hyperparams.yml"
    conf.write_text(tables.as_yaml({config.env_id: config.hyperparams}))
    args = Namespace(algo=config.algo, env=config.env_id, env_kwargs=None, storage=None)
    experiment = manager.CarRacingExperimentManager(
        args, config.algo, config.env_id, str(tmp_path), config=str(conf), seed=1, device="cpu", eval_freq=-1, verbose=0
    )
    model, _ = experiment.setup_experiment()
    factory = evaluation_env(read_run(experiment.save_path, trust=True))
    env = factory()
    assert env.observation_space.shape is not None
    # The learner sees images with channels first.
    assert sorted(env.observation_space.shape) == sorted(model.observation_space.shape)
    assert env.action_space == model.action_space
    assert "grass_penalty" not in factory.kwargs
    assert factory.kwargs.get("noop_frames", 0) == config.hyperparams["env_kwargs"].get("noop_frames", 0)
    env.close()
    model.env.close()


def test_tables_in_the_docs_are_those_of_the_stored_results() -> None:
    for page in report.PAGES:
        assert page.read_text() == report.rendered(page.read_text()), (
            f"run `python -m benchmarks.studies.ablations.report`: {page}"
        )


def test_what_is_stored_was_trained_with_the_values_of_the_plan() -> None:
    plan = read_plan()
    stored = tables.read_configs(report.RESULTS)
    assert stored
    for name, entry in stored.items():
        assert entry == yaml.safe_load(tables.as_yaml(plan[name].entry())), name


def test_the_docs_name_only_runs_of_the_plan() -> None:
    plan = read_plan()
    known = {*plan, *(config.group for config in plan.values())}
    for page in report.PAGES:
        for block in report._BLOCK.finditer((ROOT / "docs" / page.name).read_text()):
            names = block["names"].split()[1 if block["kind"] == "curves" else 0 :]
            assert set(names) <= known


def store(
    results: Path,
    name: str,
    seed: int,
    scores: list[float],
    *,
    actions: str = "deterministic",
    laps: list[bool] | None = None,
    validations: list[tuple[int, float]] = [(1000, -20.0), (2000, 30.0)],  # noqa: B006
    progress: list[tuple[float, Any]] = [(1.0, ""), (-30.0, -1.5), (-50.0, -0.5)],  # noqa: B006
    frames: int = 600_000,
) -> None:
    """Store a run."""
    laps = laps or [True] * len(scores)
    new: dict[str, Any] = {
        tables.RUNS: [{"config": name, "seed": seed, "frames": frames}],
        tables.EPISODES: [
            {"actions": actions, "track": track, "score": score, "lap": lap}
            for track, (score, lap) in enumerate(zip(scores, laps, strict=True))
        ],
        tables.VALIDATION: [{"frames": at, "mean": mean} for at, mean in validations],
        tables.PROGRESS: [{"rollout/score": score, "train/entropy_loss": loss} for score, loss in progress],
    }
    tables.add(results, new, run_id(read_plan()[name], seed))


def test_a_table_has_a_row_for_each_finished_run(tmp_path: Path) -> None:
    page = "before\n<!-- runs: iurin_published iurin_bugs_off -->\nold\n<!-- end -->\nafter\n"
    empty = "before\n<!-- runs: iurin_published iurin_bugs_off -->\n<!-- end -->\nafter\n"
    assert report.rendered(page, tmp_path) == empty
    store(tmp_path, "iurin_bugs_off", 1, [100.0])
    store(tmp_path, "iurin_bugs_off", 2, [50.0])
    filled_in = report.rendered(empty, tmp_path)
    assert "published |" not in filled_in
    row = "| 600 k | **75** (100, 50) | **-50** (-50, -50) | **1.00** (1.00, 1.00) |"
    assert f"(`iurin_bugs_off`) {row}" in filled_in
    assert report.rendered(filled_in, tmp_path) == filled_in


def test_a_table_of_scores_tells_lost_tracks_from_laps_that_lack_a_tile(tmp_path: Path) -> None:
    validations = [(99_999, 0.0), (100_000, 800.0), (150_000, 900.0)]
    store(
        tmp_path,
        "matters_base",
        1,
        [930.0, 880.0, 699.0, -20.0],
        actions="mean",
        laps=[True, False, False, False],
        validations=validations,
        progress=[(700.0, "")],
        frames=500_000,
    )
    text = report.table(["matters_base"], tmp_path, "scores").splitlines()
    assert text[1] == "| run | frames | mean action | laps finished, % | lost, % | validations | in training |"
    assert text[3].endswith("| 500 k | 622 | 25 | 50 | 850 | 700 |")


def test_a_figure_is_linked_once_a_run_is_finished(tmp_path: Path) -> None:
    page = "<!-- curves: curves.png iurin_published -->\n<!-- end -->\n"
    assert report.rendered(page, tmp_path) == page
    store(tmp_path, "iurin_published", 1, [100.0])
    assert "![validation scores](curves.png)" in report.rendered(page, tmp_path)
    report.draw(tmp_path / "curves.png", ["iurin_published"], tmp_path)
    assert (tmp_path / "curves.png").stat().st_size > 5_000
