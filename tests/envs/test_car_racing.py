"""CarRacing: with the defaults it is stock gymnasium's; what training adds does what its keyword says."""

import copy
import gc
import itertools
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from drivers import CentreLineDriver, OutwardDriver, cheap_render, five_actions
from gymnasium.envs.box2d import car_racing as stock
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from sb3_carracing.envs.car_racing import RENDERERS, CarRacing, mostly_green, off_road, to_gray
from sb3_carracing.envs.counts import KEY
from sb3_carracing.envs.registration import register_envs
from sb3_carracing.envs.training_rules import MAX_FRAMES, Progress

IDLE = np.zeros(3, np.float32)
GAS = np.array([0.0, 1.0, 0.0], np.float32)
BRAKE = np.array([0.0, 0.0, 1.0], np.float32)


@pytest.fixture
def cheap_observations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock.CarRacing, "_render", cheap_render)


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch, cheap_observations: None) -> list[str]:
    """Every drawing by its mode: what gymnasium's own `_render` was called for."""
    modes = []
    draw = stock.CarRacing._render

    def counted(self: Any, mode: str) -> Any:
        if "t" in vars(self):
            modes.append(mode)
        return draw(self, mode)

    monkeypatch.setattr(stock.CarRacing, "_render", counted)
    return modes


def ours(renderer: str = "stock", **kwargs: Any) -> CarRacing:
    return CarRacing(renderer=renderer, **kwargs)


def random_driver(env: gym.Env) -> Callable[[], Any]:
    env.action_space.seed(5)
    return env.action_space.sample


def world(env: gym.Env, with_colors: bool = True) -> list[Any]:
    """All that the next frame depends on, and the random generator that the next episode depends on."""
    base: Any = env.unwrapped
    bodies = [base.car.hull, *base.car.wheels]
    state = [(*b.position, b.angle, *b.linearVelocity, b.angularVelocity) for b in bodies]
    wheels = [(w.omega, w.phase, w.gas, w.brake, w.steer, w.joint.angle, len(w.tiles)) for w in base.car.wheels]
    tiles = [(t.road_visited, tuple(t.color) if with_colors else None) for t in base.road]
    generator = base.np_random.bit_generator.state
    return [state, wheels, tiles, base.car.fuel_spent, base.t, base.reward, base.tile_visited_count, generator]


def lap_ends_soon(env: gym.Env, n_tiles: int = 12) -> None:
    """Count all tiles but the last `n_tiles` before the car as visited: even a timid driver finishes this lap."""
    base: Any = env.unwrapped
    for tile in base.road[n_tiles:]:
        if not tile.road_visited:
            tile.road_visited = True
            base.tile_visited_count += 1


def only_the_percentage_ends_the_lap(env: gym.Env) -> None:
    """Forget the touch of tile 0, and keep one tile from ever counting."""
    base: Any = env.unwrapped
    base.road[0].road_visited = False
    base.tile_visited_count -= 1
    base.road[100].road_visited = True


