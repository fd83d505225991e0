"""The numbers behind a figure: tidy scores in, one row per bar or per point of a curve out.

Every row says what it rests on: games, seeds, games left out, and runs that are missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from moerl.statistics.iqm import BAR_REPETITIONS, CURVE_REPETITIONS, Scores, iqm_estimate, mean, mean_estimate
from moerl.statistics.readers import TOKEN_COLUMNS
from moerl.study.errors import UserError
from moerl.study.figures import NO_EPISODE, Measure, Over
from moerl.study.long_step import long_step

BAR_COLUMNS = (
    "panel",
    "series",
    "x",
    "readout",
    "frame",
    "iqm",
    "ci_low",
    "ci_high",
    "n_games",
    "n_seeds",
    "games_left_out",
    "games_without_runs",
    "missing_runs",
)
ANALYSIS_COLUMNS = (
    "game",
    "metric",
    "series",
    "iteration",
    "frame",
    "mean",
    "se_low",
    "se_high",
    "n_seeds",
    "missing_runs",
)
CURVE_COLUMNS = (
    "panel",
    "series",
    "iteration",
    "frame",
    "value",
    "ci_low",
    "ci_high",
    "n_games",
    "n_seeds",
    "games_left_out",
    "games_without_runs",
    "missing_runs",
)
PARAMETER_COLUMNS = ("parameters_min", "parameters_max", "actions")
"""Of a bar figure that tells parameters: those of its networks for the games with fewest and most actions."""
ROUTING_COLUMNS = (
    "series",
    "agent",
    "variant",
    "game",
    "seed",
    "experts",
    *TOKEN_COLUMNS,
    "missing_runs",
)
LAST_ITERATIONS = 5  # of the robust read-out (method 1.0)

# Every point has its own generator from this seed: equal scores get equal intervals in every
# figure, and adding a bar changes no other.
_BOOTSTRAP_SEED = 2402_08609

Missing = Mapping[tuple[Any, ...], Sequence[str]]
"""Key of a row's cell → what it lacks (runs, or games), in words."""
_NOTHING: Missing = MappingProxyType({})


def readouts(iterations: int, iteration_frames: int, early_frames: int | None) -> dict[str, tuple[int, int]]:
    """Read-outs of a bar figure: name → first and last iteration (0-based) that are averaged.

    `last` is the headline; `last_5` is more robust and needs five iterations; `early` is what the
    paper's Appendix A calls the default (40M frames), where the study defines it.
    """
    found = {"last": (iterations - 1, iterations - 1)}
    if iterations >= LAST_ITERATIONS:
        found[f"last_{LAST_ITERATIONS}"] = (iterations - LAST_ITERATIONS, iterations - 1)
    if early_frames is not None:
        early = early_frames // iteration_frames - 1
        if not 0 <= early < iterations:
            raise UserError(
                f"early_readout: {early_frames} frames is outside of training "
                f"({iteration_frames} to {iterations * iteration_frames} frames)"
            )
        found["early"] = (early, early)
    return found


def bar_row(scores: pd.DataFrame, window: tuple[int, int]) -> dict[str, Any]:
    """IQM, interval and provenance of one bar.

    A run counts with the iterations in which an episode of it ended. One without any in the window has no
    score there: `n_seeds` is lower, and a game without any other run is named as left out.

    Args:
        scores: Rows of `scores/<figure>.parquet` of one (panel, series, x); may be empty.
        window: First and last iteration that are averaged per run before aggregating.

    Raises ValueError if a score is infinite.
    """
    first, last = window
    columns = ["human_normalised", "mean_return"]
    read = scores[scores["iteration"].between(first, last)]
    if np.isinf(read[columns].to_numpy(dtype=np.float64)).any():  # two of them may add up to NaN
        raise ValueError("a score is infinite; a diverged run must not be averaged in")
    runs = read.groupby(["game", "seed"], sort=True)[columns]
    least, per_run, most = runs.min(), runs.mean(), runs.max()
    per_run = per_run.where(per_run > least, least).where(per_run < most, most)  # whatever the rounding
    strata, row = _strata(per_run.reset_index(), "human_normalised")
    row |= {"iqm": None, "ci_low": None, "ci_high": None}
    if strata:
        generator = np.random.default_rng(_BOOTSTRAP_SEED)
        estimate = iqm_estimate(strata, generator, BAR_REPETITIONS)
        row["iqm"] = estimate.point
        if max(len(values) for values in strata) > 1:  # one seed says nothing about spread
            row |= {"ci_low": estimate.low, "ci_high": estimate.high}
    return row


