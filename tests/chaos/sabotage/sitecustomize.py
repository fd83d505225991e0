"""Faults at chosen file operations of chosen `moerl` commands; Python imports this in every process.

`MOERL_SABOTAGE` is a JSON object: `command` (sub-command of moerl), `operation` (which of its operations
that change files below the working folder, from 1), `fault` (a signal's or an errno's name, or "count") and
`record` (a file that gets a line for every fault, before it happens; with "count", one with the command and
its number of operations). Every Python of a sabotaged pipeline starts with this: it imports little.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import signal
import sys

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")


def _command() -> str:
    """The sub-command, if this process is a moerl."""
    words = sys.orig_argv[1:3]
    return words[1] if len(words) == 2 and os.path.basename(words[0]) == "moerl" else ""


def _changes_files(event: str, arguments: tuple[object, ...], below: str) -> bool:
    """Whether an audited event changes a file of the project."""
    if event == "open":
        path, _, flags = arguments
        if not isinstance(flags, int) or not flags & WRITES:
            return False
    elif event in CHANGES:
        path = arguments[0]
    else:
        return False
    if not isinstance(path, str | bytes | os.PathLike):
        return False
    full = os.path.abspath(os.fsdecode(path))
    return full.startswith((os.path.join(below, "results"), os.path.join(below, "state")))


def _sabotage(command: str, operation: int, fault: str, record: str) -> None:
    below, seen, busy = os.getcwd(), 0, False
    note = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen, busy
        if busy or not _changes_files(event, arguments, below):
            return
        busy = True
        seen += 1
        if seen == operation:
            os.write(note, f"{fault} in {command} at operation {seen}: {event} {arguments[0]!r}\n".encode())
            if fault in signal.Signals.__members__:
                os.kill(os.getpid(), signal.Signals[fault])
            else:
                number = getattr(errno, fault)
                busy = False
                raise OSError(number, os.strerror(number), str(arguments[0]))
        busy = False

    if fault == "count":
        atexit.register(lambda: os.write(note, f"{command} {seen}\n".encode()))
    sys.addaudithook(audit)


if _plan := os.environ.get("MOERL_SABOTAGE"):
    _wanted = json.loads(_plan)
    if _command() and _wanted["command"] in ("*", _command()):
        _sabotage(_command(), _wanted["operation"], _wanted["fault"], _wanted["record"])
