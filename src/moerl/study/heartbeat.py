"""The heartbeat of a run in training: a small file in its state folder that says how far it is.

It is never part of results, so it may hold wall-clock, process and host.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from moerl.study.specs import Frozen, NonNegativeInt, PositiveInt

NAME = "progress.json"
SILENT_SECONDS = {"starting": 3600.0, "running": 300.0}
"""A process of another host counts as gone after this long without a word. Starting is slow: up to
a million agent steps are replayed before training goes on."""


class Beat(Frozen):
    """What training last said about one run."""

    phase: Literal["starting", "running", "saved", "failed"]
    """`saved`: left early, to be continued; `failed`: see `reason`."""
    frames: NonNegativeInt | None
    """Emulated frames so far, offline gradient steps; None while starting."""
    spec: str
    """Digest of what is trained."""
    target_frames: NonNegativeInt
    """Of the milestone, in the unit of `frames`, as the rate is."""
    frames_per_second: float | None
    """Of this run in this process."""
    time: float
    """Of writing, seconds since 1970."""
    pid: PositiveInt
    host: str
    reason: str = ""

    def alive(self, now: float) -> bool:
        """Whether the process that wrote this still trains the run.

        On its own host the process is looked up; from another one, silence counts as its end.
        """
        if self.phase not in SILENT_SECONDS:
            return False
        if self.host == os.uname().nodename:
            return _trains(self.pid)
        return now - self.time < SILENT_SECONDS[self.phase]


def read(state: Path) -> Beat | None:
    """The last heartbeat in a run's state folder; None if there is none that can be read."""
    try:
        return Beat.model_validate_json((state / NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def write(
    state: Path,
    spec: str,
    phase: Literal["starting", "running", "saved", "failed"],
    frames: int | None,
    target_frames: int,
    frames_per_second: float | None = None,
    reason: str = "",
) -> None:
    """Replace the heartbeat in a run's state folder, in one step; it need not survive a crash."""
    beat = Beat(
        phase=phase,
        spec=spec,
        frames=frames,
        target_frames=target_frames,
        frames_per_second=frames_per_second,
        time=round(time.time(), 1),
        pid=os.getpid(),
        host=os.uname().nodename,
        reason=reason,
    )
    state.mkdir(parents=True, exist_ok=True)
    temporary = state / f"{NAME}.tmp"
    temporary.write_text(beat.model_dump_json())
    temporary.replace(state / NAME)


def _trains(pid: int) -> bool:
    """Whether a process of this host is a Python that trains; process ids are used again."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc/self").exists() and _exists(pid)
    return b"train" in command


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
