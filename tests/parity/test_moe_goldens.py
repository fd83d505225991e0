"""MoE modules and load-balancing losses against recordings of the paper-era oracle."""

from __future__ import annotations

import numpy as np
import pytest
from moe_parity import check, check_balance, inputs
from network_parity import ROOT


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(ROOT / "tests" / "golden" / "moe.npz"))


@pytest.mark.parametrize("case", inputs.CASES)
def test_outputs_routing_and_gradients_agree(case: str, golden: dict[str, np.ndarray]) -> None:
    check(case, golden)


def test_load_balancing_losses_agree(golden: dict[str, np.ndarray]) -> None:
    check_balance(golden)


def test_the_cases_meet_what_they_are_for(golden: dict[str, np.ndarray]) -> None:
    """Tokens are dropped, experts tie, tokens are zero: otherwise agreement would prove less."""
    zero_rows = {case: (golden[f"{case}/values"] == 0).all(axis=-1) for case in inputs.CASES}
    for case in ("top1", "top1-ties", "top1-zeros", "top1-capacity"):
        assert zero_rows[case].any(), case
        assert not zero_rows[case].all(), case
    assert not zero_rows["top1-one-expert"].any()
    gates = golden["top1-ties/gates"]
    np.testing.assert_array_equal(gates[..., 1], gates[..., 2])
    assert (gates.argmax(axis=-1) == 1).any()
    np.testing.assert_array_equal(golden["top1-zeros/gates"][:, 1::3], 0.25)
    assert golden["top1-capacity/hidden"].shape[2] < golden["top1/hidden"].shape[2]
    assert golden["softmoe-capacity/hidden"].shape[2] > golden["softmoe/hidden"].shape[2]
    for noisy, plain in (("top1-noisy", "top1"), ("softmoe-noisy", "softmoe")):
        assert not np.allclose(golden[f"{noisy}/hidden"], golden[f"{plain}/hidden"])
    assert (golden["top1-router-noise/gates"] != golden["top1/gates"]).all()
