"""Curves with bands over training (paper Figs 6 to 12 and others)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from moerl.figures.style import SOLID, SeriesStyle, round_steps
from moerl.study.figures import Over

Values = npt.NDArray[np.float64]

MARKED = 12  # curves longer than this are marked at about this many points


def band_curve(
    ax: Axes,
    name: str,
    style: SeriesStyle,
    x: Values,
    y: Values,
    band: tuple[Values, Values],
) -> Axes:
    """Draw one series: a line through `y` and a band from low to high (none where they are NaN).

    Args:
        ax: Drawn into.
        name: Legend entry.
        style: Look of the series.
        x: `[T]`.
        y: `[T]`.
        band: Low and high, each `[T]`.
    """
    low, high = band
    if np.isfinite(low).any():
        ax.fill_between(x, low, high, color=style.colour, alpha=0.18, linewidth=0)
    ax.plot(
        x,
        y,
        label=name,
        color=style.colour,
        linestyle=style.line if style.line != SOLID else "-",
        zorder=2.1 if style.line == SOLID else 2.2,
        marker=style.marker,
        markevery=max(1, len(x) // MARKED),
        markeredgecolor="white",
        markeredgewidth=0.4,
    )
    return ax


def frames_axis(largest: int) -> tuple[float, str]:
    """Divisor and label of a frames axis that ends at `largest` frames.

    The paper counts millions; a study too short for that is read in thousands.
    """
    if largest >= 1_000_000:
        return 1e6, "Number of Frames\n(in millions)"
    return 1e3, "Number of Frames\n(in thousands)"


def x_axis(table: pd.DataFrame, over: Over) -> tuple[str, float, str]:
    """Column, divisor and label of the x axis of curves."""
    match over:
        case "frames":
            return "frame", *frames_axis(table["frame"].max())
        case "hours":
            return "hours", 1.0, "Hours of Training"
        case "gradient steps":  # counted in iterations, as the paper does
            iteration = float(table["gradient_steps"].min())
            return "gradient_steps", iteration, f"Gradient Steps (× {_count(iteration)})"


def _count(steps: float) -> str:
    return f"{steps / 1000:g}K" if steps >= 1000 else f"{steps:g}"


def from_zero(ax: Axes) -> Axes:
    """Start the y axis just below zero, so that a curve along zero stays visible.

    For quantities that cannot be negative; call it when everything is drawn.
    """
    top = ax.dataLim.ymax if np.isfinite(ax.dataLim.ymax) and ax.dataLim.ymax > 0 else 1.0
    ax.set_ylim(-0.05 * top, 1.08 * top)
    return ax


def ticks(ax: Axes, end: float) -> Axes:
    """Round ticks from 0 to the `end` of training (in units of the x axis), 400k instead of 400000.

    Call it when everything is drawn.
    """
    ax.set_xlim(0, 1.03 * end)  # room for the last marker
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(round_steps())
    if max(np.abs(ax.get_ylim())) >= 10_000:
        ax.yaxis.set_major_formatter(FuncFormatter(_thousands))
    return ax


def _thousands(value: float, _: int | None = None) -> str:
    return f"{value / 1e3:g}k".replace("-", "\N{MINUS SIGN}") if value else "0"
