"""Locks that a killed Snakemake left behind, told from those of one at work.

Snakemake's own locks are plain files: they outlive the process, and the next pipeline refuses to start until
somebody says `snakemake --unlock`. The system's file locks end with their process, however it ends. So every
Snakemake of this project holds one, shared; who can have it exclusively is alone, and locks are stale then.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

_held: list[int] = []
"""Descriptors that must stay open as long as this process lives."""


def clear_stale_locks(snakemake_folder: Path) -> list[Path]:
    """Remove Snakemake's locks if no other Snakemake of this project is alive; returns those removed.

    Must be called before Snakemake takes locks of its own. From then on, others find this process alive. On
    a file system that knows no locks, or cannot be written, none is removed: it takes `snakemake --unlock`.
    """
    stale: list[Path] = []
    try:
        snakemake_folder.mkdir(exist_ok=True)
        file = os.open(snakemake_folder / "moerl.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        _held.append(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # another one is at work, or looks for stale locks right now
        else:
            stale = sorted((snakemake_folder / "locks").glob("*.lock"))
            for lock in stale:
                lock.unlink(missing_ok=True)
        fcntl.flock(file, fcntl.LOCK_SH)
    except OSError:
        return stale
    return stale
