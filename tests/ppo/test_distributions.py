"""BetaDistribution against scipy's float64 Beta, by the laws of a density, and under hostile network outputs."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from sb3_carracing.ppo.distributions import UNIT_MARGIN, BetaDistribution

Array = NDArray[np.float64]
PARAMETERIZATIONS = ("softplus", "exp", "mode")
# alpha - 1 and beta - 1; 0 is the uniform distribution.
EXCESSES = [0.0, 1e-9, 1e-3, 0.7, 3.0, 60.0, 900.0, 4000.0]
HOSTILE = [
    *(np.inf, -np.inf, 3.4e38, -3.4e38, 1e20, -1e20, 1e6, -1e6, 1e4, -1e4, 700.0, -700.0, 104.0, -104.0, 89.0, -89.0),
    *(30.0, -30.0, 17.0, -17.0, 1.0, -1.0, 1e-3, -1e-3, 1.2e-38, -1.2e-38, 1e-45, -1e-45, 0.0, -0.0),
]


def box(low: list[float], high: list[float], dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(np.array(low, dtype=dtype), np.array(high, dtype=dtype), dtype=dtype)


UNIT_BOX = box([0.0], [1.0])
ASYMMETRIC = box([-1.0, 0.0, 1000.0, -3e-3], [1.0, 5.0, 1001.0, 7e4])


def beta_on(space: spaces.Box, excess_alpha: Array, excess_beta: Array, max_concentration: float = 1e4) -> BetaDistribution:
    """Return the distribution whose alpha - 1 and beta - 1 are these, `(n_batch, n_actions)`, set by its raw outputs."""
    with np.errstate(divide="ignore"):
        raw = np.log(np.concatenate([excess_alpha, excess_beta], axis=1))
    dist = BetaDistribution(space, parameterization="exp", max_concentration=max_concentration)
    # exp(-30), the smallest that this parameterisation gives, is still 1e-13: zero needs softplus.
    if np.isinf(raw).any():
        dist = BetaDistribution(space, "softplus", max_concentration=max_concentration)
        with np.errstate(divide="ignore"):
            excess = np.concatenate([excess_alpha, excess_beta], axis=1)
            raw = np.where(excess == 0.0, -np.inf, excess + np.log(-np.expm1(-excess)))
    return dist.proba_distribution(th.as_tensor(raw))


def all_pairs(n_actions: int, excesses: list[float] = EXCESSES) -> tuple[Array, Array]:
    """Return every pair of excesses, repeated with a shift over the dimensions: `(n_pairs, n_actions)` each."""
    pairs = np.array(list(itertools.product(excesses, excesses)))
    shifted = np.stack([np.roll(pairs, 7 * i, axis=0) for i in range(n_actions)], axis=1)
    return shifted[..., 0], shifted[..., 1]


def bounds(space: spaces.Box) -> tuple[Array, Array]:
    return space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()


def reference_parameters(raw: Array, parameterization: str, max_concentration: float) -> tuple[Array, Array]:
    """Return alpha and beta as the class docstring states them, in plain numpy."""
    first, second = np.split(raw, 2, axis=-1)
    if parameterization == "softplus":
        a, b = np.logaddexp(0, first), np.logaddexp(0, second)
    elif parameterization == "exp":
        a, b = np.exp(first), np.exp(second)
    else:
        m, k = 1 / (1 + np.exp(-first)), np.logaddexp(0, second)
        a, b = m * k, (1 - m) * k
    total = 2 + a + b
    shrink = np.where(total > max_concentration, (max_concentration - 2) / (a + b), 1.0)
    return 1 + a * shrink, 1 + b * shrink


class TestAgainstFloat64:
    def test_log_prob(self) -> None:
        excess_alpha, excess_beta = all_pairs(4)
        alpha, beta = 1 + excess_alpha, 1 + excess_beta
        dist = beta_on(ASYMMETRIC, excess_alpha, excess_beta)
        low, high = bounds(ASYMMETRIC)
        for quantile in (1e-4, 0.03, 0.5, 0.9, 0.999):
            unit = np.clip(stats.beta.ppf(quantile, alpha, beta), 1e-5, 1 - 1e-5)
            got = dist.log_prob(th.as_tensor(low + (high - low) * unit)).numpy()
            expected = (stats.beta.logpdf(unit, alpha, beta) - np.log(high - low)).sum(axis=1)
            # The mapping to [1000, 1001] and back loses 1e-13; a density of concentration 1e4 turns that into 1e-9.
            np.testing.assert_allclose(got, expected, rtol=3e-7, atol=2e-6)

    def test_entropy(self) -> None:
        excess_alpha, excess_beta = all_pairs(4)
        dist = beta_on(ASYMMETRIC, excess_alpha, excess_beta)
        low, high = bounds(ASYMMETRIC)
        expected = (stats.beta.entropy(1 + excess_alpha, 1 + excess_beta) + np.log(high - low)).sum(axis=1)
        np.testing.assert_allclose(dist.entropy().numpy(), expected, rtol=1e-6, atol=1e-5)

    def test_kl_by_quadrature(self) -> None:
        excesses = [0.0, 0.7, 3.0, 60.0, 900.0]
        excess_alpha, excess_beta = all_pairs(1, excesses)
        p, q = beta_on(UNIT_BOX, excess_alpha, excess_beta), beta_on(UNIT_BOX, excess_alpha[::-1], excess_beta[::-1])
        unit = (np.arange(400_000) + 0.5) / 400_000
        for i, kl in enumerate(p.kl(q).tolist()):
            log_p = stats.beta.logpdf(unit, 1 + excess_alpha[i], 1 + excess_beta[i])
            log_q = stats.beta.logpdf(unit, 1 + excess_alpha[-1 - i], 1 + excess_beta[-1 - i])
            assert kl == pytest.approx(np.mean(np.exp(log_p) * (log_p - log_q)), rel=1e-3, abs=1e-3)

    def test_kl_ignores_the_units_and_sums_over_dimensions(self) -> None:
        excess_alpha, excess_beta = all_pairs(4)
        here, there = (beta_on(ASYMMETRIC, a, b) for a, b in [(excess_alpha, excess_beta), (excess_beta, excess_alpha)])
        alone = th.zeros(len(excess_alpha))
        for i in range(4):
            a, b = excess_alpha[:, i : i + 1], excess_beta[:, i : i + 1]
            alone += beta_on(UNIT_BOX, a, b).kl(beta_on(UNIT_BOX, b, a))
        th.testing.assert_close(here.kl(there), alone, rtol=1e-5, atol=1e-5)
        th.testing.assert_close(here.kl(here), th.zeros(len(excess_alpha)), rtol=0, atol=1e-6)

    def test_mean_and_mode(self) -> None:
        excess_alpha, excess_beta = all_pairs(4)
        dist = beta_on(ASYMMETRIC, excess_alpha, excess_beta)
        low, high = bounds(ASYMMETRIC)
        mean = low + (high - low) * stats.beta.mean(1 + excess_alpha, 1 + excess_beta)
        np.testing.assert_allclose(dist.mean().numpy(), mean, rtol=1e-6, atol=1e-6)
        total = excess_alpha + excess_beta
        unit_mode = np.where(total > 0, excess_alpha / np.where(total > 0, total, 1), 0.5)
        mode = low + (high - low) * np.clip(unit_mode, UNIT_MARGIN, 1 - UNIT_MARGIN)
        np.testing.assert_allclose(dist.mode().numpy(), mode, rtol=1e-6, atol=1e-6)

    def test_mode_is_where_the_density_is_largest(self) -> None:
        dist = beta_on(UNIT_BOX, *all_pairs(1, [0.7, 3.0, 60.0]))
        at_mode = dist.log_prob(dist.mode())
        for unit in np.linspace(0.0, 1.0, 101):
            assert th.all(dist.log_prob(th.full((9, 1), unit)) <= at_mode + 1e-6)

    def test_samples_follow_the_law(self) -> None:
        th.manual_seed(0)
        for alpha, beta in [(1.0, 1.0), (1.7, 1.2), (1.0, 30.0), (4000.0, 900.0)]:
            dist = beta_on(box([-2.0], [6.0]), np.full((20_000, 1), alpha - 1), np.full((20_000, 1), beta - 1))
            samples = dist.sample().numpy().ravel()
            assert stats.kstest(samples, stats.beta(alpha, beta, loc=-2, scale=8).cdf).pvalue > 1e-3


class TestLawsOfADensity:
    @pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (1000.0, 1001.0), (-3e-3, 7e4), (0.0, 1e-6)])
    def test_integrates_to_one_in_the_units_of_the_environment(self, low: float, high: float) -> None:
        excess_alpha, excess_beta = all_pairs(1)
        dist = beta_on(box([low], [high], np.float64), excess_alpha, excess_beta)
        n_points = 50_000
        grid = low + (high - low) * (th.arange(n_points, dtype=th.float64) + 0.5) / n_points
        for row in range(len(excess_alpha)):
            dist = beta_on(box([low], [high], np.float64), excess_alpha[row, None], excess_beta[row, None])
            integral = dist.log_prob(grid[:, None]).double().exp().mean() * (high - low)
            assert float(integral) == pytest.approx(1.0, abs=5e-3)

    def test_two_dimensions_integrate_to_one(self) -> None:
        space = box([-1.0, 10.0], [1.0, 15.0])
        dist = beta_on(space, np.array([[0.7, 3.0]]), np.array([[2.0, 0.0]]))
        x = -1.0 + 2.0 * (th.arange(300, dtype=th.float64) + 0.5) / 300
        y = 10.0 + 5.0 * (th.arange(300, dtype=th.float64) + 0.5) / 300
        density = dist.log_prob(th.cartesian_prod(x, y)).double().exp()
        assert float(density.mean() * 2.0 * 5.0) == pytest.approx(1.0, abs=1e-3)

    def test_entropy_is_minus_the_mean_log_prob(self) -> None:
        th.manual_seed(1)
        n_samples = 40_000
        for a, b in [(0.0, 0.0), (0.7, 0.2), (0.0, 60.0), (900.0, 3.0)]:
            shape = (n_samples, 4)
            dist = beta_on(ASYMMETRIC, np.full(shape, a), np.full(shape, b))
            # float64 actions, since float32 has only 16,000 numbers in [1000, 1001].
            low, high = (th.as_tensor(bound) for bound in bounds(ASYMMETRIC))
            log_prob = dist.log_prob(low + (high - low) * dist.distribution.sample())
            error = float(log_prob.std()) / np.sqrt(n_samples)
            assert float(-log_prob.mean()) == pytest.approx(float(dist.entropy()[0]), abs=5 * error + 1e-5)

    @pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
    def test_gradients_are_finite_differences(self, parameterization: Any) -> None:
        """Central differences of scipy's functions of the documented parameterisation, below and at the bound."""
        space, eps = box([-1.0, 10.0], [1.0, 15.0]), 1e-5
        low, high = bounds(space)
        actions = np.array([[-0.9, 11.0], [0.3, 14.9], [0.99, 12.5]])
        rng = np.random.default_rng(2)
        for scale, max_concentration in [(1.0, 1e4), (4.0, 1e4), (3.0, 6.0)]:
            raw = rng.normal(scale=scale, size=(3, 4))

            def log_prob(raw: Array, limit: float = max_concentration) -> Array:
                alpha, beta = reference_parameters(raw, parameterization, limit)
                density: Array = np.asarray(stats.beta.logpdf((actions - low) / (high - low), alpha, beta))
                return np.asarray((density - np.log(high - low)).sum(axis=1))

            def entropy(raw: Array, limit: float = max_concentration) -> Array:
                alpha, beta = reference_parameters(raw, parameterization, limit)
                each: Array = np.asarray(stats.beta.entropy(alpha, beta))
                return np.asarray((each + np.log(high - low)).sum(axis=1))

            params = th.as_tensor(raw).requires_grad_()
            dist = BetaDistribution(space, parameterization, max_concentration=max_concentration).proba_distribution(params)
            for ours, reference in [(dist.log_prob(th.as_tensor(actions)), log_prob), (dist.entropy(), entropy)]:
                np.testing.assert_allclose(ours.detach().numpy(), reference(raw), rtol=1e-5, atol=1e-5)
                (gradient,) = th.autograd.grad(ours.sum(), params, retain_graph=True)
                for column in range(4):
                    step = eps * np.eye(4)[column]
                    difference = (reference(raw + step) - reference(raw - step)) / (2 * eps)
                    np.testing.assert_allclose(gradient[:, column], difference, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
    def test_second_derivatives_of_kl_are_finite_differences(self, parameterization: Any) -> None:
        """TRPO multiplies vectors with the Hessian of the divergence."""
        rng = np.random.default_rng(3)
        raw, old, vector = (th.as_tensor(rng.normal(size=(5, 4))) for _ in range(3))
        space, eps = box([-1.0, 10.0], [1.0, 15.0]), 1e-5

        def gradient(at: th.Tensor, create_graph: bool = False) -> th.Tensor:
            kl = BetaDistribution(space, parameterization).proba_distribution(at)
            kl_sum = kl.kl(BetaDistribution(space, parameterization).proba_distribution(old)).sum()
            (result,) = th.autograd.grad(kl_sum, at, create_graph=create_graph)
            return result

        params = raw.clone().requires_grad_()
        (product,) = th.autograd.grad((gradient(params, create_graph=True) * vector).sum(), params)
        ahead, behind = ((raw + sign * eps * vector).requires_grad_() for sign in (1, -1))
        difference = (gradient(ahead) - gradient(behind)) / (2 * eps)
        th.testing.assert_close(product, difference, rtol=1e-3, atol=1e-5)


class TestUniform:
    """alpha = beta = 1, where torch's own mode is 0 / 0."""

    @pytest.mark.parametrize("parameterization", ["softplus", "mode"])
    @pytest.mark.parametrize("raw", [-1e6, -np.inf, -800.0])
    def test_density_is_flat_and_the_mode_is_the_middle(self, parameterization: Any, raw: float) -> None:
        params = th.full((3, 8), raw)
        if parameterization == "mode":
            params[:, :4] = 0.0
        dist = BetaDistribution(ASYMMETRIC, parameterization).proba_distribution(params)
        low, high = bounds(ASYMMETRIC)
        flat = -np.log(high - low).sum()
        middle = th.as_tensor((low + high) / 2).float().expand(3, 4)
        th.testing.assert_close(dist.mode(), middle)
        th.testing.assert_close(dist.mean(), middle)
        for action in (th.as_tensor(low), th.as_tensor(high), middle[0], dist.sample()[0]):
            np.testing.assert_allclose(dist.log_prob(action.expand(3, 4)).numpy(), flat, rtol=1e-6)
        np.testing.assert_allclose(dist.entropy().numpy(), -flat, rtol=1e-6)
        assert np.all(dist.concentration.numpy() == 2.0)

    def test_mode_of_a_nearly_flat_density_keeps_its_side(self) -> None:
        """`1 + softplus(-40) == 1` in float32: the mode must not come from alpha - 1."""
        params = th.tensor([[-40.0, -45.0], [-45.0, -40.0], [-40.0, -40.0]])
        mode = BetaDistribution(UNIT_BOX, "softplus").proba_distribution(params).mode().ravel()
        assert mode[0] > 0.99
        assert mode[1] < 0.01
        assert float(mode[2]) == pytest.approx(0.5)


class TestBounds:
    SPACES = (
        box([1000.0], [1001.0]),
        box([-1e6], [-1e6 + 0.25]),
        box([0.0], [1e-40]),
        box([1.0], [float(np.nextafter(np.float32(1), np.float32(2)))]),
        box([-3.4e38], [3.4e38]),
        box([0.1, -0.1, 1 / 3], [0.7, 0.1, 2 / 3], np.float64),
        box([0.3 + 1e-9], [0.3 + 1e-6], np.float64),
        box([16777216.1], [16777221.3], np.float64),
        box([-1.0, 0.0], [2.0, 3e-5], np.float16),
    )

    @pytest.mark.parametrize("space", SPACES, ids=str)
    @pytest.mark.parametrize("raw", [0.0, 1e6, -1e6])
    @pytest.mark.parametrize("lopsided", [0.0, 40.0, -40.0])
    def test_float32_actions_stay_within(self, space: spaces.Box, raw: float, lopsided: float) -> None:
        th.manual_seed(4)
        n = space.shape[0]
        params = th.full((500, 2 * n), raw)
        params[:, :n] += lopsided
        dist = BetaDistribution(space).proba_distribution(params)
        for actions in (dist.sample(), dist.mean(), dist.mode()):
            assert actions.dtype == th.float32
            played = actions.numpy().astype(np.float64)
            assert np.all(played >= space.low)
            assert np.all(played <= space.high)
            assert np.all(np.isfinite(dist.log_prob(actions).numpy()))

    def test_a_range_without_any_float32_still_gives_numbers(self) -> None:
        space = box([1000.00001], [1000.00002], np.float64)
        dist = BetaDistribution(space).proba_distribution(th.randn(100, 2))
        assert float((dist.sample() - 1000.0).abs().max()) < 1e-3
        assert np.all(np.isfinite(dist.log_prob(dist.sample()).numpy()))

    def test_actions_beyond_the_bounds_get_the_density_near_the_bound(self) -> None:
        dist = BetaDistribution(UNIT_BOX).proba_distribution(th.zeros(2, 2))
        th.testing.assert_close(dist.log_prob(th.tensor([[-1.0], [2.0]])), dist.log_prob(th.tensor([[0.0], [1.0]])))

    def test_log_prob_of_a_rollout_is_that_of_the_update(self) -> None:
        """The same float32 action gives the same number again, however it is shaped."""
        space = spaces.Box(np.full((2, 3), -1.0), np.arange(6).reshape(2, 3) + 1.0, dtype=np.float64)
        dist = BetaDistribution(space)
        actions, log_prob = dist.log_prob_from_params(th.randn(50, 12) * 3)
        assert actions.shape == (50, 6)
        assert log_prob.shape == (50,)
        assert th.equal(dist.log_prob(actions.reshape(50, 2, 3)), log_prob)

    @pytest.mark.parametrize(
        ("low", "high", "words"),
        [
            ([0.0, -np.inf], [1.0, 1.0], "dimension 1.*low=-inf"),
            ([0.0, 0.0], [np.inf, 1.0], "dimension 0.*high=inf"),
            ([np.nan, 0.0], [1.0, 1.0], "dimension 0.*low=nan"),
            ([0.0, 1.0], [1.0, np.nan], "dimension 1.*high=nan"),
            ([0.0, 0.0, 2.0], [1.0, 1.0, 2.0], "dimension 2.*low=2, high=2"),
            ([0.0, 3.0], [1.0, 2.0], "dimension 1.*low=3, high=2"),
            ([0.0, -1e308], [1.0, 1e308], r"dimension 1.*low=-1e\+308"),
        ],
    )
    def test_ranges_without_a_beta_are_refused(self, low: list[float], high: list[float], words: str) -> None:
        space = spaces.Box(0.0, 1.0, (len(low),), dtype=np.float64)
        space.low, space.high = np.array(low), np.array(high)
        with pytest.raises(ValueError, match=words):
            BetaDistribution(space)

    def test_other_spaces_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"needs a Box action space, got Discrete\(3\)"):
            BetaDistribution(spaces.Discrete(3))  # type: ignore[arg-type]


