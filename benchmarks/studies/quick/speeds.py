"""How fast the last agents of the plan's runs drive, with their mean actions and with sampled ones.

    python -m benchmarks.studies.quick.speeds --only rolling_speed_60 --seeds 401
    python -m benchmarks.studies.quick.speeds --report

Reads the agents in `--logs` and puts a row per track into speeds.csv: the mean speed in units/s, and mean and standard
deviation of the second action, which is the gas or, with `TargetSpeed`, the wanted speed from -1 to 1.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from benchmarks import tables
from benchmarks.report import LOST, markdown
from benchmarks.studies.quick import agents
from benchmarks.studies.quick.run import GROUPS, study, whats_of
from sb3_carracing.pipelines import PipelineEnv

TABLE = "speeds.csv"
KINDS = ("deterministic", "sample")
START = 20  # decisions at the start that do not count, as the car is still accelerating


def drives(model: Any, make_env: PipelineEnv, tracks: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Drive the tracks with an agent; yield the rows of the table."""
    env = make_env()
    for actions in KINDS:
        for track in tracks:
            th.manual_seed(track)
            obs, _ = env.reset(seed=track)
            speeds, gas, over = [], [], False
            while not over:
                action, _ = model.predict(obs, deterministic=actions == "deterministic")
                obs, _, terminated, truncated, info = env.step(action)
                over = terminated or truncated
                speeds.append(np.hypot(*env.unwrapped.car.hull.linearVelocity))  # type: ignore[attr-defined]
                gas.append(action[1])
            yield {
                **{"actions": actions, "track": track, "score": info["score"], "frames": info["frames"]},
                **{"speed": round(float(np.mean(speeds[START:])), 2)},
                **{"gas_mean": round(float(np.mean(gas)), 4), "gas_std": round(float(np.std(gas)), 4)},
            }


def report(folder: Path, group: str) -> str:
    """Return a Markdown table with a row per run of a plan's group.

    Averages are over the tracks that neither kind of action lost.
    """
    whats = whats_of(folder, group)
    stored = tables.read(folder, TABLE)
    rows = []
    for run, own in stored[stored["run"].str.rpartition("-")[0].isin(whats)].groupby("run", sort=False):
        lost = (own["score"] < LOST).groupby(own["actions"]).sum()
        is_kept = own.groupby("track")["score"].transform("min") >= LOST
        kept = own[is_kept].groupby("actions")
        speed, gas_std = kept["speed"].mean(), kept["gas_std"].mean()
        name, _, seed = str(run).rpartition("-")
        rows.append(
            [whats[name], seed]
            + [f"{speed[kind]:.1f}" for kind in KINDS]
            + [f"{gas_std[kind]:.2f}" for kind in KINDS]
            + [f"{lost[kind]} of {own['track'].nunique()}" for kind in KINDS]
        )
    second = "gas" if group == "quick" else "target"
    columns = (f"{column}, {kind}" for column in ("speed", f"std of {second}", "lost") for kind in ("mean", "sampled"))
    return markdown(["run", "seed", *columns], rows)


def reports(folder: Path) -> str:
    """Return the tables of both groups."""
    return "\n".join(report(folder, group) for group in GROUPS)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    agents.main(argv, __doc__, study(), TABLE, drives, reports, seeds=(401, 402, 403), n_tracks=12)


if __name__ == "__main__":
    main()
