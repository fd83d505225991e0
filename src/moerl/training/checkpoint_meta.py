"""What a checkpoint says besides its arrays: checked field by field before anything is built from it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

import moerl
from moerl.study.errors import one_line
from moerl.study.specs import NonNegativeInt
from moerl.training.progress import EvaluationRow, IterationRow
from moerl.training.statefile import StateError

FORMAT = 2
"""Version of the checkpoint layout."""


class CheckpointMeta(BaseModel):
    """The counters of a run, and under what they were made. `OnlineMeta` and `OfflineMeta` have the rest."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[2]
    moerl: str
    """Version that wrote it; others of the same format may go on."""
    ale_py: str | None = None
    """Version that played the games; None: not recorded, in checkpoints from before it was."""
    spec: dict[str, Any]
    seed: NonNegativeInt
    agent_steps: NonNegativeInt
    gradient_steps: NonNegativeInt
    rows: tuple[IterationRow, ...]
    iteration_start: NonNegativeInt
    """`steps` at the start of the running iteration."""

    @property
    def steps(self) -> int:
        """What iterations are made of: agent steps."""
        return self.agent_steps

    @model_validator(mode="after")
    def _consistent(self) -> CheckpointMeta:
        if [row.iteration for row in self.rows] != list(range(len(self.rows))):
            raise ValueError("its iterations are not numbered from 0")
        if self.iteration_start > self.steps:
            raise ValueError("its iteration begins after its last step")
        return self


class OnlineMeta(CheckpointMeta):
    """Of a run that plays."""

    iteration_returns: tuple[float, ...]
    episode_return: float
    add_count: NonNegativeInt
    """Transitions that were added to the replay, padding included."""
    evaluations: tuple[EvaluationRow, ...] | None = None


class OfflineMeta(CheckpointMeta):
    """Of a run that learns from a dataset."""

    data: str | None
    """Digest of its subset."""

    @property
    def steps(self) -> int:
        """What iterations are made of: gradient steps."""
        return self.gradient_steps


class OtherVersionError(StateError):
    """A sound checkpoint of this very run that another version wrote: going on would mix the two."""


def ale_version() -> str:
    """The version of ale-py, which brings the games."""
    return version("ale-py")


def read_checkpoint_meta(
    where: str, meta: dict[str, Any], spec: dict[str, Any], seed: int, offline: bool
) -> OnlineMeta | OfflineMeta:
    """Check the metadata of a checkpoint for a run of `spec` (as JSON values) and `seed`.

    Args:
        where: How to call the checkpoint in errors.
        meta: As it stands in the file.
        spec: Of the run that looks for a checkpoint.
        seed: Of that run.
        offline: Whether its agent is.

    Raises:
        OtherVersionError: It is of this run, but in another format or played by another ale-py.
        StateError: It is of another run, or not the metadata of a checkpoint.
    """
    if meta.get("spec") != spec or meta.get("seed") != seed:
        raise StateError(f"{where}: written under another spec or seed")
    if (found := meta.get("format")) != FORMAT:
        raise OtherVersionError(
            f"{where}: has checkpoint format {one_line(found)} (moerl {one_line(meta.get('moerl'))}); this "
            f"moerl, {moerl.__version__}, reads {FORMAT}"
        )
    try:
        read = (OfflineMeta if offline else OnlineMeta).model_validate(meta)
    except ValidationError as error:
        raise StateError(f"{where}: not the metadata of a checkpoint ({one_line(error)})") from error
    if read.ale_py not in (None, here := ale_version()):
        raise OtherVersionError(
            f"{where}: was played with ale-py {one_line(read.ale_py)}, here is {here}, whose games may play "
            f"differently: install ale-py=={one_line(read.ale_py)}"
        )
    return read
