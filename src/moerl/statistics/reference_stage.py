"""Stage `reference`: published runs as curves of a figure, aggregated as our own runs are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from moerl.statistics.normalise import human_normalised
from moerl.statistics.published import COLUMNS
from moerl.statistics.readers import read_table
from moerl.statistics.tables import curve_table, span
from moerl.study.errors import UserError
from moerl.study.expansion import Study
from moerl.study.figures import FigureSpec
from moerl.study.games import Game
from moerl.study.reference import (
    AGENTS,
    ITERATION_FRAMES,
    SERIES,
    can_stand_in,
    curves_file,
    returns_file,
    views_with_reference,
)


def run(study: Study, figure_name: str, results: Path) -> None:
    """Write `reference/<figure>.csv`, columns as in the figure's table.

    Raises UserError if published runs cannot stand in the figure, or a game's are not there.
    """
    figure = study.figure(figure_name)
    if not can_stand_in(study, figure):
        raise UserError(f"{study.path}: {figure_name} has no place for published runs of {', '.join(AGENTS)}")
    table = reference_table(study, figure, read_table(returns_file(results), COLUMNS))
    path = curves_file(results, figure_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, lineterminator="\n")


def reference_table(study: Study, figure: FigureSpec, returns: pd.DataFrame) -> pd.DataFrame:
    """Published runs as curves in each panel of the figure that they can stand in (`CURVE_COLUMNS`).

    Where a run stands in for one that a file lacks (`evened`), `n_seeds` counts the runs that are there, and
    there is no interval: a bootstrap would take the copy for a run.

    Args:
        study: Says how far the figure goes, and what human and random scores are.
        figure: A figure of kind `curves`.
        returns: The published returns, columns `COLUMNS`; the figure's games must be there.
    """
    assert figure.measure is not None
    frames = study.lengths[study.figure_milestone(figure)]
    views = views_with_reference(study, figure)
    parts = []
    for view in views:
        here = returns[
            (returns["encoder"] == view.encoder.value)
            & (returns["agent"] == AGENTS[view.agent])
            & returns["game"].isin(view.games)
            & (returns["iteration"] < frames // ITERATION_FRAMES)
        ]
        parts.append(reference_scores(here, study.games).assign(panel=view.title))
    scores = pd.concat(parts, ignore_index=True)
    titles = [view.title for view in views]
    if figure.panel_per == "game":
        scores, titles = scores.assign(panel=scores["game"]), list(figure.all_games)
    cells = [(title, SERIES) for title in titles]
    if figure.measure != "iqm":
        return curve_table(scores, cells, figure.measure, ITERATION_FRAMES, missing={})
    scores = pd.concat([evened(rows) for _, rows in scores.groupby("panel")], ignore_index=True)
    table = curve_table(scores, cells, figure.measure, ITERATION_FRAMES, missing={})
    return _without_copies(table, scores)


def _without_copies(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """The curves' table with what evened scores say of runs that exist."""
    scored = scores[scores["human_normalised"].notna()]
    for key, point in scored.groupby(["panel", "iteration"]):
        copied = point["copied"].to_numpy(dtype=bool)
        if copied.any():
            row = (table["panel"] == key[0]) & (table["iteration"] == key[1])
            table.loc[row, "n_seeds"] = span(point[~copied].groupby("game").size().tolist())
            table.loc[row, ["ci_low", "ci_high"]] = np.nan
    return table


def evened(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores of one agent with equally many runs of every game in each iteration: those there, in turn.

    In some iterations the files lack a run or two of a few games. A game with fewer runs than the others
    would weigh less than an iteration before: Rainbow's last IQM over the paper's 20 games would be 2 %
    higher (method 7.4 fills in like this). The column `copied` marks the rows that are no run's own.
    """
    runs = int(scores["seed"].max()) + 1
    parts = [scores.assign(copied=False)]
    for _, there in scores.groupby(["game", "iteration"]):
        if lacking := runs - len(there):
            copies = there.iloc[np.arange(lacking) % len(there)]
            parts.append(copies.assign(seed=np.arange(len(there), runs), copied=True))
    return pd.concat(parts, ignore_index=True)


def reference_scores(returns: pd.DataFrame, games: dict[str, Game]) -> pd.DataFrame:
    """Published returns of one agent in the columns of our scores, but for those of the figure's cells."""
    normalised = np.full(len(returns), np.nan)
    for name, rows in returns.reset_index(drop=True).groupby("game"):
        game = games[str(name)]
        known = human_normalised(rows["mean_return"], game.random, game.human)
        if known is not None:
            normalised[rows.index] = known
    return pd.DataFrame(
        {
            "series": SERIES,
            "game": returns["game"].to_numpy(),
            "seed": returns["run"].to_numpy(),
            "iteration": returns["iteration"].to_numpy(),
            "mean_return": returns["mean_return"].to_numpy(dtype=np.float64),
            "human_normalised": normalised,
        }
    )
