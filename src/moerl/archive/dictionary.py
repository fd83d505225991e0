"""The data dictionary: every column of every table that an archive of results can hold.

Reading and writing archives check tables against it, so no column can go undocumented.
"""

from __future__ import annotations

import csv
import io
import re
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from moerl.study.errors import UserError, one_line
from moerl.study.figures import AGENT_TITLES, ENCODER_TITLES
from moerl.study.tables import DISAGREES, NAME_COLUMN

Kind = Literal[
    "returns",
    "evaluations",
    "losses",
    "timing",
    "analysis",
    "tokens",
    "scores",
    "left out",
    "bars",
    "curves",
    "analysis grid",
    "routing",
    "hyper-parameters",
]


class Column(NamedTuple):
    """What a column holds."""

    holds: Literal["integer", "number", "text", "boolean", "bytes"]
    unit: str
    meaning: str
    optional: bool = False
    """Whether a table of the kind may be without it."""


_AGENT = Column("text", "", "learning algorithm, as in config/agents.yaml")
_VARIANT = Column("text", "", "network variant, as in config/networks.yaml")
_GAME = Column("text", "", "Atari 2600 game")
_SEED = Column("integer", "", "seed of the run")
_PANEL = Column("text", "", "panel of the figure, as printed")
_SERIES = Column("text", "", "method, as printed in the legend")
_METRIC = Column("text", "", "name of the metric; see docs/architecture.md")
_ITERATION = Column("integer", "iterations", "0-based number of the training iteration")
_FRAME = Column(
    "integer", "emulated frames", "frames of training at the iteration's end, four per agent step; 0 offline"
)
_NOMINAL = Column("integer", "emulated frames", "frames at the iteration's nominal end, four per agent step")
_N_GAMES = Column("integer", "games", "games that the value is over")
_N_SEEDS = Column("text", "runs", "runs per game; a range such as 3-5 where games differ")
_GAMES_LEFT_OUT = Column(
    "text", "", "games that are not in the value, with '; ' between: no human score, or no episode ended"
)
_GAMES_WITHOUT_RUNS = Column(
    "text", "", "games with a human score of which no run is there, with '; ' between"
)
_MISSING_RUNS = Column("text", "", "runs that are not in the value, each with why, with '; ' between")
_MIX = Column(
    "text",
    "",
    "what the figure's runs differ in, and how many have what: versions of packages, device, processor",
    optional=True,
)
_RETURN = "mean undiscounted, unclipped return of the episodes that ended in the iteration"

_RETURNS = {
    "iteration": _ITERATION,
    "frame": _FRAME,
    "episodes": Column("integer", "episodes", "episodes that ended in the iteration"),
    "mean_return": Column(
        "number",
        "game points",
        f"{_RETURN}, under the training policy, offline of the evaluation; none if none ended",
    ),
}

_CELL = "of the part of the 84 x 84 frame that the token stands for; none if it stands for no part"
_TOKEN = {
    "state": Column("integer", "", "which of the analysed states, 0-based"),
    "token": Column("integer", "", "0-based number of the token; PerConv: position in raster order"),
    "top": Column("integer", "pixels", f"first row {_CELL}"),
    "bottom": Column("integer", "pixels", f"row after the last {_CELL}"),
    "left": Column("integer", "pixels", f"first column {_CELL}"),
    "right": Column("integer", "pixels", f"column after the last {_CELL}"),
    "expert": Column("integer", "", "0-based number of the expert with the token's highest weight"),
    "gate": Column("number", "1 = only this expert", "that weight; the token's weights add up to 1"),
}
_DROPPED = "whether no expert takes the token, its expert's slots being full (Top1-MoE)"
_PIXELS = "the newest frame in the token's part, row by row, a byte for each pixel"
_SECONDS = "time trained so far, interruptions left out"
_PARAMETERS = "parameters of the bar's network on the figure's game with"

