"""Where a run's checkpoints lie, how the best of them is found, and how milestones are published.

In progress: `state/<study>/<agent>/<variant>/<game>/seed<k>/<milestone>/` keeps the last two
generations. Finished: the results folder of the milestone, with `resume.safetensors` to go on from.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

import moerl
from moerl.agents.value import ValueAgent
from moerl.atari.action_log import ActionLog
from moerl.study.checkout import GitState, git_state, processor
from moerl.study.errors import one_line
from moerl.study.json_file import parse_json
from moerl.study.specs import FRAMES_PER_STEP, Frozen, NonNegativeFloat, NonNegativeInt, TrainSpec
from moerl.study.standing import Divergence, read_divergence
from moerl.training import attempts
from moerl.training.base_lane import BaseLane, DivergedError
from moerl.training.checkpoint_meta import (
    CheckpointMeta,
    OtherVersionError,
    ale_version,
    read_checkpoint_meta,
)
from moerl.training.lane import Lane
from moerl.training.offline_lane import OfflineLane
from moerl.training.progress import (
    TimingRow,
    evaluations_parquet,
    losses_parquet,
    returns_parquet,
    timing_parquet,
)
from moerl.training.run_lock import LEASE_SECONDS, RunLock, hold
from moerl.training.statefile import StateError, load, store, write_atomic

log = logging.getLogger(__name__)

CURRENT, PREVIOUS = "current.safetensors", "previous.safetensors"
RESUME, ACTIONS = "resume.safetensors", "actions.safetensors"
SNAPSHOTS = "snapshots"


@dataclass
class RunFolders:
    """The folders of one run at one milestone, and its wall-clock record."""

    state: Path
    """In-progress files of this milestone."""
    results: Path
    """Published files of this milestone."""
    timing: list[TimingRow] = field(default_factory=list)
    seconds: float = 0.0
    """Training seconds up to the checkpoint that was found, interruptions left out."""
    source: GitState | None = field(default_factory=git_state)
    """The checkout that trains, as it was when the job began: it may be another one by the time it ends."""
    _lock: RunLock | None = None
    _restored_from: Path | None = None
    _good: tuple[Path, int] | None = None
    """The newest checkpoint known to be good, and its agent steps (offline gradient steps)."""

    @property
    def divergence(self) -> Path:
        """Record of the run's divergence; shared by its milestones."""
        return self.state.parent / "diverged.json"

    @property
    def published_before(self) -> bool:
        """Whether the lane that was found had been published: it may be again, without its replay."""
        return self._restored_from == self.state / RESUME

    def stamp(self, lane: BaseLane, seconds: float) -> None:
        """Record the training seconds at the end of the iteration that `lane` just finished."""
        self.timing.append(TimingRow(lane.rows[-1].iteration, lane.rows[-1].frame, seconds))
        self.seconds = seconds

    @contextmanager
    def lock(self, wait: Callable[[str], None], lease_seconds: float = LEASE_SECONDS) -> Iterator[None]:
        """Hold the run against a second trainer; waits for one that holds it (`run_lock.hold`).

        What is written from then on is refused with LockLostError if another process has taken the run over.
        """
        with hold(self.state, wait, lease_seconds) as self._lock:
            yield

    def _check_lock(self) -> None:
        if self._lock is not None:
            self._lock.check()

    def save(self, lane: BaseLane, seconds: float) -> None:
        """Write a checkpoint; the one before it is kept as the previous generation.

        `seconds` is the training time so far.
        """
        self._check_lock()
        tensors = lane.tensors() | {f"log/{k}": v for k, v in lane.log.tensors().items()}
        current = self.state / CURRENT
        if current.exists():
            current.replace(self.state / PREVIOUS)
        store(current, tensors, lane.meta())
        self._good = current, lane.steps
        self._write_timing(seconds)

    def save_snapshot(self, lane: BaseLane) -> None:
        """Write the snapshot of the iteration that just ended."""
        self._check_lock()
        tensors, meta = lane.snapshot()
        store(self.state / SNAPSHOTS / f"iteration{len(lane.rows):04d}.safetensors", tensors, meta)

    def find(self, spec: TrainSpec, seed: int, iterations: int, agent: ValueAgent) -> BaseLane:
        """The most advanced lane that some checkpoint of this run gives, or a fresh one.

        Looks at this milestone's state and at every other milestone's state and results; a
        checkpoint beyond `iterations`, of another spec or damaged is passed over, and said so.

        Raises OtherVersionError for a sound checkpoint of this run that another ale-py played or another
        format keeps: neither is it gone on from, nor is the run silently begun again.
        """
        best: tuple[BaseLane, Path] | None = None
        for path in self._candidates():
            try:
                lane = restored(path, spec, seed, agent, iterations, best[0].steps if best else -1)
            except OtherVersionError as error:
                again = f"{path.parent} if it may be trained again from the start"
                raise OtherVersionError(f"{error}; or delete {again}") from error
            except StateError as error:
                log.warning("passed over: %s", error)
                continue
            if lane is not None:
                best = lane, path
        if best is None or best[1] != self.state / RESUME:
            (self.state / "manifest.json").unlink(missing_ok=True)  # what was finished here no longer is
        if best is None:
            shutil.rmtree(self.state / SNAPSHOTS, ignore_errors=True)
            return (OfflineLane if spec.hyper.offline else Lane).fresh(spec, seed, agent)
        lane, path = best
        self._restored_from, self._good = path, (path, lane.steps)
        self._adopt(path.parent, lane)
        log.info("seed %d continues at %d %s (%s)", seed, lane.progress, lane.unit, path)
        return lane

    def _candidates(self) -> list[Path]:
        found = [self.state / CURRENT, self.state / PREVIOUS, self.state / RESUME]
        for name in (CURRENT, PREVIOUS, RESUME):
            found += sorted(self.state.parent.glob(f"*/{name}"))
        found += sorted(self.results.parent.glob(f"*/{RESUME}"))
        return [path for path in dict.fromkeys(found) if path.is_file()]

    def _adopt(self, folder: Path, lane: BaseLane) -> None:
        """Take over the snapshots and timing of the folder that the lane was restored from."""
        seconds, known = _read_timing(folder)
        # What is not on record counts as no time: wall-clock is not worth a run.
        self.timing = [
            TimingRow(row.iteration, row.frame, known[i].wall_seconds if i < len(known) else 0.0)
            for i, row in enumerate(lane.rows)
        ]
        self.seconds = max([seconds, *(row.wall_seconds for row in self.timing)])
        if folder == self.state:
            return
        shutil.rmtree(self.state / SNAPSHOTS, ignore_errors=True)
        wanted = {f"iteration{i:04d}.safetensors" for i in range(1, len(lane.rows) + 1)}
        for snapshot in sorted((folder / SNAPSHOTS).glob("*.safetensors")):
            target = self.state / SNAPSHOTS / snapshot.name
            if snapshot.name in wanted:
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(snapshot, target)

    def publish(self, lane: BaseLane) -> None:
        """Write the finished milestone's files.

        All of them stay in the state as well, as hard links. If the results are lost (Snakemake deletes
        the outputs of a job that fails, also those of the seeds that did not, and of a job it repeats),
        they are published again without training, and partial figures find them.
        """
        self._check_lock()
        resume, actions = self.state / RESUME, self.state / ACTIONS
        if not self.published_before:
            store(actions, lane.log.tensors(), _log_meta(lane))
            store(resume, lane.tensors(), lane.meta())
            self._write_timing(self.timing[-1].wall_seconds)
            for leftover in (CURRENT, PREVIOUS, attempts.NAME):
                (self.state / leftover).unlink(missing_ok=True)
        shutil.rmtree(self.results / SNAPSHOTS, ignore_errors=True)
        self.results.mkdir(parents=True, exist_ok=True)
        sources = [actions, resume]
        if lane.spec.schedule.snapshot_every:
            (self.results / SNAPSHOTS).mkdir()
            sources += sorted((self.state / SNAPSHOTS).glob("*.safetensors"))
        for source in sources:
            _link(source, self.results / source.relative_to(self.state))
        tables = {"returns.parquet": returns_parquet(lane.rows), "losses.parquet": losses_parquet(lane.rows)}
        if lane.spec.schedule.evaluation:
            tables["evaluations.parquet"] = evaluations_parquet(lane.evaluations)
        for name, table in tables.items():
            write_atomic(self.results / name, table)
        names = [*tables, *(str(s.relative_to(self.state)) for s in sources)]
        digests = {name: _sha256(self.results / name) for name in names}
        write_atomic(self.results / "timing.parquet", timing_parquet(self.timing))
        manifest = json.dumps(_manifest(lane, self, digests), indent=1) + "\n"
        write_atomic(self.results / "manifest.json", manifest.encode())
        for name in (*tables, "timing.parquet", "manifest.json"):  # where the last is, the others are
            _link(self.results / name, self.state / name)

    def record_divergence(self, lane: BaseLane, error: DivergedError) -> DivergedError:
        """Leave a record of why `lane` ends here; returns `error` with all that is known, to be raised."""
        self._check_lock()
        step = lane.agent_step_of(error.gradient_step)
        good = self._good[1] if self._good else None
        record = Divergence(
            run=lane.name(),
            spec=lane.spec.digest(),
            problem=error.problem,
            gradient_step=error.gradient_step,
            agent_step=step,
            frame=None if step is None else step * FRAMES_PER_STEP,
            iteration=len(lane.rows),
            checkpoint=str(self._good[0]) if self._good else None,
            checkpoint_agent_step=None if step is None else good,
            checkpoint_gradient_step=good if step is None else None,
            versions=_versions(),
        )
        write_atomic(self.divergence, f"{record.model_dump_json(indent=1)}\n".encode())
        return self._diverged(record)

    def recorded_divergence(self, spec: TrainSpec, iterations: int) -> DivergedError | None:
        """What ended this run before, if training it to `iterations` would end there again.

        A record of another spec is removed.
        """
        record = read_divergence(self.divergence)
        if record is None:
            return None
        if record.spec != spec.digest():
            log.info("%s: removed, it is of another spec", self.divergence)
            self.divergence.unlink()
            return None
        return self._diverged(record) if record.concerns(spec.digest(), iterations) else None

    def _diverged(self, record: Divergence) -> DivergedError:
        message = record.describe(self.divergence, _versions())
        return DivergedError(message, record.problem, record.gradient_step)

    def _write_timing(self, seconds: float) -> None:
        rows = [[row.iteration, row.frame, row.wall_seconds] for row in self.timing]
        write_atomic(self.state / "timing.json", json.dumps({"seconds": seconds, "rows": rows}).encode())


