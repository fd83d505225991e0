"""Stage `scores`: the returns of all runs of a figure, tidy and human-normalised, in one file.

A run that two series share appears once for each. The returns are those of training or of evaluation
(the figure's `score`); an iteration in which no training episode ended has none, and NaN here. A figure
over hours also has the wall-clock of its runs. The file's metadata say of which training each cell is, and
what the runs differ in if not all were made alike. Beside the scores, a file names the runs left out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moerl.statistics.mixes import described_mix
from moerl.statistics.normalise import human_normalised
from moerl.statistics.readers import LEFT_OUT_COLUMNS, MIX, check_recorded, read_returns, read_timing
from moerl.study.errors import UserError
from moerl.study.expansion import Cell, Run, Study
from moerl.study.figures import FigureSpec
from moerl.study.games import Game
from moerl.study.origin import Origin, origins_metadata
from moerl.study.paths import RETURNS, TIMING, left_out_file, scores_file
from moerl.study.standing import Standing, unfinished

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shown:
    """One run in one place of a figure; `x` is None where the figure has no scaling axis."""

    panel: str
    series: str
    x: float | None
    run: Run


def shown_runs(study: Study, figure: FigureSpec) -> Iterator[Shown]:
    """Every run of a figure where it is shown, in order of panel, series, x, game and seed."""
    milestone = study.figure_milestone(figure)
    seeds = study.figure_seeds(figure)
    for view in figure.views:
        if not study.shows(view):
            continue
        for series, x, agent, variant in view.places():
            for game in view.games:
                for seed in seeds:
                    yield Shown(view.title, series, x, Run(agent, variant, game, seed, milestone))


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
    figure = study.data_figure(figure_name)
    iterations = study.iterations(study.figure_milestone(figure))
    shown = list(shown_runs(study, figure))
    standing = Standing(study, results, state)
    folders = {one: standing.finished(one) for one in dict.fromkeys(s.run for s in shown)}
    left_out = {one: standing.why_not(one) for one, folder in folders.items() if folder is None}
    if len(left_out) == len(folders):
        raise UserError(unfinished(figure_name, len(folders), left_out))
    if left_out and not allow_partial:
        problem = unfinished(figure_name, len(folders), left_out)
        raise UserError(f"{problem}; --allow-partial goes on without them")
    returns = {}
    for one, folder in folders.items():
        if folder is not None:
            check_recorded(folder / RETURNS[figure.score])
            returns[one] = read_returns(folder / RETURNS[figure.score], iterations)
    if figure.over == "hours":
        for one, table in returns.items():
            folder = folders[one]
            assert folder is not None
            table["wall_seconds"] = read_timing(folder / TIMING, iterations)
    whole = all(isinstance(s.x, int | None) for s in shown)
    scores = pd.concat(
        [
            _score(s, returns[s.run], study.games[s.run.game], "Int64" if whole else "Float64")
            for s in shown
            if s.run in returns
        ],
        ignore_index=True,
    )
    path = scores_file(results, figure_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    mix = described_mix(
        json.loads((folder / "manifest.json").read_bytes())  # whose run is finished: it can be read
        for folder in folders.values()
        if folder is not None
    )
    if mix is not None:
        log.warning("%s: %s", figure_name, mix)
    _store(path, scores, {run.cell: Origin.of(study, run) for run in returns}, mix)
    rows = [(r.agent, r.variant, r.game, r.seed, r.milestone, why) for r, why in left_out.items()]
    named = pd.DataFrame(rows, columns=list(LEFT_OUT_COLUMNS))
    named.to_csv(left_out_file(results, figure_name), index=False, lineterminator="\n")


def _store(path: Path, scores: pd.DataFrame, origins: Mapping[Cell, Origin], mix: str | None) -> None:
    table = pa.Table.from_pandas(scores, preserve_index=False)
    metadata = (table.schema.metadata or {}) | origins_metadata(origins)
    # Runs that were made alike leave no trace of how: equal scores are equal bytes on every machine.
    metadata |= {} if mix is None else {MIX: mix.encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def _score(shown: Shown, returns: pd.DataFrame, game: Game, kind_of_x: str) -> pd.DataFrame:
    run = shown.run
    length = len(returns)
    raw = returns["mean_return"].to_numpy(dtype=np.float64)
    normalised = np.full(length, np.nan)
    known = human_normalised(raw[~np.isnan(raw)], game.random, game.human)
    if known is not None:
        normalised[~np.isnan(raw)] = known
    scores = pd.DataFrame(
        {
            "panel": shown.panel,
            "series": shown.series,
            "x": pd.Series([shown.x] * length, dtype=kind_of_x),
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
    # Only a figure over hours has them: whatever else is collected is the same on every machine.
    return scores.assign(wall_seconds=returns["wall_seconds"]) if "wall_seconds" in returns else scores
