"""What every run in training has, online or offline: a learner, its progress, and their checkpoint."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

import moerl
from moerl.agents.value import Learner, ValueAgent
from moerl.atari.action_log import ActionLog
from moerl.replay.ring import Sample, SamplingError
from moerl.study.errors import FailureError
from moerl.study.specs import FRAMES_PER_STEP, TrainSpec
from moerl.training.checkpoint_meta import FORMAT, CheckpointMeta, ale_version
from moerl.training.evaluation import Played
from moerl.training.progress import EvaluationRow, IterationRow
from moerl.training.rng import Purpose, device_key, stream
from moerl.training.statefile import StateError, Tensors


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


def column(tensors: Tensors, name: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """One tensor of a checkpoint. Raises StateError unless it has one axis and this type."""
    value = tensors.get(name)
    if value is None or value.dtype != dtype or value.ndim != 1:
        raise StateError(f"tensor {name!r} is missing or has another shape or type")
    return value


@dataclass
class BaseLane(ABC):
    """The state of one run between two rounds of its training loop."""

    spec: TrainSpec
    seed: int
    learner: Learner
    log: ActionLog = field(default_factory=ActionLog, kw_only=True)
    """Every action that makes the run's returns."""
    agent_steps: int = field(default=0, kw_only=True)
    """Of training: none offline."""
    gradient_steps: int = field(default=0, kw_only=True)
    rows: list[IterationRow] = field(default_factory=list, kw_only=True)
    evaluations: list[EvaluationRow] = field(default_factory=list, kw_only=True)
    iteration_start: int = field(default=0, kw_only=True)
    """`steps` at the start of the running iteration."""
    pending_losses: list[jax.Array | float] = field(default_factory=list, kw_only=True)
    """Losses of the running iteration; on the device until somebody needs them."""

    unit: ClassVar[str]
    """What `progress` counts."""

    def __post_init__(self) -> None:
        self.update_key = device_key(self.seed, Purpose.UPDATE)
        self.act_key = device_key(self.seed, Purpose.ACT)

    @classmethod
    @abstractmethod
    def fresh(cls, spec: TrainSpec, seed: int, agent: ValueAgent) -> Self:
        """A run that has not taken a step."""

    @classmethod
    @abstractmethod
    def restore(
        cls,
        spec: TrainSpec,
        seed: int,
        agent: ValueAgent,
        tensors: Tensors,
        meta: CheckpointMeta,
        log: ActionLog,
    ) -> Self:
        """A lane from its checkpoint; what its batches are drawn from still has to be made again.

        Raises StateError or ValueError if tensors, metadata and log do not fit the spec and one another.
        """

    @property
    @abstractmethod
    def steps(self) -> int:
        """The steps that iterations are made of: agent steps online, gradient steps offline."""

    @property
    @abstractmethod
    def progress(self) -> int:
        """How far training is, in `unit`."""

    @property
    def progress_per_iteration(self) -> int:
        """The least that an iteration adds to `progress`."""
        return self.spec.schedule.iteration_steps

    @property
    def frame(self) -> int:
        """Frames emulated in training."""
        return self.agent_steps * FRAMES_PER_STEP

    @property
    @abstractmethod
    def iteration_over(self) -> bool:
        """Whether the running iteration has had all its training."""

    @abstractmethod
    def finish_iteration(self, played: Sequence[Played] = ()) -> None:
        """Add the rows of the iteration that is over. Raises DivergedError.

        `played`: the games of its evaluation, if it has one.
        """

    @abstractmethod
    def draw(self, rng: np.random.Generator, count: int) -> Sample:
        """`count` transitions, uniformly, of all that the run may learn from."""

    @abstractmethod
    def agent_step_of(self, gradient_step: int) -> int | None:
        """The agent step (0-based) in which a past gradient step (0-based) was taken; None offline."""

    def add_row(self, returns: Sequence[float]) -> None:
        """Add the row of an iteration whose episodes gave `returns`, and begin the next one.

        Raises DivergedError.
        """
        losses = self.flush_losses()
        self.rows.append(
            IterationRow(
                iteration=len(self.rows),
                frame=self.frame,
                gradient_steps=self.gradient_steps,
                episodes=len(returns),
                mean_return=float(np.mean(returns)) if returns else None,
                mean_loss=float(np.mean(losses)) if len(losses) else None,
            )
        )
        self.iteration_start = self.steps
        self.pending_losses = []

    def name(self) -> str:
        """The run in words."""
        return f"{self.spec.agent} {self.spec.variant} {self.spec.game} seed {self.seed}"

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Turn a replay memory that cannot be sampled from into a failure of this run, in one line."""
        try:
            yield
        except SamplingError as error:
            raise FailureError(f"{self.name()}: gradient step {self.gradient_steps}: {error}") from error

    def flush_losses(self) -> npt.NDArray[np.float64]:
        """Fetch the running iteration's losses from the device, `[gradient steps]`.

        Raises DivergedError if one of them is not finite, so that no bad state is ever saved.
        """
        self.pending_losses = [float(loss) for loss in self.pending_losses]
        losses = np.array(self.pending_losses, dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            step = self.gradient_steps - len(losses) + int(bad[0])
            raise self.diverged(f"loss {losses[bad[0]]} at", step)
        return losses

    def diverged(self, how: str, gradient_step: int) -> DivergedError:
        """The error that says which run diverged, and how: "loss nan at"."""
        problem = f"{how} gradient step {gradient_step}"
        return DivergedError(f"{self.name()}: diverged, {problem}", problem, gradient_step)

    def snapshot(self) -> tuple[Tensors, dict[str, Any]]:
        """Parameters and uniformly sampled batches of this moment, for the analyses."""
        count = self.spec.schedule.snapshot_batches * self.spec.hyper.batch_size
        sample = self.draw(stream(self.seed, Purpose.SNAPSHOT, len(self.rows)), count)
        tensors = name_leaves(
            {
                "params": self.learner.params,
                "target_params": self.learner.target_params,
                "batch": vars(sample),
            }
        )
        meta = {
            "iteration": len(self.rows) - 1,
            "frame": self.frame,
            "spec": self.spec.digest(),
            "seed": self.seed,
        }
        return tensors, meta

    def tensors(self) -> Tensors:
        """Everything that is an array in the checkpoint, the action log left out.

        Raises DivergedError if a loss, a parameter or the optimiser's state is not finite.
        """
        tensors = name_leaves(self.learner) | {"pending_losses": self.flush_losses()}
        for name, value in tensors.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise self.diverged(f"{name} is not finite after", self.gradient_steps - 1)
        return tensors

    def meta(self) -> dict[str, Any]:
        """Everything that is not an array in the checkpoint."""
        return {
            "format": FORMAT,
            "moerl": moerl.__version__,
            "ale_py": ale_version(),
            "spec": json.loads(self.spec.canonical_json()),
            "seed": self.seed,
            "agent_steps": self.agent_steps,
            "gradient_steps": self.gradient_steps,
            "rows": [asdict(row) for row in self.rows],
            "iteration_start": self.iteration_start,
        }

    def take_over(self, tensors: Tensors, meta: CheckpointMeta) -> None:
        """Set what `tensors` and `meta` of a checkpoint say of every kind of run, but for the learner.

        Raises ValueError if the log has actions that the game does not have, and StateError.
        """
        self.log.check_actions(self.spec.num_actions)
        self.agent_steps, self.gradient_steps = meta.agent_steps, meta.gradient_steps
        self.rows = list(meta.rows)
        self.iteration_start = meta.iteration_start
        self.pending_losses = [float(loss) for loss in column(tensors, "pending_losses", np.float64)]


def restored_learner(agent: ValueAgent, seed: int, tensors: Tensors) -> Learner:
    """The learner of a checkpoint. Raises StateError if it does not fit the agent's network."""
    learner: Learner = fill_leaves(jax.eval_shape(agent.init, jax.random.key(seed)), tensors)
    return learner
