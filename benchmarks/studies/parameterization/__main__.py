"""Train Beta policies and a Gaussian with equal values, in-process, and evaluate mean and mode of the last agents.

    python -m benchmarks.studies.parameterization --task pendulum --arms exp gaussian --seeds 11 12 13
    python -m benchmarks.studies.parameterization --report

Runs that runs.csv lists are skipped. Each agent plays 100 episodes, reset with seeds from 5,000,000 on, which nothing else
uses. The score is the raw return.
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from benchmarks import options, tables
from benchmarks.provenance import described
from benchmarks.studies.parameterization.arms import ARMS, EPISODES, FIRST_EVALUATION_SEED, TASKS, Arm, Task
from benchmarks.studies.parameterization.variants import policy_with
from sb3_carracing import BetaPPO
from sb3_carracing.envs.wrappers import ScaleReward
from sb3_carracing.ppo.distributions import BetaDistribution
from sb3_carracing.ppo.policies import MlpPolicy

RESULTS = tables.RESULTS / "parameterization"


def train(task: Task, arm: Arm, seed: int) -> PPO | BetaPPO:
    """Train an agent of one arm; its environment may be a VecNormalize."""
    scaled = partial(ScaleReward, scale=task.reward_scale)
    venv: VecEnv = make_vec_env(task.env_id, task.n_envs, seed, wrapper_class=scaled)
    values: dict[str, Any] = {**task.values, **arm.values}
    rate = values.get("learning_rate", 3e-4)
    if isinstance(rate, str):
        values["learning_rate"] = LinearSchedule(float(rate.removeprefix("lin_")), 0.0, 1.0)
    if task.normalize:
        venv = VecNormalize(venv, gamma=values["gamma"])
    if arm.distribution is None:
        return PPO("MlpPolicy", venv, seed=seed, device="cpu", **values).learn(task.steps)
    values["policy_kwargs"] = {**values.get("policy_kwargs", {}), **arm.options}
    policy = MlpPolicy if arm.distribution is BetaDistribution else policy_with(arm.distribution)
    return BetaPPO(policy, venv, seed=seed, device="cpu", **values).learn(task.steps)


def episodes(model: PPO | BetaPPO, env_id: str) -> list[dict[str, Any]]:
    """Return score, steps and share of full actions of `EPISODES` whole episodes, deterministic, played side by side.

    An action is full within 2.5 % of the range from a bound, in any dimension.
    """
    normalization = model.get_vec_normalize_env()
    envs = [gym.make(env_id) for _ in range(EPISODES)]
    low, high = (getattr(model.action_space, bound) for bound in ("low", "high"))
    obs = np.stack([env.reset(seed=FIRST_EVALUATION_SEED + k)[0] for k, env in enumerate(envs)])
    returns, steps, full = np.zeros((3, EPISODES))
    live = np.arange(EPISODES)
    while len(live):
        seen = obs[live] if normalization is None else np.asarray(normalization.normalize_obs(obs[live]))
        actions, _ = model.predict(seen, deterministic=True)
        steps[live] += 1
        full[live] += np.any(np.abs((actions - low) / (high - low) - 0.5) >= 0.475, axis=1)
        over = []
        for k, action in zip(live, actions, strict=True):
            obs[k], reward, terminated, truncated, _ = envs[k].step(action)
            returns[k] += float(reward)
            over.append(terminated or truncated)
        live = live[~np.array(over)]
    return [
        {
            **{"track": FIRST_EVALUATION_SEED + k, "score": round(returns[k], 3), "steps": int(steps[k])},
            "full_actions": round(full[k] / steps[k], 4),
        }
        for k in range(EPISODES)
    ]


def make_run(task_name: str, arm_name: str, seed: int, out: Path) -> None:
    """Train, evaluate and store a run unless it is finished already."""
    config = f"{task_name}_{arm_name}"
    run = f"{config}-{seed}"
    if run in set(tables.finished(out)["run"]):
        return
    task, arm = TASKS[task_name], ARMS[arm_name]
    start = time.perf_counter()
    model = train(task, arm, seed)
    seconds = time.perf_counter() - start
    played: list[dict[str, Any]] = []
    means: dict[str, float] = {}
    for actions in ("mean",) if arm.distribution is None else ("mode", "mean"):
        if arm.distribution is not None:
            model.policy.deterministic_action = actions  # type: ignore[assignment]
        rows = episodes(model, task.env_id)
        means[actions] = float(np.mean([row["score"] for row in rows]))
        played += [{"actions": actions, **row} for row in rows]
    row = {
        **{"config": config, "seed": seed, "agent": "last", "steps": model.num_timesteps, "seconds": round(seconds, 1)},
        **{"score": means.get("mode", means["mean"]), "device": "cpu", "threads": th.get_num_threads()},
        **{"evaluated_in": task.env_id, **described()},
    }
    shared = {"n_timesteps": task.steps, "n_envs": task.n_envs, "normalize": task.normalize, "reward_scale": task.reward_scale}
    entry = {
        **{"what": f"{arm.what}; {task.what}", "env_id": task.env_id},
        "hyperparams": {**shared, **task.values, **arm.values, **arm.options},
    }
    tables.write_configs(out, {config: entry})
    tables.add(out, {tables.RUNS: [row], tables.EPISODES: played}, run)
    print(run, {name: round(mean, 1) for name, mean in means.items()}, f"{seconds:.0f} s", flush=True)


def report(out: Path) -> str:
    """Return median, quartiles and extremes of the seeds' mean scores, by configuration and actions; and full actions."""
    configs = tables.read(out, tables.RUNS)[["run", "config"]]
    played = tables.read(out, tables.EPISODES).groupby(["run", "actions"])[["score", "full_actions"]].mean()
    groups = played.reset_index().merge(configs, on="run").groupby(["config", "actions"])
    table = groups["score"].describe()[["count", "50%", "25%", "75%", "min", "max"]].round(1)
    return str(table.assign(full_actions=groups["full_actions"].median().round(3)).to_string())


def main(argv: Sequence[str] | None = None) -> None:
    """Make the runs that are missing and print the table of what is stored."""
    parser = options.parser(__doc__, out=RESULTS, out_help="folder of the study's tables", seeds=range(11, 21))
    parser.add_argument("--task", choices=TASKS, default="pendulum", help="default: %(default)s")
    parser.add_argument("--arms", choices=ARMS, nargs="+", default=["gaussian", "exp", "margin"], help="default: %(default)s")
    parser.add_argument("--report", action="store_true", help="print the table of what is stored and stop")
    args = parser.parse_args(argv)
    th.set_num_threads(1)
    for seed in [] if args.report else args.seeds:
        for arm in args.arms:
            make_run(args.task, arm, seed, args.out)
    print(report(args.out))


if __name__ == "__main__":
    main()
