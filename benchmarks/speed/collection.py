"""What BetaPPO's collection costs beyond its environments and its policy, for each way of running 16 environments.

All variants play the same episodes: each round has its own seeds and actions, and all rollouts must be equal. The times
include resets. The variants take turns, in an order that changes from round to round:

* `environments`: the bare environments (with Monitor and the view's wrappers) in as many processes as there are cores,
  each stepping its share through the whole rollout in a plain loop. They neither talk nor wait for each other, so this
  is what the cores need at least. `in one process`: all of them one after another.
* `in step`: the former, if at every step all had to wait for the slowest process: what one worker per core needs at least.
* `policy`: the policy's forward passes on the rollout's observations, nothing else running.
* `collect`: `BetaPPO.collect_rollouts` on DummyVecEnv, SubprocVecEnv (forked) and SharedMemoryVecEnv with several numbers
  of workers.

The ratio is `collect / (environments + policy)` per round. The script prints its median and quartiles. The goal is at most
1.15. The ratio is given for wall time, which other programs on the same cores disturb, and for CPU time summed over all
processes, which they hardly disturb. CPU time leaves out time lost by waiting for each other. With `--max-others 0.1`, a
round starts only when other programs use at most a tenth of a core, and is repeated if they use more during it, for up to
`--patience` minutes.

With more than one of torch's threads, set OMP_WAIT_POLICY=PASSIVE: otherwise they spin on the cores that the workers need.

    python -m benchmarks.speed.collection [--rounds 7] [--steps 64] [--workers 2 4 8] [--threads 1] [--whole-episodes]
"""

import argparse
import multiprocessing as mp
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from benchmarks import options, provenance
from sb3_carracing import BetaPPO
from sb3_carracing.envs.wrappers import ActionRepeat, Grayscale, ScaleReward
from sb3_carracing.system import keep_freed_memory
from sb3_carracing.vec_env import SharedMemoryVecEnv

ENV_ID = "CarRacingFast-v3"
TRAINING_RULES = {"grass_penalty": 0.3, "off_road_frames": 15}  # of hyperparams/beta_ppo_long.yml what ends episodes often


def views(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Apply the wrappers of hyperparams/beta_ppo_long.yml, but without its single pedal, as in the stored results."""
    env = Grayscale(ActionRepeat(env, frame_skip=4))
    return ScaleReward(gym.wrappers.FrameStackObservation(env, 4, padding_type="reset"), scale=0.1)


def make(vec_env_cls: Callable[..., VecEnv], args: argparse.Namespace) -> VecEnv:
    env_kwargs = {} if args.whole_episodes else TRAINING_RULES
    return make_vec_env(ENV_ID, args.envs, wrapper_class=views, env_kwargs=env_kwargs, vec_env_cls=vec_env_cls)  # type: ignore[arg-type]


class Time(NamedTuple):
    """What passed on the clock [s], and what this process and some others used of the processors [s]."""

    seconds: float
    processor_seconds: float

    @classmethod
    def now(cls, processes: Sequence[BaseProcess] = ()) -> "Time":
        # How Linux numbers the clock of a process, see clock_getcpuclockid(3).
        used = sum(time.clock_gettime((~process.pid << 3) | 2) for process in processes if process.pid)
        return cls(time.perf_counter(), time.process_time() + used)

    def __sub__(self, start: "Time") -> "Time":
        return Time(self.seconds - start.seconds, self.processor_seconds - start.processor_seconds)


def machine_time() -> float:
    """Return the processor time [s] that all programs have used since the machine started."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return (sum(fields[:3]) + sum(fields[5:7])) / os.sysconf("SC_CLK_TCK")  # user, nice, system; interrupts


class Others:
    """Within a `with`: how many `cores` programs other than this one and `processes` use on average."""

    def __init__(self, processes: Sequence[BaseProcess]) -> None:
        self.processes = processes

    def __enter__(self) -> "Others":
        self.start = self._now()
        return self

    def __exit__(self, *exception: object) -> None:
        now = self._now()
        self.cores = (now[1] - self.start[1]) / (now[0] - self.start[0])

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), machine_time() - Time.now(self.processes).processor_seconds


