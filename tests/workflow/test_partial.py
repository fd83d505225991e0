"""Figures of what is finished: a diverged run fails them by name, or is left out by name when asked."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_invalidation import NEW_RUNS, analysing, change_study, from_scores, training
from tiny_project import STUDY, Project

pytestmark = pytest.mark.long

PARTIAL = ("--config", "allow_partial=1")
RUN = "dqn/cnn-baseline/Pong/seed1"
NAME = "dqn cnn-baseline Pong seed 1"


def diverge(project: Project) -> Path:
    """Make a run of the finished study one that diverged before any figure was made; returns its record.

    What training needs to finish it at once stays in the state, for when the record is deleted, and the
    analysis of what it was before stays in the results.
    """
    for kind in ("scores", "tables", "figures"):
        for path in (project.root / "results/tiny" / kind).glob("fig*"):
            path.unlink()
    results = project.root / "results/tiny/runs" / RUN
    digest = json.loads((results / "320/manifest.json").read_text())["spec_digest"]
    shutil.rmtree(results)
    (project.root / "state/tiny" / RUN / "320/manifest.json").unlink()
    record = {
        "run": NAME,
        "spec": digest,
        "problem": "loss nan at gradient step 5",
        "gradient_step": 5,
        "agent_step": 60,
        "frame": 240,
        "iteration": 0,
        "checkpoint": None,
        "checkpoint_agent_step": None,
        "versions": {},
    }
    path = project.root / "state/tiny" / RUN / "diverged.json"
    path.write_text(json.dumps(record))
    return path


def products(project: Project) -> dict[str, bytes]:
    """Scores, tables and drawings of the figures, and the manifest."""
    root = project.root / "results/tiny"
    found = [p for kind in ("scores", "tables", "figures") for p in (root / kind).glob("fig*")]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in [*found, root / "manifest.json"]}


def face(project: Project, figure: str) -> str:
    """Everything the figure says: the SVG's glyphs are outlines, its comments the text."""
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
    root = ET.fromstring((project.root / f"results/tiny/figures/{figure}.svg").read_text(), parser)
    return " ".join(str(node.text).strip() for node in root.iter(ET.Comment))  # type: ignore[call-overload]


def manifest(project: Project) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((project.root / "results/tiny/manifest.json").read_text())
    return content


def test_a_diverged_run_fails_its_figure_or_is_left_out_by_name(project: Project) -> None:
    complete = products(project)
    assert manifest(project)["left_out"] == []
    assert project.planned(*PARTIAL) == set()  # complete: nothing changes
    record = diverge(project)

    done = project.run("snakemake", "--cores", "1", "--configfile", STUDY)
    assert done.returncode == 1
    assert f"moerl: {NAME}: diverged, loss nan at gradient step 5" in done.stderr
    assert f"delete {record.relative_to(project.root)} to try again" in done.stderr
    assert "allow_partial=1" in done.stderr
    log = (project.root / "logs/tiny/train/dqn/cnn-baseline/Pong/320_seed0_1.log").read_text()
    assert f"moerl: {NAME}: diverged" in log
    assert "Traceback" not in log
    # Snakemake deletes what the failed job published, the finished seed's files too.
    assert not list((project.root / "results/tiny/runs/dqn/cnn-baseline").rglob("returns.parquet"))

    assert project.planned(*PARTIAL) == {analysing(0)} | from_scores("fig01", "fig10") | NEW_RUNS
    project.snakemake("--cores", "1", *PARTIAL)
    assert f"PARTIAL: 7 of 8 runs; diverged: {NAME}." in face(project, "fig01")
    table = pd.read_csv(project.root / "results/tiny/tables/fig01.csv", dtype={"n_seeds": str})
    lacking = table[table["missing_runs"].notna()]
    assert set(lacking["panel"] + lacking["series"]) == {"DQNBaseline"}
    assert set(lacking["missing_runs"]) == {f"{NAME} (diverged at gradient step 5)"}
    assert set(lacking["n_seeds"]) == {"1"}
    assert manifest(project)["left_out"] == [
        {
            "agent": "dqn",
            "variant": "cnn-baseline",
            "game": "Pong",
            "seed": 1,
            "milestone": "320",
            "why": "diverged at gradient step 5",
        }
    ]
    provenance = (project.root / "results/tiny/report/provenance.md").read_text()
    assert "7 runs in 4 training jobs" in provenance
    assert f"{NAME}, to 320: diverged at gradient step 5" in provenance
    assert f"PARTIAL: 1 of 2 runs; diverged: {NAME}." in face(project, "fig10")
    table = pd.read_csv(project.root / "results/tiny/tables/fig10.csv")
    assert set(table["n_seeds"]) == {1}
    assert not {name for name, content in products(project).items() if content == complete[name]}
    assert project.planned(*PARTIAL) == set()

    record.unlink()
    expected = from_scores("fig01", "fig10") | {analysing(0), analysing(1)} | NEW_RUNS
    assert project.planned() == expected | {training("dqn", "cnn-baseline")}
    project.snakemake("--cores", "1")
    assert products(project) == complete
    assert project.planned(*PARTIAL) == set()


