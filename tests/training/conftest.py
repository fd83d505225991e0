"""Fixtures of the training tests."""

import pytest
from tiny_runs import TINY


@pytest.fixture(scope="session", params=list(TINY))
def undisturbed(request, tmp_path_factory):
    """A tiny cell and what two seeds of it give when trained side by side without interruption."""
    cell = TINY[request.param]
    return cell, cell.train(tmp_path_factory.mktemp("undisturbed"), seeds=(0, 1))
