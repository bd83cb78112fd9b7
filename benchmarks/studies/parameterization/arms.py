"""What the study trains: tasks with one set of values each, and arms that differ in the policy alone."""

from dataclasses import dataclass, field
from typing import Any

from benchmarks.studies.parameterization import variants
from sb3_carracing.ppo.distributions import BetaDistribution

FIRST_EVALUATION_SEED, EPISODES = 5_000_000, 100


@dataclass(frozen=True)
class Task:
    """A task and the values that all arms share; they are those of hyperparams/beta_ppo.yml but for what `what` says.

    Args:
        what: in words, how the values differ from the YAML's.
        env_id: a registered environment.
        steps: budget [decisions].
        values: arguments of the algorithm.
        n_envs: copies of the environment.
        normalize: whether observations and rewards are normalized.
        reward_scale: factor of the training's rewards.
    """

    what: str
    env_id: str
    steps: int
    values: dict[str, Any]
    n_envs: int = 1
    normalize: bool = False
    reward_scale: float = 1.0


@dataclass(frozen=True)
class Arm:
    """A policy: a Gaussian, or a Beta with options, of the package or of `variants`."""

    what: str
    options: dict[str, Any] = field(default_factory=dict)
    distribution: type[BetaDistribution] | None = BetaDistribution
    values: dict[str, Any] = field(default_factory=dict)


_PENDULUM = {"n_steps": 256, "gae_lambda": 0.95, "n_epochs": 10, "clip_range": 0.2}
TASKS = {
    "pendulum": Task(
        "as in the YAML",
        "Pendulum-v1",
        100_000,
        {**_PENDULUM, "learning_rate": "lin_1e-3", "gamma": 0.95},
        n_envs=4,
        reward_scale=0.1,
    ),
    "pendulum_zoo": Task(
        "gamma 0.9, rewards not scaled, a constant learning rate: rl-zoo3's values without gSDE",
        "Pendulum-v1",
        100_000,
        {**_PENDULUM, "learning_rate": 1e-3, "gamma": 0.9},
        n_envs=4,
    ),
    "mountain_car": Task(
        "as in the YAML, but for the initial concentration",
        "MountainCarContinuous-v0",
        20_000,
        {
            **{"n_steps": 1024, "batch_size": 64, "gamma": 0.9999, "gae_lambda": 0.9, "n_epochs": 10, "clip_range": 0.1},
            **{"learning_rate": 7.77e-05, "max_grad_norm": 5, "vf_coef": 0.19, "policy_kwargs": {"ortho_init": False}},
        },
        normalize=True,
    ),
    "lunar_lander": Task(
        "300,000 steps",
        "LunarLanderContinuous-v3",
        300_000,
        {"n_steps": 256, "batch_size": 64, "gamma": 0.999, "gae_lambda": 0.98, "n_epochs": 10},
        n_envs=16,
    ),
}
ARMS = {
    "gaussian": Arm("stock PPO, Gaussian", distribution=None),
    "softplus": Arm("alpha, beta = 1 + softplus", {"parameterization": "softplus"}),
    "exp": Arm("alpha, beta = 1 + exp", {"parameterization": "exp"}),
    "mode": Arm("mode by a sigmoid, excess by softplus", {"parameterization": "mode"}),
    "margin": Arm("exp, margin 0.2: mass beyond a bound is collected there", {"margin": 0.2}),
    "margin_small": Arm("exp, margin 0.1", {"margin": 0.1}),
    "wide": Arm("exp on a range wider by 20 % a side, clipped", {}, variants.WideBeta),
    "low_floor": Arm("exp, alpha and beta down to 1/2", {}, variants.LowFloorBeta),
    "certain_start": Arm("exp, alpha = beta = 3.7 at the start", {}, variants.CertainStartBeta),
    "broad_start": Arm("exp, alpha + beta = 2.4 at the start", {"initial_concentration": 2.4}),
    "entropy": Arm("exp, entropy bonus 0.01", values={"ent_coef": 0.01}),
    "certainty_entropy": Arm(
        "exp, entropy bonus 0.01 on the concentration alone", {}, variants.CertaintyEntropyBeta, {"ent_coef": 0.01}
    ),
}