def restored(
    path: Path, spec: TrainSpec, seed: int, agent: ValueAgent, iterations: int, steps: int
) -> BaseLane | None:
    """The lane that a checkpoint gives; None if it is beyond `iterations` or not further than `steps`.

    A published checkpoint has its action log in a file beside it. Raises StateError, which names the file.
    """
    tensors, said = load(path)
    if path.name == RESUME:
        logged, facts = load(path.with_name(ACTIONS))
        said.setdefault("ale_py", facts.get("ale_py"))  # checkpoints once did not say it, action logs did
    else:
        logged = {k.removeprefix("log/"): v for k, v in tensors.items() if k.startswith("log/")}
    wanted = json.loads(spec.canonical_json())
    meta = read_checkpoint_meta(str(path), said, wanted, seed, spec.hyper.offline)
    if len(meta.rows) > iterations or (len(meta.rows) == iterations and not _at_boundary(meta)):
        return None
    if meta.steps <= steps:
        return None
    try:
        kind = OfflineLane if spec.hyper.offline else Lane
        return kind.restore(spec, seed, agent, tensors, meta, ActionLog.from_tensors(logged))
    except (StateError, ValueError) as error:
        raise StateError(f"{path}: {one_line(error)}") from error


def _at_boundary(meta: CheckpointMeta) -> bool:
    return meta.steps == meta.iteration_start


