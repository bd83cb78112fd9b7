"""The table of long trainings on the page `results.md` is that of the stored runs."""

from pathlib import Path

from benchmarks.studies.long.run import report

PAGE = (Path(__file__).parents[2] / "docs" / "results.md").read_text()


def test_the_long_trainings() -> None:
    assert report().strip() in PAGE
