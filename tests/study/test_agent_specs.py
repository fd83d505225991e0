"""The configured agents are what the paper's tables say, and inconsistent switches are refused by name."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from moerl.study.config import load_study, shared_agents
from moerl.study.errors import ConfigError
from moerl.study.figures import base_agent
from moerl.study.specs import AgentSpec, HeadSpec

CONFIG = Path(__file__).parents[2] / "config"
AGENTS = yaml.safe_load((CONFIG / "agents.yaml").read_text())
BASES = [name for name in AGENTS if base_agent(name) == name]


def test_one_family_told_apart_by_switches():
    specs = {name: AgentSpec.model_validate(AGENTS[name]) for name in BASES}
    names = (
        "noisy",
        "dueling",
        "double",
        "num_atoms",
        "loss",
        "replay",
        "augmentation",
        "n_step",
        "cql_weight",
    )
    found = {name: tuple(getattr(spec, key) for key in names) for name, spec in specs.items()}
    assert found == {
        "dqn": (False, False, False, 1, "mse", "uniform", "none", 1, 0.0),
        "rainbow": (True, True, True, 51, "c51", "prioritised", "none", 3, 0.0),
        "der": (True, True, True, 51, "c51", "prioritised", "none", 10, 0.0),
        "drq_eps": (False, True, True, 1, "huber", "uniform", "drq", 10, 0.0),
        "cql": (False, False, False, 1, "huber", "uniform", "none", 1, 0.1),
        "cql_c51": (False, True, True, 51, "c51", "uniform", "none", 3, 0.1),
    }
    assert specs["rainbow"].head == HeadSpec(noisy=True, dueling=True, num_atoms=51, v_max=10.0)
    assert specs["dqn"].head == HeadSpec()


def test_every_agent_spells_out_every_field():
    for name in BASES:
        assert set(AGENTS[name]) == set(AgentSpec.model_fields), name


def test_a_version_is_its_agent_but_for_what_it_says():
    agents = shared_agents(CONFIG)
    ratios = {f"{a}_rr{r}" for a in ("dqn", "rainbow") for r in ("05", "1", "2")}
    assert set(agents) - set(BASES) == ratios | {"cql_no_penalty", "cql_c51_data10", "cql_c51_data50"}
    changed = {"updates_per_period": 8}
    assert agents["rainbow_rr2"] == agents["rainbow"].model_copy(update=changed)


def test_what_a_study_changes_in_an_agent_holds_for_its_versions(tmp_path):
    demo = yaml.safe_load((CONFIG / "studies" / "demo.yaml").read_text())
    demo["agents"] = {"dqn": {"gamma": 0.5}, "dqn_rr1": {"n_step": 2}}
    demo["figures"] = {"fig04": {"encoder": "cnn"}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(demo))
    study = load_study(tmp_path / "study.yaml")
    assert list(study.agents) == ["dqn", "dqn_rr1", "dqn_rr05", "dqn_rr2"]
    found = [(a.gamma, a.n_step, a.updates_per_period) for a in study.agents.values()]
    assert found == [(0.5, 1, 1), (0.5, 2, 4), (0.5, 1, 2), (0.5, 1, 8)]
    assert study.deviations.of("fig04")[-2:] == ("DQN: gamma changed", "dqn_rr1: n_step changed")


def test_a_version_of_nothing_is_refused(tmp_path):
    (tmp_path / "agents.yaml").write_text(yaml.safe_dump({"dqm_rr1": {"updates_per_period": 4}}))
    with pytest.raises(ConfigError, match=r"agents\.yaml: dqm_rr1: unknown agent 'dqm_rr1'"):
        shared_agents(tmp_path)
    (tmp_path / "agents.yaml").write_text(yaml.safe_dump({"dqn_rr1": {"updates_per_period": 4}}))
    with pytest.raises(ConfigError, match="dqn_rr1: is a version of 'dqn', which is not here"):
        shared_agents(tmp_path)


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
