"""Learning curves: a panel per agent or a panel per game (paper Figs 6 to 9, 12 to 16 and others)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moerl.figures.curves import band_curve, from_zero, ticks, x_axis
from moerl.figures.notes import absent_curves, absent_panel, series_legend
from moerl.figures.published import published_curve
from moerl.figures.style import COLUMN, NO_RUNS, PAGE, SeriesStyle, legend_columns, styles
from moerl.study.figures import NO_EPISODE, FigureSpec

_WIDE = 2.0  # inches: height of a row of one or two panels
_NARROW = 1.3  # inches: height of a row of a grid
_LABELS = {"iqm": "IQM Human\nNormalized Score", "return": "Mean Return"}


def learning_figure(
    table: pd.DataFrame, spec: FigureSpec, agents: Collection[str], published: pd.DataFrame | None = None
) -> Figure:
    """Draw a curves figure from its table (the figure's CSV).

    Args:
        table: The figure's CSV.
        spec: The figure.
        agents: Agents the study trains; the panel of any other says that it is not in the study.
        published: Rows of `reference/<figure>.csv`, drawn beside ours; None: nothing is.
    """
    assert spec.measure is not None
    absent = [view.title for view in spec.views if view.agent not in agents]
    per_panel = {view.title: [series.name for series in view.series] for view in spec.views}
    if spec.panel_per == "game":
        (view,) = spec.views
        per_panel = dict.fromkeys(view.games, per_panel[view.title])
    titles = list(per_panel)
    rows, columns = grid(len(titles), spec.panel_per == "game")
    height, size = (_WIDE, 8.5) if columns <= 2 else (_NARROW, 6.3)  # MontezumaRevenge must fit
    width = COLUMN if columns == 1 else PAGE
    looks = styles(spec.all_series)
    lines = -(-len(looks) // legend_columns(list(looks), width))
    figure = Figure((width, height * rows + 0.45 + 0.15 * lines))
    axes: list[Axes] = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    along, unit, label = x_axis(table, spec.over)
    for place, (ax, title) in enumerate(zip(axes, titles, strict=False)):
        ax.set_title(title, fontweight="bold", fontsize=size)
        mine = table[table["panel"] == title]
        points = mine[mine["value"].notna()]
        if title in absent or points.empty:
            absent_panel(ax, "not in this study" if title in absent else _why_empty(mine))
            continue
        panel_curves(ax, points, {name: looks[name] for name in per_panel[title]}, unit, along)
        lowest = min(*points["value"], 0)
        if published is not None:
            theirs = published[published["panel"] == title]
            published_curve(ax, theirs, unit)
            lowest = min((lowest, *theirs["value"].dropna()))
        if spec.measure == "iqm" and lowest >= 0:
            from_zero(ax)
        ticks(ax, table[along].max() / unit)
        _say_absent(ax, mine, per_panel[title])
        if place >= len(titles) - columns:
            ax.set_xlabel(label, fontsize=size)
        if place % columns == 0:
            ax.set_ylabel(_LABELS[spec.measure])
    for ax in axes[len(titles) :]:
        ax.remove()
    series_legend(figure, axes, list(looks), width)
    return figure


def grid(panels: int, small: bool) -> tuple[int, int]:
    """Rows and columns of the page for a number of panels: the paper's 20 games are four rows of five.

    Args:
        panels: How many.
        small: Whether more than two may stand in a row.
    """
    columns = min(5, max(3, int(np.ceil(np.sqrt(panels))))) if small and panels > 2 else min(2, panels)
    return -(-panels // columns), columns


def panel_curves(
    ax: Axes, points: pd.DataFrame, looks: Mapping[str, SeriesStyle], unit: float, along: str = "frame"
) -> Axes:
    """Draw the curves of one panel, an empty one for a series without points.

    Args:
        ax: Drawn into.
        points: The table's rows of this panel that have a value.
        looks: Look of each series, in the order they are drawn.
        unit: Frames, hours or gradient steps per unit of the x axis.
        along: Column of the x axis: "frame", "hours" or "gradient_steps".
    """
    for name, look in looks.items():
        rows = points.loc[points["series"] == name, [along, "value", "ci_low", "ci_high"]]
        x, value, low, high = rows.to_numpy(dtype=np.float64).T
        band_curve(ax, name, look, x / unit, value, (low, high))
    return ax


def _say_absent(ax: Axes, rows: pd.DataFrame, series: Sequence[str]) -> None:
    """Name the series that have no point in a panel, and why."""
    remarks: dict[str, list[str]] = {}
    for name in series:
        mine = rows[rows["series"] == name]
        if mine["value"].isna().all():
            remarks.setdefault(_why_empty(mine), []).append(name)
    if remarks:
        absent_curves(ax, [f"{why}: {', '.join(names)}" for why, names in remarks.items()])


def _why_empty(rows: pd.DataFrame) -> str:
    """Why rows that belong to the study have no value."""
    games = {name for cell in rows["games_left_out"].dropna() for name in cell.split("; ")}
    if not games:
        return NO_RUNS
    return "no human score" if any(not name.endswith(NO_EPISODE) for name in games) else "no episode ended"
