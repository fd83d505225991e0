"""Small real runs: a few dozen agent steps of a real game, without updates."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tiny_runs import Tiny, narrow, tiny

from moerl.agents.value import ValueAgent
from moerl.study.specs import Replay
from moerl.training.checkpoint import RunFolders
from moerl.training.lane import Lane
from moerl.training.online import Pack

FIRST, SECOND = 60, 90
"""Agent steps of the two checkpoints."""


@dataclass(frozen=True)
class Saved:
    """A run in training, with both generations of its checkpoint."""

    cell: Tiny
    agent: ValueAgent
    root: Path

    @property
    def folders(self) -> RunFolders:
        return RunFolders(self.root / "state/seed0/end", self.root / "results/seed0/end")

    @property
    def current(self) -> Path:
        return self.folders.state / "current.safetensors"

    @property
    def previous(self) -> Path:
        return self.folders.state / "previous.safetensors"

    def copy(self, root: Path) -> Saved:
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        return Saved(self.cell, self.agent, root)

    def find(self, seed: int = 0, spec=None):
        """What training would go on from."""
        return self.folders.find(spec or self.cell.spec, seed, self.cell.iterations, self.agent)


def save_twice(root: Path) -> Saved:
    """Play 60 steps, save, play 30 more, save."""
    settings = {"min_replay_history": 100_000, "max_episode_steps": 25, "replay": Replay.PRIORITISED}
    cell = narrow(tiny("Breakout", 40, 4, **settings))
    schedule = cell.spec.schedule.model_copy(update={"snapshot_every": 0})
    cell = Tiny(cell.spec.model_copy(update={"schedule": schedule}), cell.rom, cell.iterations)
    agent = ValueAgent(cell.spec.hyper, cell.spec.network, cell.spec.num_actions)
    saved = Saved(cell, agent, root)
    folders = saved.folders
    lane = saved.find()
    assert isinstance(lane, Lane)
    pack = Pack.create(cell.spec, cell.rom, [lane], agent)
    for target, seconds in ((FIRST, 1.0), (SECOND, 2.0)):
        while lane.agent_steps < target:
            pack.round([0])
            if lane.iteration_over:
                lane.finish_iteration()
                folders.stamp(lane, seconds)
        folders.save(lane, seconds)
    pack.env.close()
    return saved
