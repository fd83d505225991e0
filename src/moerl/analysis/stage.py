"""The analysis stage: a run's snapshots in, two tidy tables out: metrics, and the routing of single tokens.

Columns of the first: `iteration` (0-based), `frame` (emulated frames at the iteration's end), `metric`,
`value`. Those of the second are in `moerl.analysis.tokens`, after the same `iteration` and `frame`.
"""

from __future__ import annotations

import io
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from moerl.agents.value import ValueAgent
from moerl.analysis import snapshot
from moerl.analysis.tokens import token_table
from moerl.study.errors import UserError
from moerl.study.long_step import long_step
from moerl.study.specs import TrainSpec
from moerl.training.statefile import StateError, write_atomic


def run(spec: TrainSpec, run_dir: Path, out: Path, tokens_out: Path) -> None:
    """Measure every snapshot of the run in `run_dir`; write `out` and `tokens_out` (Parquet, atomically).

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
    _write(tokens_out, pd.concat(tokens, ignore_index=True))
    _write(out, pd.DataFrame(rows, columns=["iteration", "frame", "metric", "value"]))


def _write(out: Path, table: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomic(out, buffer.getvalue())


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
