"""Grouped bars with confidence intervals (paper Figs 1, 4 and 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from moerl.figures.style import SeriesStyle

GROUP = 0.78  # share of a category's width that its bars fill

Bar = tuple[float, float | None, float | None]
"""Height and the bounds of its interval; None where one seed leaves no interval."""


def grouped_bars(
    ax: Axes,
    categories: Sequence[str],
    series: Mapping[str, Sequence[Bar | None]],
    styles: Mapping[str, SeriesStyle],
) -> Axes:
    """Draw one group of bars per category and one bar per series in it.

    Bars start at zero, unlike the paper's, whose axis starts near the lowest bar: a bar's length
    must be its value.

    Args:
        ax: Drawn into.
        categories: Tick labels, left to right.
        series: Name → one bar per category; None leaves its place empty.
        styles: Look of each series.
    """
    width = GROUP / len(series)
    for row, (name, bars) in enumerate(series.items()):
        offset = (row - (len(series) - 1) / 2) * width
        drawn = [(place + offset, bar) for place, bar in enumerate(bars) if bar is not None]
        ax.bar(
            [x for x, _ in drawn],
            [bar[0] for _, bar in drawn],
            width,
            label=name,
            color=styles[name].colour,
            edgecolor="white",
            linewidth=0.5,
        )
        for x, (_, low, high) in drawn:
            if low is not None and high is not None:
                _interval(ax, x, low, high, cap=width * 0.18)
    ax.axhline(0.0, color="black", linewidth=0.7)
    ax.set_xticks(range(len(categories)), categories)
    ax.set_xlim(-0.5, len(categories) - 0.5)
    ax.tick_params(axis="x", length=0)
    return ax


def _interval(ax: Axes, x: float, low: float, high: float, cap: float) -> None:
    # Not `errorbar`: a percentile interval need not contain the point estimate.
    ax.plot([x, x], [low, high], color="black", linewidth=0.9, solid_capstyle="butt")
    for bound in (low, high):
        ax.plot([x - cap, x + cap], [bound, bound], color="black", linewidth=0.9)
