"""How every figure looks: one colour and marker per method, fonts, widths, and byte-stable files.

Colours are Okabe and Ito's colour-blind safe set; dark grey, blue and orange also differ in
lightness, so the figures survive a greyscale printer. Widths are those of the ICML template.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from moerl.study.errors import UserError

COLUMN = 3.25  # inches: one column
PAGE = 6.75  # inches: both columns
MUTED = "#5A5A5A"  # notes and reference lines
NO_RUNS = "no runs"  # stands where a bar or curve would, if all of its runs are left out
WARNING = "#B00020"  # what a reader must not miss: incomplete data


@dataclass(frozen=True)
class SeriesStyle:
    """Look of one method in every figure it appears in.

    Dashed curves are drawn above solid ones, so that two methods on the same values both show.
    """

    colour: str
    marker: str
    dashed: bool = False


# The one place that says how a method of the paper looks.
SERIES: Mapping[str, SeriesStyle] = MappingProxyType(
    {
        "Baseline": SeriesStyle("#595959", "o"),
        "SoftMoE": SeriesStyle("#0072B2", "s"),
        "Top1-MoE": SeriesStyle("#E69F00", "^", dashed=True),
    }
)
# For methods a study adds; in order of appearance in its figure.
SPARE = (
    SeriesStyle("#009E73", "D"),
    SeriesStyle("#CC79A7", "v"),
    SeriesStyle("#56B4E9", "P"),
    SeriesStyle("#D55E00", "X"),
    SeriesStyle("#000000", "*"),
)

_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs on every machine
    "font.size": 7.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.2,
    "axes.unicode_minus": True,
    "pdf.fonttype": 42,  # TrueType: publishers refuse Type 3
    "svg.hashsalt": "moerl",
    "svg.fonttype": "path",
    "savefig.dpi": 300,
}
# Creation times and versions would make two runs differ.
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw inside this: matplotlib's defaults and ours, whatever the user's matplotlibrc says."""
    settings: Any = {**mpl.rcParamsDefault}
    del settings["backend"]  # figures are saved without one
    with mpl.rc_context(settings | _RC):
        yield


def styles(names: Iterable[str]) -> dict[str, SeriesStyle]:
    """The look of each series of a figure, the paper's fixed, others from `SPARE` in order.

    Raises:
        UserError: More unknown series than distinguishable looks.
    """
    spare = iter(SPARE)
    chosen: dict[str, SeriesStyle] = {}
    for name in names:
        style = SERIES.get(name) or next(spare, None)
        if style is None:
            raise UserError(f"more than {len(SPARE)} series without a fixed colour; the last: {name!r}")
        chosen[name] = style
    return chosen


def legend_columns(labels: Sequence[str], width: float) -> int:
    """How many columns of a legend fit into `width` inches: all in one row, else evenly filled rows."""
    size = _RC["legend.fontsize"]
    # matplotlib's own spacing: a handle of 2 em, 0.8 em to its label, 2 em between columns.
    widest = max(TextPath((0, 0), label, size=size).get_extents().width for label in labels) + 4.8 * size
    fitting = max(1, int((72 * width + 2 * size) // widest))
    rows = -(-len(labels) // fitting)
    return -(-len(labels) // rows)


def round_steps() -> MaxNLocator:
    """Tick locator of every value axis: at most seven ticks at round numbers."""
    return MaxNLocator(6, steps=[1, 2, 2.5, 5, 10])


def save(figure: Figure, files: Iterable[Path]) -> None:
    """Write `figure` to each file in the format of its suffix: same figure, same bytes."""
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata=_METADATA[file.suffix[1:]])
