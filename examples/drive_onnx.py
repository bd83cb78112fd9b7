"""Drive with an agent that `python -m sb3_carracing export` wrote; needs onnxruntime, but neither torch nor SB3."""

import gymnasium as gym
import onnxruntime
from gymnasium.wrappers import FrameStackObservation

from sb3_carracing.envs.wrappers import ActionRepeat, Grayscale


def main(file: str = "CarRacingFast-v3.onnx", decisions: int = 250, seed: int = 1) -> float:
    """Play at most `decisions` steps of one track and return the score."""
    agent = onnxruntime.InferenceSession(file)
    env = FrameStackObservation(Grayscale(ActionRepeat(gym.make("CarRacingFast-v3"), frame_skip=4)), stack_size=4)
    observation, _ = env.reset(seed=seed)
    score = 0.0
    for _ in range(decisions):
        (action,) = agent.run(["action"], {"observation": observation[None]})[0]
        observation, reward, terminated, truncated, _ = env.step(action)
        score += float(reward)
        if terminated or truncated:
            break
    return score


if __name__ == "__main__":
    print(f"score {main():.0f}")