def _strata(per_run: pd.DataFrame, column: str) -> tuple[list[Scores], dict[str, Any]]:
    """The values of each game that has any, and what a row says about games and seeds.

    Args:
        per_run: One row per run: `game`, `mean_return` (NaN: no episode of it ended) and `column`.
        column: What is aggregated; NaN where there is no return or no human score.
    """
    strata, left_out = [], []
    for game, runs in per_run.groupby("game", sort=True):
        values = runs[column].dropna().to_numpy(dtype=np.float64)
        if len(values):
            strata.append(values)
        else:
            left_out.append(f"{game}{'' if runs['mean_return'].notna().any() else NO_EPISODE}")
    return strata, {
        "n_games": len(strata),
        "n_seeds": span([len(values) for values in strata]),
        "games_left_out": "; ".join(left_out),
    }


def bar_table(
    scores: pd.DataFrame,
    cells: Iterable[tuple[str, str, float | None]],
    windows: Mapping[str, tuple[int, int]],
    iteration_frames: int,
    missing: Missing,
    games_without_runs: Missing = _NOTHING,
) -> pd.DataFrame:
    """The table of a bar figure, columns `BAR_COLUMNS`; `frame` is the nominal frame read out.

    Args:
        scores: Rows of `scores/<figure>.parquet`.
        cells: The (panel, series, x) of every bar, in the figure's order.
        windows: The read-outs, as from `readouts`.
        iteration_frames: Frames per iteration.
        missing: Missing runs of each cell that has any.
        games_without_runs: Games that could be scored but have no run at all, of each cell with any. The
            cell's IQM is then over fewer games than the others', and the row names those it lacks.
    """
    ordered = scores.sort_values(["game", "seed", "iteration"])
    groups = dict(list(ordered.groupby(["panel", "series", "x"])))
    rows = []
    for cell in long_step(list(cells), "bars aggregated"):
        panel, series, x = cell
        for readout, window in windows.items():
            rows.append(
                {
                    "panel": panel,
                    "series": series,
                    "x": x,
                    "readout": readout,
                    "frame": (window[1] + 1) * iteration_frames,
                    "games_without_runs": "; ".join(games_without_runs.get(cell, ())),
                    "missing_runs": "; ".join(missing.get(cell, ())),
                    **bar_row(groups.get(cell, scores.iloc[:0]), window),
                }
            )
    return pd.DataFrame(rows, columns=list(BAR_COLUMNS))


def curve_row(point: pd.DataFrame, measure: Measure) -> dict[str, Any]:
    """Value, interval and provenance of one point of a curve.

    A run of which no episode ended in the iteration has no part in it.

    Every point draws its bootstrap from the same seed: with as many seeds at every point, a
    repetition resamples the same runs along the whole curve.

    Args:
        point: Scores of one (panel, series, iteration), sorted by game and seed: one row per run.
        measure: "iqm": IQM of the human-normalised scores; "return": mean return of the one game there is.
    """
    strata, row = _strata(point, "human_normalised" if measure == "iqm" else "mean_return")
    if strata:
        generator = np.random.default_rng(_BOOTSTRAP_SEED)
        if measure == "iqm":
            estimate = iqm_estimate(strata, generator, CURVE_REPETITIONS)
        else:
            (values,) = strata
            estimate = mean_estimate(values, generator, CURVE_REPETITIONS)
        row["value"] = estimate.point
        if max(len(values) for values in strata) > 1:  # one seed says nothing about spread
            row |= {"ci_low": estimate.low, "ci_high": estimate.high}
    return row


def curve_table(
    scores: pd.DataFrame,
    cells: Sequence[tuple[str, str]],
    measure: Measure,
    iteration_length: int,
    missing: Missing,
    games_without_runs: Missing = _NOTHING,
    over: Over = "frames",
) -> pd.DataFrame:
    """The table of a curves figure, columns `CURVE_COLUMNS`; `frame` is the nominal end of the iteration.

    Over gradient steps there is a column of that name in place of `frame`. Over hours there is a column
    `hours` more: the mean wall-clock of the curve's runs, all games together, from the start of training to
    the end of the iteration.

    Args:
        scores: Rows of `scores/<figure>.parquet`, `panel` being the panel they are drawn in.
        cells: The (panel, series) of every curve, in the figure's order.
        measure: What a point is.
        iteration_length: Frames, or gradient steps, per iteration.
        missing: Missing runs of each cell that has any; one without any run keeps one empty row.
        games_without_runs: As for `bar_table`.
        over: "hours" needs the scores' column `wall_seconds`.
    """
    ordered = scores.sort_values(["game", "seed", "iteration"])
    groups = dict(list(ordered.groupby(["panel", "series"])))
    along = "gradient_steps" if over == "gradient steps" else "frame"
    rows: list[dict[str, Any]] = []
    for cell in long_step(cells, "curves aggregated"):
        key = dict(zip(("panel", "series"), cell, strict=True))
        key["missing_runs"] = "; ".join(missing.get(cell, ()))
        key["games_without_runs"] = "; ".join(games_without_runs.get(cell, ()))
        if cell not in groups:
            rows.append(key | {"n_games": 0, "n_seeds": "0", "games_left_out": ""})
            continue
        for iteration, point in groups[cell].groupby("iteration", sort=True):
            end = (int(str(iteration)) + 1) * iteration_length
            row = key | {"iteration": iteration, along: end} | curve_row(point, measure)
            if over == "hours":
                seconds = np.sort(point["wall_seconds"].to_numpy(dtype=np.float64))  # summed in that order
                row["hours"] = float(mean(seconds)) / 3600
            rows.append(row)
    place = CURVE_COLUMNS.index("frame")
    here = (along, "hours") if over == "hours" else (along,)
    table = pd.DataFrame(rows, columns=[*CURVE_COLUMNS[:place], *here, *CURVE_COLUMNS[place + 1 :]])
    return table.astype({"iteration": "Int64", along: "Int64"})


