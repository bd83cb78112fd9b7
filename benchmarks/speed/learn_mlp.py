"""`learn()` with small networks: BetaPPO against stock PPO, with equal values, on one environment.

There are two sets of values: `defaults` (SB3's: 64-64, 2048 steps, 10 epochs of batch 64) and `tuned` (rl-zoo3's for
HalfCheetah: 256-256, 512 steps, 20 epochs of batch 64, VecNormalize). Each algorithm has a process of its own. In every round
each learns from one rollout while the other sleeps, in an order that changes. Processor time counts, because other programs of
the machine do not add to it directly. HalfCheetah needs `gymnasium[mujoco]`.

    python -m benchmarks.speed.learn_mlp [--rounds 9] [--env HalfCheetah-v5] [--out FILE]
"""

import argparse
import multiprocessing as mp
import os
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from benchmarks import options, provenance
from benchmarks.speed.networks import quartiles
from sb3_carracing import BetaPPO

ALGORITHMS = {"stock": PPO, "ours": BetaPPO}
VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "tuned": {
        **{"batch_size": 64, "n_steps": 512, "n_epochs": 20, "gamma": 0.98, "gae_lambda": 0.92, "learning_rate": 2.0633e-05},
        **{"clip_range": 0.1, "ent_coef": 0.000401762, "vf_coef": 0.58096, "max_grad_norm": 0.8},
        "policy_kwargs": {"ortho_init": False, "activation_fn": nn.ReLU, "net_arch": {"pi": [256, 256], "vf": [256, 256]}},
    },
}


def work(algorithm: str, values: str, env_id: str, remote: Connection) -> None:
    """Learn from one rollout per request and send back the processor seconds of the collection and of the update."""
    th.set_num_threads(1)
    env = make_vec_env(env_id, seed=0)
    model = ALGORITHMS[algorithm](
        "MlpPolicy", VecNormalize(env) if values == "tuned" else env, seed=0, device="cpu", **VALUES[values]
    )
    train, update = model.train, 0.0

    def timed() -> None:
        nonlocal update
        start = time.process_time()
        train()
        update = time.process_time() - start

    model.train = timed
    remote.send(None)
    while remote.recv() == "go":
        start = time.process_time()
        model.learn(model.n_steps, reset_num_timesteps=False)
        total = time.process_time() - start
        remote.send({"collection": total - update, "update": update, "total": total})


def measure(values: str, args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Return the processor seconds of every round by algorithm and part."""
    context = mp.get_context("spawn")
    remotes = {}
    for name in ALGORITHMS:
        remotes[name], theirs = context.Pipe()
        context.Process(target=work, args=(name, values, args.env, theirs), daemon=True).start()
        remotes[name].recv()
    seconds: dict[str, dict[str, list[float]]] = {name: {"collection": [], "update": [], "total": []} for name in remotes}
    for number in range(args.rounds + 1):
        for name in list(remotes)[:: 1 if number % 2 else -1]:
            remotes[name].send("go")
            spent = remotes[name].recv()
            if number > 0:  # the first warms up
                for part, value in spent.items():
                    seconds[name][part].append(value)
    for remote in remotes.values():
        remote.send("stop")
    return seconds


def main() -> None:
    parser = options.parser(__doc__, rounds=9)
    parser.add_argument("--env", default="HalfCheetah-v5")
    args = parser.parse_args()
    print(f"{args.env}, {args.rounds} rounds; load {os.getloadavg()[0]:.1f}")
    seconds = {values: measure(values, args) for values in VALUES}
    ratios: dict[str, Any] = {}
    for values, by_name in seconds.items():
        medians = {name: float(np.median(parts["total"])) for name, parts in by_name.items()}
        print(f"{values}: processor seconds per rollout, medians: stock {medians['stock']:.2f}, ours {medians['ours']:.2f}")
        ratios[values] = {}
        for part in by_name["ours"]:
            by_round = np.array(by_name["stock"][part]) / np.array(by_name["ours"][part])
            ratios[values][part] = low, middle, high = quartiles(by_round)
            print(f"  stock / ours, {part:10}{middle:6.2f}   ({low:.2f} to {high:.2f})")
    if args.out is not None:
        provenance.write_json(args.out, args, {"processor_seconds": seconds, "ratios_quartiles": ratios})


if __name__ == "__main__":
    main()
