"""What a finished part of a run reports: one row per iteration, and its Parquet files.

An iteration is a number of whole episodes that together reach `iteration_steps` agent steps, or
exactly so many steps (`IterationEnd`); its return is the mean undiscounted, unclipped return of the
episodes that ended in it under the training policy (method 4.2). With evaluation, the games played
after an iteration have a row of their own (method 4.7).
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True)
class IterationRow:
    """Results of one iteration; cumulative counts are at its end."""

    iteration: int
    frame: int
    """Cumulative emulated frames (4 per agent step)."""
    gradient_steps: int
    """Cumulative gradient steps."""
    episodes: int
    """Episodes finished in this iteration."""
    mean_return: float | None
    """None if no episode was finished."""
    mean_loss: float | None
    """Mean training loss of the iteration's gradient steps; None if there was none."""


@dataclass(frozen=True)
class EvaluationRow:
    """Results of the games played after one iteration."""

    iteration: int
    frame: int
    """Cumulative emulated frames of training."""
    episodes: int
    mean_return: float


@dataclass(frozen=True)
class TimingRow:
    """Wall-clock of one iteration: the only per-iteration facts that differ between repeats."""

    iteration: int
    frame: int
    wall_seconds: float
    """Cumulative seconds of training, interruptions left out."""


_RETURNS = pa.schema(
    [
        ("iteration", pa.int64()),
        ("frame", pa.int64()),
        ("episodes", pa.int64()),
        ("mean_return", pa.float64()),
    ]
)
_LOSSES = pa.schema(
    [
        ("iteration", pa.int64()),
        ("frame", pa.int64()),
        ("gradient_steps", pa.int64()),
        ("mean_loss", pa.float64()),
    ]
)
_TIMING = pa.schema([("iteration", pa.int64()), ("frame", pa.int64()), ("wall_seconds", pa.float64())])


def _parquet(rows: list[dict[str, object]], schema: pa.Schema) -> bytes:
    columns = {name: [row[name] for row in rows] for name in schema.names}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), buffer)
    return buffer.getvalue()


def returns_parquet(rows: list[IterationRow]) -> bytes:
    """`returns.parquet`: iteration, frame, episodes, mean_return (null without episodes)."""
    return _parquet([asdict(row) for row in rows], _RETURNS)


def evaluations_parquet(rows: list[EvaluationRow]) -> bytes:
    """`evaluations.parquet`: iteration, frame, episodes, mean_return."""
    return _parquet([asdict(row) for row in rows], _RETURNS)


def losses_parquet(rows: list[IterationRow]) -> bytes:
    """`losses.parquet`: iteration, frame, gradient_steps, mean_loss (null without updates)."""
    return _parquet([asdict(row) for row in rows], _LOSSES)


def timing_parquet(rows: list[TimingRow]) -> bytes:
    """`timing.parquet`: iteration, frame, wall_seconds."""
    return _parquet([asdict(row) for row in rows], _TIMING)
