"""Curves with bands over training (paper Figs 6 to 12 and others)."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from moerl.figures.style import SeriesStyle

MARKED = 12  # curves longer than this are marked at about this many points


def band_curve(
    ax: Axes,
    name: str,
    style: SeriesStyle,
    x: Sequence[float],
    y: Sequence[float],
    band: tuple[Sequence[float], Sequence[float]] | None,
) -> Axes:
    """Draw one series: a line through `y` and, if there is one, the band from low to high."""
    if band is not None:
        low, high = band
        ax.fill_between(x, low, high, color=style.colour, alpha=0.18, linewidth=0)
    ax.plot(
        x,
        y,
        label=name,
        color=style.colour,
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
        return 1e6, "Number of Frames (in millions)"
    return 1e3, "Number of Frames (in thousands)"
