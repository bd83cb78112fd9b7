"""Train BetaPPO and its peers by rl-zoo3's command for two million frames each, and evaluate the last agents.

    python -m benchmarks.peers.run --list
    python -m benchmarks.peers.run --only beta_ppo ppo_gaussian --seeds 1 2 3
    python -m benchmarks.peers.report

A run that is stored is skipped, one that was interrupted goes on from its last checkpoint. Below `--logs` are the runs' own
folders; below `--results` a finished run leaves config.yml, evaluations.csv (validation during the training) and
evaluation_100_tracks.json (the last agent on the test tracks of gymnasium's CarRacing-v3).
"""

import argparse
import csv
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from stable_baselines3.common.save_util import load_from_zip_file

from sb3_carracing.runs import steps_in_name

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "peers"
ENV_ID = "CarRacingFast-v3"
EVALUATION = "evaluation_100_tracks.json"
CHECKPOINT_STEPS = 50_000
# glibc keeps freed memory, as BetaPPO asks it to: the same numbers from stock PPO, sooner.
_FASTER = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


@dataclass(frozen=True)
class Peer:
    """A contestant: what it is, and the arguments of `train` that make it one."""

    what: str
    arguments: tuple[str, ...]


# Two million frames at four frames a decision, and the values that all the stored runs have.
_OURS = ("-n", "500000", "-conf", "benchmarks/peers/ppo.yml")
_OUR_BETA = ("-n", "500000", "-conf", "benchmarks/peers/beta_ppo.yml")
_ZOO = ("-n", "1000000", "-conf", "benchmarks/peers/ppo_zoo.yml")  # two frames a decision
_OUR_POLICY = ("-params", "policy:'sb3_carracing.ppo.policies.CnnPolicy'")
PEERS = {
    "beta_ppo": Peer("`BetaPPO`", ("--algo", "beta_ppo", *_OUR_BETA)),
    "ppo_beta": Peer("stock PPO with our Beta policy", ("--algo", "ppo", *_OUR_BETA, *_OUR_POLICY)),
    "ppo_gaussian": Peer("stock PPO, Gaussian, our preprocessing and network", ("--algo", "ppo", *_OURS)),
    "ppo_zoo": Peer("stock PPO, rl-zoo3's values", ("--algo", "ppo", *_ZOO)),
}


def train_command(name: str, seed: int) -> list[str]:
    """Return what follows `python -m sb3_carracing`.

    SB3 seeds environment k with `--seed` + k: thousands apart, no two seeds drive the same tracks.
    """
    common = ["--env", ENV_ID, "--seed", str(1000 * seed), "--num-threads", "1", "--verbose", "0", "--eval-freq", "-1"]
    return ["train", *PEERS[name].arguments, *common]


def run_folders(logs: Path) -> list[Path]:
    """Return the run's folders, in the order in which it was resumed: rl-zoo3 gives every start a new one."""
    return sorted(logs.glob(f"*/{ENV_ID}_*"), key=lambda folder: int(folder.name.rpartition("_")[2]))


def last_checkpoint(folders: list[Path]) -> Path | None:
    """Return the checkpoint with the most steps, None if there is none."""
    files = [file for folder in folders for file in folder.glob("rl_model_*_steps.zip")]
    return max(files, key=steps_in_name, default=None)


def is_trained(agent: Path, steps: int) -> bool:
    """Whether the agent has played its steps: rl-zoo3 saves one that was interrupted under the same name."""
    try:
        data, _, _ = load_from_zip_file(agent)
    except (FileNotFoundError, ValueError):
        return False
    return data is not None and int(data["num_timesteps"]) >= steps


def train(name: str, seed: int, logs: Path) -> None:
    """Train from the last checkpoint, or from scratch."""
    command = [*train_command(name, seed), "-f", str(logs), "--save-freq", str(CHECKPOINT_STEPS)]
    checkpoint = last_checkpoint(run_folders(logs))
    if checkpoint is not None:
        print(f"{name}, seed {seed}: on from {checkpoint}", file=sys.stderr)
        command += ["-i", str(checkpoint)]
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / "training.log").open("a") as log:
        _package(command, stdout=log, stderr=log)


def _package(arguments: list[str], **streams: object) -> None:
    environment = {**os.environ, **_FASTER, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "sb3_carracing", *arguments], check=True, cwd=ROOT, env=environment, **streams)  # type: ignore[call-overload]


def joined(folders: list[Path]) -> list[dict[str, str]]:
    """Return the validations of an interrupted run as one curve: what was played again after a checkpoint counts once."""
    rows: list[dict[str, str]] = []
    for number, folder in enumerate(folders):
        checkpoint = last_checkpoint(folders[:number])  # which this start went on from
        start = 0 if checkpoint is None else steps_in_name(checkpoint)
        rows = [row for row in rows if float(row["steps"]) <= start]
        if (file := folder / "evaluations.csv").exists():
            with file.open(newline="") as stream:
                rows += csv.DictReader(stream)
    return rows


def play(name: str, seed: int, logs: Path, results: Path) -> None:
    """Train, evaluate and store one run unless it is stored already."""
    stored = results / name / f"seed_{seed}"
    if (stored / EVALUATION).exists():
        print(f"{name}, seed {seed}: finished already", file=sys.stderr)
        return
    logs = logs / name / f"seed_{seed}"
    command = train_command(name, seed)
    steps = int(command[command.index("-n") + 1])
    if not (folders := run_folders(logs)) or not is_trained(folders[-1] / f"{ENV_ID}.zip", steps):
        train(name, seed, logs)
        folders = run_folders(logs)
    if not is_trained(folders[-1] / f"{ENV_ID}.zip", steps):
        sys.exit(f"{name}, seed {seed}: stopped before its {steps} steps; start again to go on")
    stored.mkdir(parents=True, exist_ok=True)
    rows = joined(folders)
    with (stored / "evaluations.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    shutil.copy(folders[-1] / ENV_ID / "config.yml", stored)
    unfinished = stored / "evaluating.json"
    unfinished.unlink(missing_ok=True)
    last = os.path.relpath(folders[-1], ROOT)
    _package(["evaluate", last, "--last", "-n", "100", "--n-envs", "1", "-o", os.path.relpath(unfinished, ROOT)])
    # Last, since it is what tells that the run is finished.
    unfinished.replace(stored / EVALUATION)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PEERS), default=list(PEERS), metavar="PEER")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--logs", type=Path, default=ROOT / "logs" / "peers")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true", help="print the commands and which seeds are finished, and stop")
    args = parser.parse_args(argv)
    for name in args.only:
        if args.list:
            done = [seed for seed in args.seeds if (args.results / name / f"seed_{seed}" / EVALUATION).exists()]
            print(f"{name}: {PEERS[name].what}; finished: {done or '-'}")
            print(f"    python -m sb3_carracing {shlex.join(train_command(name, args.seeds[0]))}")
            continue
        for seed in args.seeds:
            play(name, seed, args.logs, args.results)


if __name__ == "__main__":
    main()
