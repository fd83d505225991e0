"""Offline figures: from a DQN run to a dataset, to CQL, to the figure, by one command; and what an edit repeats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_project import STUDY, TINY_AGENT, Project

from moerl.cli.tensorboard import best_points
from moerl.offline.subset import load_subset
from moerl.study.config import load_study
from moerl.study.expansion import Run
from moerl.study.standing import Standing
from moerl.training.statefile import read_meta

pytestmark = pytest.mark.long

TINY_OFFLINE = {
    "name": "tiny",
    "agents": {
        "dqn": TINY_AGENT,
        "cql": {"target_update_period": 4, "max_episode_steps": 40},
        "cql_c51": {"target_update_period": 4, "max_episode_steps": 40},
    },
    "figures": {"fig11": {"encoder": "cnn"}},
    "games": {"offline17": ["Breakout"]},
    "seeds": [0, 1],
    "seeds_per_job": 2,
    "iteration_frames": 320,
    "milestones": {"short": 320, "full": 320},
    "snapshot_every": 1,
    "hidden_units": 16,
    "offline": {
        "collect": {"variant": "cnn-baseline"},
        "iterations": 2,
        "iteration_steps": 6,
        "evaluation": {"agent_steps": 60},
    },
}
COLLECTING = "Training dqn cnn-baseline on Breakout, seeds 0,1, to 320"
LEARNING = {
    agent: {f"Training {agent} cnn-baseline on Breakout, seeds 0,1, to 12-steps"} for agent in ("cql", "cql_c51")
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """One command, no data but what the pipeline collects."""
    project = Project.create(tmp_path_factory.mktemp("offline") / "finished", TINY_OFFLINE)
    figures = project.read("config/figures.yaml")
    figures["fig11"]["series"] = [{"name": "Baseline", "variants": ["cnn-baseline"]}]
    project.write("config/figures.yaml", {"fig11": figures["fig11"]})
    project.snakemake("fig11", "table3", "--cores", "2", timeout=600)
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    return finished.copy(tmp_path / "project")


def run_folder(project: Project, agent: str, seed: int, milestone: str) -> Path:
    return project.root / f"results/tiny/runs/{agent}/cnn-baseline/Breakout/seed{seed}/{milestone}"


def trained(project: Project) -> set[str]:
    return {job for job in project.planned("fig11") if job.startswith("Training")}


def test_the_figure_shows_the_evaluation_returns_of_runs_on_what_dqn_collected(finished: Project) -> None:
    table = pd.read_csv(finished.root / "results/tiny/tables/fig11.csv")
    assert table[["panel", "gradient_steps", "n_games"]].values.tolist() == [
        ["CQL", 6, 1],
        ["CQL", 12, 1],
        ["CQL + C51", 6, 1],
        ["CQL + C51", 12, 1],
    ]
    assert "frame" not in table
    scores = pd.read_parquet(finished.root / "results/tiny/scores/fig11.parquet")
    for seed in (0, 1):
        returns = pd.read_parquet(run_folder(finished, "cql", seed, "12-steps") / "returns.parquet")
        mine = scores[(scores["agent"] == "cql") & (scores["seed"] == seed)]
        np.testing.assert_array_equal(mine["mean_return"], returns["mean_return"])
        assert (returns["episodes"] >= 2).all(), "60 agent steps are at least two games of 40"
        manifests = [
            json.loads((run_folder(finished, *of) / "manifest.json").read_text())
            for of in (("cql", seed, "12-steps"), ("dqn", seed, "320"))
        ]
        learnt = manifests[0]["spec"]["dataset"]
        assert learnt == {"name": "dqn cnn-baseline", "collected": manifests[1]["spec_digest"], "iterations": 1}
    caption = (finished.root / "results/tiny/tables/fig11.tex").read_text()
    assert "Gradient steps & 6 & 12" in caption
    assert (finished.root / "results/tiny/figures/fig11.png").stat().st_size > 10_000
    assert trained(finished) == set()


def test_seeds_learn_from_runs_of_their_own(finished: Project) -> None:
    """And the dataset that moerl names for a run is the one it learnt from."""
    digests = set()
    for seed in (0, 1):
        subset = load_subset(run_folder(finished, "dqn", seed, "320"), 5, seed, 1, 0.99)
        meta = read_meta(run_folder(finished, "cql", seed, "12-steps") / "resume.safetensors")
        assert meta["data"] == subset.digest()
        digests.add(meta["data"])
    assert len(digests) == 2


def test_another_weight_of_the_penalty_trains_that_agent_again_and_collects_nothing(project: Project) -> None:
    agents = project.read(STUDY)["agents"]
    agents["cql"]["cql_weight"] = 0.2
    project.write(STUDY, project.read(STUDY) | {"agents": agents})
    assert trained(project) == LEARNING["cql"]


def test_another_learning_rate_of_dqn_collects_again_and_trains_everything_after_it(project: Project) -> None:
    agents = project.read(STUDY)["agents"]
    agents["dqn"]["learning_rate"] = 1e-4
    project.write(STUDY, project.read(STUDY) | {"agents": agents})
    assert trained(project) == {COLLECTING} | LEARNING["cql"] | LEARNING["cql_c51"]


def test_longer_runs_go_on_from_the_shorter_ones(project: Project) -> None:
    offline = project.read(STUDY)["offline"] | {"iterations": 3}
    project.write(STUDY, project.read(STUDY) | {"offline": offline})
    assert {job.rpartition(" ")[2] for job in trained(project)} == {"18-steps"}
    target = run_folder(project, "cql", 0, "18-steps") / "resume.safetensors"
    project.snakemake(str(target.relative_to(project.root)), "--cores", "2")
    log = next((project.root / "logs/tiny/train/cql").rglob("18-steps*.log")).read_text()
    assert "continues at 12 gradient steps" in log


def test_status_plan_and_report_know_offline_runs(finished: Project) -> None:
    status = finished.run("moerl", "status", "--study", STUDY, "--json")
    runs = json.loads(status.stdout)["runs"]
    assert {(r["agent"], r["milestone"], r["state"]) for r in runs} == {
        ("dqn", "320", "done"),
        ("cql", "12-steps", "done"),
        ("cql_c51", "12-steps", "done"),
    }
    plan = json.loads(finished.run("moerl", "plan", "--study", STUDY, "--json").stdout)
    (row,) = plan["figures"]
    assert (row["runs"], row["done"], row["train_jobs"], row["jobs"]) == (4, 4, 0, 0)
    assert plan["runs_by_kind"] == {"offline": 4}


def test_data_that_is_missing_is_one_line_before_anything_is_trained(project: Project) -> None:
    study = project.read(STUDY)
    study["offline"] = {**study["offline"], "folder": "data/{game}/{run}", "name": "mine"}
    del study["offline"]["collect"]
    project.write(STUDY, study)
    command = ("train", "--study", STUDY, "--agent", "cql", "--variant", "cnn-baseline", "--game", "Breakout")
    where = ("--results", "elsewhere", "--state", "nowhere", "--seeds", "0", "--milestone", "12-steps")
    done = project.run("moerl", *command, *where)
    assert done.returncode == 2
    assert "data/Breakout/1: is not a folder" in done.stderr.splitlines()[-1]
    done = project.run("moerl", *command, *where[:2], "--frames-folder", "nowhere", *where[2:])
    assert done.returncode == 2
    done = project.run("moerl", *command, *where[:-1], "320")
    assert done.returncode == 2
    assert "cql is not trained to 320; milestones: 12-steps" in done.stderr


def test_tensorboard_counts_gradient_steps(finished: Project) -> None:
    study = load_study(finished.root / STUDY)
    standing = Standing(study, finished.root / "results/tiny", finished.root / "state/tiny")
    points = best_points(standing, Run("cql", "cnn-baseline", "Breakout", 0, "12-steps"))
    assert {(iteration, step) for iteration, step, _, _ in points} == {(0, 6), (1, 12)}
    assert {tag for _, _, tag, _ in points} == {"return/evaluation", "loss/mean"}
