"""Warnings in words, once each: for the mistakes that show them, and not for runs that learn."""

import itertools
import math
import warnings
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from tasks import ConstantTarget

from sb3_carracing import BetaPPO
from sb3_carracing.ppo.health import Watch, used_share

REPOSITORY = Path(__file__).parents[2]
CAR = spaces.Box(np.array([-1.0, 0.0, 0.0], np.float32), np.ones(3, np.float32))
SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 64, "n_epochs": 2, "device": "cpu", "seed": 0, "learning_rate": 1e-3}
CLIPPING, ENTROPY, KL, CRITIC = (
    "clipping shrinks",
    "entropy has collapsed",
    "changed the policy far more",
    "critic explains nothing",
)


class Guess(gym.Env[Any, Any]):
    """One step an episode. The reward is `scale` for the action that the observation names, 0 else, and so is known."""

    def __init__(self, scale: float = 1.0, n_actions: int = 2) -> None:
        self.scale, self.n_actions = scale, n_actions
        self.observation_space = spaces.Box(0.0, 1.0, (n_actions,))
        self.action_space = spaces.Discrete(n_actions)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.named = int(self.np_random.integers(self.n_actions))
        return np.eye(self.n_actions, dtype=np.float32)[self.named], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(self.n_actions, np.float32), self.scale * (1.0 + 3.0 * self.named), True, False, {}


def warned(messages: Any) -> list[str]:
    """Return which of the four warnings were given, in order."""
    texts = [str(message.message) for message in messages if str(message.message).startswith("BetaPPO: ")]
    for text in texts:
        section = text.split('See "')[1].split('"')[0]
        assert f"## {section}" in (REPOSITORY / "docs/debugging_ppo.md").read_text().splitlines(), section
    return [name for text in texts for name in (CLIPPING, ENTROPY, KL, CRITIC) if name in text]


def learn(env: Any, steps: int, callback: Any = None, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        BetaPPO("MlpPolicy", make_vec_env(env, 2, seed=0), **{**SMALL, **options}).learn(steps, callback=callback)
    return warned(messages)


class TestMistakesInTraining:
    """Each with one thing changed in a training that warns of nothing."""

    def test_nothing_is_said_of_a_training_that_learns(self) -> None:
        assert learn(Guess, 64 * 25) == []

    def test_rewards_far_too_large(self) -> None:
        assert learn(lambda: Guess(scale=1e5), 64 * 5) == [CLIPPING]

    def test_clipping_that_is_off_shrinks_nothing(self) -> None:
        assert learn(lambda: Guess(scale=1e5), 64 * 5, max_grad_norm=math.inf) == []

    def test_a_critic_that_is_not_trained(self) -> None:
        assert learn(Guess, 64 * 25, vf_coef=0.0) == [CRITIC]

    def test_a_critic_that_has_not_had_time(self) -> None:
        assert learn(Guess, 64 * 19, vf_coef=0.0) == []

    @pytest.mark.parametrize(
        "env",
        [
            pytest.param(ConstantTarget, id="box", marks=pytest.mark.slow),
            pytest.param(lambda: Guess(n_actions=4), id="discrete"),
        ],
    )
    def test_a_bonus_for_certainty(self, env: Any) -> None:
        assert ENTROPY in learn(env, 64 * 20, ent_coef=-1.0, learning_rate=3e-2, n_epochs=8)

    def test_one_update_with_a_learning_rate_far_too_high(self) -> None:
        rates = itertools.count()

        def raise_rate(local: dict[str, Any], _: Any) -> bool:
            if next(rates) == 32 * 11:
                local["self"].learning_rate = 1.0
            return True

        found = learn(Guess, 64 * 13, raise_rate, n_epochs=4, batch_size=16)
        assert KL in found


def test_stored_runs_that_learned_are_not_warned_of_and_the_others_are() -> None:
    """The metrics of whole trainings, whose mistakes docs/debugging_ppo.md describes."""
    unscaled, published = replay("ablations", "reward_unscaled"), replay("ablations", "iurin_published")
    assert set(unscaled["reward_unscaled-1"]) == {CLIPPING, KL}
    assert set(unscaled["reward_unscaled-2"]) == {CLIPPING}
    assert set(published["iurin_published-1"]) == set(published["iurin_published-2"]) == {CLIPPING, KL, ENTROPY}
    good = replay("presets", "") | replay("ablations", "matters_base") | replay("ablations", "iurin_scaled")
    assert len(good) > 30
    assert not any(good.values())


def replay(study: str, start: str) -> dict[str, list[str]]:
    """Return the warnings for the stored metrics of each run whose name starts so."""
    table = pd.read_csv(REPOSITORY / f"benchmarks/results/{study}/progress.csv.gz")
    table = table[table["train/approx_kl"].notna() & table["run"].str.startswith(start)]
    found = {}
    for run, rows in table.groupby("run"):
        watch = Watch()
        metrics = [{str(key).removeprefix("train/"): value for key, value in row.items()} for row in rows.to_dict("records")]
        with warnings.catch_warnings(record=True) as messages:
            warnings.simplefilter("always")
            for row in metrics:
                space = spaces.Discrete(5) if math.isnan(row["concentration_mean"]) else CAR
                watch.look(int(row["n_updates"]), row, 0.5, space)
        found[str(run)] = warned(messages)
    return found


@pytest.mark.parametrize(
    ("space", "entropy", "share"),
    [
        (spaces.Box(-1.0, 3.0, (2,)), 2 * math.log(4.0), 1.0),
        (spaces.Box(-1.0, 3.0, (2,)), math.log(4.0) + math.log(0.04), 0.1),
        (spaces.Box(-np.inf, np.inf, (1,)), -10.0, math.inf),
        (spaces.Discrete(5), math.log(5.0), 1.0),
        (spaces.Discrete(1), 0.0, math.inf),
        (spaces.MultiDiscrete([2, 3]), math.log(6.0) / 2, 0.5),
        (spaces.MultiBinary((2, 2)), math.log(2.0), 0.25),
    ],
)
def test_used_share(space: Any, entropy: float, share: float) -> None:
    assert used_share(space, entropy) == pytest.approx(share)


def test_what_was_warned_of_is_not_part_of_the_agent(tmp_path: Path) -> None:
    BetaPPO("MlpPolicy", Guess(), **SMALL).learn(64).save(tmp_path / "agent.zip")
    assert b"_watch" not in zipfile.ZipFile(tmp_path / "agent.zip").read("agent.json")
    BetaPPO.load(tmp_path / "agent.zip", env=Guess()).learn(64)
