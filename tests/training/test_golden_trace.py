"""The training revision is raised exactly when training computes something else."""

import json

import pytest
from golden_trace import AGENTS, FOLDER, record

from moerl.study.specs import TRAINING_REVISION


@pytest.mark.parametrize("agent", AGENTS)
def test_trace_changes_only_with_its_revision(agent, tmp_path):
    golden = json.loads((FOLDER / f"{agent}.json").read_text())
    assert golden["revision"] == TRAINING_REVISION[AGENTS[agent]], (
        "TRAINING_REVISION was raised: rewrite the traces with tests/training/golden_trace.py"
    )
    now = record(agent, tmp_path)
    help_ = f"training of {agent!r} changed: undo that, or raise its TRAINING_REVISION and rewrite the traces"
    assert now["actions"] == golden["actions"], help_
    assert now["episode_lengths"] == golden["episode_lengths"], help_
    for new, old in zip(now["rows"], golden["rows"], strict=True):
        # Rounding differs between CPUs; a change of what is computed shows far above it.
        assert new == pytest.approx(old, rel=1e-3), help_
    # Adam turns the rounding of a gradient near zero into a whole step, which biases feel most.
    assert now["parameter_norms"] == pytest.approx(golden["parameter_norms"], rel=2e-3), help_


def test_every_family_has_a_trace():
    assert set(TRAINING_REVISION) == set(AGENTS.values())
