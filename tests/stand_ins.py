"""Small environments, models and run folders that several tests use."""

import csv
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import yaml
from gymnasium import spaces

from sb3_carracing.pipelines import WrapperCall

ACTION = np.array([0.1, 0.3, 0.0], np.float32)
REPEAT_4 = WrapperCall("sb3_carracing.envs.wrappers.ActionRepeat", {"frame_skip": 4})


class Constant:
    """A model that always does the same."""

    def __init__(self, action: Any) -> None:
        self.action = action

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, None]:
        assert len(observation) == 1
        return np.array([self.action]), None


class Walk(gym.Env[np.ndarray, np.ndarray]):
    """Sum of position over 20 steps of a random walk with the agent's actions; its start is random."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self) -> None:
        self.n_resets = self.n_steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.n_resets += 1
        self.time, self.position = 0, self.np_random.normal()
        self.limit = int(self.np_random.integers(5, 30))
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.time < self.limit, "stepped after the end"
        self.n_steps += 1
        self.time += 1
        self.position += float(action[0]) + self.np_random.normal()
        return self._observe(), self.position, self.time == self.limit, False, {}

    def _observe(self) -> np.ndarray:
        return np.array([self.position, self.time], np.float32)


def write_run(logs: Path, config: dict[str, Any], algo: str = "beta_ppo", env: str = "Pendulum-v1", **args: Any) -> Path:
    """Write the files that rl-zoo3's ExperimentManager._save_config writes, in its own way."""
    run = logs / algo / f"{env}_1"
    parameters = run / env
    parameters.mkdir(parents=True)
    args = {"algo": algo, "env": env, "env_kwargs": None, "seed": 1} | args
    (parameters / "config.yml").write_text(yaml.dump(OrderedDict(sorted(config.items()))))
    (parameters / "args.yml").write_text(yaml.dump(OrderedDict(sorted(args.items()))))
    return run


PROGRESS = """\
time/frames,time/total_timesteps,rollout/score,train/policy_gradient_loss,train/value_loss,train/entropy_loss,train/approx_kl
100,25,1.0,,,,
200,50,2.0,-0.01,3.5,1.5,0.01
,60,,,,,
300,75,3.0,-0.02,2.5,2.5,0.02
"""


EVALUATIONS = "frames,steps,seconds,mean,std\n100,25,1.0,5.0,1.0\n300,75,2.0,50.0,10.0\n"


def write_monitor(run: Path, number: int, scores: list[float], t_start: float = 0.0) -> None:
    with (run / f"{number}.monitor.csv").open("w") as stream:
        stream.write(f'#{{"t_start": {t_start}, "env_id": "None"}}\nr,l,t,score,frames\n')
        csv.writer(stream).writerows([score / 10, 5, i, score, 20] for i, score in enumerate(scores))


def write_logged_run(tmp_path: Path) -> Path:
    """Write the log files of a short training and return its folder."""
    folder = tmp_path / "beta_ppo" / "CarRacing_1"
    folder.mkdir(parents=True)
    (folder / "progress.csv").write_text(PROGRESS)
    (folder / "evaluations.csv").write_text(EVALUATIONS)
    write_monitor(folder, 0, [1.0, 3.0])
    write_monitor(folder, 1, [2.0, 4.0], t_start=0.5)
    return folder
