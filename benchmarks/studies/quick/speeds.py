"""How fast the last agents of the plan's runs drive, with their mean actions and with sampled ones.

    python -m benchmarks.studies.quick.speeds --only rolling_speed_60 --seeds 401
    python -m benchmarks.studies.quick.speeds --report

Reads the agents in `--logs` and puts a row per track into speeds.csv: the mean speed in units/s, and mean and standard
deviation of the second action, which is the gas or, with `TargetSpeed`, the wanted speed from -1 to 1.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from benchmarks import options, tables
from benchmarks.report import LOST, markdown
from benchmarks.runner import LOGS, Config, run_id, start_folders
from benchmarks.studies.quick.run import FIRST_SEED, GROUPS, evaluation_env, study, whats_of
from sb3_carracing.agents import read_agent
from sb3_carracing.runs import read_run

TABLE = "speeds.csv"
KINDS = ("deterministic", "sample")
START = 20  # decisions at the start that do not count, as the car is still accelerating


def drives(config: Config, folder: Path, tracks: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Drive the tracks with the last agent in a run's folder; yield the rows of the table."""
    run = read_run(folder, trust=True)
    model = read_agent(run.agent_file(last=True), run.algo, trust=True)
    env = evaluation_env(run, config)()
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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    out = tables.RESULTS / "quick"
    parser = options.parser(__doc__, out=out, out_help="folder of the study's tables", seeds=(401, 402, 403))
    parser.add_argument("--only", nargs="+", metavar="CONFIG", help="configurations (default: all)")
    parser.add_argument("--logs", type=Path, default=LOGS / "quick", help="where the trainings lie (default: %(default)s)")
    parser.add_argument("--tracks", type=int, default=12, help="development tracks (default: 12)")
    parser.add_argument("--report", action="store_true", help="print the table of what is stored and stop")
    args = parser.parse_args(argv)
    if args.report:
        print("\n".join(report(args.out, group) for group in GROUPS))
        return
    th.set_num_threads(1)
    tracks = range(FIRST_SEED, FIRST_SEED + args.tracks)
    for config in study().chosen(args.only):
        for seed in args.seeds:
            if starts := start_folders(config, args.logs / config.name / f"seed_{seed}"):
                tables.add(args.out, {TABLE: list(drives(config, starts[-1], tracks))}, run_id(config, seed))
                print(run_id(config, seed), file=sys.stderr)


if __name__ == "__main__":
    main()
