"""How every run of a study stands: done, running, failed, paused, stale or missing, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from moerl.study import heartbeat
from moerl.study.expansion import Cell, Run, Study
from moerl.study.heartbeat import Beat
from moerl.study.paths import divergence_file, state_dir, train_log
from moerl.study.standing import Divergence, Standing

State = Literal["done", "running", "failed", "paused", "stale", "missing"]
STATES: tuple[State, ...] = ("done", "running", "failed", "paused", "stale", "missing")

KEPT = "trained, but its results are not there: its job publishes them again without training"


@dataclass(frozen=True)
class Folders:
    """Where a study's files are."""

    results: Path
    state: Path
    logs: Path


@dataclass(frozen=True)
class RunStatus:
    """How one run stands."""

    run: Run
    """As far as some figure of the study needs it."""
    state: State
    frames: int
    """Emulated frames trained, as far as is known; of an offline run gradient steps, here and below."""
    target_frames: int
    frames_per_second: float | None = None
    reason: str = ""
    log: Path | None = None
    """Log of the job that trains it, where there is one."""

    @property
    def share(self) -> float:
        """How much of the run is trained, 0 to 1."""
        return min(1.0, self.frames / self.target_frames)

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until the run is trained, at its present rate."""
        if not self.frames_per_second:
            return None
        return (self.target_frames - self.frames) / self.frames_per_second


def study_runs(study: Study, figures: Sequence[str] = ()) -> list[Run]:
    """The runs of some figures (default: all of the study) and those that these learn from, each once, as far
    as some figure needs it.

    Raises UserError on a figure that the study does not draw.
    """
    longest: dict[tuple[Cell, int], Run] = {}
    for name in figures or study.usual_figures:
        shown = study.figure_runs(study.figure(name))
        for run in [*study.collected(shown), *shown]:
            known = longest.setdefault((run.cell, run.seed), run)
            if study.lengths[run.milestone] > study.lengths[known.milestone]:
                longest[run.cell, run.seed] = run
    return list(longest.values())


def run_statuses(study: Study, folders: Folders, now: float, figures: Sequence[str] = ()) -> list[RunStatus]:
    """How every run stands at the time `now` (seconds since 1970), in the order of the figures."""
    standing = Standing(study, folders.results, folders.state)
    return [_run_status(study, folders, standing, run, now) for run in study_runs(study, figures)]


def _run_status(study: Study, folders: Folders, standing: Standing, run: Run, now: float) -> RunStatus:
    """How a run stands.

    A record of divergence decides before any heartbeat: what is on record is not trained. Milestones
    are looked at from the longest down: the first that has something to say decides.
    """
    target = study.lengths[run.milestone]
    if standing.published(run):
        return RunStatus(run, "done", target, target)
    if (record := standing.divergence(run)) is not None:
        return _diverged(study, folders, run, record)
    trained = 0
    for label, frames in reversed(study.course(run.milestone).items()):
        at = replace(run, milestone=label)
        folder = state_dir(folders.state, at) / label
        beat = heartbeat.read(folder)
        found = RunStatus(run, "missing", 0, target, log=_log(study, folders, at))
        current = beat is not None and beat.spec == standing.digest(run.cell)
        if beat is not None and beat.alive(now):
            frames, rate = beat.frames or 0, beat.frames_per_second
            reason = "starting: compiling, replaying" if beat.phase == "starting" else ""
            other = "" if current else "under a spec that the study no longer has"
            return replace(
                found, state="running", frames=frames, frames_per_second=rate, reason=other or reason
            )
        if standing.in_results(at):
            why = standing.outdated(at)
            if why is not None:
                return replace(found, state="stale", frames=frames, reason=why)
            trained = max(trained, frames)
            break
        if beat is not None and current:
            return _stopped(found, beat, now)
        if (folder / "resume.safetensors").is_file():
            return replace(found, state="paused", frames=frames, reason=KEPT)
        if (folder / "current.safetensors").is_file():
            return replace(found, state="paused", reason="stopped after a checkpoint")
    return RunStatus(run, "missing", trained, target)


def _diverged(study: Study, folders: Folders, run: Run, record: Divergence) -> RunStatus:
    """A run whose training is on record as leading nowhere, with the log of the job that says so."""
    course = study.course(run.milestone)
    ends = next(label for label in course if record.iteration < study.iterations(label))
    reached = record.gradient_step if record.frame is None else record.frame
    reason = record.describe(divergence_file(folders.state, run), {})
    log = _log(study, folders, replace(run, milestone=ends))
    return RunStatus(run, "failed", reached, study.lengths[run.milestone], reason=reason, log=log)


def _stopped(found: RunStatus, beat: Beat, now: float) -> RunStatus:
    """A run whose last heartbeat is of a process that is gone."""
    frames = beat.frames or 0
    if beat.phase == "saved":
        return replace(found, state="paused", frames=frames, reason=beat.reason)
    if beat.phase == "failed":
        return replace(found, state="failed", frames=frames, reason=beat.reason)
    silent = f"{(now - beat.time) / 60:.0f} min" if now - beat.time >= 120 else f"{now - beat.time:.0f} s"
    where = f"process {beat.pid} on {beat.host} is gone, last heard of {silent} ago"
    reason = f"killed: {where}; it goes on from its last checkpoint when it is started again"
    return replace(found, state="failed", frames=frames, reason=reason)


def _log(study: Study, folders: Folders, run: Run) -> Path | None:
    pack = next((pack for pack in study.packs if run.seed in pack), (run.seed,))
    path = train_log(folders.logs, run, pack)
    return path if path.is_file() else None