def assert_same_episodes(theirs: gym.Env, mine: Any, make_driver: Any, seed: int, prepare: Any = None) -> dict[str, Any]:
    """Step both with the same actions to the end; return the last info. Our own drawing is compared elsewhere."""
    same_observations = mine.unwrapped.renderer == "stock"
    info_2: dict[str, Any]
    observation, info = theirs.reset(seed=seed)
    observation_2, info_2 = mine.reset(seed=seed)
    assert info == {}
    assert info_2 == {"frames": 0, "score": 0}
    score = 0.0
    if prepare is not None:
        prepare(theirs)
        prepare(mine)
    drive = make_driver(theirs)
    for frame in range(1, MAX_FRAMES + 1):
        assert np.array_equal(observation, observation_2) or not same_observations
        # When our own drawing shows a tile as touched, test_fast_car tells.
        assert world(theirs, same_observations) == world(mine, same_observations)
        action = drive()
        if isinstance(theirs.action_space, gym.spaces.Discrete) and isinstance(action, np.ndarray):
            action = five_actions(action, frame)
        observation, reward, terminated, truncated, info = theirs.step(action)
        observation_2, reward_2, terminated_2, truncated_2, info_2 = mine.step(action)
        info.pop("TimeLimit.truncated", None)  # rl-zoo3's TimeLimit, if another test has imported it
        score += float(reward)
        assert (reward, terminated, truncated) == (reward_2, terminated_2, truncated_2)
        over = terminated or truncated
        counts = (score, frame, over, info.get("lap_finished", False))
        assert info_2 == {**info, "frames": frame, "score": score, "episode_over": over, KEY: counts}
        if terminated or truncated:
            return info_2
    raise AssertionError("an episode has at most 1000 frames")


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("domain_randomize", [False, True])
@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("ending", ["time limit", "crash", "lap"])
def test_defaults_are_stock_frame_by_frame(
    ending: str, continuous: bool, domain_randomize: bool, renderer: str, cheap_observations: None
) -> None:
    kwargs = {"continuous": continuous, "domain_randomize": domain_randomize}
    theirs = gym.make("CarRacing-v3", **kwargs)
    mine = gym.make("CarRacingFast-v3", renderer=renderer, **kwargs)
    assert mine.observation_space == theirs.observation_space
    assert mine.action_space == theirs.action_space
    make_driver = {"time limit": random_driver, "crash": OutwardDriver, "lap": CentreLineDriver}[ending]
    prepare = lap_ends_soon if ending == "lap" and not continuous else None
    for seed in (11, 12):
        info = assert_same_episodes(theirs, mine, make_driver, seed, prepare)
        assert info.get("lap_finished") == {"time limit": None, "crash": False, "lap": True}[ending]
        assert (info["frames"] == MAX_FRAMES) == (ending == "time limit")


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize(("percent", "ending"), [(0.9, True), (0.9999, None)])
def test_lap_complete_percent_is_stocks(percent: float, ending: bool | None, renderer: str, cheap_observations: None) -> None:
    """Where the rule does fire, it fires in the same frame on both."""
    theirs = gym.make("CarRacing-v3", lap_complete_percent=percent)
    mine = ours(lap_complete_percent=percent, renderer=renderer)

    def make_driver(env: gym.Env) -> Callable[[], Any]:
        follow, frames = CentreLineDriver(env), itertools.count()

        def drive() -> Any:
            if next(frames) == 100:  # tile 0 is behind the car now
                only_the_percentage_ends_the_lap(theirs)
                only_the_percentage_ends_the_lap(mine)
            return follow()

        return drive

    info = assert_same_episodes(theirs, mine, make_driver, 8)
    assert info.get("lap_finished") == ending


@pytest.mark.parametrize("domain_randomize", [False, True])
@pytest.mark.parametrize("continuous", [True, False])
def test_observations_are_stock_from_the_first_frame_on(continuous: bool, domain_randomize: bool) -> None:
    kwargs: dict[str, Any] = {"continuous": continuous, "domain_randomize": domain_randomize}
    theirs, mine = gym.make("CarRacing-v3", **kwargs), ours(**kwargs)
    assert np.array_equal(theirs.reset(seed=1)[0], mine.reset(seed=1)[0])
    drive = random_driver(theirs)
    for _ in range(40):
        action = drive()
        assert np.array_equal(theirs.step(action)[0], mine.step(action)[0])
    same_colours = {"randomize": False}
    assert np.array_equal(theirs.reset(seed=2, options=same_colours)[0], mine.reset(seed=2, options=same_colours)[0])


@pytest.mark.slow
def test_observations_are_stock_over_a_whole_lap() -> None:
    info = assert_same_episodes(gym.make("CarRacing-v3"), ours(), CentreLineDriver, 8)
    assert info["lap_finished"]


@pytest.mark.parametrize("frame_skip", [3, 7])
@pytest.mark.parametrize("make_driver", [random_driver, OutwardDriver, CentreLineDriver])
def test_a_step_is_frame_skip_stock_frames(make_driver: Any, frame_skip: int, cheap_observations: None) -> None:
    theirs, mine = gym.make("CarRacing-v3"), ours(frame_skip=frame_skip)
    theirs.reset(seed=4)
    mine.reset(seed=4)
    drive = make_driver(theirs)
    frames, over = 0, False
    while not over:
        action, total = drive(), 0.0
        for _ in range(frame_skip):
            observation, reward, terminated, truncated, info = theirs.step(action)
            total += float(reward)
            frames += 1
            over = terminated or truncated
            if over:
                break
        observation_2, total_2, terminated_2, truncated_2, info_2 = mine.step(action)
        assert np.array_equal(observation, observation_2)
        assert (total, terminated, truncated) == (total_2, terminated_2, truncated_2)
        info.pop("TimeLimit.truncated", None)  # rl-zoo3's TimeLimit, if another test has imported it
        assert info.items() <= info_2.items()
        assert info_2["frames"] == frames
    assert frames % frame_skip, "the episode ends in mid-repeat, which this test is for: choose another seed"


