"""`BetaDistribution` with a margin: a density within the bounds and an atom at either, by the laws of such a mixture."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from scipy import integrate, stats

from sb3_carracing.errors import UserError
from sb3_carracing.ppo.distributions import BetaDistribution

MARGINS = (0.02, 0.1, 0.25)
# alpha - 1 and beta - 1: flat, one-sided, inside, beyond a bound, as certain as may be.
EXCESSES = [(1e-9, 1e-9), (0.01, 3.0), (1.0, 1.0), (30.0, 2.0), (3.0, 500.0), (40.0, 960.0), (300.0, 9000.0), (5000.0, 4000.0)]
SPACE = spaces.Box(np.array([-2.0], np.float32), np.array([6.0], np.float32))
TWO = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 5.0], np.float32))


def wide(excess_alpha: float, excess_beta: float, margin: float, space: spaces.Box = SPACE, n: int = 1) -> BetaDistribution:
    """Return `n` rows of one distribution, the same in all dimensions."""
    raw = np.log(np.repeat([excess_alpha, excess_beta], space.shape[0]))
    return BetaDistribution(space, margin=margin).proba_distribution(th.as_tensor(raw).expand(n, -1))


def reference(excess_alpha: float, excess_beta: float, margin: float) -> Any:
    """Return scipy's Beta on the support."""
    return stats.beta(1 + excess_alpha, 1 + excess_beta, loc=-2 - 8 * margin, scale=8 * (1 + 2 * margin))


def within(law: Any, function: Any) -> float:
    """Return the integral of a function of the action between the bounds, piecewise around the density's bulk."""
    cuts = np.unique(
        np.clip([-2.0, *law.ppf([1e-12, 1e-6, 0.01, 0.25, 0.5, 0.75, 0.99, 1 - 1e-6, 1 - 1e-12]), 6.0], -2.0, 6.0)
    )
    return float(sum(integrate.quad(function, a, b, limit=200)[0] for a, b in itertools.pairwise(cuts)))


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize(("excess_alpha", "excess_beta"), EXCESSES)
class TestLaws:
    def test_probabilities(self, excess_alpha: float, excess_beta: float, margin: float) -> None:
        law = reference(excess_alpha, excess_beta, margin)
        inside = np.linspace(-1.999, 5.999, 41)
        dist = wide(excess_alpha, excess_beta, margin, n=43)
        got = dist.log_prob(th.tensor([-2.0, *inside, 6.0], dtype=th.float64)).double().numpy()
        np.testing.assert_allclose(got[1:-1], law.logpdf(inside), rtol=1e-5, atol=1e-5)
        masses = np.exp(got[[0, -1]])
        np.testing.assert_allclose(masses, [law.cdf(-2.0), law.sf(6.0)], rtol=1e-4, atol=2e-6)
        assert masses.sum() + law.cdf(6.0) - law.cdf(-2.0) == pytest.approx(1.0, abs=2e-6)

    def test_entropy(self, excess_alpha: float, excess_beta: float, margin: float) -> None:
        law = reference(excess_alpha, excess_beta, margin)
        masses = np.array([law.cdf(-2.0), law.sf(6.0)])
        atoms = -np.sum(masses * np.log(np.maximum(masses, 1e-300)))
        expected = atoms - within(law, lambda a: law.pdf(a) * law.logpdf(a))
        assert float(wide(excess_alpha, excess_beta, margin).entropy()) == pytest.approx(expected, rel=1e-5, abs=5e-5)

    def test_gradients_by_finite_differences(self, excess_alpha: float, excess_beta: float, margin: float) -> None:
        raw = th.log(th.tensor([[excess_alpha, excess_beta]], dtype=th.float64)).requires_grad_()

        def of(values: th.Tensor, name: str) -> th.Tensor:
            dist = BetaDistribution(SPACE, margin=margin).proba_distribution(values)
            # Not rounded to float32, as the methods' results are.
            tails = dist._beyond_bounds()
            if name == "entropy":
                entropy: th.Tensor = (dist.distribution.entropy() + (tails.integral(tails.log_density)).sum(0)).sum()
                return entropy
            return tails.log_mass[0 if name == "low" else 1].sum()

        for name in ("low", "high", "entropy"):
            (got,) = th.autograd.grad(of(raw, name), raw)
            for k in range(2):
                step = th.zeros(1, 2, dtype=th.float64)
                step[0, k] = 1e-5
                with th.no_grad():
                    expected = (of(raw + step, name) - of(raw - step, name)) / 2e-5
                assert float(got[0, k]) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)