def analysis_table(
    values: pd.DataFrame,
    cells: Iterable[tuple[str, str, str]],
    missing: Missing,
    iteration_steps: int | None = None,
) -> pd.DataFrame:
    """The table of an analysis grid, columns `ANALYSIS_COLUMNS`.

    With `iteration_steps`, the gradient steps of an iteration, `gradient_steps` takes the place of `frame`.

    The band is the standard error of the mean over seeds; with one seed there is none. Seeds end
    an iteration at different frames (with their episode): `frame` is their mean.

    Args:
        values: Columns `game, metric, series, seed, iteration, frame, value`.
        cells: The (game, metric, series) of every curve, in the figure's order.
        missing: Missing runs of each cell that has any; one without any run keeps one empty row.
        iteration_steps: Of offline runs, which emulate no frames in training.

    Raises ValueError if a value is NaN or infinite.
    """
    groups = dict(list(values.groupby(["game", "metric", "series"])))
    rows: list[dict[str, Any]] = []
    for cell in cells:
        key = dict(zip(("game", "metric", "series"), cell, strict=True))
        key["missing_runs"] = "; ".join(missing.get(cell, ()))
        if cell not in groups:
            rows.append(key | {"n_seeds": 0})
            continue
        for iteration, point in groups[cell].groupby("iteration", sort=True):
            rows.append(key | {"iteration": iteration} | _mean_row(point))
    table = pd.DataFrame(rows, columns=list(ANALYSIS_COLUMNS))
    table = table.astype({"iteration": "Int64", "n_seeds": "int64"})
    if iteration_steps is None:
        return table
    ends = (table["iteration"] + 1) * iteration_steps
    return table.assign(frame=ends).rename(columns={"frame": "gradient_steps"})


def routing_table(parts: Iterable[tuple[Mapping[str, Any], pd.DataFrame | None]]) -> pd.DataFrame:
    """The table of a routing figure, columns `ROUTING_COLUMNS`: a row per run and token.

    `pixels` are the newest frame in the token's cell, row by row, two hexadecimal digits per pixel.

    Args:
        parts: What all rows of a run say (`series` to `experts`, `missing_runs`), and its tokens, columns
            `TOKEN_COLUMNS`; None for a run that is left out, which keeps one row.
    """
    shown = []
    for key, tokens in parts:
        rows = (
            pd.DataFrame(index=[0])
            if tokens is None
            else tokens.assign(pixels=tokens["pixels"].map(bytes.hex))
        )
        shown.append(rows.assign(**key).reindex(columns=list(ROUTING_COLUMNS)).astype(object))
    table = pd.concat(shown, ignore_index=True)
    whole = [name for name in TOKEN_COLUMNS if name not in ("gate", "dropped", "pixels")]
    return table.astype(dict.fromkeys(whole, "Int64") | {"dropped": "boolean"})


def _mean_row(point: pd.DataFrame) -> dict[str, Any]:
    values = np.sort(point["value"].to_numpy(dtype=np.float64) + 0.0)  # summed in that order, -0.0 as 0.0
    if not np.isfinite(values).all():
        raise ValueError("a value is NaN or infinite; a diverged run must not be averaged in")
    middle = float(mean(values))
    row = {"frame": float(point["frame"].mean()), "mean": middle, "n_seeds": len(values)}
    if len(values) > 1:
        variance = ((values - middle) ** 2).sum() / (len(values) - 1)
        error = float(np.sqrt(variance) / np.sqrt(len(values)))
        row |= {"se_low": middle - error, "se_high": middle + error}
    return row


def span(counts: Sequence[int]) -> str:
    """Runs per game in words: "5", or "4-5" where games differ; "0" without any game."""
    if not counts:
        return "0"
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}-{high}"
