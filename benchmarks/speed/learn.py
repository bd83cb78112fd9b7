"""`learn()` from end to end: BetaPPO on CarRacingFast-v3 against stock PPO on gymnasium's CarRacing-v3, and where time goes.

Both learn the same way: action repeat 4, gray, a stack of 4, 16 environments x 128 steps, 6 epochs of batch 256, the blog's
network. In every round each plays and learns one rollout in a process of its own while the others sleep:

* `stock`: `stable_baselines3.PPO`, CarRacing-v3, DummyVecEnv (what `make_vec_env` gives), plain network
* `stock, subproc`: the same with a process per environment
* `ours`, `ours bfloat16`: `BetaPPO`, CarRacingFast-v3, SharedMemoryVecEnv with one worker per core; with `autocast`

Frames/s count physics frames, resets included. The table splits a round's time by what took it: the environments' steps
(and resets), the policy's forward passes, the rest of the collection (buffer, advantages, callbacks), the update.

    python -m benchmarks.speed.learn [--rounds 3] [--envs 16] [--steps 128] [--out FILE]
"""

import argparse
import multiprocessing as mp
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from torch import nn

from benchmarks import options, provenance
from benchmarks.speed.networks import PlainBlogCNN, quartiles
from sb3_carracing import BetaPPO
from sb3_carracing.envs.wrappers import ActionRepeat, Grayscale
from sb3_carracing.vec_env import SharedMemoryVecEnv

VARIANTS = ("stock", "stock, subproc", "ours", "ours bfloat16")
PARTS = ("environment", "inference", "buffer and rest", "update")
FRAME_SKIP = 4


def views(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return gym.wrappers.FrameStackObservation(Grayscale(ActionRepeat(env, frame_skip=FRAME_SKIP)), 4, padding_type="reset")


def build(variant: str, args: argparse.Namespace) -> PPO | BetaPPO:
    n_cores = len(os.sched_getaffinity(0))
    vec_env: Callable[..., VecEnv]
    if variant.startswith("ours"):
        vec_env = lambda fns: SharedMemoryVecEnv(fns, n_workers=n_cores)  # noqa: E731
        env_id = "CarRacingFast-v3"
    else:
        vec_env = DummyVecEnv if variant == "stock" else lambda fns: SubprocVecEnv(fns, "fork")
        env_id = "CarRacing-v3"
    # Workers are forked before torch has run anything.
    env = make_vec_env(env_id, args.envs, seed=0, wrapper_class=views, vec_env_cls=vec_env)  # type: ignore[arg-type]
    th.set_num_threads(args.threads)
    options = {"n_steps": args.steps, "batch_size": 256, "n_epochs": 6, "seed": 0, "device": "cpu"}
    network: dict[str, Any] = {"activation_fn": nn.ReLU, "ortho_init": False}
    if variant.startswith("ours"):
        autocast: Literal["bfloat16"] | None = "bfloat16" if "bfloat16" in variant else None
        network |= {"features_extractor_class": "blog"}
        return BetaPPO("CnnPolicy", env, policy_kwargs=network, autocast=autocast, **options)
    network |= {"features_extractor_class": PlainBlogCNN, "net_arch": {"pi": [100], "vf": [100]}}
    return PPO("CnnPolicy", env, policy_kwargs=network, **options)


class Clock:
    """Adds up the seconds that some of an object's methods take."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, owner: Any, method: str, part: str) -> None:
        inner = getattr(owner, method)
        self.seconds[part] = 0.0

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[part] += time.perf_counter() - start

        setattr(owner, method, timed)


def work(variant: str, args: argparse.Namespace, remote: Connection) -> None:
    """Learn from one rollout per request and send back the seconds per part."""
    model = build(variant, args)
    clock = Clock()
    clock.watch(model.env, "step", "environment")
    clock.watch(model.policy, "forward", "inference")
    clock.watch(model, "train", "update")
    remote.send(None)
    first = True
    while remote.recv() == "go":
        clock.seconds = dict.fromkeys(clock.seconds, 0.0)
        start = time.perf_counter()
        model.learn(args.envs * args.steps, reset_num_timesteps=first)
        first = False
        total = time.perf_counter() - start
        rest = total - sum(clock.seconds.values())
        remote.send({**clock.seconds, "buffer and rest": rest, "total": total})


def measure(args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of every round by variant and part."""
    context = mp.get_context("spawn")
    remotes = {}
    for variant in args.variants:
        remotes[variant], theirs = context.Pipe()
        # Not daemonic: their environments are processes too.
        context.Process(target=work, args=(variant, args, theirs)).start()
        remotes[variant].recv()
    seconds: dict[str, dict[str, list[float]]] = {name: {part: [] for part in (*PARTS, "total")} for name in remotes}
    for number in range(args.rounds + 1):
        for variant in args.variants:
            if number == 0 and variant.startswith("stock"):
                continue  # a round of warming up would last a minute and change nothing
            remotes[variant].send("go")
            spent = remotes[variant].recv()
            if number > 0:
                for part, value in spent.items():
                    seconds[variant][part].append(value)
    for remote in remotes.values():
        remote.send("stop")
    return seconds


def report(seconds: dict[str, dict[str, list[float]]], args: argparse.Namespace) -> dict[str, Any]:
    """Print frames/s, ratios and the table; return medians and quartiles."""
    frames = FRAME_SKIP * args.envs * args.steps
    print(f"{args.envs} x {args.steps} steps, {args.threads} threads, {args.rounds} rounds; load {os.getloadavg()[0]:.1f}")
    speeds = {name: frames / np.array(parts["total"]) for name, parts in seconds.items()}
    print("frames/s: median (quartiles)")
    for name, values in speeds.items():
        low, middle, high = quartiles(values)
        print(f"  {name:16}{middle:8,.0f}   ({low:,.0f} to {high:,.0f})")
    ratios = {
        f"{ours} / {stock}": quartiles(speeds[ours] / speeds[stock])
        for ours in speeds
        for stock in speeds
        if ours.startswith("ours") and stock.startswith("stock")
    }
    print("ratios by round: median (quartiles)")
    for name, (low, middle, high) in ratios.items():
        print(f"  {name:32}{middle:6.2f}   ({low:.2f} to {high:.2f})")
    print(f"seconds a rollout, medians\n  {'':16}" + "".join(f"{part:>18}" for part in (*PARTS, "total")))
    medians = {name: {part: float(np.median(values)) for part, values in parts.items()} for name, parts in seconds.items()}
    for name, parts in medians.items():
        cells = (f"{parts[part]:10.2f} ({parts[part] / parts['total']:4.0%})" for part in (*PARTS, "total"))
        print(f"  {name:16}" + "".join(f"{cell:>18}" for cell in cells))
    return {
        "frames_per_second": {name: values.round(1).tolist() for name, values in speeds.items()},
        "ratios_quartiles": ratios,
        "seconds_a_rollout_medians": medians,
        "seconds": seconds,
    }


def main() -> None:
    parser = options.parser(__doc__, rounds=3)
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=128, help="decisions per environment and rollout")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    args = parser.parse_args()
    result = report(measure(args), args)
    if args.out is not None:
        provenance.write_json(args.out, args, result)


if __name__ == "__main__":
    main()
