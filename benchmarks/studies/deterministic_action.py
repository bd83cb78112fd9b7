"""Mean or mode: what should a Beta policy play when it is asked not to explore?

Trains BetaPPO with several seeds on small tasks and scores mean, mode and sampled actions of each agent, at several
points of its training, over 30 episodes on fixed seeds. A row per task, seed and point is added to a CSV file.

    python -m benchmarks.studies.deterministic_action Pendulum-v1 --seeds 0 1 2 --out scores.csv
    python -m benchmarks.studies.deterministic_action --report
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import IdentityEnvBox
from stable_baselines3.common.vec_env import VecNormalize

from benchmarks import options, tables
from sb3_carracing import BetaPPO

SCORES = tables.RESULTS / "deterministic_action" / "scores.csv"
KINDS = ("mean", "mode", "sampled")
EPISODES = 30
FIRST_SEED = 10_000


def identity() -> gym.Env:
    """SB3's test task: the best action is the observation, within 0.5."""
    return IdentityEnvBox(eps=0.5)


# Environment, number of copies, whether to normalize, steps at which to score, arguments of BetaPPO.
TASKS: dict[str, tuple[Any, int, bool, list[int], dict[str, Any]]] = {
    "identity": (identity, 1, False, [1_024, 4_096, 10_240], {"n_steps": 256, "n_epochs": 4, "learning_rate": 1e-3}),
    "Pendulum-v1": (
        "Pendulum-v1",
        4,
        False,
        [25_000, 50_000, 100_000],
        {"n_steps": 1024, "gamma": 0.9, "learning_rate": 1e-3},
    ),
    "MountainCarContinuous-v0": (
        "MountainCarContinuous-v0",
        1,
        True,
        [15_000, 30_000],
        {
            "n_steps": 8,
            "batch_size": 256,
            "gamma": 0.9999,
            "gae_lambda": 0.9,
            "ent_coef": 0.00429,
            "learning_rate": 7.77e-5,
            "clip_range": 0.1,
            "max_grad_norm": 5,
            "vf_coef": 0.19,
        },
    ),
    "LunarLanderContinuous-v3": (
        "LunarLanderContinuous-v3",
        16,
        False,
        [120_000, 300_000],
        {"n_steps": 1024, "gamma": 0.999, "gae_lambda": 0.98, "n_epochs": 4, "ent_coef": 0.01},
    ),
}


def score(model: BetaPPO, make_env: Any, kind: str, normalization: VecNormalize | None) -> tuple[float, float]:
    """Return mean and standard deviation of the returns of `EPISODES` whole episodes."""
    if kind != "sampled":
        model.policy.deterministic_action = kind  # type: ignore[assignment]
    th.manual_seed(FIRST_SEED)
    returns = []
    for episode in range(EPISODES):
        env = gym.make(make_env) if isinstance(make_env, str) else make_env()
        obs, _ = env.reset(seed=FIRST_SEED + episode)
        total, over = 0.0, False
        while not over:
            seen = obs if normalization is None else np.asarray(normalization.normalize_obs(np.array(obs)[None]))[0]
            action, _ = model.predict(seen, deterministic=kind != "sampled")
            obs, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            over = terminated or truncated
        returns.append(total)
    return float(np.mean(returns)), float(np.std(returns))


def rows(task: str, seed: int) -> Iterator[dict[str, Any]]:
    """Train an agent and yield a row at each point of its training at which it is scored."""
    make_env, n_envs, normalize, steps, hyperparams = TASKS[task]
    venv = make_vec_env(make_env, n_envs=n_envs, seed=seed)
    normalization = VecNormalize(venv, gamma=hyperparams["gamma"]) if normalize else None
    model = BetaPPO("MlpPolicy", normalization or venv, seed=seed, device="cpu", **hyperparams)
    seconds = 0.0
    for target in steps:
        start = time.perf_counter()
        model.learn(target - model.num_timesteps, reset_num_timesteps=False)
        seconds += time.perf_counter() - start
        row: dict[str, Any] = {"task": task, "seed": seed, "steps": model.num_timesteps}
        for kind in KINDS:
            row[kind], row[f"{kind}_std"] = score(model, make_env, kind, normalization)
        yield row | {"train_seconds": round(seconds)}


def report(scores: pd.DataFrame) -> str:
    """Return the mean over seeds for each task and point of the training."""
    points = scores.groupby(["task", "steps"], sort=False)
    means = points[[*KINDS, "concentration"]].mean() if "concentration" in scores else points[list(KINDS)].mean()
    means.insert(0, "seeds", points.size())
    return str(means.round(1).to_string())


def main(argv: Sequence[str] | None = None) -> None:
    """Train, score and add a row for each task, seed and point of the training, or show the means of what is stored."""
    parser = options.parser(__doc__, out_help="add the rows to this file", seeds=(0, 1, 2))
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)}")
    parser.add_argument("--report", action="store_true", help="print the means of the stored rows and stop")
    args = parser.parse_args(argv)
    if args.report:
        print(report(pd.read_csv(SCORES, float_precision="round_trip")))
        return
    if not args.tasks or set(args.tasks) - set(TASKS):
        parser.error(f"name at least one of {', '.join(TASKS)}, got {', '.join(args.tasks) or 'none'}")
    for task in args.tasks:
        for seed in args.seeds:
            for row in rows(task, seed):
                print(row, flush=True)
                if args.out:
                    tables.write(args.out, [*tables.read_rows(args.out), row])


if __name__ == "__main__":
    main()
