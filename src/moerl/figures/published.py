"""Published runs beside ours: a dashed grey line, and a note that says whose it is."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from moerl.study.figures import FigureSpec
from moerl.study.reference import SERIES

_LOOK = {"color": "#8C8C8C", "linestyle": (0, (2, 1.2)), "linewidth": 1.1, "zorder": 2.0}


def published_curve(ax: Axes, rows: pd.DataFrame, unit: float) -> Axes:
    """Draw the published curve of one panel; without points, nothing.

    Args:
        ax: Drawn into.
        rows: Rows of `reference/<figure>.csv` of this panel.
        unit: Frames per unit of the x axis.
    """
    frame, value = rows.loc[rows["value"].notna(), ["frame", "value"]].to_numpy(dtype=np.float64).T
    if len(frame):
        ax.plot(frame / unit, value, label=SERIES, **_LOOK)  # type: ignore[arg-type]
    return ax


def published_note(spec: FigureSpec) -> str:
    """What the line is, for the foot of a figure."""
    simple = ", whose Rainbow has no double, dueling or noisy networks"
    rainbow = "rainbow" in spec.agents
    return f"{SERIES}: the Dopamine authors' runs{simple if rainbow else ''}; aggregated as ours."