def test_truncation_comes_at_frame_1000_again_and_again(cheap_observations: None) -> None:
    env = ours(frame_skip=400)
    for _ in range(2):
        env.reset(seed=0)
        ends = [env.step(IDLE)[2:] for _ in range(3)]
        assert [(terminated, truncated) for terminated, truncated, _ in ends] == [(False, False)] * 2 + [(False, True)]
        assert [info["frames"] for *_, info in ends] == [400, 800, 1000]
        assert ends[-1][-1]["score"] == pytest.approx(-100 + 1000 / len(env.track) * env.tile_visited_count)
    env.close()


def test_one_drawing_a_step(drawings: list[str]) -> None:
    env = ours(frame_skip=8, noop_frames=20, grass_penalty=0.1, off_road_frames=90, no_progress_frames=100)
    env.reset(seed=0)
    assert drawings == ["state_pixels"]
    for _ in range(5):
        env.step(GAS)
    assert drawings == ["state_pixels"] * 6


def test_the_green_rule_draws_every_frame_once(drawings: list[str]) -> None:
    env = ours(frame_skip=8, noop_frames=20, grass_penalty=0.1, grass_rule="green")
    env.reset(seed=0)
    assert len(drawings) == 1
    env.step(GAS)
    assert len(drawings) == 1 + 8
    assert len(env.step(GAS)[0]) == 96
    assert len(drawings) == 1 + 16
    unpunished = ours(frame_skip=8, grass_penalty=0.0, grass_rule="green")
    unpunished.reset(seed=0)
    unpunished.step(GAS)
    assert len(drawings) == 17 + 2


def test_grayscale_is_opencvs_gray() -> None:
    colour, gray = ours(frame_skip=4), ours(frame_skip=4, grayscale=True)
    assert gray.observation_space == gym.spaces.Box(0, 255, (96, 96), np.uint8)
    rgb, _ = colour.reset(seed=0)
    grey, _ = gray.reset(seed=0)
    for _ in range(3):
        assert grey in gray.observation_space
        assert np.abs(rgb @ np.array([0.299, 0.587, 0.114]) - grey).max() < 0.501
        rgb, grey = colour.step(GAS)[0], gray.step(GAS)[0]


def test_gray_weights_over_all_colours() -> None:
    """OpenCV counts in fixed point: never more than 0.004 of a level beside the rounded sum."""
    green, blue = np.mgrid[:256, :256].astype(np.uint8)
    for red in range(0, 256, 5):
        rgb = np.dstack([np.full_like(green, red), green, blue])
        assert np.abs(to_gray(rgb) - rgb @ np.array([0.299, 0.587, 0.114])).max() < 0.504


def test_renderings_are_stock() -> None:
    theirs: Any = gym.make("CarRacing-v3", render_mode="rgb_array")
    mine: Any = ours(render_mode="rgb_array", frame_skip=2, grayscale=True)
    theirs.reset(seed=0)
    mine.reset(seed=0)
    theirs.step(GAS)
    theirs.step(GAS)
    mine.step(GAS)
    assert mine.render().shape == (stock.VIDEO_H, stock.VIDEO_W, 3)
    assert np.array_equal(theirs.render(), mine.render())


def test_state_pixels_is_what_the_agent_sees() -> None:
    env: Any = ours(render_mode="state_pixels", grayscale=True)
    env.reset(seed=0)
    assert np.array_equal(env.step(GAS)[0], env.render())


def test_human_window_opens_and_closes() -> None:
    env = ours(render_mode="human", frame_skip=2)
    env.reset(seed=0)
    env.step(GAS)
    assert env.screen is not None
    env.close()
    assert not env.isopen


def test_the_window_shows_every_frame_at_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    monkeypatch.setattr(stock.CarRacing, "_render", lambda self, mode: rates.append((mode, self.metadata["render_fps"])))
    env = ours(render_mode="human", frame_skip=5)
    env.reset(seed=0)
    rates.clear()
    env.step(GAS)
    assert rates == [("human", 50)] * 5 + [("state_pixels", 10)]


