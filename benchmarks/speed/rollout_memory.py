"""Peak memory of a rollout and its update, in multiples of the observations' own size: BetaPPO's storage and SB3's.

Each figure comes from a process of its own and is how far its anonymous memory (RssAnon, watched every millisecond from
outside) rises above what it held before the storage was made:

* `storage`: two rollouts are written and each is read twice in minibatches; nothing else runs
* `learn`: two rollouts and updates of `learn()` with the blog's network on random images, everything included: network,
  optimizer, activations, kept memory

    python -m benchmarks.speed.rollout_memory [--envs 16] [--steps 256] [--batch-size 128] [--out FILE]
"""

import argparse
import multiprocessing as mp
import re
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

from benchmarks import options, provenance
from benchmarks.speed.networks import PlainBlogCNN, RandomImages
from sb3_carracing import BetaPPO
from sb3_carracing.ppo.buffers import CompactRolloutBuffer

IMAGE = (4, 96, 96)


def anonymous_memory(pid: int) -> int:
    """Return the resident memory [bytes] of a process that is no file's."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", status).group(1))  # type: ignore[union-attr]


def storage(buffer_class: type[RolloutBuffer], args: argparse.Namespace) -> Callable[[], object]:
    """Return what writes and reads two rollouts."""
    space, actions = spaces.Box(0, 255, IMAGE, np.uint8), spaces.Box(-1.0, 1.0, (3,))
    obs, zeros = np.ones((args.envs, *IMAGE), np.uint8), np.zeros(args.envs, np.float32)
    th.zeros(8).index_select(0, th.arange(4))

    def write_and_read() -> None:
        buffer = buffer_class(args.steps, space, actions, device="cpu", n_envs=args.envs)
        for _ in range(2):
            buffer.reset()
            for _ in range(args.steps):
                buffer.add(obs, np.zeros((args.envs, 3)), zeros, zeros, th.zeros(args.envs), th.zeros(args.envs))
            buffer.compute_returns_and_advantage(th.zeros(args.envs), zeros)
            for _ in range(2):
                for _ in buffer.get(args.batch_size):
                    pass

    return write_and_read


def learn(algorithm: type[PPO] | type[BetaPPO], args: argparse.Namespace) -> Callable[[], object]:
    """Return what learns from two rollouts."""
    network = {"activation_fn": nn.ReLU, "ortho_init": False}
    if algorithm is PPO:
        network |= {"features_extractor_class": PlainBlogCNN, "net_arch": {"pi": [100], "vf": [100]}}
    else:
        network |= {"features_extractor_class": "blog"}
    env = make_vec_env(RandomImages, n_envs=args.envs, seed=0)
    options = {"n_steps": args.steps, "batch_size": args.batch_size, "n_epochs": 1, "seed": 0, "device": "cpu"}
    return lambda: algorithm("CnnPolicy", env, policy_kwargs=network, **options).learn(2 * args.envs * args.steps)


CASES = {
    "storage, BetaPPO": lambda args: storage(CompactRolloutBuffer, args),
    "storage, SB3": lambda args: storage(RolloutBuffer, args),
    "learn, BetaPPO": lambda args: learn(BetaPPO, args),
    "learn, stock PPO": lambda args: learn(PPO, args),
}


def play(case: str, args: argparse.Namespace, remote: Connection) -> None:
    """Prepare a case, wait for the order, carry it out."""
    th.set_num_threads(1)
    work = CASES[case](args)
    remote.send("ready")
    remote.recv()
    work()
    remote.send("done")


def peak(case: str, args: argparse.Namespace) -> int:
    """Return by how much [bytes] the case's memory rises at most."""
    context = mp.get_context("spawn")
    remote, theirs = context.Pipe()
    process = context.Process(target=play, args=(case, args, theirs))
    process.start()
    assert process.pid is not None
    remote.recv()
    before = highest = anonymous_memory(process.pid)
    remote.send("go")
    while not remote.poll(0.001):
        highest = max(highest, anonymous_memory(process.pid))
    process.join()
    return highest - before


def main() -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=256, help="decisions per environment and rollout")
    parser.add_argument("--batch-size", type=int, default=128)
    args = parser.parse_args()
    own_size = args.envs * args.steps * int(np.prod(IMAGE))
    print(f"{args.envs} x {args.steps} steps of {IMAGE} uint8: {own_size / 1e6:.0f} MB")
    peaks = {}
    for case in CASES:
        peaks[case] = peak(case, args)
        print(f"  {case:20}{peaks[case] / 1e6:8.0f} MB   {peaks[case] / own_size:.2f} times the rollout")
    if args.out is not None:
        shares = {case: round(value / own_size, 3) for case, value in peaks.items()}
        provenance.write_json(args.out, args, {"rollout_bytes": own_size, "peak_bytes": peaks, "peak_times_rollout": shares})


if __name__ == "__main__":
    main()
