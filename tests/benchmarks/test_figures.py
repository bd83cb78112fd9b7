from pathlib import Path

from benchmarks import figures


def test_the_distribution_has_the_mean_and_the_concentration_asked_for() -> None:
    beta = figures.distribution(0.6, 20.0)
    assert abs(beta.mean().item() - 0.6) < 1e-6
    assert abs(beta.concentration.item() - 20.0) < 1e-9


def test_the_figure_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        figures.draw(tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
