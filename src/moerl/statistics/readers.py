"""Reading what training and analysis wrote, and refusing what cannot be trusted.

A file that is torn, too short or holds a non-finite value names itself in a one-line error; nothing
is skipped silently.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from moerl.study.errors import UserError
from moerl.study.expansion import Run
from moerl.study.figures import Over
from moerl.study.origin import Origin

Values = npt.NDArray[np.float64]

RETURN_COLUMNS = ("iteration", "frame", "episodes", "mean_return")
SCORE_COLUMNS = (
    "panel",
    "series",
    "x",
    "agent",
    "variant",
    "game",
    "seed",
    "iteration",
    "frame",
    "mean_return",
    "human_normalised",
)
ANALYSIS_COLUMNS = ("iteration", "frame", "metric", "value")
TOKEN_COLUMNS = (
    "iteration",
    "frame",
    "state",
    "token",
    "top",
    "bottom",
    "left",
    "right",
    "expert",
    "gate",
    "dropped",
    "pixels",
)
LEFT_OUT_COLUMNS = ("agent", "variant", "game", "seed", "milestone", "why")


def read_returns(path: Path, iterations: int) -> pd.DataFrame:
    """One run's training or evaluation returns: `iteration` (0-based), `frame`, `episodes`, `mean_return`.

    The return of an iteration in which no episode ended is NaN.

    Raises:
        UserError: Not exactly the iterations 0 … `iterations` - 1, or a return that is not finite although
            episodes ended.
    """
    table = read_table(path, RETURN_COLUMNS)
    found = table["iteration"].to_numpy()
    if not np.array_equal(found, np.arange(iterations)):
        raise UserError(
            f"{path}: expected iterations 0 to {iterations - 1}, found {len(found)} rows"
            f"{f' ending at {found[-1]}' if len(found) else ''}; train this run again"
        )
    played = table[table["episodes"] > 0]
    _refuse_non_finite(path, played["iteration"], played["mean_return"], "mean_return")
    return table.assign(mean_return=table["mean_return"].where(table["episodes"] > 0))


def read_timing(path: Path, iterations: int) -> Values:
    """Seconds of training up to the end of each iteration, interruptions left out: `[iterations]`.

    Raises:
        UserError: Not exactly the iterations 0 … `iterations` - 1, or times that do not increase.
    """
    table = read_table(path, ("iteration", "wall_seconds"))
    if not np.array_equal(table["iteration"].to_numpy(), np.arange(iterations)):
        raise UserError(f"{path}: expected iterations 0 to {iterations - 1}; train this run again")
    seconds: Values = table["wall_seconds"].to_numpy(dtype=np.float64)
    if not (np.diff(seconds, prepend=0.0) >= 0).all():
        raise UserError(f"{path}: wall_seconds must not decrease; this is not a record of training")
    return seconds


def read_analysis(path: Path, metrics: list[str], origin: Origin) -> pd.DataFrame:
    """The rows of one run's analysis file for `metrics`: `iteration`, `frame`, `metric`, `value`.

    Raises:
        UserError: It is not of the training `origin`, a metric is absent, or a value is not finite.
    """
    table = _read_analysed(path, ANALYSIS_COLUMNS, origin)
    for metric in metrics:
        if not (table["metric"] == metric).any():
            known = ", ".join(sorted(table["metric"].unique()))
            raise UserError(f"{path}: no metric {metric!r} (has: {known}); analyse this run again")
    wanted = table[table["metric"].isin(metrics)].reset_index(drop=True)
    _refuse_non_finite(path, wanted["iteration"], wanted["value"], "value")
    return wanted


def read_tokens(path: Path, snapshot: int | None, state: int, origin: Origin) -> pd.DataFrame:
    """The tokens of one state from one run's token file, columns `TOKEN_COLUMNS`.

    Args:
        path: The file.
        snapshot: Finished iterations of the snapshot, as in its file's name; None: the last.
        state: Which of the analysed states, from 0.
        origin: The training it must be of.

    Raises:
        UserError: It is of other training, there is no such snapshot or state, or a token has no place in
            the frame.
    """
    table = _read_analysed(path, TOKEN_COLUMNS, origin)
    iteration = table["iteration"].max() if snapshot is None else snapshot - 1
    chosen = table[(table["iteration"] == iteration) & (table["state"] == state)]
    if chosen.empty:
        which = "the last snapshot" if snapshot is None else f"snapshot {snapshot}"
        raise UserError(f"{path}: no tokens of state {state} in {which}; analyse this run again")
    if chosen["top"].isna().any():
        raise UserError(f"{path}: its tokens have no place in the frame; only perconv tokens do")
    return chosen.reset_index(drop=True)


def read_scores(path: Path, over: Over = "frames") -> pd.DataFrame:
    """One figure's tidy scores, as the stage `scores` wrote them: with wall-clock, if it is over hours.

    Raises UserError if they are not there.
    """
    return read_table(path, (*SCORE_COLUMNS, "wall_seconds") if over == "hours" else SCORE_COLUMNS)


def read_left_out(path: Path) -> dict[Run, str]:
    """The runs that a figure's scores leave out, and why. Raises UserError if the file is not there."""
    try:
        table = pd.read_csv(path, dtype={"milestone": str})
        rows = list(table[list(LEFT_OUT_COLUMNS)].itertuples(index=False, name=None))
    except (OSError, ValueError, KeyError) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{path}: not a list of runs left out ({problem}); make the scores again") from error
    return {Run(agent, variant, game, seed, label): why for agent, variant, game, seed, label, why in rows}


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Some columns of a Parquet file. Raises UserError if it cannot be read or one is not there."""
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        problem = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable Parquet file ({problem})") from error
    absent = [column for column in columns if column not in table]
    if absent:
        raise UserError(f"{path}: lacks the column {absent[0]!r} (has: {', '.join(map(str, table.columns))})")
    return table[list(columns)]


def _read_analysed(path: Path, columns: tuple[str, ...], origin: Origin) -> pd.DataFrame:
    table = read_table(path, columns)
    origin.check(str(path), pq.read_schema(path).metadata)
    return table


def _refuse_non_finite(path: Path, iterations: pd.Series[int], values: pd.Series[float], what: str) -> None:
    bad = ~np.isfinite(values.to_numpy(dtype=np.float64))
    if bad.any():
        first = iterations.to_numpy()[bad][0]
        raise UserError(
            f"{path}: {what} of iteration {first} is not finite; diverged runs are not averaged in"
        )
