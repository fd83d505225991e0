"""Rainbow, DER and DrQ(ε): logits, losses, priorities, gradients and Adam steps against the oracle's."""

from __future__ import annotations

import numpy as np
import pytest
from network_parity import ROOT
from network_parity import inputs as shared
from rainbow_parity import accepted_error, compute, inputs

GOLDENS = ROOT / "tests" / "golden" / "rainbow"
SAMPLE = slice(1, 1 + shared.SAMPLE)
SKETCH = slice(1 + shared.SAMPLE, None)


@pytest.mark.parametrize(("agent", "case"), inputs.RUNS)
def test_update_agrees(agent: str, case: str) -> None:
    golden = np.load(GOLDENS / f"{agent}-{case}.npz")
    found = compute(agent, case)
    whole = {key for key in found if "/" not in key}
    assert whole | {"gradients", "steps"} == set(golden.files)
    for key in whole:
        accepted = accepted_error(agent, case, key, float(np.linalg.norm(golden[key])))
        assert np.linalg.norm(found[key] - golden[key]) <= accepted, key
    names = inputs.parameter_names(agent, case)
    assert {f"{kind}/{name}" for kind in ("gradient", "step") for name in names} == set(found) - whole
    for kind in ("gradient", "step"):
        for name, theirs in zip(names, golden[f"{kind}s"].astype(np.float64), strict=True):
            key = f"{kind}/{name}"
            ours = shared.summary(key, found[key])
            accepted = accepted_error(agent, case, key, theirs[0])
            assert np.linalg.norm(ours[SAMPLE] - theirs[SAMPLE]) <= accepted, key
            assert np.linalg.norm(ours[SKETCH] - theirs[SKETCH]) <= accepted, key