@pytest.mark.parametrize(
    "kwargs", [{}, {"grayscale": True}, {"renderer": "stock"}, {"truncate_lap": True, "standstill_rate": 1.0}], ids=str
)
def test_a_closed_env_holds_no_memory(kwargs: dict[str, Any]) -> None:
    """No texture, and nothing that would have to wait for the garbage collector."""
    env = gym.make("CarRacingFast-v3", render_mode="rgb_array", **kwargs)
    env.reset(seed=0)
    env.step(GAS)
    env.render()
    base: Any = env.unwrapped
    gc.collect()
    gc.disable()
    try:
        parts = [weakref.ref(part) for part in (base.car, base.world.contactListener_bug_workaround)]
        if base._camera is not None:
            parts += [weakref.ref(renderer._texture) for renderer in base._camera._renderers.values()]
        whole = [weakref.ref(base), weakref.ref(base.road[0])]
        env.close()
        assert [part() for part in parts] == [None] * len(parts)
        del env, base
        assert [part() for part in whole] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_closed_env_may_be_reset(renderer: str, cheap_observations: None) -> None:
    env, other = ours(renderer, render_mode="rgb_array"), ours(renderer, render_mode="rgb_array")
    env.reset(seed=0)
    env.close()
    env.close()
    assert env.render() is None  # type: ignore[no-untyped-call]
    with pytest.raises(gym.error.ResetNeeded, match="after close"):
        env.step(GAS)
    assert np.array_equal(env.reset(seed=1)[0], other.reset(seed=1)[0])
    for _ in range(30):
        observation, *rest = env.step(GAS)
        other_observation, *other_rest = other.step(GAS)
        assert np.array_equal(observation, other_observation)
        assert rest == other_rest


@pytest.mark.slow
def test_memory_is_flat_when_environments_are_made_and_closed() -> None:
    """12 times 16 environments: without close's work, half a gigabyte more than stock."""
    program = """
import resource, sys, numpy as np, sb3_carracing
from stable_baselines3.common.env_util import make_vec_env
for seed in range(12):
    venv = make_vec_env(sys.argv[1], n_envs=16, seed=seed)
    venv.reset()
    venv.step(np.zeros((16, 3), np.float32))
    venv.close()
    if seed == 1:
        early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - early)
"""
    growth = subprocess.run([sys.executable, "-c", program, "CarRacingFast-v3"], capture_output=True, text=True, check=True)
    assert int(growth.stdout.split()[-1]) < 60_000  # [kB]; the textures of 16 environments have 160 MB


def test_noop_frames_count_in_all_but_the_reward(cheap_observations: None) -> None:
    theirs, mine = gym.make("CarRacing-v3"), ours(noop_frames=50, grass_penalty=0.5, grass_rule="green")
    theirs.reset(seed=3)
    total = 0.0
    for _ in range(50):
        observation, reward, *_ = theirs.step(IDLE)
        total += float(reward)
    first, info = mine.reset(seed=3)
    assert np.array_equal(observation, first)
    assert world(theirs) == world(mine)
    assert info == {"frames": 50, "score": total}
    limited = ours(noop_frames=999)
    limited.reset(seed=3)
    assert limited.step(IDLE)[3]


def test_grass_penalty_by_wheels(cheap_observations: None) -> None:
    plain, punished = ours(), ours(grass_penalty=0.25)
    plain.reset(seed=3)
    punished.reset(seed=3)
    drive = OutwardDriver(plain)
    n_frames_off = 0
    for _ in range(60):
        action = drive()
        reward, shaped = float(plain.step(action)[1]), punished.step(action)[1]
        due = off_road(plain.car)
        n_frames_off += due
        assert shaped == reward - 0.25 * due
    assert 10 < n_frames_off < 60


def test_wheels_know_the_road(cheap_observations: None) -> None:
    """The law behind the rule: wheels within the road's half width of its middle touch a tile, far ones do not."""
    env = ours()
    env.reset(seed=3)
    middle = np.array([tile[2:4] for tile in env.track])
    drive = OutwardDriver(env)
    for _ in range(100):
        env.step(drive())
        distances = [np.hypot(*(middle - np.array(wheel.position)).T).min() for wheel in env.car.wheels]
        if min(distances) < stock.TRACK_WIDTH - 1:
            assert not off_road(env.car)
        if min(distances) > stock.TRACK_WIDTH + 2:
            assert off_road(env.car)