COLUMNS: dict[Kind, dict[str, Column]] = {
    "returns": _RETURNS,
    "evaluations": _RETURNS
    | {
        "episodes": Column("integer", "episodes", "games played after the iteration"),
        "mean_return": Column("number", "game points", "their mean undiscounted, unclipped return"),
    },
    "losses": {
        "iteration": _ITERATION,
        "frame": _FRAME,
        "gradient_steps": Column("integer", "gradient steps", "updates of the network so far"),
        "mean_loss": Column(
            "number", "", "mean training loss of the iteration's updates; none if none was done"
        ),
    },
    "timing": {
        "iteration": _ITERATION,
        "frame": _FRAME,
        "wall_seconds": Column("number", "seconds", _SECONDS),
    },
    "analysis": {
        "iteration": _ITERATION,
        "frame": _FRAME,
        "metric": _METRIC,
        "value": Column("number", "that of the metric", "the metric's value for the iteration's snapshot"),
    },
    "tokens": {
        "iteration": _ITERATION,
        "frame": _FRAME,
        **_TOKEN,
        "dropped": Column("boolean", "", _DROPPED),
        "pixels": Column("bytes", "", _PIXELS),
    },
    "scores": {
        "panel": _PANEL,
        "series": _SERIES,
        "x": Column("number", "that of the figure's x axis", "place on the scaling axis; none without one"),
        "agent": _AGENT,
        "variant": _VARIANT,
        "game": _GAME,
        "seed": _SEED,
        "iteration": _ITERATION,
        "frame": _FRAME,
        "mean_return": Column("number", "game points", f"{_RETURN}, or of the evaluation after it"),
        "human_normalised": Column(
            "number",
            "1 = human, 0 = random play",
            "(return - random) / (human - random); none without scores",
        ),
        "wall_seconds": Column("number", "seconds", f"{_SECONDS}; in figures over hours", optional=True),
    },
    "left out": {
        "agent": _AGENT,
        "variant": _VARIANT,
        "game": _GAME,
        "seed": _SEED,
        "milestone": Column(
            "text", "emulated frames", "length of the run, k and M for thousands and millions"
        ),
        "why": Column("text", "", "why the figure does without the run"),
    },
    "bars": {
        "panel": _PANEL,
        "series": _SERIES,
        "x": Column("number", "that of the figure's x axis", "place on the scaling axis"),
        "readout": Column("text", "", "iterations that are averaged per run: last, last_5 or early"),
        "frame": _NOMINAL,
        "iqm": Column(
            "number", "1 = human, 0 = random play", "interquartile mean of human-normalised scores"
        ),
        "ci_low": Column("number", "1 = human, 0 = random play", "lower end of its 95 % bootstrap interval"),
        "ci_high": Column("number", "1 = human, 0 = random play", "upper end of its 95 % bootstrap interval"),
        "n_games": _N_GAMES,
        "n_seeds": _N_SEEDS,
        "games_left_out": _GAMES_LEFT_OUT,
        "games_without_runs": _GAMES_WITHOUT_RUNS,
        "missing_runs": _MISSING_RUNS,
        "parameters_min": Column("integer", "parameters", f"{_PARAMETERS} fewest actions", optional=True),
        "parameters_max": Column("integer", "parameters", f"{_PARAMETERS} most actions", optional=True),
        "actions": Column("text", "actions", "numbers of actions of these two games", optional=True),
        "mix": _MIX,
    },
    "curves": {
        "panel": Column("text", "", "panel of the figure, as printed: an agent or a game"),
        "series": _SERIES,
        "iteration": _ITERATION,
        "frame": _NOMINAL._replace(optional=True),
        "gradient_steps": Column(
            "integer", "gradient steps", "updates by then; in figures over gradient steps", optional=True
        ),
        "value": Column(
            "number",
            "1 = human, 0 = random play; game points where the figure shows returns",
            "interquartile mean of human-normalised scores, or mean return of the one game",
        ),
        "ci_low": Column("number", "that of value", "lower end of its 95 % bootstrap interval"),
        "ci_high": Column("number", "that of value", "upper end of its 95 % bootstrap interval"),
        "n_games": _N_GAMES,
        "n_seeds": _N_SEEDS,
        "games_left_out": _GAMES_LEFT_OUT,
        "games_without_runs": _GAMES_WITHOUT_RUNS,
        "missing_runs": _MISSING_RUNS,
        "hours": Column(
            "number", "hours", "training time, mean over runs; in figures over hours", optional=True
        ),
        "mix": _MIX,
    },
    "analysis grid": {
        "game": _GAME,
        "metric": _METRIC,
        "series": _SERIES,
        "iteration": _ITERATION,
        "frame": Column(
            "number", "emulated frames", "frames at the iteration's end, mean over seeds", optional=True
        ),
        "gradient_steps": Column(
            "integer", "gradient steps", "updates by then; in figures over gradient steps", optional=True
        ),
        "mean": Column("number", "that of the metric", "mean over seeds"),
        "se_low": Column("number", "that of the metric", "mean less its standard error"),
        "se_high": Column("number", "that of the metric", "mean plus its standard error"),
        "n_seeds": Column("integer", "runs", "runs that the mean is over"),
        "missing_runs": _MISSING_RUNS,
        "mix": _MIX,
    },
    "routing": {
        "series": _SERIES,
        "agent": _AGENT,
        "variant": _VARIANT,
        "game": _GAME,
        "seed": _SEED,
        "experts": Column("integer", "experts", "experts of the variant"),
        "iteration": _ITERATION,
        "frame": _FRAME,
        **_TOKEN,
        "dropped": Column("text", "", f"True or False: {_DROPPED}"),
        "pixels": Column("text", "", f"{_PIXELS}, two hexadecimal digits each"),
        "missing_runs": _MISSING_RUNS,
        "mix": _MIX,
    },
    "hyper-parameters": {
        NAME_COLUMN: Column("text", "", "hyper-parameter, as the paper names it"),
        **{
            title: Column("text", "as the paper prints it", f"value used for {title}", optional=True)
            for title in (*AGENT_TITLES.values(), *ENCODER_TITLES.values())
        },
        DISAGREES: Column("text", "", "how the values used differ from those the paper prints, and why"),
    },
}
"""Kind of table → its columns, in order."""

