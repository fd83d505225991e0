"""Stage `table`: the numbers behind a figure, as CSV (what the figure is drawn from) and LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from moerl.statistics import latex
from moerl.statistics.readers import read_analysis, read_left_out, read_scores, read_tokens
from moerl.statistics.scores_stage import Shown, shown_runs
from moerl.statistics.tables import (
    PARAMETER_COLUMNS,
    Missing,
    analysis_table,
    bar_table,
    curve_table,
    readouts,
    routing_table,
)
from moerl.study.captions import caption
from moerl.study.errors import UserError
from moerl.study.expansion import Run, Study
from moerl.study.figures import FigureSpec
from moerl.study.origin import Origin
from moerl.study.paths import analysis_file, left_out_file, scores_file, table_files, tokens_file
from moerl.study.sizes import SizeOf
from moerl.study.standing import MISSING

_VALUES = ("game", "metric", "series", "seed", "iteration", "frame", "value")
RETURN = "return"  # the one metric of an analysis grid that comes from the scores
NOT_ANALYSED = "not analysed"
LeftOut = Mapping[Run, str]
"""Runs that the scores leave out, and why."""


def run(
    study: Study,
    figure_name: str,
    results: Path,
    allow_partial: bool = False,
    sizes: SizeOf | None = None,
) -> None:
    """Write `tables/<figure>.csv` and `.tex` from the scores and, for analyses, the analysis or token files.

    If the runs were not all made alike, both say in what these differ: the CSV in a column `mix`.

    Args:
        study: The study.
        figure_name: One of its figures.
        results: Its results folder.
        allow_partial: Leave out the runs that the scores leave out, by name.
        sizes: Counts the parameters of networks, for figures that tell them; None: they are not told.

    Raises:
        UserError: A run is left out (unless `allow_partial`), there is nothing to aggregate, or the scores or
            analyses are of other training than the study's.
    """
    figure = study.data_figure(figure_name)
    origins = {run.cell: Origin.of(study, run) for run in study.figure_runs(figure)}
    scores, mix = read_scores(scores_file(results, figure_name), origins, figure.over)
    left_out = read_left_out(left_out_file(results, figure_name))
    build = {"bars": _bars, "curves": _curves, "analysis": _analysis, "routing": _routing}[figure.kind]
    table = build(study, figure, scores, left_out, results)
    if figure.parameters and sizes is not None:
        table = _with_parameters(table, study, figure, sizes)
    if mix is not None:
        table = table.assign(mix=mix)
    lacking = table.loc[table["missing_runs"] != "", "missing_runs"]
    if len(lacking) and not allow_partial:
        first = lacking.iloc[0].split("; ")[0]
        raise UserError(f"{figure_name}: lacks runs, among them {first}; --allow-partial goes on without")
    csv, tex = table_files(results, figure_name)
    csv.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(csv, index=False, lineterminator="\n")
    headline = f"{figure_name} of the study {study.name}: {caption(study, figure_name)}"
    tex.write_text(latex.FORMATS[figure.kind](table, figure, headline), encoding="utf-8")


def _bars(study: Study, figure: FigureSpec, scores: pd.DataFrame, left_out: LeftOut, _: Path) -> pd.DataFrame:
    shown = list(shown_runs(study, figure))
    have = _shown_in(scores, shown)
    scored = _scored(study, figure)
    windows = readouts(
        study.iterations(study.figure_milestone(figure)), study.iteration_frames, study.early_readout
    )
    table = bar_table(
        scores,
        dict.fromkeys((s.panel, s.series, s.x) for s in shown),
        windows,
        study.iteration_frames,
        _missing(((s.panel, s.series, s.x), s, left_out.get(s.run, MISSING)) for s in shown if s not in have),
        _games_without_runs((((s.panel, s.series, s.x), s) for s in shown), have, scored),
    )
    if not any(scored.values()):
        raise UserError(f"{study.path}: none of the games {', '.join(figure.all_games)} has a human score")
    if table["iqm"].isna().all():
        raise UserError(f"{study.path}: no game with a human score has a run with a finished episode")
    return table


def _curves(
    study: Study, figure: FigureSpec, scores: pd.DataFrame, left_out: LeftOut, _: Path
) -> pd.DataFrame:
    assert figure.measure is not None
    shown = list(shown_runs(study, figure))
    have = _shown_in(scores, shown)
    scored = _scored(study, figure)
    if per_game := figure.panel_per == "game":
        scores = scores.assign(panel=scores["game"])
    cells = [(s.run.game if per_game else s.panel, s.series) for s in shown]
    panels = list(dict.fromkeys(panel for panel, _ in cells))
    table = curve_table(
        scores,
        list(dict.fromkeys(sorted(cells, key=lambda cell: panels.index(cell[0])))),
        figure.measure,
        study.iteration_length(figure),
        _missing(
            (cell, s, left_out.get(s.run, MISSING))
            for cell, s in zip(cells, shown, strict=True)
            if s not in have
        ),
        # A panel of one game shows that game or nothing.
        {} if per_game else _games_without_runs(zip(cells, shown, strict=True), have, scored),
        figure.over,
    )
    if figure.measure == "iqm" and not any(scored.values()):
        raise UserError(f"{study.path}: none of the games {', '.join(figure.all_games)} has a human score")
    if table["value"].isna().all():
        games = "game with a human score" if figure.measure == "iqm" else "game"
        raise UserError(f"{study.path}: no {games} has a run with a finished episode")
    return table


def _analysis(
    study: Study, figure: FigureSpec, scores: pd.DataFrame, left_out: LeftOut, results: Path
) -> pd.DataFrame:
    shown = list(shown_runs(study, figure))
    metrics = [metric.name for metric in figure.metrics]
    from_files = [metric for metric in metrics if metric != RETURN]
    scored = _shown_in(scores, shown)
    # The analysis of a run that is left out is of other training, if there is one.
    analysed = {s for s in scored if analysis_file(results, s.run).is_file()}
    returns = scores.rename(columns={"mean_return": "value"}).assign(metric=RETURN)
    returns = returns[returns["value"].notna()]  # an iteration without an episode has no point
    parts = [returns[list(_VALUES)]] if RETURN in metrics else []
    for s in shown:
        if s in analysed and from_files:
            origin = Origin.of(study, s.run)
            values = read_analysis(analysis_file(results, s.run), from_files, origin)
            parts.append(values.assign(game=s.run.game, series=s.series, seed=s.run.seed)[list(_VALUES)])
    cells = [(g, metric, name) for g in figure.all_games for metric in metrics for name in figure.all_series]
    missing = _missing(
        ((s.run.game, metric, s.series), s, NOT_ANALYSED if s in scored else left_out.get(s.run, MISSING))
        for s in shown
        for metric in metrics
        if s not in (scored if metric == RETURN else analysed)
    )
    steps = study.iteration_length(figure) if figure.over == "gradient steps" else None
    return analysis_table(pd.concat(parts, ignore_index=True), cells, missing, steps)


def _routing(
    study: Study, figure: FigureSpec, scores: pd.DataFrame, left_out: LeftOut, results: Path
) -> pd.DataFrame:
    assert figure.state is not None
    shown = list(shown_runs(study, figure))
    scored = _shown_in(scores, shown)
    parts: list[tuple[dict[str, Any], pd.DataFrame | None]] = []
    for s in shown:
        run, path = s.run, tokens_file(results, s.run)
        key = {name: getattr(run, name) for name in ("agent", "variant", "game", "seed")}
        key |= {"series": s.series, "experts": study.variants[run.variant].num_experts, "missing_runs": ""}
        if s in scored and path.is_file():
            tokens = read_tokens(path, figure.snapshot, figure.state, Origin.of(study, run))
            parts.append((key, tokens))
        else:
            why = NOT_ANALYSED if s in scored else left_out.get(run, MISSING)
            parts.append((key | {"missing_runs": f"{run.name} ({why})"}, None))
    if all(tokens is None for _, tokens in parts):
        raise UserError(f"{study.path}: routing: none of its runs is analysed")
    return routing_table(parts)


def _with_parameters(table: pd.DataFrame, study: Study, figure: FigureSpec, sizes: SizeOf) -> pd.DataFrame:
    """The table with `PARAMETER_COLUMNS`: each bar's networks differ in their actions, so a range."""
    found = []
    for view in figure.views:
        if study.shows(view):
            actions = {study.games[game].num_actions for game in view.games}
            few, many = min(actions), max(actions)
            for series, x, agent, variant in view.places():
                size = sizes(study.agents[agent], study.variants[variant])
                told = size.parameters(few), size.parameters(many)
                found.append((view.title, series, x, *told, str(few) if few == many else f"{few}-{many}"))
    key = ["panel", "series", "x"]
    return table.merge(pd.DataFrame(found, columns=[*key, *PARAMETER_COLUMNS]), on=key, how="left")


