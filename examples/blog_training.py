"""Train the blog implementation's preset and print one line per episode, as the blog does."""

import time
from collections import deque
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_carracing import BetaPPO

ENV_KWARGS: dict[str, Any] = {
    "grass_penalty": 0.05,
    "grass_rule": "green",
    "green_threshold": 185.0,
    "end_bonus": 100.0,
    "no_progress_frames": 100,
    "no_progress_reward": -0.1,
}


class EpisodeLine(BaseCallback):
    """Print episode number, steps, score, mean of the last 100 scores, running score and time, as the blog does."""

    def _on_training_start(self) -> None:
        self.scores: deque[float] = deque(maxlen=100)
        self.running, self.episode, self.start = 0.0, 0, time.time()

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                score = info["episode"]["r"]
                self.scores.append(score)
                self.running = 0.99 * self.running + 0.01 * score
                clock = time.strftime("%H:%M:%S", time.gmtime(time.time() - self.start))
                print(
                    f"Episode: {self.episode} {info['episode']['l']}  score: {score:.2f}  avg score: "
                    f"{np.mean(self.scores):.2f}  run score {self.running:.2f}, time: {clock}"
                )
                self.episode += 1
        return True


def main(timesteps: int = 120_000, n_steps: int = 2000, seed: int = 0) -> None:
    """Train for `timesteps` decisions of eight frames; the blog's thousand episodes are about 110,000."""
    model = BetaPPO(
        "CnnPolicy",
        make_vec_env("CarRacingBlog-v3", env_kwargs=ENV_KWARGS, seed=seed),
        learning_rate=1e-3,
        n_steps=n_steps,
        batch_size=128,
        n_epochs=8,
        gamma=0.99,
        gae_lambda=0.0,
        clip_range=0.1,
        normalize_advantage=False,
        vf_coef=2.0,
        value_loss="huber",
        max_grad_norm=float("inf"),
        policy_kwargs={
            "features_extractor_class": "blog",
            "activation_fn": "relu",
            "ortho_init": False,
            "initial_mean": [0.0, 0.4, 0.05],  # Not in the blog. Its half gas and half brake keep the car standing.
            "parameterization": "softplus",
            "optimizer_kwargs": {"eps": 1e-8},  # PyTorch's default; SB3 uses 1e-5
        },
        seed=seed,
    )
    model.learn(timesteps, callback=EpisodeLine())


if __name__ == "__main__":
    main()
