"""The report in a real browser, wide and at a phone's width, without a network."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from stand_ins import EVALUATIONS, PROGRESS

from sb3_carracing.cli import main
from sb3_carracing.drives import COLUMNS, read_drives
from sb3_carracing.report import page

pytestmark = pytest.mark.usefixtures("cheap")

EVIL = "</script><img src=x onerror=document.title='hurt'>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program, driver_program = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if program is None or driver_program is None:
        pytest.skip("needs a browser: Debian's packages chromium and chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium's sandbox does not run as root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_program))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def report(blog_run: Path, kept: Path) -> Path:
    """Return the report of a run with logs and an evaluation, which is made once and then copied."""
    if not any(kept.iterdir()):
        (blog_run / "progress.csv").write_text(PROGRESS)
        (blog_run / "evaluations.csv").write_text(EVALUATIONS)
        config = {"env_kwargs": {"end_bonus": 100.0}, "gamma": EVIL}
        (blog_run / "CarRacingBlog-v3" / "config.yml").write_text(yaml.safe_dump(config))
        main(["evaluate", str(blog_run), "-n", "2", "--n-envs", "1"])
        shutil.copytree(blog_run, kept, dirs_exist_ok=True)
    shutil.copytree(kept, blog_run, dirs_exist_ok=True)
    main(["report", str(blog_run)])
    return blog_run / "report.html"


MOVE = """
const slider = document.querySelector(".replay input[type=range]");
slider.value = arguments[0];
slider.dispatchEvent(new Event("input"));
"""


def open_page(browser: Any, file: Path, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(file.as_uri())


def texts(browser: Any, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(node => node.textContent)"
    return list(browser.execute_script(script, selector))


@pytest.mark.parametrize("width", [1400, 390])
def test_it_opens_without_errors_network_or_sideways_scrolling(report: Path, browser: Any, width: int) -> None:
    open_page(browser, report, width)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    assert browser.title == "Report: CarRacingBlog-v3_1"
    assert EVIL in "".join(texts(browser, ".config td"))
    titles = texts(browser, "h2")
    assert titles == ["Warning signs", "Curves", "Evaluation", "Tracks", "Settings", "Machine and versions"]
    assert {"KL divergence per update, approximate", "validation, mean ± std"} <= set(texts(browser, "figure h3"))


def test_its_numbers_are_the_stored_ones(report: Path, browser: Any) -> None:
    open_page(browser, report, 1400)
    stored = json.loads((report.parent / "evaluation.json").read_text())["results"]["mode"]
    row = texts(browser, "table:first-of-type tbody tr:first-child td")
    assert float(row[5]) == pytest.approx(stored["summary"]["mean"], abs=0.051)
    assert float(row[6]) == pytest.approx(stored["summary"]["std"], abs=0.051)
    worst_first = sorted(stored["episodes"], key=lambda episode: float(episode["score"]))
    assert [float(text) for text in texts(browser, ".map b")] == [
        pytest.approx(episode["score"], abs=0.051) for episode in worst_first
    ]
    seeds = browser.execute_script("return [...document.querySelectorAll('.map')].map(node => +node.dataset.seed)")
    assert seeds == [episode["seed"] for episode in worst_first]


def test_a_replay_follows_the_slider(report: Path, browser: Any) -> None:
    open_page(browser, report, 1400)
    drives = read_drives(report.parent / "evaluation_drives.npz")["mode"].drives
    browser.execute_script("document.querySelectorAll('.map')[1].click()")
    seed = browser.execute_script("return +document.querySelector('.map.shown').dataset.seed")
    (drive,) = (drive for drive in drives if drive.seed == seed)
    images = []
    for row in (0, len(drive.states) // 2, len(drive.states) - 1):
        state = dict(zip(COLUMNS, drive.states[row], strict=True))
        browser.execute_script(MOVE, float(state["frame"]))
        frame, score, speed = map(float, texts(browser, ".readout b")[:3])
        assert frame == pytest.approx(state["frame"], abs=1)
        assert score == pytest.approx(state["score"], abs=0.2)
        assert speed == pytest.approx(state["speed"], abs=1)
        images.append(browser.execute_script("return document.querySelector('.replay canvas').toDataURL()"))
    assert len(set(images)) == 3


def test_a_replay_plays_at_the_games_speed(report: Path, browser: Any) -> None:
    open_page(browser, report, 1400)
    browser.execute_script("window.begun = performance.now(); document.querySelector('.replay button').click()")
    frame, seconds = browser.execute_async_script(
        "const done = arguments[0]; setTimeout(() => done([+document.querySelector('.replay input[type=range]').value, "
        "(performance.now() - window.begun) / 1000]), 600)"
    )
    assert 5 <= frame <= 50 * seconds + 5


def test_several_runs_are_compared(report: Path, browser: Any, tmp_path: Path) -> None:
    other = report.parents[1] / "CarRacingBlog-v3_2"
    shutil.copytree(report.parent, other)
    evaluation = json.loads((other / "evaluation.json").read_text())
    for episode in evaluation["results"]["mode"]["episodes"]:
        episode["score"] += 10.0
    (other / "evaluation.json").write_text(json.dumps(evaluation))
    main(["report", str(report.parent), str(other), "-o", str(tmp_path / "both.html")])
    open_page(browser, tmp_path / "both.html", 390)
    assert browser.get_log("browser") == []
    assert "Runs compared" in texts(browser, "h2")
    (row,) = browser.execute_script(
        "return [...document.querySelectorAll('table')].filter(t => t.textContent.includes('on the same tracks'))"
        ".map(t => [...t.querySelectorAll('td')].map(cell => cell.textContent))"
    )
    assert row[0] == "CarRacingBlog-v3_2 - CarRacingBlog-v3_1"
    assert [float(row[1]), float(row[2])] == [2, 10]
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390


def test_a_page_that_grows_too_large_keeps_fewer_decisions(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = report.stat().st_size
    monkeypatch.setattr(page, "SIZE_LIMIT", whole - 1)
    main(["report", str(report.parent)])
    assert report.stat().st_size < whole
    content = report.read_text()
    data = json.loads(content.partition('application/json">')[2].partition("</script>")[0])
    assert np.isfinite([track["score"] for track in data["runs"][0]["drives"]["tracks"]]).all()
