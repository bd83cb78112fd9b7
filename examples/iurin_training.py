"""Train the Iurin implementation's preset: five discrete actions in one environment.

The original does not learn because of two flaws, which docs/debugging_ppo.md explains. It stores each action with the wrong
observation, which `BetaPPO` does not. It also leaves rewards unscaled, so this script scales them.
"""

from typing import Any

from stable_baselines3.common.env_util import make_vec_env

from sb3_carracing import BetaPPO
from sb3_carracing.envs.wrappers import ScaleReward

ENV_KWARGS: dict[str, Any] = {"noop_frames": 50, "grass_penalty": 0.05, "grass_rule": "green", "green_threshold": 180.0}
SCALE = {"scale": 0.02}


def main(timesteps: int = 1_000_000, n_steps: int = 1024, seed: int = 0) -> None:
    """Train for `timesteps` decisions of four frames. Comments give the original names of its six settings."""
    env = make_vec_env("CarRacingIurin-v3", env_kwargs=ENV_KWARGS, wrapper_class=ScaleReward, wrapper_kwargs=SCALE, seed=seed)
    model = BetaPPO(
        "CnnPolicy",
        env,
        learning_rate=2.5e-4,  # lr
        n_steps=n_steps,  # num_steps
        batch_size=n_steps // 32,  # num_minibatches
        n_epochs=4,  # num_epochs
        clip_range=0.2,  # clip_coef
        gamma=0.99,
        gae_lambda=0.95,
        ent_coef=0.01,
        vf_coef=1.0,
        max_grad_norm=0.5,
        policy_kwargs={"features_extractor_class": "iurin", "activation_fn": "relu", "ortho_init": False},
        seed=seed,
        verbose=1,
    )
    model.learn(timesteps)  # max_steps


if __name__ == "__main__":
    main()
