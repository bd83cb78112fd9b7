"""`learn()` on several ranks against one process, and against what the machine can give.

In every round each variant plays and learns one rollout while the others sleep, in an order that changes from round to round:

* `one process, 1 thread`, `one process, 2 threads`: the former preset as it is, `hyperparams/beta_ppo_long.yml`
* `N ranks`: the same training on N processes with one thread each
* `N trainings side by side`: N independent trainings with one thread each, and with a rank's share of the preset: environments
  and minibatch divided by N. The sum of their speeds is what N cores can give to N ranks.

A table splits the time of a round: environments, the policy's forward passes, messages between ranks (waiting included), the
rest of the update and of the collection. Presets are written down here as of 0.2.0, so that later changes do not move the
figures. Frames are nominal: four per decision for CarRacing.

    python -m benchmarks.speed.scaling [--task carracing|pendulum] [--ranks 2] [--rounds 9] [--out FILE]
"""

import argparse
import multiprocessing as mp
import os
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
import torch.distributed as dist
from stable_baselines3.common.env_util import make_vec_env

from benchmarks import options, provenance
from benchmarks.speed.learn import Clock
from benchmarks.speed.networks import quartiles
from sb3_carracing import BetaPPO
from sb3_carracing.envs.wrappers import ActionRepeat, Grayscale, ScaleReward, SignedPedals
from sb3_carracing.ppo import distributed

PARTS = ("environment", "inference", "messages", "rest of update", "rest of collection")


