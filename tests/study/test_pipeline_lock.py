"""Snakemake's locks are removed when nobody is left who took them, and only then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HOLD = """
import pathlib, sys, time
from moerl.study.pipeline_lock import clear_stale_locks
print(len(clear_stale_locks(pathlib.Path(sys.argv[1]))), flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ".snakemake" / "locks").mkdir(parents=True)
    return tmp_path / ".snakemake"


def pipeline(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """A process that looks for stale locks and stays alive, and how many it removed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def end(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_locks_are_stale_only_when_every_pipeline_is_gone(folder: Path) -> None:
    locks = [folder / "locks" / name for name in ("0.input.lock", "0.output.lock")]
    first, removed = pipeline(folder)
    assert removed == 0
    for lock in locks:
        lock.write_text("results/demo/manifest.json\n")
    second, removed = pipeline(folder)
    assert removed == 0
    end(first)
    third, removed = pipeline(folder)
    assert removed == 0, "the second is still alive"
    assert all(lock.exists() for lock in locks)
    end(second)
    end(third)
    fourth, removed = pipeline(folder)
    assert removed == 2
    assert not any(lock.exists() for lock in locks)
    end(fourth)


def test_a_stopped_pipeline_is_alive(folder: Path) -> None:
    first, _ = pipeline(folder)
    (folder / "locks" / "0.output.lock").write_text("results/demo/manifest.json\n")
    os.kill(first.pid, signal.SIGSTOP)
    second, removed = pipeline(folder)
    end(second)
    end(first)
    assert removed == 0
