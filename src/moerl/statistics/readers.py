"""Reading what training and analysis wrote, and refusing what cannot be trusted.

A file that is torn, too short or holds a non-finite value names itself in a one-line error; nothing
is skipped silently.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from moerl.study.errors import UserError, one_line
from moerl.study.expansion import Cell, Run
from moerl.study.figures import Over
from moerl.study.json_file import RunManifest, parse_json
from moerl.study.origin import Origin, check_origins

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
Kind = Literal["integers", "numbers", "text"]
HOLDS: dict[str, Kind] = {
    **dict.fromkeys(("iteration", "frame", "episodes", "gradient_steps", "seed", "run"), "integers"),
    **dict.fromkeys(("state", "token", "expert"), "integers"),
    **dict.fromkeys(("x", "mean_return", "human_normalised", "mean_loss", "wall_seconds"), "numbers"),
    **dict.fromkeys(("value", "gate", "top", "bottom", "left", "right"), "numbers"),
    **dict.fromkeys(("panel", "series", "agent", "variant", "game", "metric", "encoder"), "text"),
}
"""What columns must hold, in whatever table; numbers may be absent."""
MOST_ROWS = 50_000_000
"""Of a table: ten times what the paper's largest figure needs."""
MIX = b"moerl.mix"
"""In the metadata of scores whose runs were not all made alike: what they differ in, in words."""
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
    if (table["episodes"] < 0).any():
        raise UserError(f"{path}: episodes must be counts; this is not a record of training")
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
    if not (np.isfinite(seconds).all() and (np.diff(seconds, prepend=0.0) >= 0).all()):
        raise UserError(
            f"{path}: wall_seconds must be finite and not decrease; this is not a record of training"
        )
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


def read_scores(
    path: Path, origins: Mapping[Cell, Origin], over: Over = "frames"
) -> tuple[pd.DataFrame, str | None]:
    """One figure's tidy scores, as the stage `scores` wrote them, and what their runs differ in, in words.

    Args:
        path: The file.
        origins: The training that each cell is now.
        over: Over hours, the scores have wall-clock.

    Raises:
        UserError: They are not there, one is infinite, or the training of a cell is not that of now.
    """
    table = read_table(path, (*SCORE_COLUMNS, "wall_seconds") if over == "hours" else SCORE_COLUMNS)
    for name in ("mean_return", "human_normalised"):  # NaN: no episode ended, or there is no human score
        there = table[table[name].notna()]
        _refuse_non_finite(path, there["iteration"], there[name], name)
    metadata = pq.read_schema(path).metadata or {}
    check_origins(str(path), metadata, origins, "make the scores again")
    return table, metadata[MIX].decode() if MIX in metadata else None


def read_left_out(path: Path) -> dict[Run, str]:
    """The runs that a figure's scores leave out, and why. Raises UserError if the file is not there."""
    try:
        text = path.read_bytes().decode("utf-8")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        return {
            Run(row["agent"], row["variant"], row["game"], int(row["seed"]), row["milestone"]): row["why"]
            for row in rows
        }
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        said = one_line(error)
        raise UserError(f"{path}: not a list of runs left out ({said}); make the scores again") from error


def check_recorded(path: Path) -> None:
    """Refuse a file of a finished run that is not the one its training wrote.

    Raises UserError if the run's manifest, beside it, has no checksum of it or another one.
    """
    manifest = path.with_name("manifest.json")
    try:
        digests = parse_json(RunManifest, manifest.read_bytes()).sha256 or {}
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be compared with {manifest} ({one_line(error)})") from error
    if digests.get(path.name) != digest:
        raise UserError(
            f"{path}: checksum differs from the one in {manifest}: the file was changed after training; "
            "delete it, and this run is published again"
        )


def read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Some columns of a Parquet file. Raises UserError if it cannot be read or one is not there."""
    try:
        rows = pq.read_metadata(path).num_rows
        if rows > MOST_ROWS:
            raise ValueError(f"{rows} rows, more than {MOST_ROWS}")
        table = pd.read_parquet(path)
    except Exception as error:  # of pyarrow and pandas, many kinds
        raise UserError(f"{path}: not a readable Parquet file ({one_line(error)})") from error
    absent = [column for column in columns if column not in table]
    if absent:
        there = one_line(", ".join(map(str, table.columns)))
        raise UserError(f"{path}: lacks the column {absent[0]!r} (has: {there})")
    for column in columns:
        if (kind := HOLDS.get(column)) and not _holds(table[column], kind):
            raise UserError(f"{path}: column {column!r} does not hold {kind} alone")
    return table[list(columns)]


def _holds(values: pd.Series[Any], kind: Kind) -> bool:
    """Whether a column is of a kind; an empty one, or a number that may be absent, is of any."""
    known = values.dropna()
    if kind == "integers":
        return len(known) == len(values) and pd.api.types.is_integer_dtype(values.dtype)
    if kind == "text":
        return len(known) == len(values) and all(isinstance(value, str) for value in known.unique())
    numeric = pd.api.types.is_numeric_dtype(values.dtype) and values.dtype.kind in "iuf"
    return known.empty or numeric


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
