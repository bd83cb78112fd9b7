"""Drive at random on stock CarRacing-v3 and print the score that every agent has to beat."""

import gymnasium as gym


def main(frames: int = 1000, seed: int = 2_000_000) -> float:
    """Play `frames` frames of uniformly random actions on one track and return the score."""
    env = gym.make("CarRacing-v3")
    env.reset(seed=seed)
    env.action_space.seed(seed)
    score = 0.0
    for _ in range(frames):
        _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        score += float(reward)
        if terminated or truncated:
            break
    env.close()
    print(f"random actions score {score:.1f}")
    return score


if __name__ == "__main__":
    main()
