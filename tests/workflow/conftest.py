from __future__ import annotations

from pathlib import Path

import pytest
from tiny_project import TINY_AGENT, Project

TWO_AGENTS = {
    "name": "tiny",
    "agents": {"dqn": TINY_AGENT, "rainbow": dict(TINY_AGENT)},
    "figures": {"fig01": {}, "fig10": {"agent": "dqn"}},
    "games": {"games20": ["Pong"]},
    "seeds": [0, 1],
    "seeds_per_job": 2,
    "iteration_frames": 320,
    "milestones": {"short": 320, "full": 320},
    "snapshot_every": 1,
}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished study of two agents, two variants, one game and two seeds, really trained."""
    project = Project.create(tmp_path_factory.mktemp("project") / "finished", TWO_AGENTS)
    agents = project.read("config/agents.yaml")
    project.write("config/agents.yaml", agents | {"rainbow": agents["dqn"]})
    figures = project.read("config/figures.yaml")
    figures["fig01"]["x"]["values"] = [1]
    figures["fig01"]["series"] = [
        {"name": "Baseline", "variants": ["cnn-baseline"]},
        {"name": "SoftMoE", "variants": ["cnn-softmoe1"]},
    ]
    figures["fig10"] |= {"games": ["Pong"], "series": [{"name": "Baseline", "variants": ["cnn-baseline"]}]}
    project.write("config/figures.yaml", {name: figures[name] for name in ("fig01", "fig10")})
    project.snakemake("--cores", "2", timeout=1200)
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    """The finished study in a place of its own, to be edited."""
    return finished.copy(tmp_path / "project")
