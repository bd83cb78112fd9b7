"""The instruments of a film show the numbers that they are given."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from sb3_carracing.cockpit import PANEL_HEIGHT, Frames, Shot, Take, Thought, compressed, newest_image, peak_density
from sb3_carracing.drives import COLUMNS, Decision

ANGLES = np.linspace(0, 2 * np.pi, 200, endpoint=False)
ROAD = 150 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
BLUE, GREEN, RED = (90, 160, 255), (80, 190, 90), (255, 110, 90)


def shot(thought: Thought | None = None, **values: float) -> Shot:
    car = tuple({"x": 150.0, "y": 0.0, **values}.get(name, 0.0) for name in COLUMNS)
    return Shot(compressed(np.full((400, 600, 3), 200, np.uint8)), car, thought)


def take(shots: Sequence[Shot], n_actions: int = 3) -> Take:
    return Take("an agent", np.array([-1.0, 0.0, 0.0])[:n_actions], np.ones(n_actions), ROAD, list(shots))


def thought(density: str, parameters: list[list[float]], action: list[float]) -> Thought:
    decision = Decision(density, np.array(parameters, np.float32), 1.0)  # type: ignore[arg-type]
    return Thought(decision, np.array(action, np.float32), None)


def columns_of(frame: np.ndarray, color: tuple[int, ...]) -> np.ndarray:
    """Return the columns in which a color occurs under the rendering, right of map and observation."""
    return np.flatnonzero((frame[400:, 320:] == color).all(axis=-1).any(axis=0))


@pytest.mark.parametrize(("gas", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_a_bar_is_as_long_as_its_value(gas: float, share: float) -> None:
    (frame,) = Frames([take([shot(gas=gas)])])
    full = len(columns_of(Frames([take([shot(gas=1.0)])])[0], GREEN))
    assert len(columns_of(frame, GREEN)) == pytest.approx(share * full, abs=2)


def test_steering_to_the_right_goes_to_the_right() -> None:
    left, right = (columns_of(Frames([take([shot(steering=value)])])[0], BLUE) for value in (-0.7, 0.7))
    assert left.max() <= right.min()


def test_the_chosen_action_stands_at_its_place_in_the_density() -> None:
    # One action takes the whole width: 40 % of the way from -1 to 1 is at -0.2.
    frames = Frames([take([shot(thought("beta", [[40.0, 60.0]], [value])) for value in (-0.2, 1.0, -1.0)], 1)])
    chosen, at_high, at_low = (float(columns_of(frame, RED).mean()) for frame in frames)
    assert (chosen - at_low) / (at_high - at_low) == pytest.approx(0.4, abs=0.02)
    peak = frames[0][400:, 320:]
    in_blue = (peak == BLUE).all(axis=-1)
    assert abs(int(in_blue.sum(axis=0).argmax()) - chosen) < 4


def test_a_discrete_choice_is_marked() -> None:
    probabilities = [[0.1], [0.6], [0.1], [0.1], [0.1]]
    (frame,) = Frames([take([shot(thought("categorical", probabilities, [1]))], 0)])
    below_the_bars = frame[490:, 320:]
    marked, others = ((below_the_bars == color).all(axis=-1).sum(axis=0).max() for color in (RED, BLUE))
    assert marked / others == pytest.approx(6, rel=0.2)


def test_the_map_has_the_car_where_it_is() -> None:
    frames = Frames([take([shot(x=150.0 * np.cos(a), y=150.0 * np.sin(a)) for a in (0.0, np.pi / 2, np.pi)])])
    dots = []
    for frame in frames:
        rows, columns = np.nonzero((frame[400:, :160] == (230, 60, 60)).all(axis=-1))
        dots.append((columns.mean(), rows.mean()))
    (east_x, east_y), (north_x, north_y), (west_x, west_y) = dots
    assert west_x < north_x < east_x
    assert north_y < east_y == pytest.approx(west_y, abs=1)


def test_takes_are_side_by_side_and_a_shorter_one_keeps_its_last_frame() -> None:
    long, short = take([shot(frame=i, speed=10.0 * i) for i in range(5)]), take([shot(speed=30.0)])
    height = 400 + PANEL_HEIGHT
    for n, shape in ((1, (1, 1)), (2, (1, 2)), (3, (2, 2)), (4, (2, 2))):
        frames = Frames([long, *[short] * (n - 1)])
        assert len(frames) == 5
        assert frames[0].shape == (height * shape[0], 600 * shape[1], 3)
    frames = Frames([long, short])
    np.testing.assert_array_equal(frames[0][:, 600:], frames[4][:, 600:])
    assert not np.array_equal(frames[0][:, :600], frames[4][:, :600])
    assert len(frames[1:3]) == 2
    with pytest.raises(IndexError):
        frames[5]


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (2.0, 5.0), (1.0, 3.0), (300.0, 20.0), (5000.0, 5000.0)])
def test_a_betas_density_is_scipys(alpha: float, beta: float) -> None:
    unit = np.linspace(0.01, 0.99, 99)
    decision = Decision("beta", np.array([[alpha, beta]], np.float32), 0.0)
    expected = stats.beta(alpha, beta).pdf(unit)
    ours = peak_density(decision, 0, -1.0, 1.0, 101)[1:-1]
    np.testing.assert_allclose(ours / ours.max(), expected / expected.max(), atol=0.01)
    assert ours.max() <= 1.0 + 1e-9


def test_a_gaussians_density_is_scipys() -> None:
    decision = Decision("gaussian", np.array([[0.5, 0.2]], np.float32), 0.0)
    expected = stats.norm(0.5, 0.2).pdf(np.linspace(-1.0, 1.0, 50))
    np.testing.assert_allclose(
        peak_density(decision, 0, -1.0, 1.0, 50), expected / stats.norm(0.5, 0.2).pdf(0.5), rtol=1e-5, atol=1e-9
    )


@pytest.mark.parametrize(
    ("shape", "seen"),
    [
        ((4, 96, 96), (96, 96)),
        ((96, 96, 4), (96, 96)),
        ((3, 96, 96), (96, 96, 3)),
        ((12, 96, 96), (96, 96, 3)),
        ((96, 96, 3), (96, 96, 3)),
        ((96, 96), (96, 96)),
        ((4, 96, 96, 3), (96, 96, 3)),
    ],
)
def test_the_newest_image_is_the_last_of_the_stack(shape: tuple[int, ...], seen: tuple[int, ...]) -> None:
    observation = np.random.default_rng(0).integers(0, 256, (1, *shape)).astype(np.uint8)
    image = newest_image(observation)
    assert image is not None
    assert image.shape == seen
    if shape == (4, 96, 96):
        np.testing.assert_array_equal(image, observation[0, 3])
    if shape == (12, 96, 96):
        np.testing.assert_array_equal(image[:, :, 0], observation[0, 9])


def test_other_observations_have_no_image() -> None:
    assert newest_image(np.zeros((1, 4), np.float32)) is None
    assert newest_image({"image": np.zeros((1, 96, 96), np.uint8)}) is None
