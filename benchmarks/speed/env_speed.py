"""Speed of our CarRacing compared with gymnasium's and EnvPool's: one process and one thread each, resets included.

All environments run the same prepared actions on the same tracks. Of four episodes, three follow the middle of the road and
one has a random policy. EnvPool draws its own tracks, where the same actions leave the road sooner, which is less work. The
environments take turns of 200 frames, so that other load affects all of them equally. Ratios are computed per round, and the
script prints their medians and quartiles. Before timing, each environment plays one episode to warm up. Ours with rendering
plays 16 more to fill its tables of digits and wheels. There are two clocks: wall time, and CPU time, which other programs
disturb less.

Gymnasium and EnvPool draw every frame. Grayscale would cost them an extra conversion of 0.01 ms per decision, so they are
timed in color. Our grayscale and color observations are both compared with that.

If EnvPool is not installed here, name a Python that has it:

    python -m venv /tmp/envpool && /tmp/envpool/bin/pip install envpool
    python -m benchmarks.speed.env_speed [--rounds 8] [--envpool-python /tmp/envpool/bin/python] [--out FILE.json]

The next limit: Box2D. By `perf record` of our physics alone, on a machine where it takes 0.035 ms a frame, seven tenths are
Box2D's machine code, and six tenths solve the joints of the four wheels, 180 times a frame as gymnasium asks for. Each of
these 720 steps needs the result of the one before, and fewer change the last bits: they end in cycles, not in a fixed point,
and none of 13 numbers from 60 to 179 gave the same as 180 for more than 30 frames. The rest of a frame, 0.008 ms, is the
Python of wheels, contacts and rewards. A reset takes 2.2 ms without and 3.1 ms with the texture: 0.5 ms of arithmetic, 0.6
for 280 fixtures in Box2D, 0.4 to draw the road, 0.4 for Box2D's first frame. A gray observation takes 0.02 ms in a loop there,
but 0.04 to 0.05 among other work, when Box2D has had the processor's caches.
"""

import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import cv2
import numpy as np
from gymnasium.envs.box2d import car_racing as stock
from numpy.typing import NDArray

from benchmarks import options, provenance
from sb3_carracing.envs.car_racing import CarRacing

TURN = 200  # frames that one plays before it is the next one's turn
REPEATS = (4, 8)
GYMNASIUM, GYMNASIUM_PHYSICS, ENVPOOL = "gymnasium", "gymnasium, nothing drawn", "EnvPool"
PHYSICS, COLOUR, GREY = "ours, nothing drawn", "ours, colour", "ours, grey"
GOALS = {4: 75, 8: 100}  # times gymnasium's speed

Actions = NDArray[np.float32]
"""(n_decisions, 3): steering, gas and brake."""

ENVPOOL_LOOP = """
import sys, time, warnings
warnings.simplefilter("ignore")
import envpool, numpy
env = envpool.make_gymnasium("CarRacing-v3", num_envs=1, num_threads=1, seed=0)
env.reset()
print(envpool.__version__, flush=True)
for line in sys.stdin:
    repeat, *numbers = line.split()
    actions = numpy.array(numbers, numpy.float32).reshape(-1, 1, 3)
    wall, cpu = time.perf_counter(), time.process_time()
    for action in actions:
        for _ in range(int(repeat)):
            env.step(action)
    print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)
"""


class Spent(NamedTuple):
    """Seconds that passed, and the processor's seconds."""

    wall: float
    cpu: float


class Undrawn(CarRacing):
    """Our physics alone: no texture and no observation."""

    def _follow_track(self) -> None:
        self._camera = Blank()  # type: ignore[assignment]
        super()._follow_track()


class Blank:
    """Stands in for a `Camera`."""

    picture = np.zeros((96, 96), np.uint8)

    def start(self, env: Any) -> None: ...

    def touch(self, tile_index: int) -> None: ...

    def take(self, car: Any, time: float, score: float, *, grayscale: bool) -> NDArray[np.uint8]:
        return self.picture


class StockUndrawn(stock.CarRacing):
    """Gymnasium's physics alone."""

    def _render(self, mode: str) -> Any:
        return None


