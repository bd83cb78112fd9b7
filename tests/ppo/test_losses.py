"""PPO's losses against loops over single samples, and against what they estimate."""

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_carracing.ppo import losses
from sb3_carracing.ppo.distributions import BetaDistribution

CLIP = 0.2


def surrogate_of_one(log_ratio: float, advantage: float) -> float:
    """Return the objective as the figure in Schulman et al. 2017 draws it: flat once moving further would pay."""
    ratio = math.exp(log_ratio)
    if advantage >= 0:
        return advantage * ratio if ratio <= 1 + CLIP else advantage * (1 + CLIP)
    return advantage * ratio if ratio >= 1 - CLIP else advantage * (1 - CLIP)


@pytest.fixture
def batch() -> tuple[th.Tensor, th.Tensor]:
    rng = np.random.default_rng(0)
    return th.as_tensor(rng.normal(scale=0.4, size=300)), th.as_tensor(rng.normal(size=300))


class TestClippedSurrogate:
    def test_by_cases(self, batch: tuple[th.Tensor, th.Tensor]) -> None:
        log_ratio, advantages = batch
        objective = [surrogate_of_one(r, a) for r, a in zip(log_ratio.tolist(), advantages.tolist(), strict=True)]
        loss = losses.clipped_surrogate_loss(log_ratio, advantages, CLIP)
        assert float(loss) == pytest.approx(-sum(objective) / 300, abs=1e-12)

    def test_gradient_is_zero_where_clipped_and_only_there(self, batch: tuple[th.Tensor, th.Tensor]) -> None:
        log_ratio, advantages = batch
        log_ratio = log_ratio.requires_grad_()
        (gradient,) = th.autograd.grad(losses.clipped_surrogate_loss(log_ratio, advantages, CLIP), log_ratio)
        for r, a, g in zip(log_ratio.tolist(), advantages.tolist(), gradient.tolist(), strict=True):
            clipped = math.exp(r) > 1 + CLIP if a > 0 else math.exp(r) < 1 - CLIP
            assert g == pytest.approx(0.0 if clipped else -a * math.exp(r) / 300, abs=1e-12)

    def test_at_the_old_policy_it_is_the_policy_gradient(self) -> None:
        advantages = th.tensor([1.5, -2.0, 0.25], dtype=th.float64)
        log_ratio = th.zeros(3, dtype=th.float64, requires_grad=True)
        loss = losses.clipped_surrogate_loss(log_ratio, advantages, CLIP)
        (gradient,) = th.autograd.grad(loss, log_ratio)
        assert float(loss.detach()) == pytest.approx(-float(advantages.mean()))
        th.testing.assert_close(gradient, -advantages / 3)


class TestValueLoss:
    VALUES = (0.0, 1.0, -3.0, 0.2)
    RETURNS = (0.5, 3.0, -3.1, 0.2)
    OLD_VALUES = (0.0, 0.3, -2.0, 5.0)

    def loss(self, clip_range_vf: float | None, kind: Any) -> float:
        values, returns, old = (th.tensor(x, dtype=th.float64) for x in (self.VALUES, self.RETURNS, self.OLD_VALUES))
        return float(losses.value_loss(values, returns, old, clip_range_vf, kind))

    def test_mse(self) -> None:
        assert self.loss(None, "mse") == pytest.approx((0.25 + 4.0 + 0.01 + 0.0) / 4)

    def test_huber_is_linear_beyond_an_error_of_one(self) -> None:
        assert self.loss(None, "huber") == pytest.approx((0.125 + 1.5 + 0.005 + 0.0) / 4)

    def test_clipped_values_move_at_most_the_range_from_the_old(self) -> None:
        # Predictions become 0, 0.8, -2.5, 4.5.
        assert self.loss(0.5, "mse") == pytest.approx((0.25 + 2.2**2 + 0.6**2 + 4.3**2) / 4)
        assert self.loss(0.5, "huber") == pytest.approx((0.125 + 1.7 + 0.18 + 3.8) / 4)

    def test_gradient_is_zero_where_the_value_is_clipped(self) -> None:
        values = th.tensor(self.VALUES, requires_grad=True)
        loss = losses.value_loss(values, th.tensor(self.RETURNS), th.tensor(self.OLD_VALUES), 0.5)
        (gradient,) = th.autograd.grad(loss, values)
        th.testing.assert_close(gradient, th.tensor([-0.25, 0.0, 0.0, 0.0]))


class TestDivergence:
    @staticmethod
    def betas(shift: float) -> tuple[BetaDistribution, BetaDistribution]:
        space = spaces.Box(np.array([-1.0, 0.0], dtype=np.float32), np.array([3.0, 1.0], dtype=np.float32))
        raw = th.tensor([[0.5, 2.0, 1.0, -0.5]], dtype=th.float64).expand(300_000, 4)
        old, new = BetaDistribution(space), BetaDistribution(space)
        return old.proba_distribution(raw), new.proba_distribution(raw + shift * th.tensor([1.0, -1.0, 0.5, 2.0]))

    @pytest.mark.parametrize("shift", [0.03, 0.1, 0.2])
    def test_estimate_is_the_true_kl_of_close_policies(self, shift: float) -> None:
        th.manual_seed(0)
        old, new = self.betas(shift)
        actions = old.sample()
        estimate = losses.approximate_kl(new.log_prob(actions) - old.log_prob(actions))
        assert float(estimate) == pytest.approx(float(old.kl(new)[0]), rel=0.03)

    def test_no_sample_lowers_it(self) -> None:
        log_ratio = th.linspace(-5.0, 5.0, 101)
        assert all(float(losses.approximate_kl(x[None])) >= 0.0 for x in log_ratio)
        assert float(losses.approximate_kl(th.zeros(7))) == 0.0

    def test_tiny_changes_are_not_lost_to_rounding(self) -> None:
        """(exp(x) - 1) - x is 0 or noise in float32 for x = 1e-4; the truth is x^2 / 2."""
        assert float(losses.approximate_kl(th.full((4,), 1e-4))) == pytest.approx(5e-9, rel=0.01)


def test_clip_fraction_counts_the_ratios_outside() -> None:
    ratios = th.tensor([0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 3.0, 1.0])
    assert float(losses.clip_fraction(ratios.log(), CLIP)) == pytest.approx(4 / 8)


def test_normalized_advantages() -> None:
    advantages = th.tensor([3.0, -1.0, 8.0, 2.5])
    expected = (np.array([3.0, -1.0, 8.0, 2.5]) - 3.125) / np.std([3.0, -1.0, 8.0, 2.5], ddof=1)
    np.testing.assert_allclose(losses.normalized(advantages).numpy(), expected, rtol=1e-6)
    assert th.equal(losses.normalized(th.tensor([4.0])), th.tensor([4.0]))
    assert th.equal(losses.normalized(th.full((5,), 2.0)), th.zeros(5))
