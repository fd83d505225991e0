"""What several of these tests start from: real files, made once."""

import sys
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("training", "offline")]

import small_runs


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A run that was saved twice; tests take copies of it."""
    return small_runs.save_twice(tmp_path_factory.mktemp("saved"))