def _scored(study: Study, figure: FigureSpec) -> dict[str, list[str]]:
    """The games of each panel that have a human score."""
    return {view.title: [game for game in view.games if study.games[game].scored] for view in figure.views}


def _shown_in(scores: pd.DataFrame, shown: Iterable[Shown]) -> set[Shown]:
    """Those of `shown` that the scores hold."""
    columns = ["panel", "series", "agent", "variant", "game", "seed"]
    have = set(scores[columns].drop_duplicates().itertuples(index=False, name=None))
    return {
        s for s in shown if (s.panel, s.series, s.run.agent, s.run.variant, s.run.game, s.run.seed) in have
    }


def _missing(lacking: Iterable[tuple[tuple[Any, ...], Shown, str]]) -> Missing:
    """Per row, the runs it lacks, each with why."""
    missing: dict[tuple[Any, ...], list[str]] = {}
    for key, shown, why in lacking:
        missing.setdefault(key, []).append(f"{shown.run.name} ({why})")
    return missing


def _games_without_runs(
    shown: Iterable[tuple[tuple[Any, ...], Shown]], have: set[Shown], scored: Mapping[str, Sequence[str]]
) -> Missing:
    """Per bar or curve, the scored games of its panel that it has no run of: its IQM is over the others."""
    seeds: dict[tuple[Any, ...], dict[str, int]] = {}
    for key, s in shown:
        games = seeds.setdefault(key, dict.fromkeys(scored[s.panel], 0))
        if s.run.game in games:
            games[s.run.game] += s in have
    return {key: [game for game, count in games.items() if not count] for key, games in seeds.items()}
