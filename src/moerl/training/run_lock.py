"""The lock of a run in training: two workers never train the same run, and a dead one blocks nobody.

A system lock (`flock`) ends with its process. Two holders remain that never let go: a process that was
stopped, and, on some network file systems, one of a host that died. So a holder also renews its lock's time
stamp, and one that is seen silent for a whole lease is replaced: its lock file is unlinked, a new one made.
Who holds a file that is no longer there has lost the run, and finds out before it writes anything
(`RunLock.check`).
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from moerl.study.errors import FailureError, one_line
from moerl.study.json_file import parse_json

NAME = "lock"
LEASE_SECONDS = 300.0
RENEWALS_PER_LEASE = 10


class LockLostError(FailureError):
    """Another process took this run over while this one was silent."""


@dataclass(frozen=True)
class _Holder:
    host: str
    pid: int


class RunLock:
    """A held lock. Its file lies in the folder of the run's in-progress state."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    def check(self) -> None:
        """Raises LockLostError if the lock is no longer this process's: nothing may be written then."""
        if not _is_file(self._path, self._descriptor):
            raise LockLostError(
                f"{self._path.parent}: another process trains this run now, since this one had been silent"
            )

    def renew(self) -> None:
        """Give a sign of life."""
        with suppress(OSError):  # the disk may be full: a sign of life is not worth a run
            os.utime(self._descriptor)

    def release(self) -> None:
        """Let go; the file stays."""
        os.close(self._descriptor)


@contextmanager
def hold(
    folder: Path, wait: Callable[[str], None], lease_seconds: float = LEASE_SECONDS
) -> Iterator[RunLock]:
    """Hold the lock of the run whose state is in `folder`, waiting for whoever holds it.

    `wait` is called while another process holds it, with who that is; it returns when it is time to look
    again, or raises to give up. The wait ends when the holder does, or has shown no sign of life for
    `lease_seconds` of waiting: no clock is compared with another host's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    seen, since = _sign_of_life(path), time.monotonic()
    while (lock := _try(path)) is None:
        wait(f"{folder}: {_holder(path)} trains this run")
        if (now := _sign_of_life(path)) != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > lease_seconds:
            _replace(path, seen)
    over = threading.Event()
    renewing = threading.Thread(
        target=_renew_until, args=(lock, over, lease_seconds / RENEWALS_PER_LEASE), daemon=True
    )
    renewing.start()
    try:
        yield lock
    finally:
        over.set()
        renewing.join()
        lock.release()


def _renew_until(lock: RunLock, over: threading.Event, seconds: float) -> None:
    while not over.wait(seconds):
        lock.renew()


def _try(path: Path) -> RunLock | None:
    """The lock, if nobody holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    if not _is_file(path, descriptor):  # it was replaced between the two calls
        os.close(descriptor)
        return None
    with suppress(OSError):  # who holds it is for people to read; the disk may be full
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(asdict(_Holder(os.uname().nodename, os.getpid()))).encode())
    return RunLock(path, descriptor)


def _replace(path: Path, seen: tuple[int, int] | None) -> None:
    """Unlink the lock of a silent holder. Of several that want to, one does: the others see a new file."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if seen is not None and _sign_of_life(path) == seen:
            path.unlink()
            path.touch()
    finally:
        os.close(folder)


def _sign_of_life(path: Path) -> tuple[int, int] | None:
    """What changes whenever the holder gives a sign of life, or is another."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _holder(path: Path) -> str:
    """Who holds the lock, in words."""
    try:
        holder = parse_json(_Holder, path.read_bytes())
    except (OSError, ValueError):
        return "another process"
    host, pid = one_line(holder.host), holder.pid
    stopped = ""
    if host == os.uname().nodename:
        with suppress(OSError, IndexError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            stopped = f", which is stopped (kill -CONT {pid} or kill -KILL {pid})," if state == "T" else ""
    return f"process {pid} on {host}{stopped}"


def _is_file(path: Path, descriptor: int) -> bool:
    """Whether an open file is the one at `path`."""
    try:
        at_path, held = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (at_path.st_dev, at_path.st_ino) == (held.st_dev, held.st_ino)
