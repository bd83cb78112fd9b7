"""Updates on one or several GPUs: BetaPPO on 1 to 16 ranks, stock PPO, and a bare loop in a CUDA graph.

Each variant learns from one rollout of random images, `envs` x `steps`, in epochs of minibatches of `batch-size`. These mean
the whole training. It has its processes to itself: variants run one after the other, and each first warms up.

* `stock`: `stable_baselines3.PPO.train()` with the blog's network written plainly
* `graph`: forward, backward and Adam of the same network on one preloaded minibatch, captured once and replayed
* `N ranks`: `BetaPPO.train()`, through NCCL where every rank has a GPU of its own, else through gloo on shared GPUs

A few minutes on one GPU. `--device cpu` runs everything but the graph on CPUs.

    python -m benchmarks.speed.scaling_gpu [--ranks 1 2 4 8 16] [--rounds 5] [--device cuda] [--out FILE]
"""

import argparse
import multiprocessing as mp
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch as th
import torch.distributed as dist
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from torch import nn

from benchmarks import options, provenance
from benchmarks.speed.networks import PlainBlogCNN, RandomImages, quartiles
from sb3_carracing import BetaPPO

IMAGE = (4, 96, 96)


def learner(args: argparse.Namespace, size: int, stock: bool, device: str) -> PPO | BetaPPO:
    """Return a learner with a rank's share of a full rollout."""
    env = make_vec_env(RandomImages, n_envs=args.envs // size, seed=0)
    shared = {"n_steps": args.steps, "batch_size": args.batch_size, "n_epochs": args.epochs, "seed": 0, "device": device}
    network: dict[str, Any] = {"activation_fn": nn.ReLU, "ortho_init": False}
    model: PPO | BetaPPO
    if stock:
        network |= {"features_extractor_class": PlainBlogCNN, "net_arch": {"pi": [100], "vf": [100]}}
        model = PPO("CnnPolicy", env, policy_kwargs=network, **shared)
    else:
        model = BetaPPO("CnnPolicy", env, policy_kwargs=network | {"features_extractor_class": "blog"}, **shared)
    model.set_logger(Logger(folder=None, output_formats=[]))
    buffer, rng = model.rollout_buffer, np.random.default_rng(0)
    buffer.observations[:] = rng.integers(0, 256, buffer.observations.shape, np.uint8)
    buffer.actions[:] = rng.uniform(0.1, 0.9, buffer.actions.shape)
    buffer.advantages[:] = rng.normal(size=buffer.advantages.shape)
    buffer.returns[:] = rng.normal(size=buffer.returns.shape)
    buffer.pos, buffer.full = args.steps, True
    return model


def graph(args: argparse.Namespace) -> Callable[[], None]:
    """Return one update as replays of a CUDA graph: no minibatch is picked, and the loss is a mean of squares."""
    device = th.device("cuda")
    space = spaces.Box(0, 255, IMAGE, np.uint8)
    network = nn.Sequential(PlainBlogCNN(space), nn.Linear(256, 100), nn.ReLU(), nn.Linear(100, 7)).to(device)
    network.to(memory_format=th.channels_last)  # type: ignore[call-overload]
    optimizer = th.optim.Adam(network.parameters(), capturable=True)
    images = th.rand(args.batch_size, *IMAGE, device=device).to(memory_format=th.channels_last)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        network(images).square().mean().backward()
        optimizer.step()

    stream = th.cuda.Stream()
    with th.cuda.stream(stream):  # capturing needs a few steps on a stream of its own before
        for _ in range(3):
            step()
    th.cuda.current_stream().wait_stream(stream)
    captured = th.cuda.CUDAGraph()
    with th.cuda.graph(captured):
        step()
    n_minibatches = args.epochs * (args.envs * args.steps // args.batch_size)

    def update() -> None:
        for _ in range(n_minibatches):
            captured.replay()

    return update


def work(args: argparse.Namespace, variant: str, size: int, rank: int, store: str, remote: Connection) -> None:
    """Send back the seconds of every update."""
    device = args.device
    th.set_num_threads(1)
    if device == "cuda":
        device = f"cuda:{rank % th.cuda.device_count()}"
        th.cuda.set_device(device)
    if size > 1:
        own = args.device == "cuda" and size <= th.cuda.device_count()
        dist.init_process_group("nccl" if own else "gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    update = graph(args) if variant == "graph" else learner(args, size, variant == "stock", device).train
    seconds = []
    for _ in range(args.rounds + 1):
        if size > 1:
            dist.barrier()
        start = time.perf_counter()
        update()
        if args.device == "cuda":
            th.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    remote.send(seconds[1:])
    os._exit(0)


def measure(args: argparse.Namespace, variant: str, size: int) -> np.ndarray:
    """Return the samples/s of every round."""
    context = mp.get_context("spawn")
    remotes = []
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(size):
            ours, theirs = context.Pipe()
            context.Process(target=work, args=(args, variant, size, rank, f"{folder}/store", theirs)).start()
            theirs.close()
            remotes.append(ours)
        seconds = np.max([remote.recv() for remote in remotes], axis=0)
    return np.asarray(args.epochs * args.envs * args.steps / seconds)


def main() -> None:
    parser = options.parser(__doc__, rounds=5)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    variants = [("stock", 1), *([("graph", 1)] if args.device == "cuda" else [])]
    variants += [(f"{size} ranks", size) for size in args.ranks]
    print(f"{th.cuda.device_count()} GPUs, {len(os.sched_getaffinity(0))} cores\n")
    print("| | samples/s of an update | times stock |\n|---|---|---|")
    speeds: dict[str, list[float]] = {}
    for name, size in variants:
        values = measure(args, name, size)
        speeds[name] = values.round(1).tolist()
        low, middle, high = quartiles(values)
        ratio = middle / float(np.median(speeds["stock"]))
        print(f"| {name} | {middle:,.0f} ({low:,.0f} to {high:,.0f}) | {ratio:.2f} |", flush=True)
    if args.out is not None:
        provenance.write_json(args.out, args, {"samples_per_second": speeds})


if __name__ == "__main__":
    main()
