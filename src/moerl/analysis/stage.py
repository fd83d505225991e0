"""The analysis stage: a run's snapshots in, one tidy table out.

Columns: `iteration` (0-based), `frame` (emulated frames at the iteration's end), `metric`, `value`.
"""

from __future__ import annotations

import io
from pathlib import Path

import jax
import pandas as pd

from moerl.agents.value import ValueAgent
from moerl.analysis import snapshot
from moerl.study.errors import UserError
from moerl.study.long_step import long_step
from moerl.study.specs import TrainSpec
from moerl.training.statefile import StateError, write_atomic


def run(spec: TrainSpec, run_dir: Path, out: Path) -> None:
    """Measure every snapshot of the run in `run_dir` and write `out` (Parquet, atomically).

    Equal snapshots give equal bytes.

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
    for path in long_step(paths, "snapshots analysed"):
        taken = snapshot.read(path, spec)
        rows += [(taken.iteration, taken.frame, *m) for m in _measure(agent, taken, path).items()]
    table = pd.DataFrame(rows, columns=["iteration", "frame", "metric", "value"])
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomic(out, buffer.getvalue())


def _measure(agent: ValueAgent, taken: snapshot.Snapshot, path: Path) -> snapshot.Metrics:
    """The metrics of one snapshot, computed in full float32 on any device."""
    try:
        with jax.default_matmul_precision("float32"):
            return snapshot.measure(agent, taken)
    except FloatingPointError as error:
        raise StateError(f"{path}: {error}: the run diverged") from error
