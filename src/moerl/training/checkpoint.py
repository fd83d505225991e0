"""Where a run's checkpoints lie, how the best of them is found, and how milestones are published.

In progress: `state/<study>/<agent>/<variant>/<game>/seed<k>/<milestone>/` keeps the last two
generations. Finished: the results folder of the milestone, with `resume.safetensors` to go on from.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

import moerl
from moerl.agents.value import ValueAgent
from moerl.atari.action_log import ActionLog
from moerl.study.errors import UserError
from moerl.study.specs import TrainSpec
from moerl.training.lane import FORMAT, Lane
from moerl.training.progress import TimingRow, losses_parquet, returns_parquet, timing_parquet
from moerl.training.statefile import StateError, Tensors, dump, load, store, write_atomic

log = logging.getLogger(__name__)

CURRENT, PREVIOUS = "current.safetensors", "previous.safetensors"
SNAPSHOTS = "snapshots"


@dataclass
class RunFolders:
    """The folders of one run at one milestone, and its wall-clock record."""

    state: Path
    """In-progress files of this milestone."""
    results: Path
    """Published files of this milestone."""
    timing: list[TimingRow] = field(default_factory=list)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run against a second trainer. Raises UserError if another one holds it."""
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{self.state}: another process is training this run") from error
            yield

    def save(self, lane: Lane) -> None:
        """Write a checkpoint; the one before it is kept as the previous generation."""
        tensors = lane.tensors() | {f"log/{k}": v for k, v in lane.log.tensors().items()}
        current = self.state / CURRENT
        data = dump(tensors, lane.meta())
        if current.exists():
            current.replace(self.state / PREVIOUS)
        write_atomic(current, data)
        timing = [[row.iteration, row.frame, row.wall_seconds] for row in self.timing]
        write_atomic(self.state / "timing.json", json.dumps(timing).encode())

    def save_snapshot(self, lane: Lane) -> None:
        """Write the snapshot of the iteration that just ended."""
        tensors, meta = lane.snapshot()
        store(self.state / SNAPSHOTS / f"iteration{len(lane.rows):04d}.safetensors", tensors, meta)

    def find(self, spec: TrainSpec, seed: int, iterations: int, agent: ValueAgent) -> Lane:
        """The most advanced lane that some checkpoint of this run gives, or a fresh one.

        Looks at this milestone's state and at every other milestone's state and results; a
        checkpoint beyond `iterations`, of another spec or damaged is passed over, and said so.
        """
        best: tuple[int, Tensors, dict[str, Any], Path] | None = None
        for path in self._candidates():
            try:
                tensors, meta = _read(path)
                _check(path, meta, spec, seed)
            except StateError as error:
                log.warning("passed over: %s", error)
                continue
            if len(meta["rows"]) > iterations or (len(meta["rows"]) == iterations and not _at_boundary(meta)):
                continue
            if best is None or meta["agent_steps"] > best[0]:
                best = meta["agent_steps"], tensors, meta, path
        if best is None:
            shutil.rmtree(self.state / SNAPSHOTS, ignore_errors=True)
            return Lane.fresh(spec, seed, agent)
        _, tensors, meta, path = best
        logged = ActionLog.from_tensors(
            {k.removeprefix("log/"): v for k, v in tensors.items() if k[:4] == "log/"}
        )
        lane = Lane.restore(spec, seed, agent, tensors, meta, logged)
        self._adopt(path.parent, lane)
        log.info("seed %d continues from agent step %d (%s)", seed, lane.agent_steps, path)
        return lane

    def _candidates(self) -> list[Path]:
        found = [self.state / CURRENT, self.state / PREVIOUS]
        found += sorted(self.state.parent.glob(f"*/{CURRENT}")) + sorted(
            self.state.parent.glob(f"*/{PREVIOUS}")
        )
        found += sorted(self.results.parent.glob("*/resume.safetensors"))
        return [path for path in dict.fromkeys(found) if path.is_file()]

    def _adopt(self, folder: Path, lane: Lane) -> None:
        """Take over the snapshots and timing of the folder that the lane was restored from."""
        self.timing = [row for row in _read_timing(folder) if row.iteration < len(lane.rows)]
        if folder == self.state:
            return
        shutil.rmtree(self.state / SNAPSHOTS, ignore_errors=True)
        wanted = {f"iteration{i:04d}.safetensors" for i in range(1, len(lane.rows) + 1)}
        for snapshot in sorted((folder / SNAPSHOTS).glob("*.safetensors")):
            target = self.state / SNAPSHOTS / snapshot.name
            if snapshot.name in wanted:
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(snapshot, target)

    def publish(self, lane: Lane) -> None:
        """Write the finished milestone's files. The state stays: a lost result is republished from it."""
        self.results.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.results / SNAPSHOTS, ignore_errors=True)
        logged_meta = {
            "spec": json.loads(lane.spec.canonical_json()),
            "seed": lane.seed,
            "ale_py": version("ale-py"),
        }
        files = {
            "returns.parquet": returns_parquet(lane.rows),
            "losses.parquet": losses_parquet(lane.rows),
            "actions.safetensors": dump(lane.log.tensors(), logged_meta),
            "resume.safetensors": dump(lane.tensors(), lane.meta()),
        }
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        if lane.spec.schedule.snapshot_every:
            (self.results / SNAPSHOTS).mkdir()
            for snapshot in sorted((self.state / SNAPSHOTS).glob("*.safetensors")):
                target = self.results / SNAPSHOTS / snapshot.name
                _link(snapshot, target)
                digests[f"{SNAPSHOTS}/{snapshot.name}"] = hashlib.sha256(target.read_bytes()).hexdigest()
        files["timing.parquet"] = timing_parquet(self.timing)
        files["manifest.json"] = json.dumps(_manifest(lane, self.timing, digests), indent=1).encode() + b"\n"
        for name, data in files.items():
            write_atomic(self.results / name, data)


