"""MoE modules and load-balancing losses against the paper-era oracle, run now; see `test_network_live`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from moe_parity import check, check_balance, inputs
from network_parity import ROOT

pytestmark = [pytest.mark.oracle, pytest.mark.long]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Everything the oracle computes."""
    python = Path(os.environ.get("MOERL_ORACLE_PYTHON", ROOT / ".venv-oracle" / "bin" / "python"))
    if not python.exists():
        absent = f"no oracle environment at {python}; `make parity` makes one"
        if os.environ.get("MOERL_REQUIRE_ORACLE"):
            pytest.fail(absent)
        pytest.skip(absent)
    file = tmp_path_factory.mktemp("oracle") / "moe.npz"
    script = ROOT / "envs" / "oracle_moe.py"
    done = subprocess.run([python, script, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(np.load(file))


@pytest.mark.parametrize("case", inputs.CASES)
def test_outputs_routing_and_gradients_agree(case: str, oracle: dict[str, np.ndarray]) -> None:
    check(case, oracle)


def test_load_balancing_losses_agree(oracle: dict[str, np.ndarray]) -> None:
    check_balance(oracle)
