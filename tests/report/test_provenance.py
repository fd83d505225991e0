"""Where runs come from and what they cost, from manifests of known content."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic_study import load, write_divergence, write_returns

from moerl.report import provenance
from moerl.study.errors import UserError
from moerl.study.expansion import Run, Study
from moerl.study.paths import run_dir
from moerl.study.status import study_runs

PONG = "{encoder: cnn, agent: dqn, games: [Pong]}"
VERSIONS = {"moerl": "0.1.0", "jax": "0.10.2"}
GPU, CPU = "NVIDIA H100", "Some CPU"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Three variants on Pong with three seeds, two of them trained side by side."""
    return load(tmp_path, figures=f"{{fig10: {PONG}}}", seeds="0, 1, 2", short="2M")


def publish(study: Study, run: Run, results: Path, seconds: float, **facts: Any) -> None:
    """The records of a finished run."""
    write_returns(study, run, results)
    folder, spec = run_dir(results, run), study.train_spec(run.cell)
    timing = pd.read_parquet(folder / "timing.parquet")
    timing["wall_seconds"] = [seconds * (i + 1) / len(timing) for i in range(len(timing))]
    timing.to_parquet(folder / "timing.parquet", index=False)
    manifest = {
        "spec": json.loads(spec.canonical_json()),
        "spec_digest": spec.digest(),
        "agent_steps": 500_000,
        "gradient_steps": 125_000,
        "versions": VERSIONS,
        "python": "3.11.9",
        "host": "a-secret-name",
        "device": "cpu",
        "processor": CPU,
        "git": {"commit": "c0ffee", "changed": False},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | facts))


@pytest.fixture
def publish_all(study: Study, tmp_path: Path) -> Callable[[], list[Run]]:
    """Baselines on a GPU, an hour for seeds 0 and 1 together; the others on a CPU, in half of that."""

    def write() -> list[Run]:
        runs = study_runs(study)
        for run in runs:
            on_gpu = run.variant == "cnn-baseline"
            seconds = (3600.0 if on_gpu else 1800.0) - 10 * run.seed
            publish(study, run, tmp_path, seconds, device=GPU if on_gpu else "cpu")
        return runs

    return write


def test_seeds_that_share_a_job_are_paid_once(
    study: Study, tmp_path: Path, publish_all: Callable[[], list[Run]]
) -> None:
    origins = [provenance.read_origin(study, run, run_dir(tmp_path, run)) for run in publish_all()]
    total = provenance.cost(study, origins)
    assert (total.runs, total.jobs, total.frames) == (9, 6, 9 * 2_000_000)
    assert total.gpu_hours == pytest.approx((3600 + 3580) / 3600)
    assert total.cpu_hours == pytest.approx(2 * (1800 + 1780) / 3600)
    assert total.hours == pytest.approx(total.gpu_hours + total.cpu_hours)


def test_cpu_hours_count_threads(study: Study, tmp_path: Path) -> None:
    run = study_runs(study)[0]
    spec = json.loads(study.train_spec(run.cell).canonical_json()) | {"cpu_threads": 4}
    publish(study, run, tmp_path, 3600.0, spec=spec)
    total = provenance.cost(study, [provenance.read_origin(study, run, run_dir(tmp_path, run))])
    assert (total.hours, total.cpu_hours, total.gpu_hours) == (1.0, 4.0, 0.0)


def test_document_and_table_tell_source_software_hardware_and_seeds(
    study: Study, tmp_path: Path, publish_all: Callable[[], list[Run]]
) -> None:
    runs = publish_all()
    publish(study, runs[-1], tmp_path, 60.0, git={"commit": "badcafe", "changed": True})
    document, table = provenance.run(study, tmp_path)
    said = document.read_text()
    assert "9 runs in 6 training jobs, seeds 0, 1, 2: 18,000,000 emulated frames" in said
    assert f"| {GPU} (host: {CPU}) | 3 | 2 |" in said
    assert f"| {CPU} | 6 | 4 |" in said
    assert "| 8 | c0ffee | 0.1.0 | 0.10.2 | 3.11.9 |" in said
    assert "| 1 | badcafe, with uncommitted changes | 0.1.0 | 0.10.2 | 3.11.9 |" in said
    rows = pd.read_csv(table, dtype={"python": str})
    assert list(rows["seed"]) == [run.seed for run in runs]
    assert rows["wall_seconds"].iloc[-1] == 60.0
    assert set(rows["spec_digest"]) == {study.train_spec(run.cell).digest() for run in runs}
    assert "a-secret-name" not in said + table.read_text()


def test_runs_from_before_say_that_they_do_not_know(study: Study, tmp_path: Path) -> None:
    run = study_runs(study)[0]
    publish(study, run, tmp_path, 60.0)
    path = run_dir(tmp_path, run) / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["git"], manifest["processor"]
    path.write_text(json.dumps(manifest))
    origin = provenance.read_origin(study, run, path.parent)
    assert (origin.commit, origin.processor) == ("not recorded", "not recorded")


def test_unfinished_runs_are_refused_or_named(
    study: Study, tmp_path: Path, publish_all: Callable[[], list[Run]]
) -> None:
    runs = publish_all()
    (run_dir(tmp_path, runs[0]) / "manifest.json").unlink()
    write_divergence(study, runs[0], tmp_path / "state", 7)
    with pytest.raises(UserError, match=r"study synthetic: 1 of 9 runs are not finished: .* \(diverged"):
        provenance.run(study, tmp_path, tmp_path / "state")
    document, _ = provenance.run(study, tmp_path, tmp_path / "state", allow_partial=True)
    said = document.read_text()
    assert "**Left out (1):**" in said
    assert f"* {runs[0].name}, to 2M: diverged at gradient step 7" in said
    assert "8 runs in 6 training jobs" in said


def test_records_that_are_not_a_runs_are_one_line(study: Study, tmp_path: Path) -> None:
    run = study_runs(study)[0]
    publish(study, run, tmp_path, 60.0, agent_steps="many")
    folder = run_dir(tmp_path, run)
    with pytest.raises(UserError, match=rf"^{folder}/manifest.json: not the manifest of a run .* again$"):
        provenance.read_origin(study, run, folder)
