"""One online run in training: learner, replay, action log and progress, and their checkpoint.

A checkpoint holds parameters, optimiser, priorities, counters and the action log; the replay memory
and the running episode are regenerated from the log. Restoring one gives a lane that continues bit
for bit.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from moerl.agents.value import Batch, ValueAgent
from moerl.atari.action_log import ActionLog
from moerl.atari.lanes import FRAME_SHAPE, Frame
from moerl.atari.regenerate import LoggedEpisode
from moerl.replay.priorities import PriorityError, PriorityTable
from moerl.replay.ring import FrameRing, Indices, Sample
from moerl.study.specs import FRAMES_PER_STEP, STACK_SIZE, IterationEnd, Replay, TrainSpec
from moerl.training.base_lane import BaseLane, DivergedError, column, initial_learner, restored_learner
from moerl.training.checkpoint_meta import CheckpointMeta, OnlineMeta
from moerl.training.evaluation import Played
from moerl.training.progress import EvaluationRow
from moerl.training.rng import Purpose, stream
from moerl.training.statefile import StateError, Tensors


@dataclass
class Lane(BaseLane):
    """The state of one online run between two agent steps."""

    ring: FrameRing
    priorities: PriorityTable | None = None
    """Of the ring's transitions, if the agent's replay is prioritised."""
    episode_adds: list[int] = field(default_factory=list)
    """Transitions added to the ring, padding included, by the end of each finished episode."""
    iteration_returns: list[float] = field(default_factory=list)
    """Returns of the episodes finished in the running iteration."""
    between_episodes: bool = True
    stack: npt.NDArray[np.uint8] = field(
        default_factory=lambda: np.zeros((STACK_SIZE, *FRAME_SHAPE), dtype=np.uint8)
    )
    episode_return: float = 0.0
    episode_steps: int = 0
    bad_priority: DivergedError | None = None
    """Raised for the first priority that was not finite."""
    restored_adds: int | None = None
    """Transitions added before the checkpoint this lane is from, padding included; None for a fresh lane."""

    unit = "frames"

    @classmethod
    def fresh(cls, spec: TrainSpec, seed: int, agent: ValueAgent) -> Self:
        """See `BaseLane`."""
        hyper = spec.hyper
        ring = FrameRing(hyper.replay_capacity, hyper.n_step, hyper.gamma)
        priorities = PriorityTable(ring.capacity) if hyper.replay is Replay.PRIORITISED else None
        return cls(spec, seed, initial_learner(agent, jax.random.key(seed)), ring, priorities)

    def begin_episode(self, frame: Frame) -> None:
        """Start an episode on its first frame; the frames before it are zeros."""
        self.stack[:] = 0
        self.stack[-1] = frame
        self.episode_return, self.episode_steps, self.between_episodes = 0.0, 0, False

    def observe(self, action: int, reward: int, game_over: bool, life_lost: bool, frame: Frame) -> bool:
        """Store the transition that `action` ended; returns whether the episode ended with it.

        `reward` is unclipped; `frame` is the frame after the action (unused if the episode ended).
        Where a lost life is a terminal, the game goes on, but the stack starts anew on `frame`, as at
        the start of an episode (method 4.7).
        """
        self.episode_steps += 1
        self.episode_return += reward
        terminal = game_over or (life_lost and self.spec.hyper.terminal_on_life_loss)
        end = game_over or self.episode_steps == self.spec.hyper.max_episode_steps
        self.ring.add(self.stack[-1], action, float(np.clip(reward, -1, 1)), terminal, end)
        if end:
            self.between_episodes = True
            self.episode_adds.append(self.ring.add_count)
        else:
            self.stack[:-1] = 0 if terminal else self.stack[1:]
            self.stack[-1] = frame
        return end

    def finish_episode(self) -> None:
        """Account for an episode that just ended."""
        self.log.end_episode()
        self.iteration_returns.append(self.episode_return)

    @property
    def iteration_over(self) -> bool:
        """See `BaseLane`: it has had its agent steps and, if it ends so, its last episode."""
        if self.agent_steps - self.iteration_start < self.spec.schedule.iteration_steps:
            return False
        return self.between_episodes or self.spec.schedule.iteration_end is IterationEnd.STEP

    def finish_iteration(self, played: Sequence[Played] = ()) -> None:
        """See `BaseLane`."""
        iteration, frame = len(self.rows), self.frame
        self.add_row(self.iteration_returns)
        if played:
            mean = float(np.mean([game.score for game in played]))
            self.evaluations.append(EvaluationRow(iteration, frame, len(played), mean))
        self.iteration_returns = []

    @property
    def steps(self) -> int:
        """See `BaseLane`."""
        return self.agent_steps

    @property
    def progress(self) -> int:
        """See `BaseLane`."""
        return self.frame

    @property
    def progress_per_iteration(self) -> int:
        """See `BaseLane`."""
        return self.spec.schedule.iteration_steps * FRAMES_PER_STEP

    def draw(self, rng: np.random.Generator, count: int) -> Sample:
        """See `BaseLane`."""
        with self.sampling():
            slots = self.ring.sample_indices(rng, count)
        return self.ring.gather(slots)

    def sample_batch(self) -> tuple[Indices, Batch]:
        """The batch of the coming gradient step, and the replay slots `[B]` it comes from.

        Raises FailureError, naming the run, if the replay memory cannot give one.
        """
        rng = stream(self.seed, Purpose.REPLAY, self.gradient_steps)
        size = self.spec.hyper.batch_size
        if self.priorities is None:
            with self.sampling():
                slots = self.ring.sample_indices(rng, size)
            return slots, Batch(**vars(self.ring.gather(slots)))
        with self.sampling():
            slots = self.priorities.sample(rng, size, self.ring.valid)
        return slots, Batch(
            **vars(self.ring.gather(slots)), weight=jnp.asarray(self.priorities.weights(slots))
        )

    def set_priorities(self, slots: Indices, priorities: jax.Array) -> None:
        """Give the transitions of the last gradient step their new priorities, if replay is prioritised.

        A priority that is not finite leaves the table as it was; `flush_losses` then raises.
        """
        if self.priorities is None:
            return
        try:
            self.priorities.update(slots, np.asarray(priorities))
        except PriorityError as error:
            self.bad_priority = self.bad_priority or self.diverged(f"{error} at", self.gradient_steps - 1)

    def flush_losses(self) -> npt.NDArray[np.float64]:
        """See `BaseLane`. Raises DivergedError if a loss or a priority is not finite."""
        if self.bad_priority is not None:
            raise self.bad_priority
        return super().flush_losses()

    def tensors(self) -> Tensors:
        """See `BaseLane`. Raises DivergedError, also for a priority that is not finite."""
        tensors = super().tensors()
        tensors["episode_adds"] = np.array(self.episode_adds, dtype=np.int64)
        if self.priorities is not None:
            tensors |= {f"priorities/{name}": value for name, value in self.priorities.tensors().items()}
        return tensors

    def agent_step_of(self, gradient_step: int) -> int:
        """See `BaseLane`.

        Once begun, training happens in every `update_period`-th agent step, `updates_per_period` times.
        """
        hyper = self.spec.hyper
        last = (self.agent_steps - 1) // hyper.update_period
        calls_since = (self.gradient_steps - 1) // hyper.updates_per_period
        calls_since -= gradient_step // hyper.updates_per_period
        return (last - calls_since) * hyper.update_period

    def meta(self) -> dict[str, Any]:
        """See `BaseLane`."""
        evaluations = {"evaluations": [asdict(row) for row in self.evaluations]}
        return (
            (evaluations if self.spec.schedule.evaluation else {})
            | super().meta()
            | {
                "iteration_returns": self.iteration_returns,
                "episode_return": self.episode_return,
                "add_count": self.ring.add_count,
            }
        )

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
        """See `BaseLane`: the replay and the running episode have to be regenerated."""
        assert isinstance(meta, OnlineMeta)
        ring = FrameRing(spec.hyper.replay_capacity, spec.hyper.n_step, spec.hyper.gamma)
        priorities = _restore_priorities(spec, tensors)
        lane = cls(spec, seed, restored_learner(agent, seed, tensors), ring, priorities, log=log)
        lane.take_over(tensors, meta)
        lane.episode_adds = column(tensors, "episode_adds", np.int64).tolist()
        lane.restored_adds = meta.add_count
        lane.evaluations = list(meta.evaluations or ())
        lane.iteration_returns = list(meta.iteration_returns)
        ended = sum(row.episodes for row in lane.rows) + len(lane.iteration_returns)
        if not len(log.episode_lengths) == len(lane.episode_adds) == ended:
            raise StateError(
                f"log has {len(log.episode_lengths)} finished episodes, the checkpoint {ended} and the "
                f"places of {len(lane.episode_adds)} in the replay"
            )
        if [0, *lane.episode_adds, meta.add_count] != sorted([0, *lane.episode_adds, meta.add_count]):
            raise StateError("the places of the episodes in the replay are not in order of time")
        if len(log.actions) != lane.agent_steps:
            raise StateError(
                f"log has {len(log.actions)} actions, the checkpoint {lane.agent_steps} agent steps"
            )
        return lane

    def episodes_to_regenerate(self) -> list[LoggedEpisode]:
        """Logged episodes that the replay memory still holds a part of, and the running one.

        Also winds the ring to where the first of them was added.
        """
        first = 0
        if self.restored_adds is not None:
            first = bisect.bisect_right(self.episode_adds, self.restored_adds - self.ring.capacity)
        self.ring.start_at(self.episode_adds[first - 1] if first else 0)
        del self.episode_adds[first:]  # regenerating the episodes appends them again
        lengths = self.log.episode_lengths
        ends = list(accumulate(lengths))
        episodes = [
            LoggedEpisode(i, bytes(self.log.actions[ends[i] - lengths[i] : ends[i]]))
            for i in range(first, len(lengths))
        ]
        if self.log.running:
            episodes.append(LoggedEpisode(len(lengths), self.log.running))
        return episodes

    def check_regenerated(self) -> None:
        """Raises StateError unless the regenerated ring ends where the checkpoint's did."""
        if self.restored_adds is not None and self.ring.add_count != self.restored_adds:
            raise StateError(
                f"{self.name()}: replaying the action log added {self.ring.add_count} transitions instead "
                f"of {self.restored_adds}; was it recorded with another ale-py or ROM version?"
            )


def _restore_priorities(spec: TrainSpec, tensors: Tensors) -> PriorityTable | None:
    """The priorities of a checkpoint. Raises StateError if they are missing or do not fit the replay."""
    if spec.hyper.replay is not Replay.PRIORITISED:
        return None
    try:
        table = PriorityTable.from_tensors({k: tensors[f"priorities/{k}"] for k in ("leaves", "max")})
    except (KeyError, PriorityError) as error:
        raise StateError(f"checkpoint without usable priorities ({error})") from error
    if len(table.leaves) != spec.hyper.replay_capacity:
        raise StateError(
            f"priorities of {len(table.leaves)} slots, the replay has {spec.hyper.replay_capacity}"
        )
    return table