def car_racing_views(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    env = gym.wrappers.FrameStackObservation(Grayscale(ActionRepeat(env, frame_skip=4)), 4, padding_type="reset")
    return SignedPedals(ScaleReward(env, 0.02))


def pendulum_views(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return ScaleReward(env, 0.1)


@dataclass(frozen=True)
class Preset:
    """A task with its hyperparameters, for the whole training."""

    env_id: str
    frame_skip: int
    n_envs: int
    env_kwargs: dict[str, Any]
    views: Any
    policy: str
    options: dict[str, Any]

    def frames(self, size: int = 1) -> int:
        """Return the nominal frames of a rank's rollout."""
        return int(self.frame_skip * self.options["n_steps"] * self.n_envs // size)


PRESETS = {
    "carracing": Preset(
        "CarRacingFast-v3",
        4,
        16,
        {"grass_penalty": 0.3, "grass_rule": "wheels", "off_road_frames": 15, "gap_penalty": 30.0, "truncate_lap": True},
        car_racing_views,
        "CnnPolicy",
        {
            **{"n_steps": 128, "batch_size": 256, "n_epochs": 6, "learning_rate": 6e-4, "clip_range": 0.15, "gamma": 0.99},
            "policy_kwargs": {
                **{"features_extractor_class": "blog", "activation_fn": "relu", "ortho_init": False},
                **{"initial_mean": [0.0, 0.35], "deterministic_action": "mean", "parameterization": "exp"},
            },
        },
    ),
    "pendulum": Preset(
        "Pendulum-v1",
        1,
        4,
        {},
        pendulum_views,
        "MlpPolicy",
        {"n_steps": 256, "batch_size": 64, "n_epochs": 10, "learning_rate": 1e-3, "gamma": 0.95},
    ),
}


@dataclass(frozen=True)
class Variant:
    """One way to train: `processes` processes of `threads` threads, which are the ranks of one training or not."""

    name: str
    processes: int
    threads: int
    together: bool


def variants(ranks: int) -> list[Variant]:
    return [
        Variant("one process, 1 thread", 1, 1, False),
        Variant("one process, 2 threads", 1, 2, False),
        Variant(f"{ranks} ranks", ranks, 1, True),
        Variant(f"{ranks} trainings side by side", ranks, 1, False),
    ]


def build(preset: Preset, variant: Variant, number: int) -> BetaPPO:
    """Return the learner of one process."""
    n_envs = preset.n_envs // variant.processes
    env = make_vec_env(preset.env_id, n_envs, seed=100 * number, wrapper_class=preset.views, env_kwargs=preset.env_kwargs)
    own = dict(preset.options)
    if not variant.together:
        own["batch_size"] //= variant.processes
    th.set_num_threads(variant.threads)
    return BetaPPO(preset.policy, env, seed=number, device="cpu", **own)


def work(preset: Preset, variant: Variant, number: int, store: str, remote: Connection) -> None:
    """Learn from one rollout per request and send back the seconds per part."""
    if variant.together:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=variant.processes)
    model = build(preset, variant, number)
    clock = Clock()
    clock.watch(model.env, "step", "environment")
    clock.watch(model.policy, "forward", "inference")
    clock.watch(model, "train", "update")
    clock.watch(distributed.Gradients, "average", "messages")  # on one rank, it does nothing
    remote.send(None)
    first = True
    while remote.recv() == "go":
        clock.seconds = dict.fromkeys(clock.seconds, 0.0)
        start = time.perf_counter()
        model.learn(preset.n_envs // (1 if variant.together else variant.processes) * model.n_steps, reset_num_timesteps=first)
        first = False
        seconds, total = clock.seconds, time.perf_counter() - start
        rest = total - seconds["environment"] - seconds["inference"] - seconds["update"]
        parts = {name: seconds[name] for name in ("environment", "inference", "messages")}
        parts |= {"rest of update": seconds["update"] - seconds["messages"], "rest of collection": rest}
        remote.send({**parts, "total": total})
    os._exit(0)


def measure(preset: Preset, chosen: list[Variant], rounds: int) -> dict[str, list[list[dict[str, float]]]]:
    """Return by variant, for every round and process, the seconds of each part."""
    context = mp.get_context("spawn")
    remotes: dict[Variant, list[Connection]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for variant in chosen:
            remotes[variant] = []
            for number in range(variant.processes):
                ours, theirs = context.Pipe()
                arguments = (preset, variant, number, f"{folder}/{variant.name}", theirs)
                context.Process(target=work, args=arguments, daemon=True).start()
                remotes[variant].append(ours)
            for remote in remotes[variant]:
                remote.recv()
        spent: dict[str, list[list[dict[str, float]]]] = {variant.name: [] for variant in chosen}
        for number in range(rounds + 1):
            turn = number % len(chosen)
            for variant in (*chosen[turn:], *chosen[:turn]):
                for remote in remotes[variant]:
                    remote.send("go")
                seconds = [remote.recv() for remote in remotes[variant]]
                if number > 0:  # the first warms up
                    spent[variant.name].append(seconds)
        for variant in chosen:
            for remote in remotes[variant]:
                remote.send("stop")
    return spent


def speeds_of(preset: Preset, variant: Variant, spent: list[list[dict[str, float]]]) -> np.ndarray:
    """Return the frames/s of every round: of a training, or the sum of trainings side by side."""
    if variant.together:
        return np.array([preset.frames() / max(parts["total"] for parts in processes) for processes in spent])
    frames = preset.frames(variant.processes)
    return np.array([sum(frames / parts["total"] for parts in processes) for processes in spent])


def report(args: argparse.Namespace, spent: dict[str, list[list[dict[str, float]]]]) -> dict[str, Any]:
    """Print frames/s, ratios and parts as Markdown tables; return all figures."""
    preset = PRESETS[args.task]
    speeds = {variant.name: speeds_of(preset, variant, spent[variant.name]) for variant in variants(args.ranks)}
    alone, threads, together, most = speeds.values()
    print(f"{args.task}, {args.rounds} rounds, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}\n")
    print("| | frames/s | times one thread | share of side by side |\n|---|---|---|---|")
    for name, values in speeds.items():
        cells = [cell(values, "{:,.0f}"), cell(values / alone, "{:.2f}"), cell(values / most, "{:.2f}")]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n| seconds per rollout and process, medians | {' | '.join(PARTS)} | total |\n|---|{'---|' * (len(PARTS) + 1)}")
    medians = {}
    for name, rounds in spent.items():
        of_all = [parts for processes in rounds for parts in processes]
        medians[name] = {part: float(np.median([parts[part] for parts in of_all])) for part in (*PARTS, "total")}
        print(f"| {name} | {' | '.join(f'{seconds:.3f}' for seconds in medians[name].values())} |")
    return {
        "frames_per_second": {name: values.round(1).tolist() for name, values in speeds.items()},
        "ranks_of_side_by_side_quartiles": quartiles(together / most),
        "ranks_of_two_threads_quartiles": quartiles(together / threads),
        "seconds_medians": medians,
    }


def cell(values: np.ndarray, form: str) -> str:
    low, middle, high = (form.format(value) for value in quartiles(values))
    return f"{middle} ({low} to {high})"


def main() -> None:
    parser = options.parser(__doc__, rounds=9)
    parser.add_argument("--task", choices=PRESETS, default="carracing")
    parser.add_argument("--ranks", type=int, default=2)
    args = parser.parse_args()
    result = report(args, measure(PRESETS[args.task], variants(args.ranks), args.rounds))
    if args.out is not None:
        provenance.write_json(args.out, args, result)


if __name__ == "__main__":
    main()
