"""How `moerl train` says how far it is: heartbeats, and a bar in a terminal or lines in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from moerl.study import heartbeat
from moerl.study.specs import FRAMES_PER_STEP

if TYPE_CHECKING:
    from moerl.training.lane import Lane

log = logging.getLogger(__name__)

FINISHED, UNFINISHED = "resume.safetensors", "current.safetensors"
"""Checkpoints in a run's state folder: once it is trained to the milestone, and before."""


class Heartbeat:
    """The heartbeats of the runs of one job, in the order of its seeds."""

    def __init__(self, states: Sequence[Path], target_frames: int, spec: str = "") -> None:
        """Nothing is written yet.

        Args:
            states: The runs' state folders for the milestone.
            target_frames: How long the milestone is.
            spec: Digest of what is trained.
        """
        self._spec = spec
        self._states, self._target = list(states), target_frames
        self._frames: list[int | None] = [None] * len(self._states)
        self._started = time.time()
        self._mine = [True] * len(self._states)
        self._bar: Any = None

    def starting(self) -> None:
        """Announce the job before it compiles and replays; a run that another process trains is left be."""
        for i, state in enumerate(self._states):
            known = heartbeat.read(state)
            self._mine[i] = known is None or not known.alive(self._started)
            if self._mine[i]:
                heartbeat.write(state, self._spec, "starting", None, self._target)

    def __call__(self, lanes: Sequence[Lane], frames_per_second: float) -> None:
        """Report the lanes of the job; the rate is this process's, over all of them."""
        self._frames = [lane.agent_steps * FRAMES_PER_STEP for lane in lanes]
        rate = round(frames_per_second / len(lanes), 1)
        for state, frames in zip(self._states, self._frames, strict=True):
            if self._finished(state):
                (state / heartbeat.NAME).unlink(missing_ok=True)
            else:
                heartbeat.write(state, self._spec, "running", frames, self._target, rate)
        if sys.stderr.isatty():
            self._show(sum(lane.agent_steps * FRAMES_PER_STEP for lane in lanes))
            return
        done = ", ".join(f"seed {lane.seed}: {lane.agent_steps * FRAMES_PER_STEP:,}" for lane in lanes)
        log.info("frames of %s — %s; %.0f frames/s in all", f"{self._target:,}", done, frames_per_second)

    def done(self) -> None:
        """Every run is published: nothing more to say."""
        self._close()
        for state in self._states:
            (state / heartbeat.NAME).unlink(missing_ok=True)

    def left(self, reason: str) -> None:
        """The job saved and left."""
        self._end("saved", reason)

    def failed(self, reason: str) -> None:
        """The job failed."""
        self._end("failed", reason)

    def _end(self, phase: Any, reason: str) -> None:
        self._close()
        for state, frames, mine in zip(self._states, self._frames, self._mine, strict=True):
            name = state.parent.name.replace("seed", "seed ")
            concerned = len(self._states) == 1 or f"{name}:" in reason or phase == "saved"
            kept = (state / FINISHED).is_file() and not (state / UNFINISHED).is_file()
            if self._finished(state) or (kept and not concerned):
                (state / heartbeat.NAME).unlink(missing_ok=True)
            elif mine:
                said = reason if concerned else f"its job ended: {reason}"
                heartbeat.write(state, self._spec, phase, frames, self._target, reason=said)

    def _finished(self, state: Path) -> bool:
        """Whether this job trained the run to its end."""
        path = state / FINISHED
        return path.is_file() and path.stat().st_mtime >= self._started - 1.0

    def _show(self, frames: int) -> None:
        if self._bar is None:
            total = self._target * len(self._states)
            self._bar = tqdm(total=total, initial=frames, unit=" frames", unit_scale=True, leave=False)
        self._bar.update(frames - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
