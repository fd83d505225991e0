"""Bar figures: one panel per agent, groups over a scaling axis (paper Figs 1, 4 and 5)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moerl.figures.bars import grouped_bars
from moerl.figures.notes import absent_panel, series_legend
from moerl.figures.style import COLUMN, MUTED, PAGE, SeriesStyle, styles
from moerl.study.figures import FigureSpec, View
from moerl.study.sizes import millions

HEADLINE = "last"  # read-out that is drawn; the table has the others
VALUES = ["iqm", "ci_low", "ci_high"]
_COUNTS = ("parameters_min", "parameters_max")
PANEL_HEIGHT = 1.7  # inches
ABSENT_HEIGHT = 0.7  # inches, of a panel that has nothing to show
_Y_LABEL = "IQM Human\nNormalized Score"
_COUNT_SIZE = 5.5  # points
_COUNT_LINE = 1.35 * _COUNT_SIZE
_BELOW_AXIS = 25.0  # points: below ticks and label begins the first row of counts


def scaling_figure(table: pd.DataFrame, spec: FigureSpec, agents: Collection[str]) -> Figure:
    """Draw a bar figure from its table.

    Args:
        table: The figure's CSV.
        spec: The figure.
        agents: Agents the study trains; the panel of any other says that it is not in the study.
    """
    looks, views = styles(spec.all_series), spec.views
    tall = PANEL_HEIGHT
    if "parameters_min" in table:
        tall += (len(looks) + 1) * _COUNT_LINE / 72
    heights = [tall if view.agent in agents else ABSENT_HEIGHT for view in views]
    if spec.beside:
        rows = -(-len(views) // 2)
        figure = Figure((PAGE, rows * max(heights) + 0.6))
        grid = figure.subplots(rows, min(2, len(views)), squeeze=False)
    else:
        figure = Figure((COLUMN, sum(heights) + 0.6))
        grid = figure.subplots(len(views), 1, squeeze=False, height_ratios=heights)
    axes: list[Axes] = grid.ravel().tolist()
    shown = table[table["readout"] == HEADLINE]
    for ax, view in zip(axes, views, strict=False):
        ax.set_title(view.title, fontweight="bold")
        if view.agent in agents:
            _panel(ax, shown[shown["panel"] == view.title], view, looks)
        else:
            absent_panel(ax, "not in this study")
    for ax in axes[len(views) :]:
        ax.remove()
    series_legend(figure, axes, list(looks), PAGE if spec.beside else COLUMN)
    return figure


def _panel(ax: Axes, rows: pd.DataFrame, view: View, looks: Mapping[str, SeriesStyle]) -> None:
    assert view.x is not None
    xs = list(view.x.values)
    by_series = {
        series.name: rows[rows["series"] == series.name].set_index("x").loc[xs] for series in view.series
    }
    bars = {name: mine[VALUES].to_numpy(dtype=np.float64) for name, mine in by_series.items()}
    grouped_bars(ax, [str(x) for x in xs], bars, looks)
    ax.set_ylabel(_Y_LABEL)
    ax.set_xlabel(view.x.label)
    if "parameters_min" in rows:
        counts = {
            name: [millions(*pair) for pair in mine[list(_COUNTS)].astype(int).to_numpy()]
            for name, mine in by_series.items()
        }
        parameter_rows(ax, counts, looks, str(rows["actions"].iloc[0]))


def parameter_rows(
    ax: Axes, counts: Mapping[str, Sequence[str]], looks: Mapping[str, SeriesStyle], actions: str
) -> Axes:
    """Write the networks' numbers of parameters below a panel's x axis: a row per series.

    Args:
        ax: Drawn into.
        counts: Series → its counts in millions, in words, one per group from the left.
        looks: Look of each series.
        actions: Fewest and most actions of the panel's games, as "3-18".
    """
    few, _, many = actions.partition("-")
    of = f"{few} to {many} actions" if many else f"{few} actions"
    below = ax.get_xaxis_transform()

    def write(text: str, x: float, row: int, align: str, colour: str, **style: Any) -> None:
        offset = -_BELOW_AXIS - row * _COUNT_LINE
        ax.annotate(
            text,
            (x, 0.0),
            xycoords=below,
            xytext=(0, offset),
            textcoords="offset points",
            ha=align,
            va="top",
            fontsize=_COUNT_SIZE,
            color=colour,
            annotation_clip=False,
            **style,
        )

    for row, (name, values) in enumerate(counts.items()):
        short = name.partition("(")[2].removesuffix(")") or name  # what tells it from its neighbours
        write(short, -0.5, row, "right", looks[name].colour, fontweight="bold")
        for place, value in enumerate(values):
            write(value, place, row, "center", "black")
    centre = sum(ax.get_xlim()) / 2
    write(f"Parameters in millions, for {of}", centre, len(counts), "center", MUTED, style="italic")
    return ax
