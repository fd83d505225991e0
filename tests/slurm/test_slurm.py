"""The pipeline on a real SLURM, with a killed job and a job whose time is too short."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_project import STUDY, TINY_AGENT, Project

pytestmark = [pytest.mark.long, pytest.mark.slurm, pytest.mark.timeout(1500)]

# The job of seed 2 gets 12 seconds in its first allocation (3 minutes less the margin), a minute more in
# each retry. Its training takes longer than 12 seconds on any machine so far.
SHORT = ("--set-resources", "train_2:runtime=2+attempt", "--config", "margin_seconds=168", "gpu=1")
QUICK = ("--slurm-init-seconds-before-status-checks", "3")


def tiny_study() -> dict[str, Any]:
    return {
        "name": "tiny",
        "agents": {"dqn": TINY_AGENT},
        "figures": {"fig01": {}, "fig10": {"agent": "dqn"}},
        "games": {"games20": ["Pong"]},
        "seeds": [0, 1, 2],
        "seeds_per_job": 2,
        "iteration_frames": 4000,
        "milestones": {"short": "8k", "full": "8k"},
        "snapshot_every": 2,
    }


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project.create(tmp_path / "cluster", tiny_study())
    figures = project.read("config/figures.yaml")
    baseline = [{"name": "Baseline", "variants": ["cnn-baseline"]}]
    figures["fig01"] |= {"series": baseline, "x": figures["fig01"]["x"] | {"values": [1]}}
    figures["fig10"] |= {"series": baseline, "games": ["Pong"]}
    project.write("config/figures.yaml", {name: figures[name] for name in ("fig01", "fig10")})
    return project


def test_killed_and_timed_out_jobs_resume_to_the_same_bytes(
    slurm: None, project: Project, tmp_path: Path
) -> None:
    undisturbed = project.copy(tmp_path / "local")
    pipeline = subprocess.Popen(
        ["snakemake", "--profile", "slurm", *QUICK, *SHORT, "--configfile", STUDY],
        cwd=project.root,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        kill_when_under_way(project, pipeline)
        said, _ = pipeline.communicate(timeout=900)
    finally:
        pipeline.kill()
        pipeline.wait()
    assert pipeline.returncode == 0, said + project.logs()

    assert "Error in rule train_0_1" in said
    assert re.search(r"continues at \d+ frames", log(project, "8k_seed0_1"))
    assert "its deadline is near" in said
    assert re.search(r"continues at \d+ frames", log(project, "8k_seed2"))

    undisturbed.snakemake("--cores", "2", timeout=900)
    assert digests(project) == digests(undisturbed)
    assert any(path.startswith("figures/fig01") for path in digests(project))
    assert project.planned() == set()


def kill_when_under_way(project: Project, pipeline: subprocess.Popen[str], timeout: float = 300.0) -> None:
    """Cancel the SLURM job of seeds 0 and 1 once it reports progress."""
    progress = project.root / "state/tiny/dqn/cnn-baseline/Pong/seed0/8k/progress.json"
    deadline = time.monotonic() + timeout
    while not (progress.exists() and json.loads(progress.read_text())["phase"] == "running"):
        assert pipeline.poll() is None, "the pipeline ended before its training job could be killed"
        assert time.monotonic() < deadline, f"no progress after {timeout} s{project.logs()}"
        time.sleep(0.2)
    assert json.loads(progress.read_text())["frames"] < 8_000
    queue = ask("squeue", "-h", "-o", "%k %i")
    job = next(line.split()[1] for line in queue.splitlines() if line.startswith("rule_train_0_1_"))
    assert "gpu" in ask("scontrol", "show", "job", job)
    ask("scancel", job)


def ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def log(project: Project, name: str) -> str:
    return (project.root / f"logs/tiny/train/dqn/cnn-baseline/Pong/{name}.log").read_text()


def digests(project: Project) -> dict[str, str]:
    """SHA-256 of every byte-reproducible file of the finished study."""
    content: dict[str, str] = json.loads((project.root / "results/tiny/manifest.json").read_text())["sha256"]
    return content
