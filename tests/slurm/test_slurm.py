"""The pipeline on a real SLURM: jobs that are killed, run out of time, or have to make way for others.

One file, since the tests share a cluster: spread over processes they would stop each other's.
"""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest
from slurm_study import ask, create, digests, job_under_way, log, pipeline
from tiny_project import Project

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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The study, made without SLURM."""
    project = create(tmp_path_factory.mktemp("local") / "project", [0], ["fig01"])
    project.snakemake("--cores", "2", timeout=900)
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return create(tmp_path / "cluster", [0], ["fig01"])


def finish(running: subprocess.Popen[str], project: Project, undisturbed: Project) -> tuple[str, str]:
    """Wait for the pipeline, which must make the same files; what it and its last training said."""
    said, _ = running.communicate(timeout=400)
    assert running.returncode == 0, said + project.logs()
    assert digests(project) == digests(undisturbed)
    assert project.planned() == set()
    return said, log(project, "8k_seed0")


def start_requeued(job: str) -> None:
    """SLURM gives a job back to the queue, where it would wait two minutes; it need not."""
    deadline = time.monotonic() + 120
    while ask("squeue", "-h", "-j", job, "-t", "PENDING", "-o", "%r").strip() != "BeginTime":
        assert time.monotonic() < deadline, ask("squeue")
        time.sleep(0.5)
    for waiting in ask("squeue", "-h", "-t", "PENDING", "-o", "%i").split():
        ask("scontrol", "update", f"jobid={waiting}", "StartTime=now")


def make_way(project: Project, running: subprocess.Popen[str]) -> str:
    """Preempt the training of seed 0; its job."""
    job = job_under_way(project, running, "train_0")
    ask("sbatch", "-p", "urgent", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    return job


def test_a_preempted_job_goes_on(slurm: None, project: Project, undisturbed: Project) -> None:
    with pipeline(project) as running:
        start_requeued(make_way(project, running))
        _, trained = finish(running, project, undisturbed)
    assert "continues at" in trained


def test_a_preempted_job_that_is_told_before_saves_and_goes_on(
    slurm: None, project: Project, undisturbed: Project
) -> None:
    resources = ("--default-resources", "runtime=60", "mem_mb=2000", "slurm_partition=graceful")
    with pipeline(project, *resources) as running:
        make_way(project, running)
        said, trained = finish(running, project, undisturbed)
    assert "saved and left because of SIGTERM" in said
    assert "continues at" in trained
