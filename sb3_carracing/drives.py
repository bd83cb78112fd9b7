"""Drives: where the car was at each decision of an evaluation, and what the policy wanted, stored beside its scores.

`evaluate` writes them to a .npz of plain arrays. The report draws its maps and replays from it.
"""

import io
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    StateDependentNoiseDistribution,
)
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_carracing.envs.counts import counts_of
from sb3_carracing.files import write_atomically
from sb3_carracing.pipelines import Env, EnvFactory
from sb3_carracing.ppo.distributions import BetaDistribution

Density = Literal["beta", "gaussian", "categorical", ""]

COLUMNS = ("frame", "score", "x", "y", "angle", "speed", "wheels_on_grass", "steering", "gas", "brake")
"""Columns of `Drive.states`: frames, points, world units, rad, units/s, 0 to 4, and what the car's controls were set to."""

_KEY = "sb3_carracing.drive"


class Decision(NamedTuple):
    """What a policy thinks of an observation.

    Attributes:
        density: family of the action distribution, "" if the policy has none that can be drawn.
        parameters: `(n_actions, 2)`: alpha and beta, or mean and standard deviation; `(n_choices, 1)`: probabilities;
            `(0, 2)` without a density.
        value: value of the observation, NaN without a critic of it.
    """

    density: Density
    parameters: np.ndarray
    value: float


class Drive(NamedTuple):
    """One episode.

    Attributes:
        seed: random seed of the track.
        road: `(n_tiles, 2)`, middle of the road.
        states: `(n_steps + 1, len(COLUMNS))`, before each decision and at the end. The controls are those that led there.
        actions: `(n_steps, n_actions)`, in the agent's units; an index for discrete actions.
        parameters: `(n_steps, n_rows, n_columns)`, see `Decision`.
        values: `(n_steps,)`.
    """

    seed: int
    road: np.ndarray
    states: np.ndarray
    actions: np.ndarray
    parameters: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Drives:
    """The episodes of one evaluation.

    Attributes:
        density: see `Decision`.
        low: `(n_actions,)`, lower bounds of the actions or of the Beta's support; empty for discrete actions.
        high: `(n_actions,)`, upper bounds.
        drives: one per track.
    """

    density: Density
    low: np.ndarray
    high: np.ndarray
    drives: tuple[Drive, ...]


def decision_of(model: Any, observation: Any) -> Decision:
    """Return what a model's policy thinks of a batch of one observation, for actor-critic policies without memory."""
    policy = getattr(model, "policy", None)
    nothing = Decision("", np.empty((0, 2), np.float32), np.nan)
    # The distribution of a recurrent policy needs its state as well.
    if not isinstance(policy, ActorCriticPolicy) or hasattr(policy, "lstm_actor"):
        return nothing
    with th.no_grad():
        tensor, _ = policy.obs_to_tensor(observation)
        distribution, value = policy.get_distribution(tensor), float(policy.predict_values(tensor))
    density: Density
    if isinstance(distribution, BetaDistribution):
        density, parameters = "beta", th.stack([distribution.alpha[0], distribution.beta[0]], dim=1)
    elif isinstance(distribution, CategoricalDistribution):
        density, parameters = "categorical", distribution.distribution.probs[0][:, None]
    elif isinstance(distribution, DiagGaussianDistribution | StateDependentNoiseDistribution) and not policy.squash_output:
        normal = distribution.distribution
        density, parameters = "gaussian", th.stack([normal.mean[0], normal.stddev[0]], dim=1)
    else:
        return nothing._replace(value=value)
    return Decision(density, parameters.cpu().numpy().astype(np.float32), value)