def test_missing_runs_are_left_out_and_not_trained(project: Project) -> None:
    change_study(project, seeds=[0, 1, 2])
    assert project.planned(*PARTIAL) == from_scores("fig01", "fig10") | NEW_RUNS
    project.snakemake("fig10", "--cores", "1", *PARTIAL)
    said = face(project, "fig10")
    assert "PARTIAL: 2 of 3 runs; missing: dqn cnn-baseline Pong seed 2." in said
    assert not (project.root / "state/tiny/dqn/cnn-baseline/Pong/seed2").exists()


def test_a_real_divergence_ends_the_job_and_its_retry(project: Project) -> None:
    agents = project.read(STUDY)["agents"]
    agents["rainbow"]["learning_rate"] = 1e30
    change_study(project, agents=agents)
    target = "results/tiny/runs/rainbow/cnn-baseline/Pong/seed0/320/returns.parquet"
    done = project.run("snakemake", target, "--cores", "1", "--retries", "1", "--configfile", STUDY)
    assert done.returncode == 1
    assert done.stderr.count("Trying to restart job") == 1
    for seed in (0, 1):
        assert f"moerl: rainbow cnn-baseline Pong seed {seed}: diverged, " in done.stderr
    log = project.root / "logs/tiny/train/rainbow/cnn-baseline/Pong/320_seed0_1.log"
    lines = log.read_text().splitlines()
    assert len(lines) == 3  # of the retry: what is on record of each, and why it ends
    assert [line.count("diverged, ") for line in lines] == [1, 1, 1]
    assert lines[2].startswith("moerl: rainbow cnn-baseline Pong seed 0: ")
    # What the spec before had trained is not taken for this one's; the other variant was not trained yet.
    project.snakemake("fig01", "--cores", "1", *PARTIAL)
    expected = [f"rainbow cnn-{variant} Pong seed {s}" for variant in ("baseline", "softmoe1") for s in (0, 1)]
    assert (
        f"PARTIAL: 4 of 8 runs; diverged: {expected[0]}, {expected[1]}; "
        f"trained under another spec: {expected[2]}, {expected[3]}."
    ) in face(project, "fig01")
    assert face(project, "fig01").count("no runs") == 2  # of the Rainbow panel, one for each variant


def test_the_seeds_beside_a_diverged_one_go_on_to_the_next_milestone(project: Project) -> None:
    change_study(project, milestones={"short": 320, "full": 640})
    record = diverge(project)
    variants = ("cnn-baseline", "cnn-softmoe1")
    to_full = {training(agent, v, milestone="640") for agent in ("dqn", "rainbow") for v in variants}
    planned = {job for job in project.planned("fig01") if job.startswith("Training")}
    assert planned == to_full  # what seed 1 lacks at 320 stands in nobody's way
    record.unlink()
    planned = {job for job in project.planned("fig01") if job.startswith("Training")}
    assert planned == to_full | {training("dqn", "cnn-baseline")}
