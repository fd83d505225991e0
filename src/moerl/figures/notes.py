"""What a figure says about itself on its face: a reduced study, missing or mixed runs, absent panels."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import TextPath

from moerl.figures.style import MUTED, WARNING, legend_columns
from moerl.study.expansion import Study

SIZE = 5.5  # points
_LINE = SIZE * 1.35 / 72  # inches
_MARGIN = 0.06  # inches
_NAMED = 6  # runs, or bars or curves, named on the face; the table names all
_REMARK = 30  # characters of a line inside a panel

ABSENT: dict[str, Any] = {"color": MUTED, "style": "italic", "fontsize": 5.5}
"""Look of a remark inside a panel on what it does not show."""


def reduced_note(study: Study, figure_name: str) -> str | None:
    """How this figure falls short of the paper's, in one sentence; None where it does not."""
    deviations = study.deviations.of(figure_name)
    if not deviations:
        return None
    kind = "Reduced study" if study.deviations.budget.get(figure_name) else "Study"
    return f"{kind} “{study.name}”, not the paper's setting: {'; '.join(deviations)}."


def partial_note(total: int, left_out: Mapping[str, str], fewer_games: Sequence[str] = ()) -> str | None:
    """What a figure lacks, in words; None where it is complete.

    Args:
        total: Runs of the complete figure.
        left_out: The runs it lacks → why: "missing", "diverged at gradient step 37".
        fewer_games: Bars or curves over fewer games than the others, and the games they lack: "SoftMoE 8
            without Pong".
    """
    if not left_out:
        return None
    groups: dict[str, list[str]] = {"diverged": []}  # named first
    for run, why in left_out.items():
        groups.setdefault(why.partition(" at ")[0], []).append(run)
    parts = [f"PARTIAL: {total - len(left_out)} of {total} runs"]
    room = _NAMED
    for why, runs in groups.items():
        if runs:
            parts.append(f"{why}: {_listed(runs, room)}")
            room = max(0, room - len(runs))
    if fewer_games:
        parts.append(f"IQM over fewer games: {_listed(fewer_games, _NAMED)}")
    named = " (all named in the table)" if max(len(left_out), len(fewer_games)) > _NAMED else ""
    return f"{'; '.join(parts)}{named}."


def _listed(names: Sequence[str], room: int) -> str:
    """The first `room` of `names`, and how many more there are."""
    if len(names) <= room:
        return ", ".join(names)
    if not room:
        return f"{len(names)} runs"
    return f"{', '.join(names[:room])} and {len(names) - room} more"


def finish(
    figure: Figure,
    reduced: str | None,
    partial: str | None,
    games: str | None = None,
    published: str | None = None,
    mixed: str | None = None,
) -> None:
    """Write the notes below everything else, on space added for them, and lay the figure out."""
    width, height = figure.get_size_inches()
    blocks = [(partial, WARNING), (mixed, WARNING), (published, MUTED), (games, MUTED), (reduced, MUTED)]
    lines = [(line, colour) for text, colour in blocks if text for line in wrap(text, width - 2 * _MARGIN)]
    foot = _MARGIN + len(lines) * _LINE if lines else 0.0
    figure.set_size_inches(width, height + foot)
    for row, (line, colour) in enumerate(lines):
        y = (foot - (row + 1) * _LINE) / (height + foot)
        figure.text(_MARGIN / width, y, line, fontsize=SIZE, color=colour, va="bottom", parse_math=False)
    share = foot / (height + foot)
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, share, 1, 1 - share)))


def series_legend(figure: Figure, axes: Iterable[Axes], names: Sequence[str], width: float) -> None:
    """One legend above all panels of a figure `width` inches wide: what they draw, `names` first."""
    drawn = {name: one for ax in axes for one, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    shown = [name for name in dict.fromkeys([*names, *drawn]) if name in drawn]
    columns = legend_columns(shown, width)
    figure.legend([drawn[name] for name in shown], shown, loc="outside upper center", ncols=columns)


def wrap(text: str, width: float) -> list[str]:
    """Lines of `text` that are at most `width` inches wide in the notes' size."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and TextPath((0, 0), longer, size=SIZE).get_extents().width / 72 <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def absent_panel(ax: Axes, reason: str) -> Axes:
    """An empty panel that says why it is empty."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set(visible=True, color="#C8C8C8", linestyle=(0, (4, 3)))
    ax.text(0.5, 0.5, reason, transform=ax.transAxes, ha="center", va="center", color=MUTED, style="italic")
    return ax


def absent_curves(ax: Axes, remarks: Sequence[str]) -> Axes:
    """Say in a corner of a panel which curves it lacks, and why: such as "no runs: SoftMoE".

    Lines are as short as the narrowest panels, and take no room from the axes.
    """
    lines = [line for remark in remarks for line in textwrap.wrap(remark, _REMARK, break_on_hyphens=False)]
    text = ax.text(0.03, 0.97, "\n".join(lines), transform=ax.transAxes, ha="left", va="top", **ABSENT)
    text.set_in_layout(False)
    return ax
