"""A tiny study that is trained on a real SLURM, and what tests look at and disturb there."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiny_project import STUDY, TINY_AGENT, Project

QUICK = ("--slurm-init-seconds-before-status-checks", "3")
BASELINE = [{"name": "Baseline", "variants": ["cnn-baseline"]}]


def create(root: Path, seeds: list[int], figures: list[str]) -> Project:
    """A project whose study trains DQN on Pong, 8,000 frames per seed, for some figures."""
    study: dict[str, Any] = {
        "name": "tiny",
        "agents": {"dqn": TINY_AGENT},
        "figures": {name: {"agent": "dqn"} if name == "fig10" else {} for name in figures},
        "games": {"games20": ["Pong"]},
        "seeds": seeds,
        "seeds_per_job": 2,
        "iteration_frames": 4000,
        "milestones": {"short": "8k", "full": "8k"},
        "snapshot_every": 2,
    }
    project = Project.create(root, study)
    known = project.read("config/figures.yaml")
    known["fig01"] |= {"series": BASELINE, "x": known["fig01"]["x"] | {"values": [1]}}
    known["fig10"] |= {"series": BASELINE, "games": ["Pong"]}
    project.write("config/figures.yaml", {name: known[name] for name in figures})
    return project


@contextmanager
def pipeline(project: Project, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The study's pipeline with the slurm profile."""
    process = subprocess.Popen(
        ["snakemake", "--profile", "slurm", *QUICK, *options, "--configfile", STUDY],
        cwd=project.root,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def job_under_way(project: Project, pipeline: subprocess.Popen[str], rule: str) -> str:
    """Wait until training of seed 0 reports progress; the SLURM job of the rule that trains it."""
    beat = project.root / "state/tiny/dqn/cnn-baseline/Pong/seed0/8k/progress.json"
    deadline = time.monotonic() + 300.0
    while not (beat.exists() and json.loads(beat.read_text())["phase"] == "running"):
        assert pipeline.poll() is None, "the pipeline ended before its training job could be disturbed"
        assert time.monotonic() < deadline, f"no progress{project.logs()}"
        time.sleep(0.2)
    assert json.loads(beat.read_text())["frames"] < 8_000
    queue = ask("squeue", "-h", "-o", "%k %i")
    return next(line.split()[1] for line in queue.splitlines() if line.startswith(f"rule_{rule}_"))


def ask(*command: str) -> str:
    """What a command of SLURM's says."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def log(project: Project, name: str) -> str:
    """The log of a training job."""
    return (project.root / f"logs/tiny/train/dqn/cnn-baseline/Pong/{name}.log").read_text()


def digests(project: Project) -> dict[str, str]:
    """SHA-256 of every byte-reproducible file of the finished study."""
    content: dict[str, str] = json.loads((project.root / "results/tiny/manifest.json").read_text())["sha256"]
    return content
