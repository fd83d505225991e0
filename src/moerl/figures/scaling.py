"""Bar figures: one panel per agent, groups over a scaling axis (paper Fig 1; later 4 and 5)."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moerl.figures.bars import grouped_bars
from moerl.figures.notes import absent_panel
from moerl.figures.style import COLUMN, legend_columns, styles
from moerl.study.figures import FigureSpec

HEADLINE = "last"  # read-out that is drawn; the table has the others
VALUES = ["iqm", "ci_low", "ci_high"]
PANEL_HEIGHT = 1.7  # inches
ABSENT_HEIGHT = 0.7  # inches, of a panel that has nothing to show
_Y_LABEL = "IQM Human\nNormalized Score"


def scaling_figure(table: pd.DataFrame, spec: FigureSpec, agents: Collection[str]) -> Figure:
    """Draw a bar figure from its table.

    Args:
        table: The figure's CSV.
        spec: The figure.
        agents: Agents the study trains; the panel of any other says that it is not in the study.
    """
    assert spec.x is not None
    xs = list(spec.x.values)
    looks = styles(series.name for series in spec.series)
    heights = [PANEL_HEIGHT if panel.agent in agents else ABSENT_HEIGHT for panel in spec.panels]
    figure = Figure((COLUMN, sum(heights) + 0.6))
    grid = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
    axes: list[Axes] = grid[:, 0].tolist()
    shown = table[table["readout"] == HEADLINE]
    for ax, panel in zip(axes, spec.panels, strict=True):
        ax.set_title(panel.title, fontweight="bold")
        if panel.agent not in agents:
            absent_panel(ax, "not in this study")
            continue
        rows = shown[shown["panel"] == panel.title]
        bars = {
            name: rows[rows["series"] == name].set_index("x").loc[xs, VALUES].to_numpy(dtype=np.float64)
            for name in looks
        }
        grouped_bars(ax, [str(x) for x in xs], bars, looks)
        ax.set_ylabel(_Y_LABEL)
        ax.set_xlabel(spec.x.label)
    drawn = next(ax for ax in axes if ax.containers)
    handles, labels = drawn.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=legend_columns(labels, COLUMN))
    return figure
