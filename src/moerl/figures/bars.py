"""Grouped bars with confidence intervals (paper Figs 1, 4 and 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory

from moerl.figures.style import MUTED, NO_RUNS, SeriesStyle, round_steps

GROUP = 0.78  # share of a category's width that its bars fill

Bars = npt.NDArray[np.float64]
"""`[X, 3]`: height and the bounds of its interval; NaN height: absent, NaN bounds: no interval."""


def grouped_bars(
    ax: Axes,
    categories: Sequence[str],
    series: Mapping[str, Bars],
    styles: Mapping[str, SeriesStyle],
) -> Axes:
    """Draw one group of bars per category and one bar per series in it.

    Bars start at zero, unlike the paper's, whose axis starts near the lowest bar: a bar's length
    must be its value.

    Args:
        ax: Drawn into.
        categories: Tick labels, left to right.
        series: Name → its bars `[X, 3]`, one per category.
        styles: Look of each series.
    """
    width = GROUP / len(series)
    for row, (name, bars) in enumerate(series.items()):
        offset = (row - (len(series) - 1) / 2) * width
        centres = np.arange(len(categories)) + offset
        ax.bar(
            centres,
            bars[:, 0],
            width,
            label=name,
            color=styles[name].colour,
            edgecolor="white",
            linewidth=0.5,
        )
        for centre, (height, low, high) in zip(centres, bars, strict=True):
            if np.isnan(height):
                _absent(ax, centre)
            if np.isfinite([low, high]).all():
                _interval(ax, centre, low, high, cap=width * 0.18)
    ax.axhline(0.0, color="black", linewidth=0.7)
    ax.set_xticks(range(len(categories)), categories)
    ax.set_xlim(-0.5, len(categories) - 0.5)
    ax.tick_params(axis="x", length=0)
    ax.yaxis.set_major_locator(round_steps())
    return ax


def _absent(ax: Axes, x: float) -> None:
    """Say where a bar would stand that it has no runs: it must not be taken for one of height zero."""
    place = blended_transform_factory(ax.transData, ax.transAxes)
    ax.text(x, 0.03, NO_RUNS, transform=place, rotation=90, fontsize=5, color=MUTED, ha="center", va="bottom")


def _interval(ax: Axes, x: float, low: float, high: float, cap: float) -> None:
    # Not `errorbar`: a percentile interval need not contain the point estimate.
    ax.plot([x, x], [low, high], color="black", linewidth=0.9, solid_capstyle="butt")
    for bound in (low, high):
        ax.plot([x - cap, x + cap], [bound, bound], color="black", linewidth=0.9)
