"""Of several processes that want a run, one has it: also when a holder is killed, stopped, or wakes up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moerl.training.run_lock import LockLostError, hold

LEASE = 1.0
HOLD = """
import sys, time
from pathlib import Path
from moerl.training.run_lock import LockLostError, hold

folder, lease, diary = Path(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])

def note(what):
    with diary.open("a") as file:
        file.write(what + "\\n")

with hold(folder, lambda held: time.sleep(0.02), lease) as lock:
    note("has it")
    for _ in range(int(sys.argv[4])):
        time.sleep(0.1)
        try:
            lock.check()
        except LockLostError:
            note("lost it")
            sys.exit(1)
    note("lets go")
"""


Holder = Callable[[Path, Path, int], subprocess.Popen[bytes]]


@pytest.fixture
def holder() -> Iterator[Holder]:
    """Starts a process that holds the run for so many tenths of a second, and keeps a diary."""
    started: list[subprocess.Popen[bytes]] = []

    def start(folder: Path, diary: Path, tenths: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", HOLD, str(folder), str(LEASE), str(diary), str(tenths)]
        started.append(subprocess.Popen(command, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop it, and wait until all its threads have: the signal alone does not."""
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


def wait_for(diary: Path, what: str, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not (diary.exists() and what in diary.read_text()):
        assert time.monotonic() < deadline, f"no {what!r} in the diary"
        time.sleep(0.02)


def give_up(held: str) -> None:
    raise TimeoutError(held)


def test_a_holder_is_named_and_a_killed_one_lets_go(holder: Holder, tmp_path: Path) -> None:
    first = holder(tmp_path, tmp_path / "diary", 6000)
    wait_for(tmp_path / "diary", "has it")
    with (
        pytest.raises(TimeoutError, match=rf"process {first.pid} on \S+ trains this run"),
        hold(tmp_path, give_up),
    ):
        pytest.fail("two have the run")
    first.kill()
    first.wait()
    with hold(tmp_path, pytest.fail) as lock:
        lock.check()


def test_a_holder_that_works_is_waited_for_longer_than_a_lease(holder: Holder, tmp_path: Path) -> None:
    first = holder(tmp_path, tmp_path / "diary", 30)
    wait_for(tmp_path / "diary", "has it")
    waits: list[str] = []

    def wait(held: str) -> None:
        waits.append(held)
        time.sleep(0.05)

    with hold(tmp_path, wait, LEASE):
        assert (tmp_path / "diary").read_text() == "has it\nlets go\n"
    assert first.wait() == 0
    assert waits


def test_a_stopped_holder_is_named_replaced_after_a_lease_and_notices(holder: Holder, tmp_path: Path) -> None:
    first = holder(tmp_path, tmp_path / "diary", 6000)
    wait_for(tmp_path / "diary", "has it")
    stop(first)
    with pytest.raises(TimeoutError, match=rf"is stopped \(kill -CONT {first.pid} "), hold(tmp_path, give_up):
        pytest.fail("two have the run")
    began = time.monotonic()
    with hold(tmp_path, lambda held: time.sleep(0.05), LEASE) as lock:
        assert time.monotonic() - began >= LEASE
        os.kill(first.pid, signal.SIGCONT)
        assert first.wait(timeout=60) == 1
        lock.check()
    assert (tmp_path / "diary").read_text() == "has it\nlost it\n"


def test_of_many_that_wait_for_a_stopped_holder_one_at_a_time_has_the_run(
    holder: Holder, tmp_path: Path
) -> None:
    first = holder(tmp_path, tmp_path / "first", 6000)
    wait_for(tmp_path / "first", "has it")
    stop(first)
    others = [holder(tmp_path, tmp_path / "diary", 5) for _ in range(4)]
    assert [other.wait(timeout=120) for other in others] == [0, 0, 0, 0]
    assert (tmp_path / "diary").read_text() == "has it\nlets go\n" * 4


def test_a_lock_whose_folder_is_gone_is_lost(tmp_path: Path) -> None:
    with hold(tmp_path / "state", pytest.fail) as lock:
        (tmp_path / "state" / "lock").unlink()
        with pytest.raises(LockLostError, match="another process"):
            lock.check()
