"""What all tests share: no display, one thread per process, fixtures of several rooms, and no skipped tests in CI."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A test run started in the background ignores Ctrl-C, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # the same under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that skipped a test where CI forbids it. Tests that need a GPU are exempt."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("SB3_CARRACING_NO_SKIPS"):
        return
    skipped = [report.nodeid for report in reporter.stats.get("skipped", []) if "gpu" not in report.keywords]
    if skipped:
        reporter.write_line(f"skipped, which CI does not allow: {', '.join(skipped)}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole episodes of stock CarRacing in a fraction of a second."""
    from drivers import cheap_render
    from gymnasium.envs.box2d import car_racing as stock

    monkeypatch.setattr(stock.CarRacing, "_render", cheap_render)


@pytest.fixture
def cheap_film(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, with frame images for people that show a bar as long as the time."""
    from drivers import cheap_render
    from gymnasium.envs.box2d import car_racing as stock

    def render(car_racing: Any, mode: str) -> Any:
        if mode != "rgb_array":
            return cheap_render(car_racing, mode)
        if "t" not in vars(car_racing):
            return None
        image = np.zeros((400, 600, 3), np.uint8)
        image[:, : round(car_racing.t * 25)] = (200, 30, 60)
        return image

    monkeypatch.setattr(stock.CarRacing, "_render", render)


@pytest.fixture
def blog_run(tmp_path: Path, cheap: None) -> Path:
    """A run of the blog implementation's id: an untrained agent, and the config that rl-zoo3 writes."""
    import gymnasium as gym
    from stand_ins import write_run

    from sb3_carracing import BetaPPO

    run = write_run(tmp_path, {"env_kwargs": {"end_bonus": 100.0}}, env="CarRacingBlog-v3")
    env = gym.make("CarRacingBlog-v3")
    network = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}}
    model = BetaPPO("CnnPolicy", env, seed=0, device="cpu", n_steps=8, batch_size=8, policy_kwargs=network)
    model.save(run / "CarRacingBlog-v3.zip")
    env.close()
    return run
