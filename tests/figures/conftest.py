from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from synthetic_study import load, write_runs

from moerl.study.expansion import Study


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Study]:
    """Make a synthetic study with other settings than the usual."""
    return partial(load, tmp_path)


@pytest.fixture
def study(make_study: Callable[..., Study]) -> Study:
    """The usual synthetic study: three games (one without a human score), three seeds."""
    return make_study()


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs of both figures of the usual study; nobody writes here after this."""
    folder = tmp_path_factory.mktemp("written")
    usual = load(folder)
    for name in usual.figures:
        write_runs(usual, name, folder / "results")
    return folder / "results"


@pytest.fixture
def results(written: Path, tmp_path: Path) -> Path:
    """A results folder of one's own with all runs of both figures of the usual study."""
    return Path(shutil.copytree(written, tmp_path / "results"))
