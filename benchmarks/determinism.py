"""Which trainings end with the same weights: a hash of the weights for each way to run the same short training.

Each row is a training in a process of its own. Only what the row names differs from the first row: its processor
instructions, torch threads, worker processes, arithmetic or device. A row that repeats the first one shows that the same
command on the same machine gives the same weights. An emulated row limits torch to the instructions of older processors.

    python -m benchmarks.determinism [--seeds 1] [--out FILE.csv]
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch as th

from benchmarks import options, tables
from benchmarks.provenance import ROOT, machine, versions
from benchmarks.report import markdown

# Words for the table, arguments of `train`, environment variables.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "one thread, environments in the training's process": ({}, {}),
    "the same command again": ({}, {}),
    "two threads": ({"threads": 2}, {}),
    "one worker process": ({"workers": 1}, {}),
    "two worker processes": ({"workers": 2}, {}),
    "torch limited to AVX2": (
        {},
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    ),
    "torch without vector instructions": ({}, {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
    "bfloat16 (`autocast: bfloat16`)": ({"autocast": "bfloat16"}, {}),
    "GPU": ({"device": "cuda"}, {}),
}
TASKS = ("CarRacingFast-v3", "Pendulum-v1")


def train(task: str, seed: int, threads: int = 1, workers: int = 0, autocast: str | None = None, device: str = "cpu") -> str:
    """Train for three rollouts and return a hash of the weights."""
    from gymnasium.wrappers import FrameStackObservation
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_carracing import BetaPPO
    from sb3_carracing.envs.wrappers import ActionRepeat, Grayscale
    from sb3_carracing.vec_env import SharedMemoryVecEnv

    th.set_num_threads(threads)
    is_car = task.startswith("CarRacing")
    views = (lambda env: FrameStackObservation(Grayscale(ActionRepeat(env, frame_skip=4)), 4)) if is_car else None
    vec_env = (lambda fns: SharedMemoryVecEnv(fns, n_workers=workers)) if workers else None
    env = make_vec_env(task, 4, seed=seed, wrapper_class=views, vec_env_cls=vec_env)  # type: ignore[arg-type]
    network: dict[str, Any] = {"features_extractor_class": "blog"} if is_car else {}
    model = BetaPPO(
        "CnnPolicy" if is_car else "MlpPolicy",
        env,
        **{"n_steps": 64, "batch_size": 64, "n_epochs": 3, "seed": seed, "device": device, "autocast": autocast},  # type: ignore[arg-type]
        policy_kwargs=network,
    )
    model.learn(3 * 4 * 64)
    env.close()
    digest = hashlib.sha256()
    for name, weights in sorted(model.policy.state_dict().items()):
        digest.update(name.encode() + weights.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def hashes(seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Train every variant in a process of its own and return a row for each."""
    rows = []
    for task in TASKS:
        for name, (arguments, variables) in VARIANTS.items():
            if arguments.get("device") == "cuda" and not th.cuda.is_available():
                continue
            for seed in seeds:
                code = f"from benchmarks.determinism import train; print(train({task!r}, {seed}, **{arguments!r}))"
                environment = {**os.environ, "OMP_NUM_THREADS": "2", **variables}
                command = [sys.executable, "-W", "ignore", "-c", code]
                done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
                rows.append({"task": task, "variant": name, "seed": seed, "weights": done.stdout.split()[-1]})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the hashes as Markdown, bold where they equal the first row's."""
    seeds = sorted({row["seed"] for row in rows})
    found = {(row["task"], row["variant"], row["seed"]): row["weights"] for row in rows}
    first = next(iter(VARIANTS))

    def cell(task: str, variant: str) -> str:
        own = [(found[task, variant, seed], found[task, first, seed]) for seed in seeds]
        return ", ".join(f"**`{weights}`**" if weights == reference else f"`{weights}`" for weights, reference in own)

    names = [name for name in VARIANTS if (TASKS[0], name, seeds[0]) in found]
    return markdown(["", *TASKS], [[name, *(cell(task, name) for task in TASKS)] for name in names])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser: argparse.ArgumentParser = options.parser(__doc__, seeds=(1,), out_help="write the hashes to this CSV file")
    args = parser.parse_args(argv)
    rows = hashes(args.seeds)
    print(f"{machine()}; {json.dumps(versions())}", table(rows), sep="\n")
    if args.out:
        tables.write(args.out, rows)


if __name__ == "__main__":
    main()
