"""What enjoy prints: the raw score first, and the sum of rewards as what it is."""

import pytest

from sb3_carracing.envs.counts import put_counts
from sb3_carracing.zoo.score_report import ScoreReport


def of_score(score: float) -> dict[str, object]:
    info: dict[str, object] = {"episode": {"r": 1.5, "l": 3}}
    put_counts(info, score, 700, True, True)
    return info


@pytest.mark.parametrize("n_episodes", [2, 5])
def test_the_score_comes_before_the_training_return(n_episodes: int, capsys: pytest.CaptureFixture[str]) -> None:
    report = ScoreReport()
    for _ in range(n_episodes):
        report.note(of_score(905.0))
        report.print("Episode Reward: 18.10")
        report.print("Episode Length", 175)
    report.print("Mean reward: 18.10 +/- 0.00")
    printed = capsys.readouterr().out.splitlines()
    assert printed[:3] == ["Score: 905.0", "Training return: 18.10", "Episode Length 175"]
    few = ["Mean score: 905.0", "Mean training return: 18.10"]
    many = ["Mean score: 905.0 +- 0.0", "Mean training return: 18.10 +/- 0.00"]
    assert printed[-2:] == (few if n_episodes < 5 else many)


def test_an_environment_that_counts_nothing_has_its_own_return(capsys: pytest.CaptureFixture[str]) -> None:
    report = ScoreReport()
    report.note({"episode": {"r": -150.0, "l": 200}})
    report.print("Episode Reward: -1.50")
    assert capsys.readouterr().out.splitlines() == ["Score: -150.0", "Training return: -1.50"]