class Bare:
    """Bare environments in processes that play rollouts on their own, all starting at once."""

    def __init__(self, args: argparse.Namespace, n_processes: int) -> None:
        context = mp.get_context("fork")
        self.remotes, self.processes = [], []
        for part in np.array_split(np.arange(args.envs), n_processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=play_bare, args=(theirs, args, part), daemon=True)
            process.start()
            self.remotes.append(ours)
            self.processes.append(process)

    def play(self, seed: int, actions: np.ndarray) -> tuple[Time, float]:
        """Return the rollout's time, and the seconds of one whose steps wait for the slowest process."""
        for remote in self.remotes:
            remote.send((seed, actions))
        for remote in self.remotes:
            remote.recv()  # all have reset
        for remote in self.remotes:
            remote.send("go")
        ticks_of_each, used = zip(*(remote.recv() for remote in self.remotes), strict=True)
        ticks = np.stack(ticks_of_each)  # (n_processes, n_steps + 1)
        return Time(ticks[:, -1].max() - ticks[:, 0].min(), sum(used)), float(np.diff(ticks, axis=1).max(axis=0).sum())

    def close(self) -> None:
        for remote, process in zip(self.remotes, self.processes, strict=True):
            remote.send(None)
            process.join()


def play_bare(remote: Connection, args: argparse.Namespace, part: np.ndarray) -> None:
    cv2.setNumThreads(0)
    args = argparse.Namespace(**{**vars(args), "envs": len(part)})
    envs = make(DummyVecEnv, args).envs  # type: ignore[attr-defined]
    while (order := remote.recv()) is not None:
        seed, actions = order
        for index, env in zip(part, envs, strict=True):
            env.reset(seed=seed + int(index))
        remote.send("ready")
        remote.recv()
        used = -time.process_time()
        ticks = [time.perf_counter()]
        for step_actions in actions[:, part]:
            for env, action in zip(envs, step_actions, strict=True):
                _, _, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    env.reset()
            ticks.append(time.perf_counter())
        remote.send((ticks, used + time.process_time()))


def infer(model: BetaPPO, observations: np.ndarray) -> Time:
    """Return the time of the policy's passes over a rollout's observations (n_steps, n_envs, ...)."""
    start = Time.now()
    with th.no_grad():
        for step_observations in observations:
            model.policy(obs_as_tensor(step_observations, model.device))
    return Time.now() - start


def collect(model: BetaPPO, env: VecEnv, seed: int, callback: Any) -> Time:
    """Fill the model's rollout buffer from freshly seeded environments and return the time that it took."""
    env.seed(seed)
    model._last_obs = env.reset()  # type: ignore[assignment]
    model._last_episode_starts = np.ones(env.num_envs, dtype=bool)
    th.manual_seed(seed)
    processes = getattr(env, "processes", [])
    start = Time.now(processes)
    model.collect_rollouts(env, callback, model.rollout_buffer, model.n_steps)
    return Time.now(processes) - start


def rollout(model: BetaPPO) -> tuple[np.ndarray, ...]:
    buffer = model.rollout_buffer
    return buffer.observations.copy(), buffer.actions.copy(), buffer.rewards.copy(), buffer.episode_starts.copy()


