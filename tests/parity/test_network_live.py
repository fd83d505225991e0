"""Networks, losses, gradients and Adam steps against the paper-era oracle, run here and now.

The oracle's environment (envs/oracle.txt) is expected in `.venv-oracle`, or wherever the variable
MOERL_ORACLE_PYTHON says its interpreter is. With MOERL_REQUIRE_ORACLE set its absence is a failure.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from network_parity import ROOT, accepted_error, adam, compute, inputs

pytestmark = [pytest.mark.oracle, pytest.mark.long]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every tensor the oracle computes."""
    python = Path(os.environ.get("MOERL_ORACLE_PYTHON", ROOT / ".venv-oracle" / "bin" / "python"))
    if not python.exists():
        absent = f"no oracle environment at {python}; `make parity` makes one"
        if os.environ.get("MOERL_REQUIRE_ORACLE"):
            pytest.fail(absent)
        pytest.skip(absent)
    directory = tmp_path_factory.mktemp("oracle")
    script = ROOT / "envs" / "oracle_networks.py"
    done = subprocess.run([python, script, "full", directory], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
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
