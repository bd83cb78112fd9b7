"""The figure of scores over frames and seconds."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import report, tables
from benchmarks.studies import sample_efficiency
from benchmarks.studies.sample_efficiency import AGENTS, Agent, curves, draw


@pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.config)
def test_curves_are_the_stored_validations(agent: Agent) -> None:
    runs, (frames, seconds), scores = curves(agent)
    assert scores.shape == (len(runs), len(frames))
    assert np.all(np.diff(frames) > 0)
    assert np.all(np.diff(seconds) > 0)
    # Validations end with the training, which counts its seconds without them.
    assert frames[-1] == pytest.approx(runs["frames"].mean(), rel=0.05)
    stored = tables.read(tables.RESULTS / agent.study, tables.VALIDATION)
    first = stored[stored["run"] == runs["run"].iloc[0]]
    np.testing.assert_array_equal(scores[0], first["mean"][: len(frames)])


def test_the_figure_names_every_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "REPETITIONS", 20)
    draw(tmp_path / "figure.svg")
    drawn = (tmp_path / "figure.svg").read_text()
    assert all(agent.label in drawn for agent in AGENTS)
    assert sample_efficiency.PUBLISHED[0] in drawn
