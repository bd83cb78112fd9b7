"""Draw the figures in docs/ that need no training.

python -m benchmarks.figures
"""

from pathlib import Path
from typing import cast

import numpy as np
import torch as th
from gymnasium import spaces
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from benchmarks.provenance import ROOT
from benchmarks.report import save_svg
from sb3_carracing.plotting import COLORS
from sb3_carracing.ppo.distributions import BetaDistribution, Parameterization

BETA_POLICIES = ROOT / "docs" / "beta_policies.svg"
# A line style for each color, for print.
_STYLES = list(zip(COLORS, ("-", "--", "-.", ":"), strict=False))
_SPACE = spaces.Box(-1.0, 1.0, (1,), np.float32)


def distribution(mean: float, concentration: float) -> BetaDistribution:
    """Return the policy's distribution on [-1, 1] with this mean and concentration (alpha + beta)."""
    unit = (mean + 1.0) / 2.0
    excesses = th.tensor([[unit * concentration - 1.0, (1.0 - unit) * concentration - 1.0]], dtype=th.float64)
    return BetaDistribution(_SPACE, "exp").proba_distribution(excesses.log())


def draw_densities(axes: Axes) -> None:
    """Draw a Beta becoming more certain, and the Gaussian with the moments of one of them."""
    actions = np.linspace(-1.0, 1.0, 401)
    for (color, style), (mean, concentration) in zip(
        _STYLES, [(0.0, 2.0), (0.3, 5.0), (0.6, 20.0), (0.85, 60.0)], strict=True
    ):
        beta = distribution(mean, concentration)
        density = beta.log_prob(th.as_tensor(actions)[:, None]).exp()
        axes.plot(actions, density, color=color, linestyle=style, label=f"{beta.alpha.item():.1f}, {beta.beta.item():.1f}")
    std = 2.0 * np.sqrt(0.925 * 0.075 / 61.0)
    wide = np.linspace(-1.0, 1.35, 471)
    axes.plot(wide, stats.norm.pdf(wide, 0.85, std), color="0.6", linewidth=1.0, label="Gaussian")
    axes.axvspan(1.0, 1.35, color="0.92")
    axes.set(title="densities", xlabel="action", ylabel="density", xlim=(-1.0, 1.35))
    axes.legend(title="alpha, beta", fontsize="small", title_fontsize="small")


def draw_parameterizations(axes: Axes) -> None:
    """Draw the concentration over the network's output, the same for alpha and beta."""
    outputs = th.linspace(-4.0, 6.0, 201)
    for (color, style), name in zip(_STYLES, ("exp", "softplus"), strict=False):
        beta = BetaDistribution(_SPACE, cast(Parameterization, name)).proba_distribution(th.stack([outputs, outputs], dim=1))
        axes.plot(outputs, beta.concentration[:, 0], color=color, linestyle=style, label=name)
    axes.set(title="parameterizations", xlabel="network output", ylabel="alpha + beta", yscale="log")
    axes.legend(fontsize="small")


def draw_deterministic_actions(axes: Axes) -> None:
    """Draw the mode over the mean for several concentrations."""
    for (color, style), concentration in zip(_STYLES, (2.5, 4.0, 10.0, 100.0), strict=True):
        largest = 1.0 - 2.0 / concentration  # beyond it alpha or beta falls below 1
        means = np.linspace(-largest, largest, 51)[1:-1]
        modes = [distribution(float(mean), concentration).mode().item() for mean in means]
        axes.plot(means, modes, color=color, linestyle=style, label=f"{concentration:g}")
    axes.set(title="mode against mean", xlabel="mean", ylabel="mode", xlim=(-1.0, 1.0))
    axes.legend(title="alpha + beta", fontsize="small", title_fontsize="small")


def draw(file: Path) -> None:
    """Draw the page's figure. The same versions write the same file."""
    figure = Figure(figsize=(11.0, 3.4), layout="constrained")
    for axes, draw_panel in zip(
        figure.subplots(1, 3), (draw_densities, draw_parameterizations, draw_deterministic_actions), strict=True
    ):
        draw_panel(axes)
        axes.grid(alpha=0.3)
    save_svg(figure, file)


if __name__ == "__main__":
    draw(BETA_POLICIES)
    print(BETA_POLICIES)
