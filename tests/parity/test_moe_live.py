"""MoE modules and load-balancing losses against the paper-era oracle, run now."""

from __future__ import annotations

import numpy as np
import pytest
from moe_parity import check, check_balance, inputs
from oracle_process import run_oracle

pytestmark = [pytest.mark.oracle, pytest.mark.long]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Everything the oracle computes."""
    file = tmp_path_factory.mktemp("oracle") / "moe.npz"
    run_oracle("oracle_moe.py", file)
    return dict(np.load(file))


@pytest.mark.parametrize("case", inputs.CASES)
def test_outputs_routing_and_gradients_agree(case: str, oracle: dict[str, np.ndarray]) -> None:
    check(case, oracle)


def test_load_balancing_losses_agree(oracle: dict[str, np.ndarray]) -> None:
    check_balance(oracle)
