"""Replace PPO by BetaPPO on any task with bounded actions, here Pendulum with its torque in [-2, 2]."""

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_carracing import BetaPPO


def main(timesteps: int = 100_000, episodes: int = 20) -> None:
    """Train for `timesteps` steps and evaluate over `episodes`; a good return is -200, a random policy's is -1200."""
    env = make_vec_env("Pendulum-v1", n_envs=4, seed=0)
    model = BetaPPO("MlpPolicy", env, learning_rate=1e-3, n_steps=1024, gamma=0.9, seed=0)
    model.learn(timesteps)
    mean, std = evaluate_policy(model, env, n_eval_episodes=episodes)
    print(f"Pendulum-v1: {mean:.0f} +- {std:.0f} over {episodes} episodes")


if __name__ == "__main__":
    main()
