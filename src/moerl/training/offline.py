"""Offline training, round by round: a gradient step of every lane on its dataset (method 5).

Nothing is played but the games of the evaluation after each iteration (`moerl.training.loop`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax

from moerl.agents.value import Batch, Learner, UpdateResult, ValueAgent
from moerl.offline.recorded import RecordedRun
from moerl.offline.source import DatasetError
from moerl.offline.subset import Subset, load_subset, open_source
from moerl.study.specs import TrainSpec
from moerl.training.offline_lane import OfflineLane


@dataclass
class OfflinePack:
    """Lanes of one spec in training, in the order of their seeds."""

    spec: TrainSpec
    lanes: Sequence[OfflineLane]
    agent: ValueAgent

    def __post_init__(self) -> None:
        self._update = jax.jit(self._update_at, donate_argnums=0)

    def _update_at(
        self, learner: Learner, batch: Batch, key: jax.Array, step: int
    ) -> tuple[Learner, UpdateResult]:
        return self.agent.update(learner, batch, jax.random.fold_in(key, step))

    @classmethod
    def create(
        cls,
        spec: TrainSpec,
        lanes: Sequence[OfflineLane],
        agent: ValueAgent,
        datasets: Mapping[int, Path],
        frames_folder: Path | None = None,
    ) -> OfflinePack:
        """Load every lane's subset of `datasets[seed]`, its frames into `frames_folder` if there is one.

        Raises DatasetError, or StateError for other data than the lane began with.
        """
        for lane in lanes:
            lane.learn_from(load_data(spec, datasets[lane.seed], lane.seed, frames_folder))
        return cls(spec, lanes, agent)

    def round(self, active: Sequence[int]) -> None:
        """One gradient step of every active lane; the target is copied as online, after every so many.

        Nothing waits for a step's result: while the device computes, the next batch is gathered.
        """
        for i in active:
            lane = self.lanes[i]
            step = lane.gradient_steps
            lane.learner, result = self._update(lane.learner, lane.sample_batch(), lane.update_key, step)
            lane.pending_losses.append(result.loss)
            lane.gradient_steps += 1
            if step % self.spec.hyper.target_update_period == 0:
                lane.learner = self.agent.sync_target(lane.learner)


def load_data(spec: TrainSpec, folder: Path, seed: int, frames_folder: Path | None = None) -> Subset:
    """The subset of the dataset in `folder` that the run of `seed` learns from (see `load_subset`).

    Raises DatasetError if it cannot be used, or is of another game.
    """
    hyper = spec.hyper
    source = open_source(folder)
    if isinstance(source, RecordedRun):
        game = source.spec.game
    else:
        game = str((source.facts or {}).get("game", spec.game))
    if game != spec.game:
        raise DatasetError(f"{folder}: is of the game {game}, not {spec.game}")
    subset = load_subset(source, hyper.data_percent, seed, hyper.n_step, hyper.gamma, frames_folder)
    if (largest := int(subset.ring.actions.max())) >= spec.num_actions:
        raise DatasetError(
            f"{folder}: has action {largest}, but {spec.game} has {spec.num_actions} actions; "
            "is it of another game?"
        )
    return subset