def hostile_rows(seed: int, n_actions: int) -> th.Tensor:
    """Return 1,500 rows of raw outputs: every pair of hostile numbers, then random mixes of them and of sane ones."""
    rng = np.random.default_rng(seed)
    pairs = np.array(list(itertools.product(HOSTILE, HOSTILE)))
    systematic = np.concatenate([np.repeat(pairs[:, :1], n_actions, 1), np.repeat(pairs[:, 1:], n_actions, 1)], axis=1)
    mixed = rng.choice(HOSTILE, size=(1500 - len(pairs), 2 * n_actions))
    sane = rng.normal(scale=3.0, size=mixed.shape)
    return th.as_tensor(np.concatenate([systematic, np.where(rng.random(mixed.shape) < 0.3, sane, mixed)])).float()


def assert_survives(space: spaces.Box, parameterization: Any, raw: th.Tensor) -> None:
    """Assert that every value and gradient that PPO, A2C or TRPO takes is finite."""
    params = raw.clone().requires_grad_()
    dist = BetaDistribution(space, parameterization).proba_distribution(params)
    other = BetaDistribution(space, parameterization).proba_distribution(raw.flip(0))
    low, high = (th.as_tensor(bound).float().expand(len(raw), -1) for bound in bounds(space))
    with th.no_grad():
        actions = dist.sample()
        actions_of_other = other.sample()
    values = {
        "log_prob of a sample": dist.log_prob(actions),
        "log_prob of another's sample": dist.log_prob(actions_of_other),
        "log_prob at low": dist.log_prob(low),
        "log_prob at high": dist.log_prob(high),
        "entropy": dist.entropy(),
        "kl to other": dist.kl(other),
        "kl from other": other.kl(dist),
        "mean": dist.mean(),
        "mode": dist.mode(),
        "sample": dist.sample(),
    }
    vector = th.linspace(-1.0, 1.0, params.numel()).reshape(params.shape)
    for name, value in values.items():
        assert th.isfinite(value).all(), name
        (gradient,) = th.autograd.grad(value.sum(), params, create_graph=name != "sample", retain_graph=True)
        assert th.isfinite(gradient).all(), f"gradient of {name}"
        if name != "sample":
            (second,) = th.autograd.grad((gradient * vector).sum(), params, retain_graph=True)
            assert th.isfinite(second).all(), f"second derivative of {name}"
    for name in ("mean", "mode", "sample"):
        assert th.all((values[name] >= low) & (values[name] <= high)), name
    assert float(values["kl to other"].detach().min()) > -1e-3


