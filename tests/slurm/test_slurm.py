"""The pipeline on a real SLURM, with a killed job and a job whose time is too short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from slurm_study import ask, create, digests, job_under_way, log, pipeline

pytestmark = [pytest.mark.long, pytest.mark.slurm, pytest.mark.timeout(1500)]

# The job of seed 2 gets 12 seconds in its first allocation (3 minutes less the margin), a minute more in
# each retry. Its training takes longer than 12 seconds on any machine so far.
SHORT = ("--set-resources", "train_2:runtime=2+attempt", "--config", "margin_seconds=168", "gpu=1")


def test_killed_and_timed_out_jobs_resume_to_the_same_bytes(slurm: None, tmp_path: Path) -> None:
    project = create(tmp_path / "cluster", [0, 1, 2], ["fig01", "fig10"])
    undisturbed = project.copy(tmp_path / "local")
    with pipeline(project, *SHORT) as running:
        job = job_under_way(project, running, "train_0_1")
        assert "gpu" in ask("scontrol", "show", "job", job)
        ask("scancel", job)
        said, _ = running.communicate(timeout=900)
    assert running.returncode == 0, said + project.logs()

    assert "Error in rule train_0_1" in said
    assert re.search(r"continues at \d+ frames", log(project, "8k_seed0_1"))
    assert "its deadline is near" in said
    assert re.search(r"continues at \d+ frames", log(project, "8k_seed2"))

    undisturbed.snakemake("--cores", "2", timeout=900)
    assert digests(project) == digests(undisturbed)
    assert any(path.startswith("figures/fig01") for path in digests(project))
    assert project.planned() == set()