def test_grass_penalty_by_colour() -> None:
    threshold = 150.0
    plain, punished = ours(), ours(grass_penalty=0.25, grass_rule="green", green_threshold=threshold)
    plain.reset(seed=3)
    punished.reset(seed=3)
    drive = OutwardDriver(plain)
    n_frames_green = 0
    for _ in range(60):
        action = drive()
        observation, reward, *_ = plain.step(action)
        shaped = punished.step(action)[1]
        due = mostly_green(observation, threshold)
        n_frames_green += due
        assert shaped == float(reward) - 0.25 * due
    assert 0 < n_frames_green < 60


@pytest.mark.parametrize("frame_skip", [1, 9])
@pytest.mark.parametrize("make_driver", [lambda env: lambda: IDLE, OutwardDriver, CentreLineDriver])
def test_end_bonus_at_every_stock_end(make_driver: Any, frame_skip: int, cheap_observations: None) -> None:
    env = ours(end_bonus=100.0, frame_skip=frame_skip)
    env.reset(seed=8)
    drive = make_driver(env)
    shaped, over = 0.0, False
    while not over:
        _, reward, terminated, truncated, info = env.step(drive())
        shaped += float(reward)
        over = terminated or truncated
    assert shaped == pytest.approx(info["score"] + 100)


def test_no_end_bonus_at_own_stops(cheap_observations: None) -> None:
    env = ours(end_bonus=100.0, no_progress_frames=10, no_progress_reward=1.0)
    env.reset(seed=8)
    _, reward, terminated, truncated, info = env.step(IDLE)
    assert (terminated, truncated, info["stopped_by"]) == (True, False, "no_progress")
    assert float(reward) < 50


def test_no_progress_stop(cheap_observations: None) -> None:
    plain, stopped = ours(), ours(no_progress_frames=30, no_progress_reward=-0.05)
    plain.reset(seed=8)
    stopped.reset(seed=8)
    history = np.zeros(30)
    for frame in range(200):
        history[frame % 30] = plain.step(BRAKE)[1]
        *_, terminated, truncated, info = stopped.step(BRAKE)
        assert terminated == (np.mean(history) <= -0.05)
        assert not truncated
        if terminated:
            break
    assert info["stopped_by"] == "no_progress"
    assert "lap_finished" not in info
    stopped.reset(seed=8)
    assert not stopped.step(BRAKE)[2], "the history starts anew with the episode"


def test_progress_is_a_mean_over_a_history_that_starts_at_zeros() -> None:
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=250)
    progress = Progress(100)
    padded = np.concatenate([np.zeros(100), rewards])
    for i, reward in enumerate(rewards):
        assert progress.mean_with(reward) == pytest.approx(padded[i + 1 : i + 101].mean(), abs=1e-12)