_ALL = ("text", "number", "integer")
MOST_ROWS = 50_000_000
"""Of a table: ten times what the paper's largest figure needs."""
_ROWS_AT_A_TIME = 65_536
_INTEGER = re.compile(r"-?[0-9]+")


def dictionary_csv() -> str:
    """The data dictionary as CSV: a row for each column of each kind of table."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("table", "column", "holds", "unit", "meaning", "always_there"))
    writer.writerows(
        (kind, name, c.holds, c.unit, c.meaning, "no" if c.optional else "yes")
        for kind, columns in COLUMNS.items()
        for name, c in columns.items()
    )
    return file.getvalue()


def check_table(name: str, data: bytes, kind: Kind) -> None:
    """Refuse a file that is not a whole, readable table of its kind.

    Args:
        name: How to call it in errors; ends in `.parquet` or `.csv`.
        data: Its bytes.
        kind: What it should be.

    Raises:
        UserError: It cannot be read, a column is absent, undocumented or holds something else.
    """
    expected = COLUMNS[kind]
    try:
        found = _parquet_columns(data) if name.endswith(".parquet") else _csv_columns(data)
    except Exception as error:  # of pyarrow, many kinds
        raise UserError(f"{name}: not a readable table ({one_line(error)})") from error
    if extra := [column for column in found if column not in expected]:
        allowed = ", ".join(expected)
        said = f"{name}: column {extra[0]!r} is not in the data dictionary of {kind} ({allowed})"
        raise UserError(one_line(said))
    if absent := [name for name, column in expected.items() if not column.optional and name not in found]:
        raise UserError(f"{name}: lacks the column {absent[0]!r} of {kind} (has: {', '.join(found)})")
    for column, holds in found.items():
        if expected[column].holds not in holds:
            raise UserError(f"{name}: {column} holds {holds[0]}, not {expected[column].holds}")


def _parquet_columns(data: bytes) -> dict[str, tuple[str, ...]]:
    """Columns of a Parquet file and what each may be said to hold."""
    file = pq.ParquetFile(pa.BufferReader(data))
    if file.metadata.num_rows > MOST_ROWS:
        raise ValueError(f"{file.metadata.num_rows} rows, more than {MOST_ROWS}")
    for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME):
        batch.validate(full=True)
    return {field.name: _holds(field.type) for field in file.schema_arrow}


def _csv_columns(data: bytes) -> dict[str, tuple[str, ...]]:
    """Columns of a CSV file and what each may hold. Raises ValueError where rows differ in length."""
    header, *rows = csv.reader(io.StringIO(data.decode("utf-8"), newline=""), strict=True)
    if any(len(row) != len(header) for row in rows):
        raise ValueError("rows of unequal length")
    found: dict[str, tuple[str, ...]] = {}
    for place, column in enumerate(header):
        values = [row[place] for row in rows if row[place]]
        whole = all(_INTEGER.fullmatch(value) for value in values)
        found[column] = _ALL if whole else _ALL[:2] if all(map(_is_number, values)) else _ALL[:1]
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _holds(kind: pa.DataType) -> tuple[str, ...]:
    if pa.types.is_integer(kind):
        return ("integer", "number")
    if pa.types.is_floating(kind):
        return ("number",)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return ("text",)
    if pa.types.is_boolean(kind):
        return ("boolean",)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return ("bytes",)
    return (*_ALL, "boolean", "bytes") if pa.types.is_null(kind) else (str(kind),)
