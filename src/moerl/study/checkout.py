"""Where a result comes from: the git commit of the running source, and the processor of this machine."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import TypedDict


class GitState(TypedDict):
    """The state of a checkout."""

    commit: str
    """Full hash."""
    changed: bool
    """Whether tracked files differ from that commit."""


@cache
def git_state(file: Path = Path(__file__)) -> GitState | None:
    """The checkout that `file` belongs to, as it was when first asked for by this process.

    None where git is not installed or no repository tracks the file: an installed package, say.
    """
    # An installation may lie inside of somebody's repository: only a tracked file belongs to it.
    if _git(file, "ls-files", "--error-unmatch", file.name) is None:
        return None
    commit, changes = _git(file, "rev-parse", "HEAD"), _git(file, "status", "--porcelain", "-uno")
    if commit is None or changes is None:
        return None
    return {"commit": commit, "changed": bool(changes)}


def _git(file: Path, *arguments: str) -> str | None:
    """What git says in the folder of `file`, stripped; None where it fails."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=file.parent,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def processor() -> str:
    """The model of this machine's processor; where Linux does not tell, its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
