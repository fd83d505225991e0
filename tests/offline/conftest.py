"""Small datasets: finished runs that act at random, so that nothing but their start is compiled."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "training"))

from tiny_runs import Tiny, tiny

from moerl.study.specs import IterationEnd
from moerl.training.checkpoint import RunFolders


@dataclass(frozen=True)
class Trained:
    """A run that was trained here."""

    cell: Tiny
    folder: Path
    """Its results."""
    folders: RunFolders


def random_play(root: Path, game: str, steps: int, **hyper) -> Trained:
    """Two iterations that never train; the second stops in the middle of an episode."""
    cell = tiny(game, steps, 2, "cnn-baseline", min_replay_history=100_000, replay_capacity=2_000, **hyper)
    schedule = cell.spec.schedule.model_copy(update={"snapshot_every": 0, "iteration_end": IterationEnd.STEP})
    cell = Tiny(cell.spec.model_copy(update={"schedule": schedule}), cell.rom, cell.iterations)
    cell.train(root)
    folders = RunFolders(root / "state/seed0/end", root / "results/seed0/end")
    return Trained(cell, folders.results, folders)


@pytest.fixture(scope="session")
def breakout(tmp_path_factory) -> Trained:
    """Many episodes, terminal and cut."""
    return random_play(tmp_path_factory.mktemp("breakout"), "Breakout", 700, max_episode_steps=190)


@pytest.fixture(scope="session")
def pong(tmp_path_factory) -> Trained:
    """One long episode that ends, and one that is running."""
    return random_play(tmp_path_factory.mktemp("pong"), "Pong", 600)