class TestHostileOutputs:
    @pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
    @pytest.mark.parametrize("space", [ASYMMETRIC, box([-1.0], [1.0]), box([0.0, -3.4e38], [1e-40, 3.4e38])], ids=str)
    def test_1500_hostile_outputs(self, parameterization: Any, space: spaces.Box) -> None:
        th.manual_seed(5)
        assert_survives(space, parameterization, hostile_rows(6, space.shape[0]))

    @pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
    @settings(max_examples=60, deadline=None)
    @given(raw=st.lists(st.floats(width=32, allow_nan=False), min_size=8, max_size=8))
    def test_any_float32(self, parameterization: Any, raw: list[float]) -> None:
        assert_survives(ASYMMETRIC, parameterization, th.tensor([raw, raw[::-1]]))

    @pytest.mark.parametrize("dtype", [th.float16, th.bfloat16, th.float32, th.float64])
    def test_any_precision(self, dtype: th.dtype) -> None:
        raw = hostile_rows(7, 1).to(dtype)
        dist = BetaDistribution(UNIT_BOX).proba_distribution(raw)
        for value in (dist.log_prob(dist.sample()), dist.entropy(), dist.mean(), dist.mode()):
            assert value.dtype == th.float32
            assert th.isfinite(value).all()

    @pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
    @pytest.mark.parametrize("max_concentration", [2.0 + 1e-9, 2.5, 100.0, 1e6, 1e12])
    def test_concentration_stays_within_its_bound(self, parameterization: Any, max_concentration: float) -> None:
        dist = BetaDistribution(ASYMMETRIC, parameterization, max_concentration=max_concentration)
        dist.proba_distribution(hostile_rows(8, 4))
        assert float(dist.concentration.min()) >= 2.0
        assert float(dist.concentration.max()) <= max_concentration * (1 + 1e-12)
        assert float(dist.alpha.min()) >= 1.0
        assert float(dist.beta.min()) >= 1.0
        for value in (dist.log_prob(dist.sample()), dist.entropy()):
            assert th.isfinite(value).all()

    @pytest.mark.parametrize("where", [0, 3])
    def test_nan_is_named(self, where: int) -> None:
        params = th.zeros(2, 4)
        params[1, where] = th.nan
        with pytest.raises(ValueError, match="network returned NaN"):
            BetaDistribution(box([0.0, 0.0], [1.0, 1.0])).proba_distribution(params)


