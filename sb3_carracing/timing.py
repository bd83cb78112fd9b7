"""How long an evaluation will take."""

import math
import time
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_carracing.envs.counts import counts_of
from sb3_carracing.envs.training_rules import MAX_FRAMES
from sb3_carracing.pipelines import EnvFactory, RawScore, VecWrapper
from sb3_carracing.system import n_cores

_TRIAL_STEPS, _TRIAL_SECONDS = 50, 1.0
_FRAMES_OF_A_GOOD_LAP = 600


def estimate_seconds(
    model: Any, make_env: EnvFactory, n_tracks: int, *, n_envs: int = 1, wrap_vec_env: VecWrapper | None = None
) -> tuple[float, float]:
    """Drive for about a second and estimate how long `evaluate` will take.

    Args:
        model: see `evaluate`.
        make_env: see `evaluate`.
        n_tracks: number of tracks.
        n_envs: see `evaluate`.
        wrap_vec_env: see `evaluate`.

    Returns:
        Seconds if every lap is a good one of some 600 frames, and seconds if every episode lasts for all 1000.
    """
    venv = DummyVecEnv([lambda: RawScore(make_env())])
    try:
        wrapped = BaseAlgorithm._wrap_env(wrap_vec_env(venv) if wrap_vec_env else venv, monitor_wrapper=False)
        observation = wrapped.reset()
        acting: list[float] = []
        stepping: list[float] = []
        end = time.perf_counter() + _TRIAL_SECONDS
        frames, over = 1, False
        while not over and len(acting) < _TRIAL_STEPS and (len(acting) < 2 or time.perf_counter() < end):
            start = time.perf_counter()
            action, _ = model.predict(observation, deterministic=True)
            acted = time.perf_counter()
            observation, _, (over,), infos = wrapped.step(action)
            acting.append(acted - start)
            stepping.append(time.perf_counter() - acted)
            counts = counts_of(infos[0])
            frames = counts.frames if counts is not None else frames + 1
    finally:
        venv.close()
    # Medians, because the first step is slow. Actions are computed for one environment at a time, in this process.
    rounds = math.ceil(n_tracks / min(n_envs, n_cores()))
    seconds_per_step = n_tracks * float(np.median(acting)) + rounds * float(np.median(stepping))
    shortest, longest = (limit * len(acting) / frames * seconds_per_step for limit in (_FRAMES_OF_A_GOOD_LAP, MAX_FRAMES))
    return shortest, longest
