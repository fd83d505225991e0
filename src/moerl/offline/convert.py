"""From a finished run's action log to the published layout."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np

import moerl
from moerl.atari.lanes import Frame
from moerl.offline.layout import FACTS
from moerl.offline.recorded import RecordedRun
from moerl.offline.source import DatasetError
from moerl.offline.writer import CheckpointWriter
from moerl.study.errors import FailureError


def convert(run: RecordedRun, out: Path) -> None:
    """Write all transitions of `run` to the folder `out`: all of it, or nothing.

    As many checkpoints are replayed side by side as there are cores; an episode that lies in two of them is
    replayed twice.

    Raises DatasetError if `out` has something in it, or the log does not replay as it was recorded, and
    FailureError if the disk is full.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(f"{out}: exists and is not an empty folder; choose another name or delete it")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a conversion that was killed
    try:
        partial.mkdir(parents=True)
        cores = len(os.sched_getaffinity(0))
        for first in range(0, len(run), cores):
            _write(run, range(first, min(first + cores, len(run))), partial)
        (partial / FACTS).write_text(json.dumps(facts(run), indent=1) + "\n", encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise FailureError(f"{out}: cannot be written ({error.strerror}); nothing was left there") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def facts(run: RecordedRun) -> dict[str, str | int]:
    """What is known of a dataset's run, for `source.json`; nothing about the machine."""
    return {
        "agent": run.spec.agent,
        "variant": run.spec.variant,
        "game": run.spec.game,
        "seed": run.seed,
        "num_actions": run.spec.num_actions,
        "agent_steps": len(run.log.actions),
        "spec_digest": run.spec.digest(),
        "ale_py": run.ale_py,
        "moerl": moerl.__version__,
    }


def _write(run: RecordedRun, checkpoints: range, folder: Path) -> None:
    with ExitStack() as stack:
        writers = [
            stack.enter_context(CheckpointWriter(folder, number, run.checkpoint_length(number)))
            for number in checkpoints
        ]

        def emit(lane: int, _: int, frame: Frame | int, action: int, reward: int, terminal: bool) -> None:
            writers[lane].add(frame, action, float(np.clip(reward, -1, 1)), terminal)

        stretches = run.stretches()
        run.replay([stretches[number] for number in checkpoints], emit)
