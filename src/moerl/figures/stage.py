"""Stage `figure`: a figure as PDF, PNG and SVG, from its table and the study's configuration alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from moerl.figures.analysis_grid import analysis_figure
from moerl.figures.learning import learning_figure
from moerl.figures.notes import finish, missing_note, reduced_note
from moerl.figures.scaling import scaling_figure
from moerl.figures.style import paper_style, save
from moerl.study.errors import UserError
from moerl.study.expansion import Study
from moerl.study.paths import figure_files, table_files


def run(study: Study, figure_name: str, results: Path, allow_partial: bool = False) -> None:
    """Write `figures/<figure>.pdf`, `.png` and `.svg`.

    Raises:
        UserError: The table lacks runs (unless `allow_partial`: then they are named on the figure).
    """
    spec = study.figure(figure_name)
    source = table_files(results, figure_name)[0]
    if not source.is_file():
        raise UserError(f"{source}: does not exist; the figure is drawn from it, make the table first")
    table = pd.read_csv(source, dtype={"missing_runs": str, "games_left_out": str, "n_seeds": str})
    missing = missing_runs(table)
    if missing and not allow_partial:
        raise UserError(f"{source}: lacks runs, the first: {missing[0]}; finish them or --allow-partial")
    with paper_style():
        match spec.kind:
            case "bars":
                figure = scaling_figure(table, spec, study.agents)
            case "curves":
                figure = learning_figure(table, spec, study.agents)
            case "analysis":
                figure = analysis_figure(table, spec)
        finish(figure, reduced_note(study, figure_name), missing_note(missing))
        save(figure, figure_files(results, figure_name))


def missing_runs(table: pd.DataFrame) -> list[str]:
    """Every missing run a table names, in words and once each, in the table's order."""
    found: dict[str, None] = {}
    for row in table[table["missing_runs"].notna()].to_dict("records"):
        cell = " ".join(str(row[key]) for key in ("panel", "series", "x") if key in row)
        found |= {f"{cell} {run}": None for run in row["missing_runs"].split("; ")}
    return list(found)
