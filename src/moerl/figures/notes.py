"""What a figure says about itself on its face: a reduced study, missing runs, absent panels."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from moerl.figures.style import MUTED, WARNING
from moerl.study.expansion import Study

SIZE = 5.5  # points
_LINE = SIZE * 1.35 / 72  # inches
_CHARACTER = SIZE * 0.53 / 72  # inches, on average in DejaVu Sans
_MARGIN = 0.06  # inches
_NAMED = 6  # missing runs named on the face; the table names all


def reduced_note(study: Study, figure_name: str) -> str | None:
    """How this figure falls short of the paper's, in one sentence; None where it does not.

    The study's deviations that are about other figures are left out.
    """
    others = set(study.configured_figures) - {figure_name}
    deviations = [d for d in study.deviations if d.split()[0] not in others]
    if not deviations:
        return None
    figure = study.figure(figure_name)
    games = ", ".join(figure.games) if len(figure.games) <= 4 else f"{len(figure.games)} games"
    seeds = f"{len(study.seeds)} seed" + ("s" if len(study.seeds) > 1 else "")
    budget = f"{games}; {seeds}; {study.milestone(figure.milestone)} frames"
    own = [
        d.removeprefix(f"{figure_name} ")
        for d in deviations
        if d.startswith(f"{figure_name} ") or d.split(":")[0] in study.agents
    ]
    kind = "Study" if len(own) == len(deviations) else "Reduced study"
    return f"{kind} “{study.name}”, not the paper's setting: {'; '.join([budget, *own])}."


def missing_note(missing: Sequence[str]) -> str | None:
    """The runs a figure lacks, in words; None where it is complete."""
    if not missing:
        return None
    more = f" and {len(missing) - _NAMED} more (named in the table)" if len(missing) > _NAMED else ""
    return f"INCOMPLETE, missing: {', '.join(missing[:_NAMED])}{more}."


def finish(figure: Figure, reduced: str | None, missing: str | None) -> None:
    """Write the notes at the foot of `figure` and lay the rest out above them."""
    width, height = figure.get_size_inches()
    columns = int((width - 2 * _MARGIN) / _CHARACTER)
    blocks = [(missing, WARNING), (reduced, MUTED)]
    lines = [(line, colour) for text, colour in blocks if text for line in textwrap.wrap(text, columns)]
    for row, (line, colour) in enumerate(reversed(lines)):
        y = (_MARGIN + row * _LINE) / height
        figure.text(_MARGIN / width, y, line, fontsize=SIZE, color=colour, va="bottom", parse_math=False)
    foot = (_MARGIN + len(lines) * _LINE) / height if lines else 0.0
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, foot, 1, 1 - foot)))


def absent_panel(ax: Axes, reason: str) -> Axes:
    """An empty panel that says why it is empty."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(visible=True, color="#C8C8C8", linestyle=(0, (4, 3)))
    ax.text(0.5, 0.5, reason, transform=ax.transAxes, ha="center", va="center", color=MUTED, style="italic")
    return ax