class TestPrecision:
    def test_bfloat16_autocast_computes_the_density_as_ever(self) -> None:
        """The only loss is the network's own: the same bfloat16 outputs give the same numbers outside autocast."""
        th.manual_seed(9)
        head, latent = nn.Linear(16, 8), th.randn(64, 16)
        dist = BetaDistribution(ASYMMETRIC)
        with th.autocast("cpu", dtype=th.bfloat16):
            params = head(latent)
            assert params.dtype == th.bfloat16
            inside = dist.proba_distribution(params)
            actions = inside.sample()
            got = [inside.log_prob(actions), inside.entropy(), inside.mean(), inside.mode()]
        outside = dist.proba_distribution(params.float())
        for value, expected in zip(
            got, [outside.log_prob(actions), outside.entropy(), outside.mean(), outside.mode()], strict=True
        ):
            assert value.dtype == th.float32
            assert th.equal(value, expected)

    @pytest.mark.parametrize("concentration", [1e2, 1e4, 1e5])
    def test_log_prob_is_exact_at_large_concentrations(self, concentration: float) -> None:
        """In float32 it would be off by 7e-3 at 1e4 and by 0.13 at 1e5."""
        excess = np.array([[0.3 * concentration - 1.0]])
        rest = np.array([[0.7 * concentration - 1.0]])
        dist = beta_on(box([-1.0], [1.0]), excess, rest, max_concentration=1e6)
        for unit in (0.29, 0.3, 0.302):
            expected = stats.beta.logpdf(unit, 1 + excess[0, 0], 1 + rest[0, 0]) - np.log(2.0)
            assert float(dist.log_prob(th.tensor([[2 * unit - 1]], dtype=th.float64))) == pytest.approx(expected, abs=1e-5)


