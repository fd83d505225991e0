from __future__ import annotations

import os
from collections.abc import Iterator

import cluster
import pytest


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """A real one-node SLURM. Skips where none can be started; in CI that is a failure."""
    if (why := cluster.obstacle()) is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must run the SLURM tests: {why}")
        pytest.skip(why)
    cluster.start()
    yield
    cluster.stop()
