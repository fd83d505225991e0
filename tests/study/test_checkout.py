"""The state of a checkout, in repositories made for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from moerl.study.checkout import git_state


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one tracked file and one that it ignores."""
    (tmp_path / "tracked.py").write_text("a = 1\n")
    (tmp_path / "installed.py").write_text("b = 1\n")
    git = ("git", "-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), ("add", "tracked.py"), ("commit", "-qm", "first")):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    return tmp_path


def test_a_tracked_file_has_a_commit_and_says_if_anything_changed(repository: Path) -> None:
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True, check=True
    )
    state = git_state(repository / "tracked.py")
    assert state == {"commit": head.stdout.strip(), "changed": False}
    (repository / "tracked.py").write_text("a = 2\n")
    assert git_state(repository / "tracked.py") is state  # as it was when the job began
    git_state.cache_clear()
    assert git_state(repository / "tracked.py") == {"commit": head.stdout.strip(), "changed": True}


def test_an_installed_file_inside_of_a_repository_is_not_its(repository: Path) -> None:
    assert git_state(repository / "installed.py") is None


def test_without_a_repository_there_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "file.py").touch()
    assert git_state(tmp_path / "file.py") is None
