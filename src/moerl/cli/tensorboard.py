"""`moerl tensorboard`: returns and losses as TensorBoard event files, a folder per run.

A run's file is a function of its iterations, each adding to the end: mirrored again, nothing is written
twice, and a TensorBoard that has the file open sees it grow. Steps are emulated frames, of offline runs
gradient steps; events have no time.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from moerl.statistics.readers import read_table
from moerl.study.errors import UserError
from moerl.study.expansion import Run
from moerl.study.paths import run_dir, state_dir
from moerl.study.standing import Standing, finished_spec
from moerl.study.status import study_runs
from moerl.training.checkpoint_meta import OnlineMeta, read_checkpoint_meta
from moerl.training.statefile import StateError, read_meta, write_atomic

Point = tuple[int, int, str, float]
"""Iteration (0-based), step, tag, value."""

_TAGS = {
    "returns.parquet": ("mean_return", "return/training"),
    "evaluations.parquet": ("mean_return", "return/evaluation"),
    "losses.parquet": ("mean_loss", "loss/mean"),
}
_OURS = re.compile(r"events\.out\.tfevents\.0\.[0-9a-f]{16}")
"""Names of the event files written here, each for one spec; whatever else lies there is somebody else's."""
_CHECKPOINTS = ("current.safetensors", "previous.safetensors")


def run(standing: Standing, figures: Sequence[str], logdir: Path, every: float | None = None) -> None:
    """Mirror the runs of some figures (default: all of the study) below `logdir`, the study's own folder.

    With `every`, again and again after so many seconds, until all of them are finished.

    Raises:
        UserError: The study does not draw a figure, or tensorboardX is not installed.
    """
    runs = study_runs(standing.study, figures)
    events([])  # says at once that tensorboardX is missing
    while True:
        changed = sum(mirror(standing, one, logdir) for one in runs)
        finished = sum(standing.finished(one) is not None for one in runs)
        click.echo(f"{logdir}: {changed} runs are new or went on, {finished} of {len(runs)} are finished")
        if every is None or finished == len(runs):
            return
        time.sleep(every)


def mirror(standing: Standing, one: Run, logdir: Path) -> bool:
    """Write what is new of a run; returns whether there was anything."""
    digest = standing.digest(one.cell)
    points = best_points(standing, one)
    folder = logdir / one.agent / one.variant / one.game / f"seed{one.seed}"
    file = folder / f"events.out.tfevents.0.{digest}"
    for other in sorted(folder.glob("*")):
        if other != file and _OURS.fullmatch(other.name):
            other.unlink()  # of training under another spec
    if not points:
        return False
    data = events(points)
    there = file.read_bytes() if file.is_file() else b""
    if there.startswith(data):  # equal, or what it came from has been deleted since
        return False
    if there and data.startswith(there):
        with file.open("ab") as opened:
            opened.write(data[len(there) :])
    else:
        write_atomic(file, data)
    return True


def best_points(standing: Standing, one: Run) -> list[Point]:
    """The points of whatever has the most iterations of a run: results, finished state or a checkpoint."""
    digest = standing.digest(one.cell)
    found: list[list[Point]] = [[]]
    for label in standing.study.course(one.milestone):
        at = Run(one.agent, one.variant, one.game, one.seed, label)
        folders = [run_dir(standing.results, at)]
        if standing.state is not None:
            state = state_dir(standing.state, at) / label
            folders.append(state)
            found += [_of_checkpoint(state / name, standing, one) for name in _CHECKPOINTS]
        offline = label == standing.study.offline_milestone
        found += [_of_tables(folder, offline) for folder in folders if finished_spec(folder) == digest]
    return max(found, key=lambda points: points[-1][0] if points else -1)


def events(points: Sequence[Point]) -> bytes:
    """An event file of points, in order. Raises UserError if tensorboardX is not installed."""
    try:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.record_writer import RecordWriter
    except ModuleNotFoundError as error:
        hint = "python -m pip install 'tensorboardX>=2.6.4'"
        raise UserError(f"event files need tensorboardX, which is not installed: {hint}") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events"
        writer = RecordWriter(str(path))
        writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
        for _, step, tag, value in points:
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.write(Event(wall_time=0.0, step=step, summary=summary).SerializeToString())
        writer.close()
        return path.read_bytes()


def _of_tables(folder: Path, offline: bool) -> list[Point]:
    """The points of a finished run's tables."""
    found: list[Point] = []
    for name, (column, tag) in _TAGS.items():
        if (folder / name).is_file():
            table = read_table(folder / name, ("iteration", "frame", column))
            found += _points(tag, table.itertuples(index=False, name=None))
    if offline:
        losses = read_table(folder / "losses.parquet", ("iteration", "gradient_steps"))
        steps = dict(losses.itertuples(index=False, name=None))
        if lacking := {iteration for iteration, *_ in found} - steps.keys():
            problem = f"lacks the iteration {min(lacking)}; train this run again"
            raise UserError(f"{folder / 'losses.parquet'}: {problem}")
        found = [
            (iteration, int(steps[iteration]), tag.replace("training", "evaluation"), value)
            for iteration, _, tag, value in found
        ]
    return sorted(found)


def _of_checkpoint(path: Path, standing: Standing, one: Run) -> list[Point]:
    """The points of the iterations that a checkpoint has finished; none if there is none of this spec."""
    if not path.is_file():
        return []
    offline = one.milestone == standing.study.offline_milestone
    spec = json.loads(standing.study.train_spec(one.cell).canonical_json())
    try:
        meta = read_checkpoint_meta(str(path), read_meta(path), spec, one.seed, offline)
    except StateError:  # damaged, or replaced at this very moment: training knows what to do, we look again
        return []
    rows, tag = meta.rows, "return/evaluation" if offline else "return/training"
    steps = [row.gradient_steps if offline else row.frame for row in rows]
    found = _points(tag, ((i, steps[i], row.mean_return) for i, row in enumerate(rows)))
    found += _points("loss/mean", ((i, steps[i], row.mean_loss) for i, row in enumerate(rows)))
    if isinstance(meta, OnlineMeta):
        played = [row for row in meta.evaluations or () if row.iteration < len(rows)]
        found += _points("return/evaluation", ((e.iteration, e.frame, e.mean_return) for e in played))
    return sorted(found)


def _points(tag: str, rows: Iterator[tuple[int, int, float | None]]) -> list[Point]:
    """One tag's points, those without a value left out."""
    return [
        (int(iteration), int(step), tag, float(value))
        for iteration, step, value in rows
        if value is not None and not math.isnan(value)
    ]
