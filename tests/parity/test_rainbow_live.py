"""Rainbow, DER and DrQ(ε) against the paper-era oracle, run here and now; see `test_network_live`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from network_parity import ROOT
from rainbow_parity import accepted_error, compute, inputs

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
    script = ROOT / "envs" / "oracle_rainbow.py"
    done = subprocess.run([python, script, "full", directory], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
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