class _Timing(Frozen):
    """What `timing.json` holds."""

    seconds: NonNegativeFloat
    rows: tuple[tuple[NonNegativeInt, NonNegativeInt, NonNegativeFloat], ...]


def _read_timing(folder: Path) -> tuple[float, list[TimingRow]]:
    """Training seconds of the checkpoint in a folder, and those at the ends of its iterations.

    A record that cannot be read is named, and none.
    """
    path = folder / "timing.json"
    try:
        if path.is_file():
            timing = parse_json(_Timing, path.read_bytes())
            return timing.seconds, [TimingRow(*row) for row in timing.rows]
        if (path := folder / "timing.parquet").is_file():
            table = pq.read_table(path).to_pylist()
            rows = TypeAdapter(list[TimingRow]).validate_python(table)
            return 0.0, rows
    except (OSError, ValueError, pa.ArrowException) as error:
        log.warning(
            "%s: cannot be read (%s): the times of the training before count as 0",
            path,
            one_line(error),
        )
    return 0.0, []


def _link(source: Path, target: Path) -> None:
    """Put an immutable file in a second place: hard-linked, or copied across file systems."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        write_atomic(target, source.read_bytes())
        return
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # renaming onto a link of the same file leaves both


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _log_meta(lane: BaseLane) -> dict[str, Any]:
    """What somebody needs to replay a published action log."""
    return {
        "spec": json.loads(lane.spec.canonical_json()),
        "seed": lane.seed,
        "ale_py": ale_version(),
    }


def _versions() -> dict[str, str]:
    """Versions of what decides a run's numbers."""
    packages = ("moerl", "jax", "jaxlib", "flax", "optax", "ale-py", "numpy")
    return {name: moerl.__version__ if name == "moerl" else version(name) for name in packages}


def _manifest(lane: BaseLane, folder: RunFolders, digests: dict[str, str]) -> dict[str, Any]:
    return {
        "spec": json.loads(lane.spec.canonical_json()),
        "spec_digest": lane.spec.digest(),
        "seed": lane.seed,
        "agent_steps": lane.agent_steps,
        "gradient_steps": lane.gradient_steps,
        "wall_seconds": folder.seconds,
        "sha256": digests,
        "versions": _versions(),
        "python": platform.python_version(),
        "host": platform.node(),
        "device": jax.devices()[0].device_kind,
        "processor": processor(),
        "git": folder.source,
    }
