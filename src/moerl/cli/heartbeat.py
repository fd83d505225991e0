"""How `moerl train` says how far it is: heartbeats, and a bar in a terminal or lines in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from moerl.study import heartbeat
from moerl.study.standing import finished_spec

if TYPE_CHECKING:
    from moerl.training.base_lane import BaseLane

log = logging.getLogger(__name__)


class Heartbeat:
    """The heartbeats of the runs of one job.

    A run that is published, or whose divergence is on record, has none: the files say how it stands.
    """

    def __init__(self, states: Mapping[int, Path], target: int, spec: str = "", unit: str = "frames") -> None:
        """Nothing is written yet.

        Args:
            states: Seed → the run's state folder for the milestone.
            target: How long the milestone is.
            spec: Digest of what is trained.
            unit: What is counted: frames, or gradient steps.
        """
        self._states, self._target, self._spec, self._unit = dict(states), target, spec, unit
        self._frames: dict[int, int | None] = dict.fromkeys(self._states)
        """Seeds in training, as far as is known → their frames."""
        self._bar: Any = None

    def starting(self) -> None:
        """Announce the job before it compiles and replays; a run that another process trains is left be."""
        now = time.time()
        for seed, state in self._states.items():
            known = heartbeat.read(state)
            if known is not None and known.alive(now):
                del self._frames[seed]
            else:
                heartbeat.write(state, self._spec, "starting", None, self._target)

    def __call__(self, lanes: Sequence[BaseLane], rate: float) -> None:
        """Report the lanes still in training; the rate is this process's, over all of them."""
        self._frames = {lane.seed: lane.progress for lane in lanes}
        each = round(rate / len(lanes), 1)
        for seed, state in self._states.items():
            if seed in self._frames:
                heartbeat.write(state, self._spec, "running", self._frames[seed], self._target, each)
            else:
                (state / heartbeat.NAME).unlink(missing_ok=True)
        if sys.stderr.isatty():
            self._show()
            return
        done = ", ".join(f"seed {lane.seed}: {lane.progress:,}" for lane in lanes)
        target = f"{self._unit} of {self._target:,}"
        log.info("%s — %s; %.0f %s/s in all", target, done, rate, self._unit)

    def done(self) -> None:
        """Every run is published, or its divergence on record: nothing more to say."""
        self._close()
        for state in self._states.values():
            (state / heartbeat.NAME).unlink(missing_ok=True)

    def left(self, reason: str) -> None:
        """The job saved and left."""
        self._end("saved", reason)

    def failed(self, reason: str) -> None:
        """The job failed."""
        self._end("failed", reason)

    def _end(self, phase: Literal["saved", "failed"], reason: str) -> None:
        """Leave the reason with every run in training, but for those finished since the last report."""
        self._close()
        for seed, frames in self._frames.items():
            state = self._states[seed]
            own = phase == "failed" and (len(self._states) == 1 or f"seed {seed}:" in reason)
            if finished_spec(state) == self._spec and not own:
                (state / heartbeat.NAME).unlink(missing_ok=True)
                continue
            said = reason if own or phase == "saved" else f"its job ended: {reason}"
            heartbeat.write(state, self._spec, phase, frames, self._target, reason=said)

    def _show(self) -> None:
        """Bring the bar up to date: a run that is no longer in training has nothing left to do."""
        gone = len(self._states) - len(self._frames)
        frames = self._target * gone + sum(known or 0 for known in self._frames.values())
        if self._bar is None:
            total = self._target * len(self._states)
            self._bar = tqdm(total=total, initial=frames, unit=f" {self._unit}", unit_scale=True, leave=False)
        self._bar.update(frames - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
