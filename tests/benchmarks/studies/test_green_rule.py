"""The script of the green rule counts what it says."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.studies import green_rule


def test_decisions_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    greens = iter([[179.0, 181.0], [181.0, 182.0], [186.0, 184.0], [170.0, 170.0], [0.0, 0.0]])
    monkeypatch.setattr(green_rule, "mean_greens", lambda: greens)
    out = tmp_path / "decisions.json"
    monkeypatch.setattr(sys, "argv", ["green_rule", "--frames", "4", "--out", str(out)])
    green_rule.main()
    found = json.loads(out.read_text())
    assert found["decisions"]["Iurin implementation"] == {"green": 2, "different": 1}
    assert found["decisions"]["blog implementation"] == {"green": 1, "different": 1}
    assert found["largest_difference_of_means"] == 2.0


def test_both_renderers_see_the_same_drive() -> None:
    frames = green_rule.mean_greens()
    means = [next(frames) for _ in range(60)]
    assert max(abs(stock - fast) for stock, fast in means) < 2.0
    assert len({stock for stock, _ in means}) > 1
