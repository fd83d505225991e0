"""Stage `figure`: a figure as PDF, PNG and SVG, from its table and the study's configuration alone.

A schematic is drawn from the configuration.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from moerl.figures.analysis_grid import analysis_figure
from moerl.figures.learning import learning_figure
from moerl.figures.notes import finish, partial_note, reduced_note
from moerl.figures.routing import routing_figure
from moerl.figures.scaling import scaling_figure
from moerl.figures.schematics import schematic
from moerl.figures.style import paper_style, save
from moerl.study.captions import scored_games
from moerl.study.errors import UserError
from moerl.study.expansion import Study
from moerl.study.paths import figure_files, table_files

_TEXT = ("missing_runs", "games_left_out", "games_without_runs", "n_seeds", "actions", "pixels")


def run(study: Study, figure_name: str, results: Path, allow_partial: bool = False) -> None:
    """Write `figures/<figure>.pdf`, `.png` and `.svg`.

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
    if not source.is_file():
        raise UserError(f"{source}: does not exist; the figure is drawn from it, make the table first")
    table = pd.read_csv(source, dtype=dict.fromkeys(_TEXT, str))
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
                figure = learning_figure(table, spec, study.agents)
            case "analysis":
                figure = analysis_figure(table, spec)
            case "routing":
                figure = routing_figure(table, spec)
        finish(figure, reduced_note(study, figure_name), partial, scored_games(study, figure_name))
        save(figure, figure_files(results, figure_name))


def runs_left_out(table: pd.DataFrame) -> dict[str, str]:
    """Every run a table names as missing, in words and in the table's order, and why."""
    found: dict[str, str] = {}
    for cell in table["missing_runs"].dropna():
        for named in cell.split("; "):
            run, _, why = named.removesuffix(")").partition(" (")
            found.setdefault(run, why)
    return found


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
