"""The attempts at a run that had a deadline: one that gets nowhere is reported instead of repeated.

A job that is killed while it resumes (too little time, too little memory) would be retried, to the same end,
as often as the profile allows.
"""

from __future__ import annotations

import json
from pathlib import Path

from moerl.study.errors import FailureError
from moerl.study.json_file import parse_json
from moerl.training.statefile import write_atomic

NAME = "attempts.json"
MOST = 3
"""Attempts that may begin at the same place."""
SMALLEST_STEP = 1e-3
"""Part of the milestone that an attempt has to get further to have got anywhere."""


class NoProgressError(FailureError):
    """Attempts with as much time as this one have got nowhere."""


def begin_attempt(state: Path, name: str, progress: int, target: int, unit: str, seconds: float) -> None:
    """Put an attempt on record that begins at `progress` of `target` and has `seconds`.

    `state` is the folder of the run's in-progress state, `name` the run in words. Raises NoProgressError if
    three attempts before this one began where it does and had no less time.
    """
    before = [a for a in _read(state) if progress - a[0] < SMALLEST_STEP * target]
    if sum(given >= seconds for _, given in before) >= MOST:
        raise NoProgressError(
            f"{name}: {MOST} attempts of {seconds / 60:.0f} minutes or more began at {before[0][0]:,} "
            f"{unit} of {target:,}, and none got further: give it more time or memory (snakemake "
            f"--set-resources), or delete {state / NAME} if there was another reason"
        )
    write_atomic(state / NAME, json.dumps([*before, [progress, seconds]]).encode())


def forget_attempt(state: Path) -> None:
    """Take the last attempt off the record: it was ended from outside."""
    if before := _read(state)[:-1]:
        write_atomic(state / NAME, json.dumps(before).encode())
    else:
        (state / NAME).unlink(missing_ok=True)


def _read(state: Path) -> list[tuple[int, float]]:
    """Progress and seconds of the attempts on record; a record that cannot be read is none."""
    try:
        return parse_json(list[tuple[int, float]], (state / NAME).read_bytes())
    except (OSError, ValueError):
        return []
