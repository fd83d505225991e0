"""Networks, losses, gradients and Adam steps against recordings of the paper-era oracle."""

from __future__ import annotations

import numpy as np
import pytest
from network_parity import ROOT, accepted_error, adam, compute, inputs

GOLDENS = ROOT / "tests" / "golden" / "networks"


@pytest.mark.parametrize(("case", "loss"), inputs.RUNS)
def test_q_values_loss_gradients_and_step_agree(case: str, loss: str) -> None:
    golden = np.load(GOLDENS / f"{case}-{loss}.npz")
    found = compute(case, loss)
    assert set(found) == set(golden.files)
    for key, value in found.items():
        if "/" in key:
            ours = inputs.summary(f"{case}/{loss}/{key}", value)
            theirs = golden[key].astype(np.float64)
            accepted = accepted_error(case, key, theirs[0])
            sample = slice(1, 1 + inputs.SAMPLE)
            sketch = slice(1 + inputs.SAMPLE, None)
            assert np.linalg.norm(ours[sample] - theirs[sample]) <= accepted, key
            assert np.linalg.norm(ours[sketch] - theirs[sketch]) <= accepted, key
        else:
            accepted = accepted_error(case, key, float(np.linalg.norm(golden[key])))
            assert np.linalg.norm(value - golden[key]) <= accepted, key


def test_adam_agrees() -> None:
    theirs = np.load(GOLDENS / "adam.npz")["parameters"]
    np.testing.assert_allclose(adam(), theirs, rtol=0, atol=2e-7 * float(np.abs(theirs).max()))
