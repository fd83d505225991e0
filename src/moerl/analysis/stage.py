"""The analysis stage: a run's snapshots in, two tidy tables out: metrics, and the routing of single tokens.

Columns of the first: `iteration` (0-based), `frame` (emulated frames at the iteration's end), `metric`,
`value`. Those of the second are in `moerl.analysis.tokens`, after the same `iteration` and `frame`. The
metadata of both say which training they are of (`moerl.study.origin`).
"""

from __future__ import annotations

import io
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moerl.agents.value import ValueAgent
from moerl.analysis import snapshot
from moerl.analysis.tokens import token_table
from moerl.study.errors import UserError
from moerl.study.long_step import long_step
from moerl.study.origin import Origin
from moerl.study.specs import TrainSpec
from moerl.training.statefile import StateError, write_atomic


def run(spec: TrainSpec, milestone: str, run_dir: Path, out: Path, tokens_out: Path) -> None:
    """Measure every snapshot of the run in `run_dir`; write `out` and `tokens_out` (Parquet, atomically).

    Both files say that they are of `spec`, trained to `milestone` (a label such as "50M").

    Equal snapshots give equal bytes. For a baseline, which routes nothing, `tokens_out` has no rows.

    Raises:
        UserError: The run left no snapshots.
        StateError: A snapshot is unreadable, not `spec`'s, or of a diverged run.
    """
    paths = sorted((run_dir / "snapshots").glob("iteration*.safetensors"))
    if not paths:
        raise UserError(
            f"{run_dir}: the run left no snapshots; set `snapshot_every` in the study and train it again"
        )
    agent = ValueAgent(spec.hyper, spec.network, spec.num_actions)
    rows: list[tuple[int, int, str, float]] = []
    tokens: list[pd.DataFrame] = []
    for path in long_step(paths, "snapshots analysed"):
        taken = snapshot.read(path, spec)
        metrics, routed = _measure(agent, taken, path)
        rows += [(taken.iteration, taken.frame, *m) for m in metrics.items()]
        for place, name in enumerate(("iteration", "frame")):
            routed.insert(place, name, np.full(len(routed), getattr(taken, name), np.int64))
        tokens.append(routed)
    origin = Origin(spec.digest(), milestone)
    write_atomic(tokens_out, parquet(pd.concat(tokens, ignore_index=True), origin))
    write_atomic(out, parquet(pd.DataFrame(rows, columns=["iteration", "frame", "metric", "value"]), origin))


def parquet(table: pd.DataFrame, origin: Origin) -> bytes:
    """A table as a Parquet file that says which training it is of: equal arguments give equal bytes."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata((arrow.schema.metadata or {}) | origin.metadata())
    buffer = io.BytesIO()
    pq.write_table(arrow, buffer)
    return buffer.getvalue()


def _measure(
    agent: ValueAgent, taken: snapshot.Snapshot, path: Path
) -> tuple[snapshot.Metrics, pd.DataFrame]:
    """Metrics and token table of one snapshot, computed in full float32 on any device."""
    try:
        with jax.default_matmul_precision("float32"):
            outputs = snapshot.network_outputs(agent, taken)
            metrics = snapshot.measure(agent, taken, outputs)
            return metrics, token_table(agent.network, taken.batches[0].state, outputs[0].routing)
    except FloatingPointError as error:
        raise StateError(f"{path}: {error}: the run diverged") from error
