"""The CarRacing preset over its history, and the trainings of the shipped agent; see `benchmarks.runner`.

    python -m benchmarks.studies.presets --only one_pedal --seeds 6
    python -m benchmarks.studies.presets --report

Only hyperparams/beta_ppo_long.yml, the former preset, can be trained anew. Today's preset belongs to
benchmarks.studies.quick. --report prints the score of every stored agent on the test tracks and on 200
validation tracks, and draws docs/validation_curve.png.
"""

import functools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml

from benchmarks import runner, tables
from benchmarks.provenance import ROOT
from benchmarks.runner import Config, Study
from sb3_carracing.evaluation import VALIDATION_SEED
from sb3_carracing.plotting import plot_runs

ENV_ID = "CarRacingFast-v3"
RESULTS = tables.RESULTS / "presets"
FIGURE = ROOT / "docs" / "validation_curve.png"
# The shipped agent's trainings, each of which goes on from the one before, and their names in the figure.
SHIPPED = {
    "hard_off_road_rule-1": "seed_1",
    "fine_tuned-11": "fine_tuned",
    "fine_tuned_retry-31": "fine_tuned_retry",
    "fine_tuned_standstill-41": "fine_tuned_standstill",
    "fine_tuned_gaps-51": "fine_tuned_gaps",
    "fine_tuned_longer-9": "fine_tuned_longer",
}


@functools.cache
def study() -> Study:
    """Return the study with the preset of a million frames."""
    preset = yaml.safe_load((ROOT / "hyperparams" / "beta_ppo_long.yml").read_text())[ENV_ID]
    what = "the former preset: gas and brake are one action"
    one_pedal = Config("one_pedal", what, ENV_ID, preset, actions=("mean",), renderer="stock")
    return Study("presets", {"one_pedal": one_pedal}, seed_factor=1, keep_progress=True)


def report(results: Path = RESULTS) -> str:
    """Return a line per stored agent and kind of action: mean, deviation, lowest score and laps on the test tracks."""
    runs, episodes = tables.finished(results).set_index("run"), tables.read(results, tables.EPISODES)
    played = episodes[episodes["track"] < VALIDATION_SEED].groupby(["run", "actions"], sort=False)
    scores = played["score"].agg(["count", "mean", "median", "min"])
    scores.insert(2, "std", played["score"].std(ddof=0))
    scores["laps finished, %"] = 100 * played["lap"].mean()
    scores["evaluated_in"] = runs["evaluated_in"].reindex(scores.index.get_level_values("run")).to_numpy()
    return str(scores.round(1).to_string())


def draw(file: Path, results: Path = RESULTS) -> None:
    """Draw the validations of the shipped agent's trainings over the frames that they add up to."""
    validation = tables.read(results, tables.VALIDATION)
    with tempfile.TemporaryDirectory() as folder:
        folders = [Path(folder, name) for name in SHIPPED.values()]
        for run, own in zip(SHIPPED, folders, strict=True):
            own.mkdir()
            validation[validation["run"] == run].drop(columns="run").to_csv(own / "evaluations.csv", index=False)
        plot_runs(folders, Path(folder, "plots"))
        file.write_bytes(Path(folder, "plots", "evaluation.png").read_bytes())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    if "--report" in (sys.argv[1:] if argv is None else argv):
        print(report())
        print(pd.read_csv(RESULTS / "validation_200_tracks.csv").round(3).to_string(index=False))
        draw(FIGURE)
        return
    runner.main(study(), __doc__, argv, seeds=(1,))


if __name__ == "__main__":
    main()