class Player:
    """An environment of this process; `repeat` is what the environment itself does not repeat."""

    def __init__(self, env: Any, repeat: int) -> None:
        self.env, self.repeat = env, repeat
        self._ended = False

    def play(self, seed: int | None, actions: Actions) -> Spent:
        """Play one turn, with the reset before it if there is a seed."""
        wall, cpu = time.perf_counter(), time.process_time()
        if seed is not None:
            self.env.reset(seed=seed)
            self._ended = False
        for action in actions:
            for _ in range(self.repeat):
                if not self._ended:
                    _, _, terminated, truncated, _ = self.env.step(action)
                    self._ended = terminated or truncated
        return Spent(time.perf_counter() - wall, time.process_time() - cpu)


class EnvPoolPlayer:
    """EnvPool in a process of its own, which resets by itself at its episodes' ends."""

    def __init__(self, python: str, repeat: int) -> None:
        self.repeat = repeat
        self.process = subprocess.Popen(
            [python, "-c", ENVPOOL_LOOP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        self.version = self.process.stdout.readline().strip()
        if not self.version:
            raise RuntimeError(f"{python} cannot import envpool")

    def play(self, seed: int | None, actions: Actions) -> Spent:
        """Play one turn."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(self.repeat, *actions.flatten().tolist(), file=self.process.stdin, flush=True)
        wall, cpu = self.process.stdout.readline().split()
        return Spent(float(wall), float(cpu))


def centre_line_action(env: CarRacing) -> Actions:
    """Steer for a point ahead on the road's middle, slower where the road bends; (3,)."""
    car = env.car
    assert car is not None
    position = np.array(car.hull.position)
    points = np.array([tile[2:] for tile in env.track])
    nearest = int(np.argmin(np.hypot(*(points - position).T)))
    turns = []
    for ahead in (3, 9):
        x, y = points[(nearest + ahead) % len(points)] - position
        turn = np.arctan2(y, x) - car.hull.angle - np.pi / 2
        turns.append(-np.angle(np.exp(1j * turn)))
    speed = np.hypot(*car.hull.linearVelocity)
    target = max(18.0, 55.0 - 50.0 * max(np.abs(turns)))
    action = (1.2 * turns[0], min(0.1 * (target - speed), 0.5), min(0.02 * (speed - target - 3.0), 0.5))
    clipped: Actions = np.clip(np.array(action, np.float32), (-1, 0, 0), 1, dtype=np.float32)
    return clipped


def prepare(seed: int, repeat: int) -> tuple[Actions, int]:
    """Return an episode's actions and how many frames it lasts; every fourth seed has a random policy."""
    env, rng = Undrawn(frame_skip=repeat), np.random.default_rng(seed)
    env.reset(seed=seed)
    actions, ended = [], False
    while not ended:
        driven = seed % 4 != 3
        actions.append(centre_line_action(env) if driven else rng.uniform((-1, 0, 0), 1).astype(np.float32))
        _, _, terminated, truncated, info = env.step(actions[-1])
        ended = terminated or truncated
    return np.array(actions), info["frames"]


def turns_of(seed: int, actions: Actions, repeat: int) -> Iterator[tuple[int | None, Actions]]:
    decisions = TURN // repeat
    for first in range(0, len(actions), decisions):
        yield (seed if first == 0 else None), actions[first : first + decisions]


def measure(players: dict[str, Any], seeds: Sequence[int], repeat: int) -> dict[str, list[dict[str, float]]]:
    """Let all players play the seeds' episodes in turns and return microseconds a frame by player and round."""
    rounds = defaultdict(list)
    for seed in seeds:
        actions, frames = prepare(seed, repeat)
        spent = {name: Spent(0.0, 0.0) for name in players}
        for turn in turns_of(seed, actions, repeat):
            for name, player in players.items():
                wall, cpu = player.play(*turn)
                spent[name] = Spent(spent[name].wall + wall, spent[name].cpu + cpu)
        for name, seconds in spent.items():
            rounds[name].append({clock: 1e6 * getattr(seconds, clock) / frames for clock in Spent._fields})
    return rounds


def warm_up(players: dict[str, Any], repeat: int) -> None:
    """Let all play an episode, and those whose tables of digits and wheels fill with time some more."""
    measure(players, [3], repeat)
    measure({name: player for name, player in players.items() if name in (COLOUR, GREY)}, range(100, 116), repeat)


def players(repeat: int, envpool_python: str | None) -> dict[str, Any]:
    """Return everything that is compared, by name."""
    found: dict[str, Any] = {
        GYMNASIUM: Player(stock.CarRacing(), repeat),
        GYMNASIUM_PHYSICS: Player(StockUndrawn(), repeat),
        PHYSICS: Player(Undrawn(frame_skip=repeat), 1),
        COLOUR: Player(CarRacing(frame_skip=repeat), 1),
        GREY: Player(CarRacing(frame_skip=repeat, grayscale=True), 1),
    }
    if envpool_python:
        found[ENVPOOL] = EnvPoolPlayer(envpool_python, repeat)
    return found


def spread(values: NDArray[np.float64], form: str = ".1f") -> str:
    low, median, high = np.percentile(values, (25, 50, 75))
    return f"{median:{form}} ({low:{form}} to {high:{form}})"


def table(rounds: dict[str, list[dict[str, float]]], repeat: int, clock: str) -> list[str]:
    """Return a Markdown table: median and quartiles over the rounds."""
    times = {name: np.array([one[clock] for one in measured]) for name, measured in rounds.items()}
    lines = [
        f"### frame_skip {repeat}, {'time passed' if clock == 'wall' else 'processor time'}",
        "",
        "| | frames/s | times gymnasium | times EnvPool | time against our physics |",
        "|---|---|---|---|---|",
    ]
    for name, taken in times.items():
        envpool = spread(times[ENVPOOL] / taken) if ENVPOOL in times else "not measured"
        cells = (spread(1e6 / taken, ",.0f"), spread(times[GYMNASIUM] / taken), envpool, spread(taken / times[PHYSICS], ".2f"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def find_envpool(python: str | None) -> str | None:
    """Return a Python that imports envpool: the given one, else this one, else None."""
    for candidate in (python, sys.executable):
        if candidate and subprocess.run([candidate, "-c", "import envpool"], capture_output=True, check=False).returncode == 0:
            return candidate
    if python:
        raise SystemExit(f"--envpool-python {python} cannot import envpool")
    return None


def report(results: dict[int, Any], envpool_version: str | None, n_rounds: int) -> str:
    """Return all of it as Markdown."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("gymnasium", "box2d", "pygame-ce", "opencv-python", "numpy"))
    lines = [
        "# Speed of CarRacing, one thread, resets included",
        "",
        f"{n_rounds} rounds of one episode each: median (quartiles). {packages}, "
        f"EnvPool {envpool_version or '(not installed here: give --envpool-python)'}. "
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}.",
        "",
    ]
    for repeat, rounds in results.items():
        for clock in Spent._fields:
            lines += table(rounds, repeat, clock)
        ratios = [a["cpu"] / b["cpu"] for a, b in zip(rounds[GYMNASIUM], rounds[GREY], strict=True)]
        lines += [f"Goal at frame_skip {repeat}: {GOALS[repeat]} times gymnasium; grey reaches {np.median(ratios):.0f}.", ""]
    limits = (__doc__ or "").split("The next limit: ")[1].strip()
    return "\n".join([*lines, "## The next limit", "", limits, ""])


def main() -> None:
    parser = options.parser(__doc__, rounds=8, out_help="write all figures to this file, and a report beside it as FILE.md")
    parser.add_argument("--envpool-python", help="a Python that can import envpool, if this one cannot")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    envpool_python = find_envpool(args.envpool_python)
    results, envpool_version = {}, None
    for repeat in REPEATS:
        racing = players(repeat, envpool_python)
        if ENVPOOL in racing:
            envpool_version = racing[ENVPOOL].version
        warm_up(racing, repeat)
        results[repeat] = measure(racing, range(args.rounds), repeat)
    text = report(results, envpool_version, args.rounds)
    print(text)
    if args.out is not None:
        provenance.write_json(args.out, args, {"EnvPool": envpool_version, "microseconds_per_frame": results})
        args.out.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