def play_round(
    number: int,
    model: BetaPPO,
    callback: Any,
    envs: dict[str, VecEnv],
    bare: Bare,
    bare_in_one: Bare,
    args: argparse.Namespace,
) -> tuple[dict[str, Time], int]:
    """Play one round with everything, each first in turn; return the times by name and how many episodes ended."""
    seed = 1000 * number
    collect(model, envs["dummy"], seed, callback)  # for the actions, and to warm up
    reference = rollout(model)
    actions = reference[1].reshape(args.steps, args.envs, -1)
    times: dict[str, Time] = {}
    tasks = ["bare", "in one process", "policy", *envs]
    for task in tasks[number % len(tasks) :] + tasks[: number % len(tasks)]:
        if task == "bare":
            times["environments"], in_step = bare.play(seed, actions)
            times["in step"] = Time(in_step, times["environments"].processor_seconds)
        elif task == "in one process":
            times[task], _ = bare_in_one.play(seed, actions)
        elif task == "policy":
            times[task] = infer(model, reference[0])
        else:
            times[f"collect, {task}"] = collect(model, envs[task], seed, callback)
            for ours, theirs in zip(rollout(model), reference, strict=True):
                np.testing.assert_array_equal(ours, theirs)
    return dict(sorted(times.items(), key=lambda item: item[0].startswith("collect"))), int(reference[3][1:].sum())


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return `seconds` and `processor_seconds` of every round by name, and `ended`, the share of steps that end an episode."""
    # Processes are forked before torch has run anything.
    n_cores = len(os.sched_getaffinity(0))
    bare, bare_in_one = Bare(args, n_cores), Bare(args, 1)
    envs = {
        "dummy": make(DummyVecEnv, args),
        "subproc": make(lambda fns: SubprocVecEnv(fns, "fork"), args),
        **{f"{n} workers": make(lambda fns, n=n: SharedMemoryVecEnv(fns, n_workers=n), args) for n in args.workers},
    }
    owners: list[Bare | VecEnv] = [bare, bare_in_one, *envs.values()]
    everyone = [process for owner in owners for process in getattr(owner, "processes", [])]
    th.set_num_threads(args.threads)
    policy_kwargs = {"features_extractor_class": "blog", "initial_mean": [0.0, 0.4, 0.05]}
    model = BetaPPO("CnnPolicy", envs["dummy"], n_steps=args.steps, policy_kwargs=policy_kwargs, device="cpu", seed=0)
    keep_freed_memory()  # as learn() does
    _, callback = model._setup_learn(1)
    rounds: list[dict[str, Time]] = []
    n_ended = number = 0
    deadline = time.monotonic() + 60 * args.patience
    while len(rounds) < args.rounds and time.monotonic() < deadline:
        with Others(everyone) as others:
            time.sleep(1.0 if args.max_others < float("inf") else 0.1)
        if others.cores > args.max_others:
            continue
        with others:
            times, ended = play_round(number, model, callback, envs, bare, bare_in_one, args)
        if others.cores <= args.max_others:
            rounds.append(times)
            n_ended += ended
        number += 1
    for owner in owners:
        owner.close()
    if not rounds:
        raise SystemExit(f"Other programs used more than {args.max_others} cores for all of {args.patience} minutes")
    return {
        "ended": n_ended / (len(rounds) * (args.steps - 1) * args.envs),
        "seconds": {name: [times[name].seconds for times in rounds] for name in rounds[0]},
        "processor_seconds": {name: [times[name].processor_seconds for times in rounds] for name in rounds[0]},
    }


def quartiles(values: np.ndarray) -> str:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:8.3f}   ({low:.3f} to {high:.3f})"


def report(result: dict[str, Any], args: argparse.Namespace) -> None:
    print(
        f"{args.envs} environments, {args.threads} torch threads, {len(result['seconds']['policy'])} rounds of "
        f"{args.steps} steps; {100 * result['ended']:.1f} % of the steps end an episode; load {os.getloadavg()[0]:.1f} on "
        f"{len(os.sched_getaffinity(0))} cores"
    )
    for kind in ("seconds", "processor_seconds"):
        series = {name: np.array(values) for name, values in result[kind].items()}
        print(f"\n{kind.replace('_', ' ')}, ms a step of all environments: median (quartiles)")
        for name, values in series.items():
            if name == "in step" and kind != "seconds":
                continue
            print(f"  {name:20}{quartiles(1e3 * values / args.steps)}")
        print("  ratio to environments + policy")
        for name, values in series.items():
            if name.startswith("collect"):
                print(f"    {name:18}{quartiles(values / (series['environments'] + series['policy']))}")
    seconds = {name: np.array(values) for name, values in result["seconds"].items()}
    in_step = (seconds["in step"] + seconds["policy"]) / (seconds["environments"] + seconds["policy"])
    print(f"\n(in step + policy) / (environments + policy): {quartiles(in_step)}")
    print("seconds, ratio to environments in one process + policy")
    for name, values in seconds.items():
        if name.startswith("collect"):
            print(f"    {name:18}{quartiles(values / (seconds['in one process'] + seconds['policy']))}")


def main() -> None:
    parser = options.parser(__doc__, rounds=7)
    parser.add_argument("--steps", type=int, default=64, help="decisions per environment and round")
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4, 8, 16], help="of SharedMemoryVecEnv")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads")
    parser.add_argument("--whole-episodes", action="store_true", help="without the training rules that end episodes early")
    parser.add_argument("--max-others", type=float, default=float("inf"), help="cores that other programs may use")
    parser.add_argument("--patience", type=float, default=10.0, help="minutes to wait for rounds that nobody disturbs")
    args = parser.parse_args()
    result = measure(args)
    report(result, args)
    if args.out is not None:
        provenance.write_json(args.out, args, result)


if __name__ == "__main__":
    main()
