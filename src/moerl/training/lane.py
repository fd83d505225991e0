"""One run in training: learner, replay, action log and progress, and their checkpoint.

A checkpoint holds parameters, optimiser, priorities, counters and the action log; the replay memory
and the running episode are regenerated from the log. Restoring one gives a lane that continues bit
for bit.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

import moerl
from moerl.agents.value import Batch, Learner, ValueAgent
from moerl.atari.action_log import ActionLog
from moerl.atari.lanes import FRAME_SHAPE, Frame
from moerl.atari.regenerate import LoggedEpisode
from moerl.replay.priorities import PriorityError, PriorityTable
from moerl.replay.ring import FrameRing, Indices, SamplingError
from moerl.study.errors import FailureError
from moerl.study.specs import FRAMES_PER_STEP, STACK_SIZE, IterationEnd, Replay, TrainSpec
from moerl.training.progress import EvaluationRow, IterationRow
from moerl.training.rng import Purpose, device_key, stream
from moerl.training.statefile import StateError, Tensors

FORMAT = 2
"""Version of the checkpoint layout."""


# It runs once per run, and XLA takes longer over it than over an update: compiled with fewer
# optimisations it takes a quarter of that time and gives the same bits.
@partial(jax.jit, static_argnames="agent", compiler_options={"xla_backend_optimization_level": 1})
def initial_learner(agent: ValueAgent, key: jax.Array) -> Learner:
    """What a run starts from: `agent.init`, compiled."""
    return agent.init(key)


class DivergedError(FailureError):
    """A loss, priority or parameter became non-finite; one line with the run and the gradient step."""

    exit_code = 3

    def __init__(self, message: str, problem: str, gradient_step: int) -> None:
        self.problem, self.gradient_step = problem, gradient_step
        super().__init__(message)


def name_leaves(tree: Any) -> Tensors:
    """Leaves of a pytree as NumPy arrays, named by their path ("params/Encoder_0/Conv_0/kernel")."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def fill_leaves(template: Any, tensors: Tensors) -> Any:
    """Inverse of `name_leaves` for a tree shaped like `template`. Raises StateError on a mismatch."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    filled = []
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        value = tensors.get(name)
        if value is None or value.shape != leaf.shape or value.dtype != leaf.dtype:
            raise StateError(f"tensor {name!r} is missing or has another shape or type than the network's")
        filled.append(jnp.array(value))
    return jax.tree_util.tree_unflatten(structure, filled)


@dataclass
class Lane:
    """The state of one run between two agent steps."""

    spec: TrainSpec
    seed: int
    learner: Learner
    ring: FrameRing
    priorities: PriorityTable | None = None
    """Of the ring's transitions, if the agent's replay is prioritised."""
    log: ActionLog = field(default_factory=ActionLog)
    episode_adds: list[int] = field(default_factory=list)
    """Transitions added to the ring, padding included, by the end of each finished episode."""
    agent_steps: int = 0
    gradient_steps: int = 0
    rows: list[IterationRow] = field(default_factory=list)
    evaluations: list[EvaluationRow] = field(default_factory=list)
    iteration_start: int = 0
    """Agent steps at the start of the running iteration."""
    iteration_returns: list[float] = field(default_factory=list)
    """Returns of the episodes finished in the running iteration."""
    pending_losses: list[jax.Array | float] = field(default_factory=list)
    """Losses of the running iteration; on the device until somebody needs them."""
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

    def __post_init__(self) -> None:
        self.update_key = device_key(self.seed, Purpose.UPDATE)
        self.act_key = device_key(self.seed, Purpose.ACT)

    @classmethod
    def fresh(cls, spec: TrainSpec, seed: int, agent: ValueAgent) -> Lane:
        """A run that has not taken a step."""
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
        """Whether the running iteration has had its agent steps and, if it ends so, its last episode."""
        if self.agent_steps - self.iteration_start < self.spec.schedule.iteration_steps:
            return False
        return self.between_episodes or self.spec.schedule.iteration_end is IterationEnd.STEP

    def finish_iteration(self, evaluated: Sequence[float] = ()) -> None:
        """Add the rows of the iteration that is over. Raises DivergedError.

        `evaluated`: returns of its evaluation's episodes, if it has one.
        """
        losses = self.flush_losses()
        iteration, frame = len(self.rows), self.agent_steps * FRAMES_PER_STEP
        returns = self.iteration_returns
        self.rows.append(
            IterationRow(
                iteration=iteration,
                frame=frame,
                gradient_steps=self.gradient_steps,
                episodes=len(returns),
                mean_return=float(np.mean(returns)) if returns else None,
                mean_loss=float(np.mean(losses)) if len(losses) else None,
            )
        )
        if evaluated:
            row = EvaluationRow(iteration, frame, len(evaluated), float(np.mean(evaluated)))
            self.evaluations.append(row)
        self.iteration_start = self.agent_steps
        self.iteration_returns = []
        self.pending_losses = []

    def sample_batch(self) -> tuple[Indices, Batch]:
        """The batch of the coming gradient step, and the replay slots `[B]` it comes from.

        Raises FailureError, naming the run, if the replay memory cannot give one.
        """
        rng = stream(self.seed, Purpose.REPLAY, self.gradient_steps)
        size = self.spec.hyper.batch_size
        if self.priorities is None:
            with self._sampling():
                slots = self.ring.sample_indices(rng, size)
            return slots, Batch(**vars(self.ring.gather(slots)))
        with self._sampling():
            slots = self.priorities.sample(rng, size, self.ring.valid)
        return slots, Batch(
            **vars(self.ring.gather(slots)), weight=jnp.asarray(self.priorities.weights(slots))
        )

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        """Turn a replay memory that cannot be sampled from into a failure of this run, in one line."""
        try:
            yield
        except SamplingError as error:
            raise FailureError(f"{self.name()}: gradient step {self.gradient_steps}: {error}") from error

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

    def name(self) -> str:
        """The run in words."""
        return f"{self.spec.agent} {self.spec.variant} {self.spec.game} seed {self.seed}"

    def flush_losses(self) -> npt.NDArray[np.float64]:
        """Fetch the running iteration's losses from the device, `[gradient steps]`.

        Raises DivergedError if one of them, or a priority, is not finite, so that no bad state is ever saved.
        """
        if self.bad_priority is not None:
            raise self.bad_priority
        self.pending_losses = [float(loss) for loss in self.pending_losses]
        losses = np.array(self.pending_losses, dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            step = self.gradient_steps - len(losses) + int(bad[0])
            raise self.diverged(f"loss {losses[bad[0]]} at", step)
        return losses

    def snapshot(self) -> tuple[Tensors, dict[str, Any]]:
        """Parameters and uniformly sampled batches of this moment, for the analyses."""
        count = self.spec.schedule.snapshot_batches * self.spec.hyper.batch_size
        rng = stream(self.seed, Purpose.SNAPSHOT, len(self.rows))
        with self._sampling():
            slots = self.ring.sample_indices(rng, count)
        sample = self.ring.gather(slots)
        tensors = name_leaves(
            {
                "params": self.learner.params,
                "target_params": self.learner.target_params,
                "batch": vars(sample),
            }
        )
        meta = {
            "iteration": len(self.rows) - 1,
            "frame": self.agent_steps * FRAMES_PER_STEP,
            "spec": self.spec.digest(),
            "seed": self.seed,
        }
        return tensors, meta

    def tensors(self) -> Tensors:
        """Everything that is an array in the checkpoint, the action log left out.

        Raises DivergedError if a loss, a priority, a parameter or the optimiser's state is not finite.
        """
        tensors = name_leaves(self.learner) | {"pending_losses": self.flush_losses()}
        for name, value in tensors.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise self.diverged(f"{name} is not finite after", self.gradient_steps - 1)
        tensors["episode_adds"] = np.array(self.episode_adds, dtype=np.int64)
        if self.priorities is not None:
            tensors |= {f"priorities/{name}": value for name, value in self.priorities.tensors().items()}
        return tensors

    def diverged(self, how: str, gradient_step: int) -> DivergedError:
        """The error that says which run diverged, and how: "loss nan at"."""
        problem = f"{how} gradient step {gradient_step}"
        return DivergedError(f"{self.name()}: diverged, {problem}", problem, gradient_step)

    def agent_step_of(self, gradient_step: int) -> int:
        """The agent step (0-based) in which a past gradient step (0-based) was taken.

        Once begun, training happens in every `update_period`-th agent step, `updates_per_period` times.
        """
        hyper = self.spec.hyper
        last = (self.agent_steps - 1) // hyper.update_period
        calls_since = (self.gradient_steps - 1) // hyper.updates_per_period
        calls_since -= gradient_step // hyper.updates_per_period
        return (last - calls_since) * hyper.update_period

    def meta(self) -> dict[str, Any]:
        """Everything that is not an array in the checkpoint."""
        evaluations = {"evaluations": [asdict(row) for row in self.evaluations]}
        return (evaluations if self.spec.schedule.evaluation else {}) | {
            "format": FORMAT,
            "moerl": moerl.__version__,
            "spec": json.loads(self.spec.canonical_json()),
            "seed": self.seed,
            "agent_steps": self.agent_steps,
            "gradient_steps": self.gradient_steps,
            "rows": [asdict(row) for row in self.rows],
            "iteration_start": self.iteration_start,
            "iteration_returns": self.iteration_returns,
            "episode_return": self.episode_return,
            "add_count": self.ring.add_count,
        }

    @classmethod
    def restore(
        cls,
        spec: TrainSpec,
        seed: int,
        agent: ValueAgent,
        tensors: Tensors,
        meta: dict[str, Any],
        log: ActionLog,
    ) -> Lane:
        """A lane from its checkpoint; its replay and running episode still have to be regenerated."""
        template = jax.eval_shape(agent.init, jax.random.key(seed))
        ring = FrameRing(spec.hyper.replay_capacity, spec.hyper.n_step, spec.hyper.gamma)
        priorities = _restore_priorities(spec, tensors)
        lane = cls(spec, seed, fill_leaves(template, tensors), ring, priorities, log)
        lane.episode_adds = [int(count) for count in tensors["episode_adds"]]
        lane.restored_adds = meta["add_count"]
        lane.agent_steps, lane.gradient_steps = meta["agent_steps"], meta["gradient_steps"]
        lane.rows = [IterationRow(**row) for row in meta["rows"]]
        lane.evaluations = [EvaluationRow(**row) for row in meta.get("evaluations", ())]
        lane.iteration_start = meta["iteration_start"]
        lane.iteration_returns = list(meta["iteration_returns"])
        lane.pending_losses = [float(loss) for loss in tensors["pending_losses"]]
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
