"""Stage `table`: the numbers behind a figure, as CSV (what the figure is drawn from) and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from moerl.statistics import latex
from moerl.statistics.readers import read_analysis, read_scores
from moerl.statistics.scores_stage import Shown, shown_runs
from moerl.statistics.tables import Missing, analysis_table, bar_table, readouts
from moerl.study.errors import UserError
from moerl.study.expansion import Study
from moerl.study.figures import FigureSpec
from moerl.study.paths import analysis_file, scores_file, table_files

_VALUES = ("game", "metric", "series", "seed", "iteration", "frame", "value")
RETURN = "return"  # the one metric of an analysis grid that comes from the scores


def run(study: Study, figure_name: str, results: Path, allow_partial: bool = False) -> None:
    """Write `tables/<figure>.csv` and `.tex` from the scores and, for analyses, the analysis files.

    Raises:
        UserError: A run is missing (unless `allow_partial`), or there is nothing to aggregate.
    """
    figure = study.figure(figure_name)
    scores = read_scores(scores_file(results, figure_name))
    build = {"bars": _bars, "analysis": _analysis}[figure.kind]
    table = build(study, figure, scores, results)
    lacking = table.loc[table["missing_runs"] != "", "missing_runs"]
    if len(lacking) and not allow_partial:
        raise UserError(f"{figure_name}: missing runs, among them {lacking.iloc[0]}")
    csv, tex = table_files(results, figure_name)
    csv.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(csv, index=False, lineterminator="\n")
    headline = f"{figure_name} of the study {study.name}"
    tex.write_text(latex.FORMATS[figure.kind](table, figure, headline), encoding="utf-8")


def _bars(study: Study, figure: FigureSpec, scores: pd.DataFrame, _: Path) -> pd.DataFrame:
    shown = list(shown_runs(study, figure))
    have = _shown_in(scores, shown)
    windows = readouts(
        study.iterations(study.milestone(figure.milestone)), study.iteration_frames, study.early_readout
    )
    table = bar_table(
        scores,
        dict.fromkeys((s.panel, s.series, s.x) for s in shown),
        windows,
        study.iteration_frames,
        _missing(((s.panel, s.series, s.x), s) for s in shown if s not in have),
    )
    if table["iqm"].isna().all():
        games = ", ".join(figure.games)
        raise UserError(f"{study.path}: none of the games {games} has a human score and a finished episode")
    return table


def _analysis(study: Study, figure: FigureSpec, scores: pd.DataFrame, results: Path) -> pd.DataFrame:
    shown = list(shown_runs(study, figure))
    metrics = [metric.name for metric in figure.metrics]
    from_files = [metric for metric in metrics if metric != RETURN]
    scored = _shown_in(scores, shown)
    analysed = {s for s in shown if analysis_file(results, s.run).is_file()}
    returns = scores.rename(columns={"mean_return": "value"}).assign(metric=RETURN)
    returns = returns[returns["value"].notna()]  # an iteration without an episode has no point
    parts = [returns[list(_VALUES)]] if RETURN in metrics else []
    for s in shown:
        if s in analysed and from_files:
            values = read_analysis(analysis_file(results, s.run), from_files)
            parts.append(values.assign(game=s.run.game, series=s.series, seed=s.run.seed)[list(_VALUES)])
    cells = [(game, metric, s.name) for game in figure.games for metric in metrics for s in figure.series]
    missing = _missing(
        ((s.run.game, metric, s.series), s)
        for s in shown
        for metric in metrics
        if s not in (scored if metric == RETURN else analysed)
    )
    return analysis_table(pd.concat(parts, ignore_index=True), cells, missing)


def _shown_in(scores: pd.DataFrame, shown: Iterable[Shown]) -> set[Shown]:
    """Those of `shown` that the scores hold."""
    columns = ["panel", "series", "agent", "variant", "game", "seed"]
    have = set(scores[columns].drop_duplicates().itertuples(index=False, name=None))
    return {
        s for s in shown if (s.panel, s.series, s.run.agent, s.run.variant, s.run.game, s.run.seed) in have
    }


def _missing(lacking: Iterable[tuple[tuple[Any, ...], Shown]]) -> Missing:
    missing: dict[tuple[Any, ...], list[str]] = {}
    for key, shown in lacking:
        missing.setdefault(key, []).append(f"{shown.run.game} seed {shown.run.seed}")
    return missing
