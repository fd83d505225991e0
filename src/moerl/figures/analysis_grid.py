"""The grid of analyses: one row per game, one column per metric, curves over training (Fig 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import NullLocator

from moerl.figures.curves import band_curve, from_zero, ticks, x_axis
from moerl.figures.notes import ABSENT, absent_curves
from moerl.figures.style import NO_RUNS, PAGE, SeriesStyle, styles
from moerl.study.figures import FigureSpec

ROW_HEIGHT = 1.22  # inches
SIGNED = ("return", "q_value")
"""Metrics that can be negative."""


def analysis_figure(table: pd.DataFrame, spec: FigureSpec) -> Figure:
    """Draw an analysis grid from its table (the figure's CSV)."""
    looks, games = styles(spec.all_series), spec.all_games
    figure = Figure((PAGE, ROW_HEIGHT * len(games) + 0.75))
    axes = figure.subplots(len(games), len(spec.metrics), squeeze=False, sharex=True)
    along, unit, label = x_axis(table, spec.over)
    end = table[along].max()
    cells = dict(list(table.groupby(["game", "metric"])))
    for row, game in enumerate(games):
        for column, metric in enumerate(spec.metrics):
            ax = axes[row, column]
            metric_curves(ax, cells[game, metric.name], looks, unit, along)
            if row == 0:
                ax.set_title(metric.label)
            if row == len(games) - 1:
                ax.set_xlabel(label)
            if metric.name not in SIGNED:
                from_zero(ax)
            ticks(ax, end / unit)
            _say_absent(ax, cells[game, metric.name], list(looks))
        axes[row, 0].set_ylabel(game, fontweight="bold")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    legend.set_title(spec.panels[0].title, prop=FontProperties(weight="bold", size=8.5))
    return figure


def _say_absent(ax: Axes, rows: pd.DataFrame, series: Sequence[str]) -> None:
    """Name the series that have no run here; without any, hide the scale of the empty panel."""
    absent = [name for name in series if rows.loc[rows["series"] == name, "mean"].isna().all()]
    if len(absent) == len(series):
        ax.yaxis.set_major_locator(NullLocator())
        ax.text(0.5, 0.5, NO_RUNS, transform=ax.transAxes, ha="center", va="center", **ABSENT)
    elif absent:
        absent_curves(ax, [f"{NO_RUNS}: {', '.join(absent)}"])


def metric_curves(
    ax: Axes, rows: pd.DataFrame, looks: Mapping[str, SeriesStyle], unit: float, along: str = "frame"
) -> Axes:
    """Draw one metric of one game: a mean curve and its band per series.

    Args:
        ax: Drawn into.
        rows: The table's rows of this game and metric.
        looks: Look of each series, in the order they are drawn.
        unit: Frames, or gradient steps, per unit of the x axis.
        along: Column of the x axis: "frame" or "gradient_steps".
    """
    for name, look in looks.items():
        points = rows[(rows["series"] == name) & rows["mean"].notna()]
        columns = points[[along, "mean", "se_low", "se_high"]].to_numpy(dtype=np.float64)
        x, mean, low, high = columns.T
        band_curve(ax, name, look, x / unit, mean, (low, high))
    return ax
