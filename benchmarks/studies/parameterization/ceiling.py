"""What the best policy for a discount factor scores on Pendulum-v1's evaluation episodes, by dynamic programming.

    python -m benchmarks.studies.parameterization.ceiling [--gammas 0.9 0.95 0.98]

Values are iterated on a grid of angle and speed with bilinear interpolation; the greedy policy then plays the episodes.
"""

from collections.abc import Sequence

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from benchmarks import options
from benchmarks.studies.parameterization.arms import EPISODES, FIRST_EVALUATION_SEED

Array = NDArray[np.float64]
GRID = 181
MAX_SPEED, MAX_TORQUE, DT = 8.0, 2.0, 0.05


def wrapped(angle: Array) -> Array:
    """Return the angle in [-pi, pi); 0 is upright."""
    return (angle + np.pi) % (2.0 * np.pi) - np.pi


def step(angle: Array, speed: Array, torque: Array) -> tuple[Array, Array, Array]:
    """Return the next angle and speed, and the cost, as gymnasium's Pendulum-v1 has them."""
    cost = wrapped(angle) ** 2 + 0.1 * speed**2 + 0.001 * torque**2
    speed = np.clip(speed + (15.0 * np.sin(angle) + 3.0 * torque) * DT, -MAX_SPEED, MAX_SPEED)
    return wrapped(angle + speed * DT), speed, cost


def interpolated(costs_to_go: Array, angle: Array, speed: Array) -> Array:
    """Return the grid's value between its nodes."""
    rows = (angle + np.pi) / (2.0 * np.pi) * (GRID - 1)
    columns = (speed + MAX_SPEED) / (2.0 * MAX_SPEED) * (GRID - 1)
    values: Array = map_coordinates(costs_to_go, np.stack([rows, columns]), order=1)
    return values


def optimal_costs(gamma: float) -> Array:
    """Return the discounted costs to go of the best policy, `(GRID, GRID)` over angle and speed."""
    angle, speed = np.meshgrid(np.linspace(-np.pi, np.pi, GRID), np.linspace(-MAX_SPEED, MAX_SPEED, GRID), indexing="ij")
    moves = [step(angle, speed, np.full_like(angle, torque)) for torque in np.linspace(-MAX_TORQUE, MAX_TORQUE, 9)]
    costs = np.zeros((GRID, GRID))
    for _ in range(round(5.0 / (1.0 - gamma))):
        costs = np.min([cost + gamma * interpolated(costs, *after) for *after, cost in moves], axis=0)
    return costs


def played(gamma: float) -> tuple[float, float]:
    """Return the mean score of the greedy policy and the share of its actions at a bound."""
    costs_to_go, env, states = optimal_costs(gamma), gym.make("Pendulum-v1"), []
    for k in range(EPISODES):
        env.reset(seed=FIRST_EVALUATION_SEED + k)
        states.append(env.unwrapped.state)  # type: ignore[attr-defined]
    angle, speed = np.array(states).T
    total, at_bound, torques = 0.0, 0.0, np.linspace(-MAX_TORQUE, MAX_TORQUE, 41)
    for _ in range(200):
        after_angle, after_speed, cost = step(angle[:, None], speed[:, None], torques)
        best = (cost + gamma * interpolated(costs_to_go, after_angle, after_speed)).argmin(axis=1)
        chosen = np.arange(EPISODES), best
        total -= cost[chosen].mean()
        at_bound += (np.abs(torques[best]) == MAX_TORQUE).mean() / 200
        angle, speed = after_angle[chosen], after_speed[chosen]
    return total, at_bound


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line per discount factor."""
    parser = options.parser(__doc__)
    parser.add_argument("--gammas", type=float, nargs="+", default=[0.9, 0.95, 0.98], help="default: %(default)s")
    for gamma in parser.parse_args(argv).gammas:
        score, at_bound = played(gamma)
        print(f"gamma {gamma:g}: score {score:.1f}, {at_bound:.0%} of the actions at a bound", flush=True)


if __name__ == "__main__":
    main()
