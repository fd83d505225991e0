"""Stage `scores`: the returns of all runs of a figure, tidy and human-normalised, in one file.

A run that two series share appears once for each. The returns are those of training or of evaluation
(the figure's `score`); an iteration in which no training episode ended has none, and NaN here. Beside
the scores, a file names the runs that are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from moerl.statistics.normalise import human_normalised
from moerl.statistics.readers import LEFT_OUT_COLUMNS, read_returns
from moerl.study.errors import UserError
from moerl.study.expansion import Run, Study
from moerl.study.figures import FigureSpec
from moerl.study.games import Game
from moerl.study.paths import RETURNS, left_out_file, scores_file
from moerl.study.standing import Standing, unfinished


@dataclass(frozen=True)
class Shown:
    """One run in one place of a figure; `x` is None where the figure has no scaling axis."""

    panel: str
    series: str
    x: int | None
    run: Run


def shown_runs(study: Study, figure: FigureSpec) -> Iterator[Shown]:
    """Every run of a figure where it is shown, in order of panel, series, x, game and seed."""
    milestone = study.milestone(figure.milestone)
    for panel in figure.panels:
        if panel.agent not in study.agents:
            continue
        for series in figure.series:
            for place, variant in enumerate(series.variants):
                x = figure.x.values[place] if figure.x is not None else None
                for game in figure.games:
                    for seed in study.figure_seeds(figure):
                        run = Run(panel.agent, variant, game, seed, milestone)
                        yield Shown(panel.title, series.name, x, run)


def run(
    study: Study, figure_name: str, results: Path, allow_partial: bool = False, state: Path | None = None
) -> None:
    """Write `scores/<figure>.parquet` and `scores/<figure>.left_out.csv`.

    Args:
        study: The study.
        figure_name: One of its figures.
        results: Its results folder.
        allow_partial: Leave out the runs that are not finished, by name.
        state: Its folder of in-progress state: tells which runs diverged, and has the finished ones
            whose results Snakemake deleted.

    Raises:
        UserError: A run is not finished (unless `allow_partial`), or a run's returns cannot be trusted.
    """
    figure = study.figure(figure_name)
    iterations = study.iterations(study.milestone(figure.milestone))
    shown = list(shown_runs(study, figure))
    standing = Standing(study, results, state)
    folders = {one: standing.finished(one) for one in dict.fromkeys(s.run for s in shown)}
    left_out = {one: standing.why_not(one) for one, folder in folders.items() if folder is None}
    if len(left_out) == len(folders):
        raise UserError(unfinished(figure_name, len(folders), left_out))
    if left_out and not allow_partial:
        problem = unfinished(figure_name, len(folders), left_out)
        raise UserError(f"{problem}; --allow-partial goes on without them")
    returns = {
        one: read_returns(folder / RETURNS[figure.score], iterations)
        for one, folder in folders.items()
        if folder is not None
    }
    scores = pd.concat(
        [_score(s, returns[s.run], study.games[s.run.game]) for s in shown if s.run in returns],
        ignore_index=True,
    )
    path = scores_file(results, figure_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    scores.to_parquet(path, index=False)
    rows = [(r.agent, r.variant, r.game, r.seed, r.milestone, why) for r, why in left_out.items()]
    named = pd.DataFrame(rows, columns=list(LEFT_OUT_COLUMNS))
    named.to_csv(left_out_file(results, figure_name), index=False, lineterminator="\n")


def _score(shown: Shown, returns: pd.DataFrame, game: Game) -> pd.DataFrame:
    run = shown.run
    length = len(returns)
    raw = returns["mean_return"].to_numpy(dtype=np.float64)
    normalised = np.full(length, np.nan)
    known = human_normalised(raw[~np.isnan(raw)], game.random, game.human)
    if known is not None:
        normalised[~np.isnan(raw)] = known
    return pd.DataFrame(
        {
            "panel": shown.panel,
            "series": shown.series,
            "x": pd.array([shown.x] * length, dtype="Int64"),
            "agent": run.agent,
            "variant": run.variant,
            "game": run.game,
            "seed": run.seed,
            "iteration": returns["iteration"].to_numpy(dtype=np.int64),
            "frame": returns["frame"].to_numpy(dtype=np.int64),
            "mean_return": raw,
            "human_normalised": normalised,
        }
    )
