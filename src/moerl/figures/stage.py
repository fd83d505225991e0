"""Stage `figure`: a figure as PDF, PNG and SVG, from its table and the study's configuration alone.

A schematic is drawn from the configuration.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from moerl.figures.analysis_grid import analysis_figure
from moerl.figures.learning import learning_figure
from moerl.figures.notes import finish, partial_note, reduced_note
from moerl.figures.published import published_note
from moerl.figures.routing import routing_figure
from moerl.figures.scaling import scaling_figure
from moerl.figures.schematics import schematic
from moerl.figures.style import paper_style, save
from moerl.study.captions import scored_games
from moerl.study.errors import UserError, one_line
from moerl.study.expansion import Study
from moerl.study.paths import figure_files, table_files
from moerl.study.reference import can_stand_in, curves_file

_TEXT = ("missing_runs", "games_left_out", "games_without_runs", "n_seeds", "actions", "pixels", "mix")


def run(
    study: Study, figure_name: str, results: Path, allow_partial: bool = False, reference: bool = False
) -> None:
    """Write `figures/<figure>.pdf`, `.png` and `.svg`.

    With `reference`, published runs (`reference/<figure>.csv`) are drawn too where the figure has a place.

    Raises:
        UserError: The table lacks runs (unless `allow_partial`: then the figure says so on its face).
    """
    spec = study.figure(figure_name)
    if spec.drawing is not None:
        with paper_style():
            drawing = schematic(spec.drawing)
            finish(drawing, None, None)
            save(drawing, figure_files(results, figure_name))
        return
    source = table_files(results, figure_name)[0]
    table = _read(source)
    published = _read(curves_file(results, figure_name)) if reference and can_stand_in(study, spec) else None
    left_out = runs_left_out(table)
    if left_out and not allow_partial:
        run, why = next(iter(left_out.items()))
        raise UserError(f"{source}: lacks runs, the first: {run} ({why}); finish them or --allow-partial")
    partial = partial_note(len(study.figure_runs(spec)), left_out, fewer_games(table))
    with paper_style():
        match spec.kind:
            case "bars":
                figure = scaling_figure(table, spec, study.agents)
            case "curves":
                figure = learning_figure(table, spec, study.agents, published)
            case "analysis":
                figure = analysis_figure(table, spec)
            case "routing":
                figure = routing_figure(table, spec)
        note = published_note(spec) if published is not None else None
        games = scored_games(study, figure_name)
        finish(figure, reduced_note(study, figure_name), partial, games, note, mixed_runs(table))
        save(figure, figure_files(results, figure_name))


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path}: does not exist; the figure is drawn from it, make the table first")
    try:
        return pd.read_csv(path, dtype=dict.fromkeys(_TEXT, str))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable table ({one_line(error)}); make it again") from error


def runs_left_out(table: pd.DataFrame) -> dict[str, str]:
    """Every run a table names as missing, in words and in the table's order, and why."""
    found: dict[str, str] = {}
    for cell in table["missing_runs"].dropna():
        for named in cell.split("; "):
            run, _, why = named.removesuffix(")").partition(" (")
            found.setdefault(run, why)
    return found


def mixed_runs(table: pd.DataFrame) -> str | None:
    """What the runs of a figure differ in, in one sentence, as its table says; None if in nothing."""
    return f"{table['mix'].iloc[0]}." if "mix" in table else None


def fewer_games(table: pd.DataFrame) -> list[str]:
    """The bars or curves whose aggregate is over fewer games than the others', and what they lack."""
    if "games_without_runs" not in table:
        return []
    rows = table[table["games_without_runs"].notna() & (table["n_games"] > 0)]
    place = [column for column in ("panel", "series", "x") if column in table]
    found: dict[str, None] = {}
    for row in rows.to_dict("records"):
        lacking = row["games_without_runs"].replace("; ", ", ")
        found[f"{' '.join(str(row[column]) for column in place)} without {lacking}"] = None
    return list(found)
