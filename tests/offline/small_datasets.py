"""Small datasets: finished runs that act at random, so that nothing but their start is compiled."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "training"))

from tiny_runs import Tiny, tiny

from moerl.offline.convert import convert
from moerl.offline.layout import Layout
from moerl.offline.recorded import RecordedRun
from moerl.study.specs import IterationEnd
from moerl.training.checkpoint import RunFolders

PER_CHECKPOINT = 300


@dataclass(frozen=True)
class Trained:
    """A run that was trained here."""

    cell: Tiny
    folder: Path
    """Its results."""
    folders: RunFolders


@dataclass(frozen=True)
class Case:
    """A finished run, and the same as files."""

    trained: Trained
    run: RecordedRun
    files: Layout


def random_play(root: Path, game: str, steps: int, **hyper) -> Trained:
    """Two iterations that never train; the second stops in the middle of an episode."""
    cell = tiny(game, steps, 2, "cnn-baseline", min_replay_history=100_000, replay_capacity=2_000, **hyper)
    schedule = cell.spec.schedule.model_copy(update={"snapshot_every": 0, "iteration_end": IterationEnd.STEP})
    cell = Tiny(cell.spec.model_copy(update={"schedule": schedule}), cell.rom, cell.iterations)
    cell.train(root)
    folders = RunFolders(root / "state/seed0/end", root / "results/seed0/end")
    return Trained(cell, folders.results, folders)


def make_case(root: Path, trained: Trained) -> Case:
    """Convert a run to the folder `data` in `root`."""
    run = RecordedRun.open(trained.folder, PER_CHECKPOINT)
    convert(run, root / "data")
    return Case(trained, run, Layout.open(root / "data"))


def everything(files: Layout) -> dict[str, np.ndarray]:
    """All transitions of a dataset, in order of time."""
    parts = []
    for number in range(len(files)):
        columns = files.columns(number)
        frames = np.concatenate([frames for _, frames in files.frames(number)])
        row = {"action": columns.action, "reward": columns.reward, "terminal": columns.terminal}
        parts.append({name: values[columns.order] for name, values in (row | {"frame": frames}).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
