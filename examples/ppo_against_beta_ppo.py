"""Compare stock PPO (Gaussian) with BetaPPO: same environment, network, hyperparameters and number of frames."""

import gymnasium as gym
from gymnasium.wrappers import FrameStackObservation
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_carracing import BetaPPO
from sb3_carracing.envs.wrappers import ActionRepeat, Grayscale
from sb3_carracing.ppo.policies import GaussianCnnPolicy


def views(env: gym.Env) -> gym.Env:
    """Repeat each action for four frames and stack the last four grayscale observations."""
    return FrameStackObservation(Grayscale(ActionRepeat(env, frame_skip=4)), stack_size=4)


def main(timesteps: int = 100_000, episodes: int = 5, seed: int = 0) -> None:
    """Train both for `timesteps` decisions and print both scores."""
    hyperparams = {"n_steps": 256, "batch_size": 256, "n_epochs": 6, "policy_kwargs": {"features_extractor_class": "blog"}}
    for name, algorithm, policy in [("PPO", PPO, GaussianCnnPolicy), ("BetaPPO", BetaPPO, "CnnPolicy")]:
        env = make_vec_env("CarRacingFast-v3", n_envs=8, seed=seed, wrapper_class=views)
        model = algorithm(policy, env, seed=seed, **hyperparams)
        model.learn(timesteps)
        mean, std = evaluate_policy(model, env, n_eval_episodes=episodes)
        print(f"{name:8s} {mean:7.1f} +- {std:.1f} over {episodes} episodes")
        env.close()


if __name__ == "__main__":
    main()
