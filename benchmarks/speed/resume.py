"""How long an exact resume takes to play the episodes of 16 environments again, and what a snapshot costs.

The environments are those of the former presets of `CarRacingFast-v3` and `CarRacing-v3` (Gymnasium's, which draws
every frame), with `Replayable` around them, in one process and in worker processes. Each plays `--frames` frames of an
episode. Nothing ends an episode before frame 1,000, the default, so this is the longest replay that there can be. Then
new environments return to the same place. The agent has the preset's network, so that a snapshot has its real size.

The script prints the seconds of a snapshot and of `restore`: median and quartiles over the rounds. The variants take turns.

    python -m benchmarks.speed.resume [--rounds 5] [--envs 16] [--frames 1000] [--stock-envs 16] [--out FILE]
"""

import argparse
import io
import os
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import FrameStackObservation
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from benchmarks import options, provenance
from benchmarks.speed.networks import quartiles
from sb3_carracing import BetaPPO
from sb3_carracing.envs.replayable import Replayable
from sb3_carracing.envs.wrappers import ActionRepeat, GrassPenalty, Grayscale, ScaleReward, SignedPedals
from sb3_carracing.resume import restore, snapshot
from sb3_carracing.vec_env import SharedMemoryVecEnv

REPEAT = 4  # frames per step
NETWORK = {"features_extractor_class": "blog", "activation_fn": "relu", "ortho_init": False}
VARIANTS: dict[str, tuple[str, Any]] = {
    "fast, one process": ("CarRacingFast-v3", DummyVecEnv),
    "fast, workers": ("CarRacingFast-v3", SharedMemoryVecEnv),
    "stock, workers": ("CarRacing-v3", SharedMemoryVecEnv),
}


def views(env: gym.Env[Any, Any]) -> Replayable:
    """Apply the wrappers of hyperparams/beta_ppo_long.yml."""
    if env.spec is not None and env.spec.id == "CarRacing-v3":
        env = GrassPenalty(env, penalty=0.3, rule="wheels")
    env = FrameStackObservation(Grayscale(ActionRepeat(env, REPEAT)), 4, padding_type="reset")
    return Replayable(SignedPedals(ScaleReward(env, 0.02)))


def make(variant: str, args: argparse.Namespace) -> VecEnv:
    """Return the environments of a variant."""
    env_id, vec_env_cls = VARIANTS[variant]
    n_envs = args.stock_envs if env_id == "CarRacing-v3" else args.envs
    return make_vec_env(env_id, n_envs, seed=1, wrapper_class=views, vec_env_cls=vec_env_cls)


def play(variant: str, args: argparse.Namespace) -> tuple[bytes, float]:
    """Play nearly a whole episode in all environments; return a snapshot and the seconds that it took."""
    env = make(variant, args)
    model = BetaPPO("CnnPolicy", env, n_steps=2, batch_size=2 * env.num_envs, policy_kwargs=NETWORK, device="cpu", seed=0)
    model.learn(2 * env.num_envs)
    env.reset()
    # Slowly along a wide circle: a car that leaves the field would end the episode.
    actions = np.tile(np.array([0.3, 0.05], np.float32), (env.num_envs, 1))
    for _ in range(args.frames // REPEAT - 1):
        model._last_obs, _, model._last_episode_starts, _ = env.step(actions)  # type: ignore[assignment]
    start = time.perf_counter()
    content = snapshot(model)
    seconds = time.perf_counter() - start
    env.close()
    return content, seconds


def replay(variant: str, content: bytes, args: argparse.Namespace) -> float:
    """Return the seconds in which new environments come back to the place of a snapshot."""
    env = make(variant, args)
    model = BetaPPO.load(io.BytesIO(content), env=env, device="cpu")
    start = time.perf_counter()
    why_not = restore(model, content)
    seconds = time.perf_counter() - start
    env.close()
    if why_not is not None:
        raise RuntimeError(f"{variant}: {why_not}")
    return seconds


def main() -> None:
    parser = options.parser(__doc__, rounds=5)
    parser.add_argument("--envs", type=int, default=16, help="environments of CarRacingFast-v3 (default: %(default)s)")
    parser.add_argument("--stock-envs", type=int, default=16, help="those of CarRacing-v3, 0 for none (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=1000, help="frames of each episode (default: %(default)s)")
    args = parser.parse_args()
    variants = [variant for variant in VARIANTS if args.stock_envs or not variant.startswith("stock")]
    seconds: dict[str, dict[str, list[float]]] = {variant: {"snapshot": [], "resume": []} for variant in variants}
    contents = {}
    for number in range(args.rounds):
        for variant in variants[number % len(variants) :] + variants[: number % len(variants)]:
            if variant not in contents or not variant.startswith("stock"):  # one stock episode is long enough
                contents[variant], duration = play(variant, args)
                seconds[variant]["snapshot"].append(duration)
            seconds[variant]["resume"].append(replay(variant, contents[variant], args))
    print(f"{args.rounds} rounds, {args.frames} frames in each environment; load {os.getloadavg()[0]:.1f}")
    print("seconds: median (quartiles)")
    for variant, parts in seconds.items():
        for part, values in parts.items():
            low, middle, high = quartiles(np.array(values))
            print(f"  {variant:20}{part:10}{middle:8.2f}   ({low:.2f} to {high:.2f})")
    if args.out is not None:
        provenance.write_json(args.out, args, {"seconds": seconds})


if __name__ == "__main__":
    main()