class TestParameters:
    @pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
    def test_documented_formula(self, parameterization: Any) -> None:
        raw = np.random.default_rng(10).normal(scale=3.0, size=(200, 4))
        dist = BetaDistribution(box([0.0, 0.0], [1.0, 1.0]), parameterization).proba_distribution(th.as_tensor(raw))
        alpha, beta = reference_parameters(raw, parameterization, 1e4)
        np.testing.assert_allclose(dist.alpha.numpy(), alpha)
        np.testing.assert_allclose(dist.beta.numpy(), beta)
        np.testing.assert_allclose(dist.concentration.numpy(), alpha + beta)

    def test_bound_on_the_concentration_keeps_the_mode(self) -> None:
        params = th.tensor([[50.0, 20.0], [2000.0, 8000.0]], dtype=th.float64)
        free = BetaDistribution(UNIT_BOX, max_concentration=1e5).proba_distribution(params).mode()
        dist = BetaDistribution(UNIT_BOX, max_concentration=10.0).proba_distribution(params)
        th.testing.assert_close(dist.mode(), free)
        th.testing.assert_close(dist.concentration, th.full((2, 1), 10.0, dtype=th.float64))

    def test_mode_parameterization_moves_the_certainty_alone(self) -> None:
        params = th.stack([th.full((9,), 0.8), th.linspace(-5.0, 500.0, 9)], dim=1)
        dist = BetaDistribution(UNIT_BOX, "mode").proba_distribution(params)
        th.testing.assert_close(dist.mode(), th.sigmoid(th.tensor(0.8)).expand(9, 1))
        assert th.all(dist.concentration.diff(dim=0) > 0)

    @pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
    @pytest.mark.parametrize("unit_mean", [0.001, 0.05, 0.4, 0.5, 0.83, 0.999])
    def test_initial_mean(self, parameterization: Any, unit_mean: float) -> None:
        space = box([-2.0, 1000.0], [6.0, 1001.0])
        means = [-2.0 + 8.0 * unit_mean, 1001.0 - unit_mean]
        dist = BetaDistribution(space, parameterization, initial_mean=means)
        net = dist.proba_distribution_net(5)
        dist.initialize_bias(net)
        dist.proba_distribution(net(th.zeros(1, 5)))
        np.testing.assert_allclose(dist.mean().detach().numpy()[0], means, rtol=0, atol=2e-4)
        # As wide as the density's having one mode allows.
        assert float(dist.concentration.detach().max()) <= max(2 + 2 * np.log(2), 1.2 / min(unit_mean, 1 - unit_mean)) * 1.01

    def test_one_initial_mean_serves_every_dimension(self) -> None:
        space = box([0.0, -10.0], [1.0, 10.0])
        dist = BetaDistribution(space, initial_mean=0.25)
        net = dist.proba_distribution_net(3)
        dist.initialize_bias(net)
        th.testing.assert_close(dist.proba_distribution(net(th.zeros(1, 3))).mean(), th.tensor([[0.25, 0.25]]))

    @pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
    @pytest.mark.parametrize("margin", [0.0, 0.1])
    @pytest.mark.parametrize("means", [None, [0.2, 3.0]])
    @pytest.mark.parametrize("concentration", [20.0, [20.0, 60.0]])
    def test_initial_concentration(
        self, parameterization: Any, margin: float, means: list[float] | None, concentration: float | list[float]
    ) -> None:
        space = box([0.0, -5.0], [1.0, 5.0])
        dist = BetaDistribution(space, parameterization, means, margin=margin, initial_concentration=concentration)
        net = dist.proba_distribution_net(5)
        dist.initialize_bias(net)
        dist.proba_distribution(net(th.zeros(1, 5)))
        expected = np.broadcast_to(concentration, (1, 2))
        np.testing.assert_allclose(dist.concentration.detach().numpy(), expected, rtol=1e-5)
        wider_mean = (dist.low + dist.width * dist.alpha / dist.concentration).detach().numpy()
        np.testing.assert_allclose(wider_mean, [means or [0.5, 0.0]], atol=1e-5)

    def test_standard_deviation_of_the_initial_concentration(self) -> None:
        dist = BetaDistribution(box([-1.0], [1.0]), initial_concentration=24.0)
        net = dist.proba_distribution_net(1)
        dist.initialize_bias(net)
        actions = dist.proba_distribution(net(th.zeros(1, 1)).expand(200_000, 2)).sample()
        assert float(actions.detach().std()) == pytest.approx(2.0 / (2.0 * np.sqrt(25.0)), rel=0.02)

    def test_a_mean_close_to_a_bound_needs_more_concentration(self) -> None:
        dist = BetaDistribution(UNIT_BOX, initial_mean=0.01, initial_concentration=20.0)
        net = dist.proba_distribution_net(1)
        dist.initialize_bias(net)
        dist.proba_distribution(net(th.zeros(1, 1)))
        assert float(dist.concentration.detach()) > 100.0
        assert float(dist.mean().detach()) == pytest.approx(0.01, abs=1e-4)

    def test_without_initial_mean_the_bias_is_left_alone(self) -> None:
        dist = BetaDistribution(UNIT_BOX)
        net = dist.proba_distribution_net(3)
        before = net.bias.clone()
        dist.initialize_bias(net)
        assert th.equal(net.bias, before)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"initial_mean": [0.1, 0.2, 0.3]}, "1 or 2 numbers.*0.3"),
            ({"initial_mean": []}, "1 or 2 numbers"),
            ({"initial_mean": 1.0}, "between the bounds.*1.0"),
            ({"initial_mean": [0.5, 7.0]}, r"between the bounds.*7\.0"),
            ({"initial_mean": [0.5, np.nan]}, "between the bounds.*nan"),
            ({"initial_mean": [0.01, 2.0], "max_concentration": 50.0}, "above 100.*max_concentration is 50"),
            ({"parameterization": "sigmoid"}, "'exp', 'mode', 'softplus', got 'sigmoid'"),
            ({"deterministic_action": "median"}, "'mean', 'mode', got 'median'"),
            ({"max_concentration": 2.0}, "above 2.*got 2.0"),
            ({"max_concentration": np.inf}, "finite number above 2.*inf"),
            ({"max_concentration": np.nan}, "finite number above 2.*nan"),
            ({"initial_concentration": 2.0}, "initial_concentration must be a number from 2.001 to 10000, got 2.0"),
            ({"initial_concentration": 60.0, "max_concentration": 50.0}, "initial_concentration.* to 50, got 60"),
            ({"initial_concentration": "wide"}, "initial_concentration.*got 'wide'"),
            ({"initial_concentration": [5.0, 1.0]}, "initial_concentration must be a number from 2.001 to 10000, got 1.0"),
            ({"initial_concentration": [5.0] * 3}, "initial_concentration must hold 1 or 2 numbers.*5.0, 5.0, 5.0"),
        ],
    )
    def test_bad_options_are_named(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            BetaDistribution(box([0.0, 0.0], [1.0, 5.0]), **options)


def test_deterministic_action_is_what_was_asked_for() -> None:
    params = th.tensor([[1.0, -2.0], [0.0, 3.0]])
    for kind in ("mean", "mode"):
        dist = BetaDistribution(UNIT_BOX, deterministic_action=kind)
        expected = getattr(dist.proba_distribution(params), kind)()
        assert th.equal(dist.actions_from_params(params, deterministic=True), expected)
    assert not th.equal(dist.get_actions(), dist.get_actions())


def test_gradient_flows_through_a_sample() -> None:
    """By the reparameterisation, d E[action] / d raw is the mean of the samples' gradients."""
    th.manual_seed(11)
    params = th.tensor([[0.4, -0.3]], dtype=th.float64, requires_grad=True)
    dist = BetaDistribution(box([0.0], [10.0])).proba_distribution(params.expand(200_000, 2))
    (by_samples,) = th.autograd.grad(dist.sample().mean(), params)
    (exact,) = th.autograd.grad(BetaDistribution(box([0.0], [10.0])).proba_distribution(params).mean().mean(), params)
    th.testing.assert_close(by_samples, exact, rtol=0.03, atol=0.0)
