"""The configured agents are what the paper's tables say, and inconsistent switches are refused by name."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from moerl.study.specs import AgentSpec, HeadSpec

AGENTS = yaml.safe_load((Path(__file__).parents[2] / "config" / "agents.yaml").read_text())


def test_one_family_told_apart_by_switches():
    specs = {name: AgentSpec.model_validate(fields) for name, fields in AGENTS.items()}
    names = ("noisy", "dueling", "double", "num_atoms", "loss", "replay", "augmentation", "n_step")
    found = {name: tuple(getattr(spec, key) for key in names) for name, spec in specs.items()}
    assert found == {
        "dqn": (False, False, False, 1, "mse", "uniform", "none", 1),
        "rainbow": (True, True, True, 51, "c51", "prioritised", "none", 3),
        "der": (True, True, True, 51, "c51", "prioritised", "none", 10),
        "drq_eps": (False, True, True, 1, "huber", "uniform", "drq", 10),
    }
    assert specs["rainbow"].head == HeadSpec(noisy=True, dueling=True, num_atoms=51, v_max=10.0)
    assert specs["dqn"].head == HeadSpec()


def test_every_agent_spells_out_every_field():
    for name, fields in AGENTS.items():
        assert set(fields) == set(AgentSpec.model_fields), name


@pytest.mark.parametrize(
    ("agent", "change", "message"),
    [
        ("dqn", {"loss": "c51"}, "loss 'c51' with num_atoms 1"),
        ("rainbow", {"loss": "mse"}, "loss 'mse' with num_atoms 51"),
        ("dqn", {"num_atoms": 51}, "v_max is the end of the support"),
        ("rainbow", {"v_max": None}, "v_max is the end of the support"),
        ("drq_eps", {"v_max": 10.0}, "v_max is the end of the support"),
        ("rainbow", {"v_max": 0.0}, "v_max"),
        ("rainbow", {"replay": "prioritized"}, "'uniform' or 'prioritised'"),
        ("drq_eps", {"augmentation": "shift"}, "'none' or 'drq'"),
    ],
)
def test_inconsistent_switches_are_refused(agent, change, message):
    with pytest.raises(ValidationError, match=message):
        AgentSpec.model_validate(AGENTS[agent] | change)