def support_of(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds between which a model's densities are drawn, `(n_actions,)` each; empty for discrete actions."""
    space = getattr(model, "action_space", None)
    if not isinstance(space, spaces.Box):
        return np.empty(0), np.empty(0)
    distribution = getattr(getattr(model, "policy", None), "action_dist", None)
    if isinstance(distribution, BetaDistribution):
        low, width = (bound.cpu().double().numpy() for bound in (distribution.low, distribution.width))
        return low, low + width
    return space.low.astype(float).flatten(), space.high.astype(float).flatten()


def action_names(density: Density, n_actions: int) -> list[str]:
    """Return the names of CarRacing's actions, or of its discrete choices, for a density and a number of continuous ones."""
    if density == "categorical" or not n_actions:
        return ["nothing", "right", "left", "gas", "brake"]
    known = {2: ["steering", "pedal or speed"], 3: ["steering", "gas", "brake"]}
    return known.get(n_actions, [f"action {number}" for number in range(n_actions)])


class CarStates(gym.Wrapper[Any, Any, Any, Any]):
    """Note the car's state at every step of a CarRacing and put the notes into the `info` of the episode's last step."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin new notes."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._states = [car_state(self.unwrapped, int(info.get("frames", 0)), 0.0)]
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step and note the state."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        counts = counts_of(info)
        assert counts is not None, "CarStates belongs around what counts"
        self._states.append(car_state(self.unwrapped, counts.frames, counts.score))
        if counts.over:
            info[_KEY] = (road_of(self.unwrapped), np.array(self._states, np.float32))
        return observation, reward, terminated, truncated, info


def car_state(env: Any, frame: int, score: float) -> tuple[float, ...]:
    """Return the values of `COLUMNS` of a CarRacing. Steering is positive to the right, as in its actions."""
    car = env.car
    hull, front, rear = car.hull, car.wheels[0], car.wheels[2]
    (x, y), speed = hull.position, hull.linearVelocity.length
    on_grass = sum(not wheel.tiles for wheel in car.wheels)
    return frame, score, x, y, hull.angle, speed, on_grass, -(front.steer or 0.0), rear.gas, front.brake


def road_of(env: Any) -> np.ndarray:
    """Return the middle of a CarRacing's road, `(n_tiles, 2)`."""
    return np.array([place[2:4] for place in env.track], np.float32)


def with_car_states(make_env: EnvFactory) -> Env:
    """Make an environment in `CarStates`."""
    return CarStates(make_env())


class DriveRecorder:
    """Collect the drives of an `evaluate` whose environments are in `CarStates`; pass it as `watch`.

    Args:
        model: the model that `evaluate` plays.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._density: Density = ""
        self._decisions: defaultdict[int, list[tuple[np.ndarray, Decision]]] = defaultdict(list)
        self._drives: dict[int, Drive] = {}

    def decided(self, seed: int, observation: Any, action: Any) -> None:
        """Note a decision, before it is played."""
        decision = decision_of(self._model, observation)
        self._density = decision.density
        self._decisions[seed].append((np.atleast_1d(np.asarray(action, np.float32)).flatten(), decision))

    def ended(self, seed: int, info: dict[str, Any]) -> None:
        """Put a drive together at the end of its episode."""
        road, states = info[_KEY]
        actions, decisions = zip(*self._decisions.pop(seed), strict=True)
        parameters = np.array([decision.parameters for decision in decisions], np.float32)
        values = np.array([decision.value for decision in decisions], np.float32)
        self._drives[seed] = Drive(seed, road, states, np.array(actions), parameters, values)

    def drives(self) -> Drives:
        """Return what has been collected, in the order of the seeds."""
        low, high = support_of(self._model)
        return Drives(self._density, low, high, tuple(self._drives[seed] for seed in sorted(self._drives)))


_OF_A_STEP = ("states", "actions", "parameters", "values")


def write_drives(file: Path, evaluations: Mapping[str, Drives]) -> None:
    """Write the drives of each kind of action to a .npz."""
    arrays: dict[str, Any] = {}
    for kind, drives in evaluations.items():
        # All drives in one array each, since every array of a .npz costs some 300 bytes.
        arrays |= {f"{kind}/{name}": getattr(drives, name) for name in ("density", "low", "high")}
        arrays[f"{kind}/seeds"] = np.array([drive.seed for drive in drives.drives])
        arrays[f"{kind}/n_tiles"] = np.array([len(drive.road) for drive in drives.drives])
        arrays[f"{kind}/n_steps"] = np.array([len(drive.actions) for drive in drives.drives])
        for name in ("road", *_OF_A_STEP):
            arrays[f"{kind}/{name}"] = np.concatenate([getattr(drive, name) for drive in drives.drives])
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_atomically(file, content.getvalue())


def read_drives(file: Path) -> dict[str, Drives]:
    """Read what `write_drives` wrote; an empty dict if there is no such file, or it is damaged.

    Warns:
        UserWarning: it is damaged.
    """
    if not file.is_file():
        return {}
    try:
        with np.load(io.BytesIO(file.read_bytes())) as stored:
            arrays = {name: np.asarray(stored[name]) for name in stored.files}
        kinds = dict.fromkeys(name.partition("/")[0] for name in arrays)
        return {kind: _drives(kind, arrays) for kind in kinds}
    except (OSError, EOFError, ValueError, TypeError, KeyError, IndexError, zipfile.BadZipFile):
        # Not numpy's message, which suggests unpickling what it cannot read.
        warnings.warn(f"{file} is damaged and left out", stacklevel=2)
        return {}


def _drives(kind: str, arrays: Mapping[str, np.ndarray]) -> Drives:
    def parts(name: str, lengths: np.ndarray) -> list[np.ndarray]:
        if len(arrays[f"{kind}/{name}"]) != lengths.sum():
            raise ValueError(f"{name} has another length")
        return np.split(arrays[f"{kind}/{name}"], np.cumsum(lengths)[:-1])

    n_steps = arrays[f"{kind}/n_steps"]
    roads = parts("road", arrays[f"{kind}/n_tiles"])
    of_a_step = [parts(name, n_steps + (name == "states")) for name in _OF_A_STEP]
    drives = tuple(Drive(int(seed), *rest) for seed, *rest in zip(arrays[f"{kind}/seeds"], roads, *of_a_step, strict=True))
    density: Any = str(arrays[f"{kind}/density"])
    return Drives(density, arrays[f"{kind}/low"], arrays[f"{kind}/high"], drives)
