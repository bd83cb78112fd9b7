"""One update of BetaPPO against stock PPO's and a bare torch loop: same layers, data, epochs and minibatches.

Every variant has a process of its own (whether malloc keeps freed memory holds for a whole process). In every round each
does one update while the others sleep, in an order that changes from round to round:

* `stock`: `stable_baselines3.PPO.train()`, SB3's CnnPolicy with the blog's network written plainly
* `stock, malloc kept`: the same after `keep_freed_memory()`, which SB3 does not do
* `ours`, `ours bfloat16`: `BetaPPO.train()` as `learn()` leaves it, in float32 and with `autocast="bfloat16"`
* `bare`, `bare bfloat16`: forward, backward and Adam on preloaded minibatches of floats, channels last, malloc kept;
  the network is the one of `stock`, no minibatch is picked or scaled and the loss is a mean of squares

Ratios are formed by round; medians and quartiles are printed.

    python -m benchmarks.speed.update [--rounds 9] [--batch-size 128] [--epochs 4] [--threads 2] [--out FILE]
"""

import argparse
import multiprocessing as mp
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from benchmarks import options, provenance
from benchmarks.speed.networks import PlainBlogCNN, RandomImages, quartiles
from sb3_carracing import BetaPPO
from sb3_carracing.system import keep_freed_memory

VARIANTS = ("stock", "stock, malloc kept", "ours", "ours bfloat16", "bare", "bare bfloat16")
RATIOS = (
    ("ours", "stock"),
    ("ours bfloat16", "stock"),
    ("ours", "stock, malloc kept"),
    ("ours bfloat16", "stock, malloc kept"),
    ("ours", "bare"),
    ("ours bfloat16", "bare bfloat16"),
    ("ours bfloat16", "ours"),
)


def algorithm(variant: str, args: argparse.Namespace) -> Callable[[], None]:
    """Return what updates a PPO or BetaPPO with one full rollout."""
    env = make_vec_env(RandomImages, n_envs=args.envs, seed=0)
    options = {"n_steps": args.steps, "batch_size": args.batch_size, "n_epochs": args.epochs, "seed": 0, "device": "cpu"}
    network: dict[str, Any] = {"activation_fn": nn.ReLU, "ortho_init": False}
    model: PPO | BetaPPO
    if variant.startswith("stock"):
        network |= {"features_extractor_class": PlainBlogCNN, "net_arch": {"pi": [100], "vf": [100]}}
        model = PPO("CnnPolicy", env, policy_kwargs=network, **options)
    else:
        autocast: Literal["bfloat16"] | None = "bfloat16" if "bfloat16" in variant else None
        network |= {"features_extractor_class": "blog"}
        model = BetaPPO("CnnPolicy", env, policy_kwargs=network, autocast=autocast, **options)
    if variant != "stock":
        keep_freed_memory()  # as BetaPPO.learn() does
    _, callback = model._setup_learn(10**6)
    model.collect_rollouts(env, callback, model.rollout_buffer, model.n_steps)
    return model.train


def bare_loop(variant: str, args: argparse.Namespace) -> Callable[[], None]:
    """Return a loop of forward, backward and Adam over as many preloaded minibatches."""
    keep_freed_memory()
    dtype = th.bfloat16 if "bfloat16" in variant else th.float32
    space = RandomImages().observation_space
    assert isinstance(space, spaces.Box)
    hidden = (
        nn.Sequential(nn.Linear(256, 100), nn.ReLU(), nn.Linear(100, 6)),
        nn.Sequential(nn.Linear(256, 100), nn.ReLU(), nn.Linear(100, 1)),
    )
    net = nn.ModuleList([PlainBlogCNN(space).cnn, *hidden]).to(memory_format=th.channels_last)  # type: ignore[call-overload]
    optimizer = th.optim.Adam(net.parameters(), lr=3e-4, eps=1e-5)
    images = th.rand(args.batch_size, 4, 96, 96).to(dtype, memory_format=th.channels_last)

    def train() -> None:
        for _ in range(args.epochs * args.steps * args.envs // args.batch_size):
            with th.autocast("cpu", dtype, enabled=dtype != th.float32):
                features = net[0](images)
                loss = net[1](features).square().mean() + net[2](features).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return train


def work(variant: str, args: argparse.Namespace, remote: Connection) -> None:
    """Run one update per request and send back its duration in seconds."""
    th.set_num_threads(args.threads)
    th.manual_seed(0)
    train = (bare_loop if variant.startswith("bare") else algorithm)(variant, args)
    remote.send(None)
    while remote.recv() == "go":
        start = time.perf_counter()
        train()
        remote.send(time.perf_counter() - start)


def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """Return samples/s of every round by variant."""
    context = mp.get_context("spawn")
    remotes = {}
    for variant in VARIANTS:
        remotes[variant], theirs = context.Pipe()
        context.Process(target=work, args=(variant, args, theirs), daemon=True).start()
        remotes[variant].recv()
    n_samples = args.epochs * args.steps * args.envs
    speeds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for number in range(args.rounds + 1):
        first = number % len(VARIANTS)
        for variant in VARIANTS[first:] + VARIANTS[:first]:
            remotes[variant].send("go")
            seconds = remotes[variant].recv()
            if number > 0:  # the first warms up
                speeds[variant].append(n_samples / seconds)
    for remote in remotes.values():
        remote.send("stop")
    return speeds


def main() -> None:
    parser = options.parser(__doc__, rounds=9)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=64, help="decisions per environment and rollout")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads")
    args = parser.parse_args()
    speeds = {variant: np.array(values) for variant, values in measure(args).items()}
    print(f"batch {args.batch_size}, {args.threads} threads, {args.rounds} rounds; load {os.getloadavg()[0]:.1f}")
    print("samples/s: median (quartiles)")
    for variant, values in speeds.items():
        low, middle, high = quartiles(values)
        print(f"  {variant:20}{middle:8,.0f}   ({low:,.0f} to {high:,.0f})")
    ratios = {f"{ours} / {other}": quartiles(speeds[ours] / speeds[other]) for ours, other in RATIOS}
    print("ratios by round: median (quartiles)")
    for name, (low, middle, high) in ratios.items():
        print(f"  {name:36}{middle:6.2f}   ({low:.2f} to {high:.2f})")
    if args.out is not None:
        samples = {name: values.round(1).tolist() for name, values in speeds.items()}
        provenance.write_json(args.out, args, {"samples_per_second": samples, "ratios_quartiles": ratios})


if __name__ == "__main__":
    main()
