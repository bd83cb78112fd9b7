"""Train and evaluate the runs of plan.yml, see `benchmarks.runner`; or print their scores.

    python -m benchmarks.studies.quick.run --list
    python -m benchmarks.studies.quick.run --only base softplus --seeds 101 102 --tracks 40
    python -m benchmarks.studies.quick.run --report
    python -m benchmarks.studies.quick.run --test --seeds 1 2 3 4 5
    python -m benchmarks.studies.quick.run --test --report

The last agents drive development tracks with the fast rendering. None of them is a test track. Only `--test` plays those: it
trains the preset of hyperparams/beta_ppo.yml, and stock PPO with the same values and a Gaussian, from hyperparams/ppo.yml. It
has tables of its own.
"""

import functools
import sys
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import yaml

from benchmarks import runner, tables
from benchmarks.provenance import ROOT
from benchmarks.report import LOST, interquartile_mean, markdown
from benchmarks.runner import Config, Study
from benchmarks.studies.ablations.plan import read_plan
from sb3_carracing.pipelines import PipelineEnv, pipeline_env
from sb3_carracing.runs import Run

FIRST_SEED = 4_000_000
GROUPS = ("quick", "target_speed")
FIRST_CHANGE = 581
"""First seed of the runs that change the preset. They and its own runs with these seeds are evaluated on 100 tracks."""
FIRST_LIMIT = 661
"""First seed of the runs with a limit on the gas, and of those that led to it."""
TABLES = (
    ("quick", range(FIRST_CHANGE)),
    ("target_speed", range(FIRST_CHANGE)),
    ("target_speed", range(FIRST_CHANGE, FIRST_LIMIT)),
    ("target_speed", range(FIRST_LIMIT, 1000)),
)
"""A plan's group and seeds for each table of development runs."""


@functools.cache
def study() -> Study:
    """Return the study with all runs of the plan."""
    configs = read_plan(Path(__file__).with_name("plan.yml"))
    return Study("quick", configs, seed_factor=1, first_seed=FIRST_SEED, keep_progress=True, evaluation_env=evaluation_env)


def test_study() -> Study:
    """Return the study on the test tracks: the preset, and its values with a Gaussian."""
    configs = {}
    for algo, name, what in (
        ("beta_ppo", "quick", "the preset"),
        ("ppo", "quick_gaussian", "the preset with a Gaussian, stock PPO"),
    ):
        preset = yaml.safe_load((ROOT / "hyperparams" / f"{algo}.yml").read_text())["CarRacingFast-v3"]
        configs[name] = Config(name, what, "CarRacingFast-v3", preset, algo, renderer="fast")
    return Study("quick_test", configs, keep_progress=True)


def evaluation_env(run: Run, config: Config) -> PipelineEnv:
    """Return the factory of the evaluation's environment, which mirrors nothing."""
    wrappers = tuple(call for call in run.pipeline.wrappers if not call.path.endswith(".Mirror"))
    return pipeline_env(replace(run.pipeline, wrappers=wrappers), renderer="fast")


def whats_of(folder: Path, group: str) -> dict[str, str]:
    """Return what the stored configurations of a plan's group are. The first group has those of scripts as well."""
    planned = study().configs
    return {
        name: entry["what"]
        for name, entry in tables.read_configs(folder).items()
        if (planned[name].group if name in planned else GROUPS[0]) == group
    }


def measured(folder: Path) -> pd.DataFrame:
    """Return configuration, seed, mean score, standard deviation, median, shares of laps and lost tracks of every run."""
    episodes = tables.read(folder, tables.EPISODES).groupby("run")
    scores = episodes["score"]
    columns = {
        "std": scores.std(ddof=0),
        "median": scores.median(),
        "laps": episodes["lap"].mean(),
        "lost": scores.agg(lambda values: (values < LOST).mean()),
    }
    runs = tables.finished(folder).set_index("run")[["config", "seed", "score"]]
    return runs.join(pd.DataFrame(columns)).sort_values("seed", kind="stable")


def development_runs(folder: Path, group: str, seeds: Container[int]) -> pd.DataFrame:
    """Return `measured` for a plan's group with these seeds."""
    runs = measured(folder)
    return runs[runs["config"].isin(whats_of(folder, group)) & runs["seed"].map(lambda seed: seed in seeds)]


def report(folder: Path, group: str, seeds: Container[int]) -> str:
    """Return the scores of a plan's group with these seeds as a Markdown table."""
    whats = whats_of(folder, group)
    forms = {"seed": "d", "score": ".0f", "median": ".0f", "laps": ".0%", "lost": ".0%"}
    rows = [
        [whats[str(name)], *(", ".join(format(value, form) for value in own[column]) for column, form in forms.items())]
        for name, own in development_runs(folder, group, seeds).groupby("config", sort=False)
    ]
    return markdown(["change", "seeds", "mean scores", "medians", "laps", "lost tracks"], rows)


SCORE_COLUMNS = ["score", "median", "laps", "lost tracks"]


def score_cells(runs: pd.DataFrame) -> list[list[str]]:
    """Return the cells of `SCORE_COLUMNS` for each run of `measured`."""
    columns = (runs[name] for name in ("score", "std", "median", "laps", "lost"))
    return [
        [f"{score:.1f} +- {std:.1f}", f"{median:.0f}", f"{laps * 100:.0f} %", f"{lost * 100:.0f} %"]
        for score, std, median, laps, lost in zip(*columns, strict=True)
    ]


def report_of_seeds(folder: Path) -> str:
    """Return a Markdown table per configuration of the test runs: a row per seed, and the interquartile mean of all."""
    parts = []
    for name, own in measured(folder).groupby("config"):
        rows = [[f"{seed}", *cells] for seed, cells in zip(own["seed"], score_cells(own), strict=True)]
        value, low, high = interquartile_mean(own["score"].to_numpy()[:, None, None])[:, 0]
        parts.append(f"{name}: interquartile mean {value:.1f} ({low:.1f} to {high:.1f}), median {own['score'].median():.1f}\n")
        parts.append(markdown(["seed", *SCORE_COLUMNS], rows))
    return "".join(parts)


def _development_report() -> str:
    return "\n".join(report(tables.RESULTS / "quick", group, seeds) for group, seeds in TABLES)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if "--report" in argv:
        print(report_of_seeds(tables.RESULTS / "quick_test") if "--test" in argv else _development_report())
    elif "--test" in argv:
        argv.remove("--test")
        runner.main(test_study(), __doc__, argv, seeds=(1, 2, 3, 4, 5))
    else:
        runner.main(study(), __doc__, argv, seeds=(101, 102))


if __name__ == "__main__":
    main()
