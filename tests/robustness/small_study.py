"""A small study with results of every kind, and the folders that its readers are given."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from small_datasets import make_case, random_play
from synthetic_study import load, publish, write_runs
from tiny_project import CHECKOUT

from moerl.archive.export import export
from moerl.cli.hyperparameters import write_table
from moerl.statistics import scores_stage, table_stage
from moerl.statistics.published import COLUMNS
from moerl.study.config import load_study
from moerl.study.expansion import Run, Study
from moerl.study.standing import Divergence, Standing
from moerl.study.tables import made_tables

FIGURE = "fig10"
SETTINGS = {
    "figures": f"{{{FIGURE}: {{encoder: cnn, agent: dqn, games: [Pong]}}}}",
    "seeds": "0",
    "short": "2M",
}


@dataclass(frozen=True)
class Small:
    """A study, where it lies, and one of its runs."""

    root: Path
    study: Study
    run: Run

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def archive(self) -> Path:
        return self.root / "results.zip"


def make_study(root: Path) -> Small:
    """Results as training leaves them, everything made of them, and the archive."""
    root.mkdir()
    study = load(root, **SETTINGS)
    small = Small(root, study, study.runs()[0])
    for run in write_runs(study, FIGURE, small.results):
        publish(study, run, small.results)
    scores_stage.run(study, FIGURE, small.results)
    table_stage.run(study, FIGURE, small.results)
    for name in made_tables(study):
        write_table(study, name, small.results)
    export(Standing(study, small.results), small.archive)
    return small


def make_configuration(root: Path) -> Path:
    """A copy of `config/` with a study that has something of everything; returns the study's file."""
    shutil.copytree(CHECKOUT / "config", root)
    study = root / "studies" / "own.yaml"
    study.write_text(
        """name: own
agents: {dqn: {gamma: 0.95}, rainbow: {}}
figures:
  fig01: {encoder: cnn, games: [Pong, Breakout]}
  fig10: {agent: rainbow, games: [Pong]}
  routing: {agent: rainbow, games: [Pong], seed: 1, snapshot: 2, state: 3, on_request: true}
games: {games20: [Pong, Breakout], mine: [Pong]}
variants:
  cnn-own: {encoder: cnn, module: softmoe, num_experts: 2, tokens: perconv}
seeds: [0, 1]
seeds_per_job: 2
iteration_frames: 1M
milestones: {short: 2M, full: 4M}
early_readout: 2M
snapshot_every: 1
cpu_threads: 1
evaluation: {episodes: 3, epsilon: 0.01}
max_noops: 3
"""
    )
    load_study(study)
    return study


def make_dataset(root: Path) -> tuple[Path, Path]:
    """A finished run as training leaves it, and the same as files."""
    case = make_case(root, random_play(root, "Breakout", 150, max_episode_steps=90))
    return case.run.folder, case.files.folder


def make_records(folder: Path) -> None:
    """The small records of a run, of published returns and of measurements."""
    folder.mkdir()
    record = Divergence(
        run="dqn cnn-baseline Pong seed 0",
        spec="0" * 16,
        problem="loss nan at gradient step 3",
        gradient_step=3,
        agent_step=12,
        frame=48,
        iteration=0,
        checkpoint="current.safetensors",
        checkpoint_agent_step=8,
        versions={"jax": "1"},
    )
    entries = [
        {"Agent": agent, "Game": "Pong", "Iteration": i, "Value": -20.5 + i}
        for agent in ("DQN", "Rainbow")
        for i in range(3)
    ]
    rows = [("Pong", "cnn", "DQN", i, 0, -20.0 + i) for i in range(3)]
    published = pd.DataFrame(rows, columns=list(COLUMNS))
    measured = json.loads((CHECKOUT / "benchmarks" / "results" / "throughput.json").read_text())[:2]
    beat = {
        "phase": "running",
        "frames": 400,
        "spec": "0" * 16,
        "target_frames": 800,
        "frames_per_second": 3.5,
        "time": 1.7e9,
        "pid": 4000,
        "host": "node7",
    }
    for name, value in {
        "diverged.json": json.loads(record.model_dump_json()),
        "attempts.json": [[400, 60.0], [800, 60.0]],
        "progress.json": beat,
        "lock": {"host": "node7", "pid": 4000},
        "timing.json": {"seconds": 3.5, "rows": [[0, 400, 1.5], [1, 800, 3.0]]},
        "pong_CNN.json": entries,
        "throughput.json": measured,
        "parameters.json": {"a": {"fixed": 10, "per_action": 3}},
    }.items():
        (folder / name).write_text(json.dumps(value))
    published.to_csv(folder / "published.csv", index=False)
    published.to_csv(folder / "published.csv.gz", index=False)