def _read(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """A checkpoint; a published one has its action log in a file beside it."""
    tensors, meta = load(path)
    if path.name == "resume.safetensors":
        logged, _ = load(path.with_name("actions.safetensors"))
        tensors |= {f"log/{name}": value for name, value in logged.items()}
    return tensors, meta


def _check(path: Path, meta: dict[str, Any], spec: TrainSpec, seed: int) -> None:
    if meta.get("format") != FORMAT:
        raise StateError(f"{path}: checkpoint format {meta.get('format')!r}; this moerl reads {FORMAT}")
    if meta["spec"] != json.loads(spec.canonical_json()) or meta["seed"] != seed:
        raise StateError(f"{path}: written under another spec or seed")


def _at_boundary(meta: dict[str, Any]) -> bool:
    return bool(meta["agent_steps"] == meta["iteration_start"])


def _read_timing(folder: Path) -> list[TimingRow]:
    if (folder / "timing.json").is_file():
        return [TimingRow(*row) for row in json.loads((folder / "timing.json").read_text())]
    if (folder / "timing.parquet").is_file():
        import pyarrow.parquet as pq

        return [TimingRow(**row) for row in pq.read_table(folder / "timing.parquet").to_pylist()]
    return []


def _link(source: Path, target: Path) -> None:
    """Hard-link (a snapshot is immutable), or copy across file systems."""
    try:
        os.link(source, target)
    except OSError:
        write_atomic(target, source.read_bytes())


def _manifest(lane: Lane, timing: list[TimingRow], digests: dict[str, str]) -> dict[str, Any]:
    packages = ("moerl", "jax", "jaxlib", "flax", "optax", "ale-py", "numpy")
    return {
        "spec": json.loads(lane.spec.canonical_json()),
        "spec_digest": lane.spec.digest(),
        "seed": lane.seed,
        "agent_steps": lane.agent_steps,
        "gradient_steps": lane.gradient_steps,
        "wall_seconds": timing[-1].wall_seconds if timing else None,
        "sha256": digests,
        "versions": {name: moerl.__version__ if name == "moerl" else version(name) for name in packages},
        "python": platform.python_version(),
        "host": platform.node(),
        "device": jax.devices()[0].device_kind,
    }