def test_samples_follow_the_law() -> None:
    th.manual_seed(1)
    dist = wide(0.4, 1.5, 0.2, n=100_000)
    law = reference(0.4, 1.5, 0.2)
    actions = dist.sample()
    assert float(actions.min()) == -2.0
    assert float(actions.max()) == 6.0
    for action, mass in ((-2.0, law.cdf(-2.0)), (6.0, law.sf(6.0))):
        assert float((actions == action).double().mean()) == pytest.approx(mass, abs=4 * np.sqrt(mass / 100_000))
    inside = actions[(actions > -2.0) & (actions < 6.0)].double().numpy()
    low, high = law.cdf(-2.0), law.cdf(6.0)
    assert stats.kstest(inside, lambda a: (law.cdf(a) - low) / (high - low)).pvalue > 1e-3
    # E[-log p] is the entropy, atoms included.
    assert float(-dist.log_prob(actions).mean()) == pytest.approx(float(dist.entropy()[0]), abs=0.02)


@pytest.mark.slow
def test_score_has_mean_zero() -> None:
    """E[grad log p] = 0, which an action before clipping would also have, but with a larger variance."""
    th.manual_seed(2)
    raw = th.tensor([[-0.5, 1.0, 0.3, -1.0]], dtype=th.float64, requires_grad=True)
    dist = BetaDistribution(TWO, margin=0.1).proba_distribution(raw.expand(200_000, 4))
    (score,) = th.autograd.grad(dist.log_prob(dist.sample().detach()).mean(), raw)
    assert float(score.abs().max()) < 0.01


@pytest.mark.slow
def test_kl_is_the_mean_of_the_log_ratio() -> None:
    th.manual_seed(3)
    p, q = wide(0.4, 1.5, 0.2, TWO, 200_000), wide(1.0, 0.7, 0.2, TWO, 200_000)
    actions = p.sample()
    expected = (p.log_prob(actions) - q.log_prob(actions)).mean()
    assert float(p.kl(q)[0]) == pytest.approx(float(expected), abs=0.02)
    th.testing.assert_close(p.kl(p), th.zeros(200_000))


@pytest.mark.parametrize("parameterization", ["softplus", "exp", "mode"])
@pytest.mark.parametrize("margin", MARGINS)
def test_extreme_outputs_are_finite(parameterization: Any, margin: float) -> None:
    values = [np.inf, -np.inf, 1e20, -1e20, 1e4, -1e4, 30.0, -30.0, 1.0, 0.0]
    raw = th.tensor([[a, b, b, a] for a in values for b in values], requires_grad=True)
    dist = BetaDistribution(TWO, parameterization, margin=margin).proba_distribution(raw)
    bounds = [th.as_tensor(bound).expand(len(raw), 2) for bound in (TWO.low, TWO.high)]
    outputs = [*(dist.log_prob(actions) for actions in (dist.sample().detach(), *bounds)), dist.entropy()]
    for output in [*outputs, dist.kl(dist)]:
        assert th.isfinite(output).all()
    total: Any = sum(output.sum() for output in outputs)
    (gradient,) = th.autograd.grad(total, raw)
    assert th.isfinite(gradient).all()


def test_deterministic_actions_reach_the_bounds() -> None:
    for excesses, action in (((30.0, 0.5), 6.0), ((0.5, 30.0), -2.0), ((3.0, 3.0), 2.0)):
        for kind in ("mean", "mode"):
            assert float(getattr(wide(*excesses, 0.2), kind)()) == pytest.approx(action)


@pytest.mark.parametrize("parameterization", ["softplus", "exp", "mode"])
def test_initial_mean(parameterization: Any) -> None:
    wanted = [-0.9, 4.0]
    dist = BetaDistribution(TWO, parameterization, initial_mean=wanted, margin=0.1)
    net = dist.proba_distribution_net(3)
    dist.initialize_bias(net)
    got = dist.proba_distribution(net(th.zeros(1, 3))).mean()
    np.testing.assert_allclose(got.detach().numpy()[0], wanted, atol=1e-5)


@pytest.mark.parametrize("margin", [-0.1, 0.26, np.nan, "wide"])
def test_bad_margins_are_named(margin: Any) -> None:
    with pytest.raises(UserError, match=r"margin must be a number from 0 to 0\.25, got"):
        BetaDistribution(SPACE, margin=margin)
