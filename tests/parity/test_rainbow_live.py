"""Rainbow, DER and DrQ(ε) against the paper-era oracle, run here and now."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracle_process import run_oracle
from rainbow_parity import accepted_error, compute, inputs

pytestmark = [pytest.mark.oracle, pytest.mark.long]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every tensor the oracle computes."""
    directory = tmp_path_factory.mktemp("oracle")
    run_oracle("oracle_rainbow.py", "full", directory)
    return directory


@pytest.mark.parametrize(("agent", "case"), inputs.RUNS)
def test_every_tensor_agrees(agent: str, case: str, oracle: Path) -> None:
    theirs = np.load(oracle / f"{agent}-{case}.npz")
    ours = compute(agent, case)
    assert set(ours) == set(theirs.files)
    for key, value in ours.items():
        expected = theirs[key].astype(np.float64)
        error = float(np.linalg.norm(value - expected))
        accepted = accepted_error(agent, case, key, float(np.linalg.norm(expected)))
        assert error <= accepted, f"{key}: {error:.2e}, accepted {accepted:.2e}"