def test_off_road_stop_counts_consecutive_frames(cheap_observations: None) -> None:
    plain, stopped = ours(), ours(off_road_frames=7, frame_skip=2)
    plain.reset(seed=8)
    stopped.reset(seed=8)
    drive = OutwardDriver(plain)
    run, over = 0, False
    while not over:
        action = drive()
        for _ in range(2):
            if run < 7:
                plain.step(action)
                run = run + 1 if off_road(plain.car) else 0
        _, _, over, _, info = stopped.step(action)
        assert over == (run == 7)
    assert info["stopped_by"] == "off_road"
    assert world(plain) == world(stopped)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("frame_skip", 0),
        ("frame_skip", 2.5),
        ("frame_skip", True),
        ("renderer", "opengl"),
        ("noop_frames", -1),
        ("noop_frames", 1000),
        ("grass_penalty", -0.1),
        ("grass_penalty", float("nan")),
        ("grass_penalty", "0.1"),
        ("end_bonus", None),
        ("grass_rule", "smell"),
        ("green_threshold", float("inf")),
        ("end_bonus", float("nan")),
        ("no_progress_frames", -1),
        ("no_progress_frames", 1.5),
        ("no_progress_reward", float("-inf")),
        ("off_road_frames", -3),
        ("gap_penalty", -1.0),
        ("standstill_rate", -0.1),
        ("standstill_rate", 1.5),
        ("truncate_lap", "false"),
    ],
)
def test_bad_keywords_are_named(keyword: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{keyword} must be .*got {value!r}"):
        gym.make("CarRacingFast-v3", **{"renderer": "stock", keyword: value})


def test_numbers_of_numpy_are_numbers() -> None:
    assert ours(frame_skip=np.int64(4), grass_penalty=np.float32(0.5)).frame_skip == 4


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_keep_keywords_and_view(clone: Any, renderer: str, cheap_observations: None) -> None:
    env = ours(
        renderer, continuous=False, frame_skip=4, grayscale=True, noop_frames=5, off_road_frames=9, domain_randomize=True
    )
    env.reset(seed=0)
    twin = clone(env)
    assert twin.rules.options == env.rules.options
    assert (twin.frame_skip, twin.grayscale, twin.continuous) == (4, True, False)
    assert np.array_equal(env.reset(seed=7)[0], twin.reset(seed=7)[0])
    assert np.array_equal(env.step(3)[0], twin.step(3)[0])


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("kwargs", [{}, {"grayscale": True, "frame_skip": 4}, {"continuous": False, "noop_frames": 3}])
@pytest.mark.filterwarnings("ignore")
def test_environment_checkers(kwargs: dict[str, Any], renderer: str) -> None:
    gymnasium_check_env(ours(renderer, **kwargs), skip_render_check=True)
    sb3_check_env(ours(renderer, **kwargs))


def test_bad_discrete_actions_are_refused_and_leave_the_env_usable(cheap_observations: None) -> None:
    env = ours(continuous=False)
    env.reset(seed=0)
    with pytest.raises(gym.error.InvalidAction, match="7"):
        env.step(7)
    assert env.step(3)[0].shape == (96, 96, 3)


def test_ids() -> None:
    register_envs()  # a second time: no warning, no change
    shapes = {"CarRacingFast-v3": (96, 96, 3), "CarRacingBlog-v3": (4, 96, 96), "CarRacingIurin-v3": (4, 84, 84)}
    for env_id, shape in shapes.items():
        spec, stock_spec = gym.spec(env_id), gym.spec("CarRacing-v3")
        assert (spec.max_episode_steps, spec.reward_threshold) == (stock_spec.max_episode_steps, stock_spec.reward_threshold)
        env = gym.make(env_id, renderer="stock")
        assert env.observation_space.shape == shape
        assert env.spec is not None
        again = gym.make(env.spec)
        assert again.observation_space == env.observation_space
        env.reset(seed=0)
        again.reset(seed=0)
        assert again.step(again.action_space.sample())[4]["frames"] == env.step(env.action_space.sample())[4]["frames"]


def test_importing_the_package_loads_neither_pygame_nor_torch() -> None:
    program = "import sb3_carracing, sys; print({'torch', 'pygame', 'Box2D'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).split() == ["set()"]


def test_environments_load_neither_torch_nor_sb3() -> None:
    program = "import sys, sb3_carracing, gymnasium as gym\nfor id in %r: gym.make(id, max_episode_steps=5)\nprint(%s)"
    ids = ("CarRacingFast-v3", "CarRacingBlog-v3", "CarRacingIurin-v3")
    loaded = "{'torch', 'stable_baselines3', 'rl_zoo3'} & set(sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program % (ids, loaded)], text=True).splitlines()[-1] == "set()"


def test_lap_complete_percent_never_fires_in_gymnasium(cheap_observations: None) -> None:
    """The percentage is looked at when tile 0 is first touched, and the car starts on it (gymnasium issue 1269).

    When this fails, gymnasium has changed: scores of its version are not comparable with those before (a lap with a
    few tiles missed ends at the start line, not at frame 1000). Say so in the README and the changelog, and turn the
    test round.
    """
    env: Any = stock.CarRacing(lap_complete_percent=0.5)
    env.reset(seed=8)
    env.road[len(env.road) // 2].road_visited = True  # one tile that never counts: 100 % cannot be reached
    drive = CentreLineDriver(env)
    for _ in range(900):
        *_, terminated, _, _ = env.step(drive())
        assert not terminated, f"gymnasium {gym.__version__} ends a lap at lap_complete_percent"
    assert env.tile_visited_count == len(env.track) - 1
