"""Networks, losses, gradients and Adam steps against the paper-era oracle, run here and now."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from network_parity import accepted_error, adam, compute, inputs
from oracle_process import run_oracle

pytestmark = [pytest.mark.oracle, pytest.mark.long]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every tensor the oracle computes."""
    directory = tmp_path_factory.mktemp("oracle")
    run_oracle("oracle_networks.py", "full", directory)
    return directory


@pytest.mark.parametrize(("case", "loss"), inputs.RUNS)
def test_every_tensor_agrees(case: str, loss: str, oracle: Path) -> None:
    theirs = np.load(oracle / f"{case}-{loss}.npz")
    ours = compute(case, loss)
    assert set(ours) == set(theirs.files)
    for key, value in ours.items():
        expected = theirs[key].astype(np.float64)
        error = float(np.linalg.norm(value - expected))
        accepted = accepted_error(case, key, float(np.linalg.norm(expected)))
        assert error <= accepted, f"{key}: {error:.2e}, accepted {accepted:.2e}"


def test_adam_agrees(oracle: Path) -> None:
    theirs = np.load(oracle / "adam.npz")["parameters"]
    np.testing.assert_allclose(adam(), theirs, rtol=0, atol=2e-7 * float(np.abs(theirs).max()))
