"""One update of BetaPPO against stock PPO's and a bare torch loop: same layers, data, epochs and minibatches.

Every contender has a process of its own (whether malloc keeps freed memory holds for a whole process). In every round each
does one update while the others sleep, in an order that changes from round to round:

* `stock`: `stable_baselines3.PPO.train()`, SB3's CnnPolicy with the blog's network written plainly
* `stock, malloc kept`: the same after `keep_freed_memory()`, which SB3 does not do
* `ours`, `ours bfloat16`: `BetaPPO.train()` as `learn()` leaves it, in float32 and with `autocast="bfloat16"`
* `bare`, `bare bfloat16`: forward, backward and Adam on minibatches that lie ready as floats, channels last, malloc kept;
  the network is the one of `stock`, no minibatch is picked or scaled and the loss is a mean of squares

Ratios are formed by round; medians and quartiles are printed.

    python benchmarks/update.py [--rounds 9] [--batch-size 128] [--epochs 4] [--threads 2] [--json FILE]
"""

import argparse
import multiprocessing as mp
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import record
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_carracing import BetaPPO
from sb3_carracing.system import keep_freed_memory

CONTENDERS = ("stock", "stock, malloc kept", "ours", "ours bfloat16", "bare", "bare bfloat16")
RATIOS = (
    ("ours", "stock"),
    ("ours bfloat16", "stock"),
    ("ours", "stock, malloc kept"),
    ("ours bfloat16", "stock, malloc kept"),
    ("ours", "bare"),
    ("ours bfloat16", "bare bfloat16"),
    ("ours bfloat16", "ours"),
)


class RandomImages(gym.Env[np.ndarray, np.ndarray]):
    """Random stacks of four grey pictures and random rewards; actions are CarRacing's."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (4, 96, 96), np.uint8)
        self.action_space = spaces.Box(np.array([-1, 0, 0], np.float32), np.ones(3, np.float32))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self._image(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self._image(), float(self.np_random.normal()), False, False, {}

    def _image(self) -> np.ndarray:
        return self.np_random.integers(0, 256, (4, 96, 96), np.uint8)


class PlainBlogCNN(BaseFeaturesExtractor):
    """The blog's network as a user of SB3 would write it."""

    def __init__(self, observation_space: spaces.Box):
        super().__init__(observation_space, features_dim=256)
        layers: list[nn.Module] = []
        channels = observation_space.shape[0]
        for out, kernel, stride in [(8, 4, 2), (16, 3, 2), (32, 3, 2), (64, 3, 2), (128, 3, 1), (256, 3, 1)]:
            layers += [nn.Conv2d(channels, out, kernel, stride), nn.ReLU()]
            channels = out
        self.cnn = nn.Sequential(*layers, nn.Flatten())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        features: th.Tensor = self.cnn(observations * (255.0 / 128.0) - 1.0)
        return features


def algorithm(contender: str, args: argparse.Namespace) -> Callable[[], None]:
    """Return what updates a PPO or BetaPPO with one full rollout."""
    env = make_vec_env(RandomImages, n_envs=args.envs, seed=0)
    options = {"n_steps": args.steps, "batch_size": args.batch_size, "n_epochs": args.epochs, "seed": 0, "device": "cpu"}
    network: dict[str, Any] = {"activation_fn": nn.ReLU, "ortho_init": False}
    model: PPO | BetaPPO
    if contender.startswith("stock"):
        network |= {"features_extractor_class": PlainBlogCNN, "net_arch": {"pi": [100], "vf": [100]}}
        model = PPO("CnnPolicy", env, policy_kwargs=network, **options)
    else:
        autocast = "bfloat16" if "bfloat16" in contender else None
        network |= {"features_extractor_class": "blog"}
        model = BetaPPO("CnnPolicy", env, policy_kwargs=network, autocast=autocast, **options)
    if contender != "stock":
        keep_freed_memory()  # as BetaPPO.learn() does
    _, callback = model._setup_learn(10**6)
    model.collect_rollouts(env, callback, model.rollout_buffer, model.n_steps)
    return model.train


def bare_loop(contender: str, args: argparse.Namespace) -> Callable[[], None]:
    """Return a loop of forward, backward and Adam over as many minibatches of floats that lie ready."""
    keep_freed_memory()
    dtype = th.bfloat16 if "bfloat16" in contender else th.float32
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


def contend(contender: str, args: argparse.Namespace, remote: Connection) -> None:
    """Run one update whenever told to and send its seconds back."""
    th.set_num_threads(args.threads)
    th.manual_seed(0)
    train = (bare_loop if contender.startswith("bare") else algorithm)(contender, args)
    remote.send(None)
    while remote.recv() == "go":
        start = time.perf_counter()
        train()
        remote.send(time.perf_counter() - start)


def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """Return samples/s of every round by contender."""
    context = mp.get_context("spawn")
    remotes = {}
    for contender in CONTENDERS:
        remotes[contender], theirs = context.Pipe()
        context.Process(target=contend, args=(contender, args, theirs), daemon=True).start()
        remotes[contender].recv()
    n_samples = args.epochs * args.steps * args.envs
    speeds: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
    for number in range(args.rounds + 1):
        first = number % len(CONTENDERS)
        for contender in CONTENDERS[first:] + CONTENDERS[:first]:
            remotes[contender].send("go")
            seconds = remotes[contender].recv()
            if number > 0:  # the first warms up
                speeds[contender].append(n_samples / seconds)
    for remote in remotes.values():
        remote.send("stop")
    return speeds


def quartiles(values: np.ndarray) -> list[float]:
    return [float(value) for value in np.percentile(values, [25, 50, 75])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=64, help="decisions an environment and rollout")
    parser.add_argument("--threads", type=int, default=2, help="torch's threads")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parser.parse_args()
    speeds = {contender: np.array(values) for contender, values in measure(args).items()}
    print(f"batch {args.batch_size}, {args.threads} threads, {args.rounds} rounds; load {os.getloadavg()[0]:.1f}")
    print("samples/s: median (quartiles)")
    for contender, values in speeds.items():
        low, middle, high = quartiles(values)
        print(f"  {contender:20}{middle:8,.0f}   ({low:,.0f} to {high:,.0f})")
    ratios = {f"{ours} / {other}": quartiles(speeds[ours] / speeds[other]) for ours, other in RATIOS}
    print("ratios by round: median (quartiles)")
    for name, (low, middle, high) in ratios.items():
        print(f"  {name:36}{middle:6.2f}   ({low:.2f} to {high:.2f})")
    if args.json is not None:
        samples = {name: values.round(1).tolist() for name, values in speeds.items()}
        record.write(args.json, args, {"samples_per_second": samples, "ratios_quartiles": ratios})


if __name__ == "__main__":
    main()
