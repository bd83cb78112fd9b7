"""Train BetaPPO on CarRacing and evaluate it: the shortest complete program."""

import gymnasium as gym
from gymnasium.wrappers import FrameStackObservation
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_carracing import BetaPPO
from sb3_carracing.envs.wrappers import ActionRepeat, Grayscale


def views(env: gym.Env) -> gym.Env:
    """Repeat each action for four frames and stack the last four grayscale observations."""
    return FrameStackObservation(Grayscale(ActionRepeat(env, frame_skip=4)), stack_size=4)


def main(timesteps: int = 200_000, episodes: int = 5) -> None:
    """Train for `timesteps` decisions, then evaluate over `episodes` whole episodes."""
    env = make_vec_env("CarRacingFast-v3", n_envs=8, wrapper_class=views)
    network = {"features_extractor_class": "blog", "initial_mean": [0.0, 0.4, 0.05], "deterministic_action": "mean"}
    model = BetaPPO("CnnPolicy", env, n_steps=256, batch_size=256, n_epochs=6, policy_kwargs=network, verbose=1)
    model.learn(timesteps)
    model.save("beta_ppo_car_racing")
    mean, std = evaluate_policy(model, env, n_eval_episodes=episodes)
    print(f"score {mean:.0f} +- {std:.0f} over {episodes} episodes")


if __name__ == "__main__":
    main()
