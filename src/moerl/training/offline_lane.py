"""One offline run in training: a learner, the subset it learns from, and its checkpoint.

A checkpoint holds parameters, optimiser, counters and the actions of every evaluation game; the subset
is loaded again, and must be the one that the run began with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import jax
import numpy as np

from moerl.agents.value import Batch, ValueAgent
from moerl.atari.action_log import ActionLog
from moerl.offline.subset import Subset
from moerl.replay.ring import Sample
from moerl.study.specs import TrainSpec
from moerl.training.base_lane import BaseLane, initial_learner, restored_learner
from moerl.training.checkpoint_meta import CheckpointMeta, OfflineMeta
from moerl.training.evaluation import Played
from moerl.training.rng import Purpose, stream
from moerl.training.statefile import StateError, Tensors


@dataclass
class OfflineLane(BaseLane):
    """The state of one offline run between two gradient steps."""

    subset: Subset | None = None
    """What it learns from, once it is loaded."""
    data: str | None = None
    """Digest of the subset that the run began with; None before it began."""

    unit = "gradient steps"

    @classmethod
    def fresh(cls, spec: TrainSpec, seed: int, agent: ValueAgent) -> Self:
        """See `BaseLane`; its subset has to be given to it."""
        return cls(spec, seed, initial_learner(agent, jax.random.key(seed)))

    @classmethod
    def restore(
        cls,
        spec: TrainSpec,
        seed: int,
        agent: ValueAgent,
        tensors: Tensors,
        meta: CheckpointMeta,
        log: ActionLog,
    ) -> Self:
        """See `BaseLane`; its subset has to be given to it."""
        assert isinstance(meta, OfflineMeta)
        lane = cls(spec, seed, restored_learner(agent, seed, tensors), data=meta.data, log=log)
        lane.take_over(tensors, meta)
        if len(log.episode_lengths) != sum(row.episodes for row in lane.rows):
            raise StateError(f"log has {len(log.episode_lengths)} games, the checkpoint another number")
        return lane

    def learn_from(self, subset: Subset) -> None:
        """Give the run its data. Raises StateError if it began with other data."""
        digest = subset.digest()
        if self.data not in (None, digest):
            raise StateError(
                f"{self.name()}: its dataset has changed since it was begun (subset {self.data}, now "
                f"{digest}): bring the old one back, or delete the run's state to begin again"
            )
        self.subset, self.data = subset, digest

    @property
    def steps(self) -> int:
        """See `BaseLane`."""
        return self.gradient_steps

    @property
    def progress(self) -> int:
        """See `BaseLane`."""
        return self.gradient_steps

    @property
    def iteration_over(self) -> bool:
        """See `BaseLane`."""
        return self.gradient_steps - self.iteration_start >= self.spec.schedule.iteration_steps

    def finish_iteration(self, played: Sequence[Played] = ()) -> None:
        """See `BaseLane`: the games of the evaluation give the iteration's return."""
        self.add_row([game.score for game in played])
        for game in played:
            self.log.actions += bytes(game.actions)
            self.log.end_episode()

    def sample_batch(self) -> Batch:
        """The batch of the coming gradient step."""
        rng = stream(self.seed, Purpose.REPLAY, self.gradient_steps)
        return Batch(**vars(self.draw(rng, self.spec.hyper.batch_size)))

    def draw(self, rng: np.random.Generator, count: int) -> Sample:
        """See `BaseLane`."""
        assert self.subset is not None, "its data was not given to it"
        return self.subset.sample(rng, count)

    def agent_step_of(self, gradient_step: int) -> None:
        """See `BaseLane`."""
        return

    def meta(self) -> dict[str, Any]:
        """See `BaseLane`."""
        return super().meta() | {"data": self.data}
