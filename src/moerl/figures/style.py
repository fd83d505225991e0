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
from matplotlib.transforms import Bbox

from moerl.study.errors import UserError

COLUMN = 3.25  # inches: one column
PAGE = 6.75  # inches: both columns
MUTED = "#5A5A5A"  # notes and reference lines
NO_RUNS = "no runs"  # stands where a bar or curve would, if all of its runs are left out
WARNING = "#B00020"  # what a reader must not miss: incomplete data


Line = tuple[float, tuple[float, ...]]  # offset, and lengths of dashes and gaps; none: solid
SOLID: Line = (0, ())
DASHED: Line = (0, (4, 1.5))
DOTTED: Line = (0, (1, 1.2))


@dataclass(frozen=True)
class SeriesStyle:
    """Look of one method in every figure it appears in.

    Broken curves are drawn above solid ones, so that two methods on the same values both show.
    """

    colour: str
    marker: str
    line: Line = SOLID


GREY, BLUE, ORANGE = "#595959", "#0072B2", "#E69F00"
GREEN, PURPLE, SKY, RED = "#009E73", "#CC79A7", "#56B4E9", "#D55E00"

# The one place that says how a method of the paper looks.
SERIES: Mapping[str, SeriesStyle] = MappingProxyType(
    {
        "Baseline": SeriesStyle(GREY, "o"),
        "SoftMoE": SeriesStyle(BLUE, "s"),
        "Top1-MoE": SeriesStyle(ORANGE, "^", DASHED),
        # Fig 5: width of the experts
        "SoftMoE (unchanged)": SeriesStyle(BLUE, "s"),
        "SoftMoE (÷ NumExperts)": SeriesStyle(SKY, "P"),
        # Fig 6: the module's colour, a line per tokenisation
        "Top1-MoE PerConv": SeriesStyle(ORANGE, "^"),
        "Top1-MoE PerFeat": SeriesStyle(ORANGE, "v", DASHED),
        "Top1-MoE PerSamp": SeriesStyle(ORANGE, "<", DOTTED),
        "SoftMoE PerConv": SeriesStyle(BLUE, "s"),
        "SoftMoE PerFeat": SeriesStyle(BLUE, "D", DASHED),
        "SoftMoE PerSamp": SeriesStyle(BLUE, "p", DOTTED),
        # Figs 8 and 9
        "SoftMoE (RandPhi)": SeriesStyle(GREEN, "D", DASHED),
        "Top1-MoE₈": SeriesStyle(ORANGE, "^", DASHED),
        "Top1-MoE₈ (LoadBalancing)": SeriesStyle(RED, "X", DOTTED),
        # Figs 13 to 15: what an expert is; broken lines are normalised
        "Regular": SeriesStyle(BLUE, "s"),
        "Regular (normalised)": SeriesStyle(BLUE, "D", DASHED),
        "BIG": SeriesStyle(GREEN, "o"),
        "BIG (normalised)": SeriesStyle(GREEN, "p", DASHED),
        "ALL": SeriesStyle(PURPLE, "^"),
        "ALL (normalised)": SeriesStyle(PURPLE, "v", DASHED),
    }
)
# For methods a study adds; in order of appearance in its figure.
SPARE = (
    SeriesStyle(GREEN, "D"),
    SeriesStyle(PURPLE, "v"),
    SeriesStyle(SKY, "P"),
    SeriesStyle(RED, "X"),
    SeriesStyle("#000000", "*"),
)

# Experts 0, 1, … of a mixture. The same set, with a grey for its black, which a dark frame would swallow.
EXPERTS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#A0A0A0")

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
    """The look of each series of a figure: the paper's fixed, others from `SPARE` in order.

    A spare colour that one of the paper's series has in this figure is passed over.

    Raises:
        UserError: More unknown series than looks that are distinguishable here.
    """
    names = list(names)
    taken = {SERIES[name].colour for name in names if name in SERIES}
    free = [style for style in SPARE if style.colour not in taken]
    spare = iter(free)
    chosen: dict[str, SeriesStyle] = {}
    for name in names:
        style = SERIES.get(name) or next(spare, None)
        if style is None:
            raise UserError(
                f"no colour is left for the series {name!r}: beside the paper's series, "
                f"this figure has room for {len(free)}"
            )
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
    _settle(figure)
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata=_METADATA[file.suffix[1:]])


def _settle(figure: Figure) -> None:
    """Lay the figure out once, for all formats, at rounded positions.

    The layout's solver is exact to rounding only, and the last digits differ between processes; the names of
    clip paths in an SVG file would tell.
    """
    figure.set_dpi(mpl.rcParams["savefig.dpi"])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for ax in figure.axes:
        rounded = (round(edge, 6) for edge in ax.get_position(original=True).bounds)
        ax.set_position(Bbox.from_bounds(*rounded))
