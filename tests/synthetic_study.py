"""A synthetic study: its configuration is real, its training results are made up (but look learned)."""

from __future__ import annotations

import hashlib
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd

from moerl.analysis.stage import parquet
from moerl.analysis.tokens import no_tokens, routed_tokens
from moerl.networks.routing import slot_averages, soft_routing, top1_routing
from moerl.study.config import load_study
from moerl.study.expansion import Run, Study
from moerl.study.origin import Origin
from moerl.study.paths import analysis_file, divergence_file, figure_files, run_dir, tokens_file
from moerl.study.specs import Module
from moerl.study.standing import Divergence

STUDY = """
name: synthetic
agents:
  {agents}
figures:
  {figures}
games:
  games20: [{games}]
seeds: [{seeds}]
seeds_per_job: 2
iteration_frames: 1M
milestones: {{short: {short}, full: {full}}}
snapshot_every: 1
{extra}
"""
METRICS = ("entk_srank_0.01", "feature_norm_variance", "dormant_variance_0.001", "unplotted")


def gains(variant: str) -> float:
    """How good a made-up variant is: baselines get worse with width, mixtures better with experts."""
    size = int(variant[-1]) if variant[-1].isdigit() else 1
    if "baseline" in variant:
        return 1.0 - 0.1 * np.log2(size)
    return 1.0 + (0.15 if "softmoe" in variant else 0.05) * np.log2(size)


def write_returns(study: Study, run: Run, results: Path) -> pd.DataFrame:
    """A plausible `returns.parquet`, the same for the same run, and a manifest that says it is finished."""
    game = study.games[run.game]
    low, high = game.random or 0.0, game.human or 100.0
    iterations = np.arange(study.iterations(run.milestone))
    generator = np.random.default_rng([run.seed, *run.variant.encode(), *run.game.encode()])
    progress = (1 - np.exp(-3 * (iterations + 1) / len(iterations))) * gains(run.variant)
    noisy = progress * generator.normal(1.0, 0.12) + generator.normal(0, 0.03, len(iterations))
    frames = (iterations + 1) * study.iteration_frames
    table = pd.DataFrame(
        {
            "iteration": iterations,
            "frame": frames + 4 * generator.integers(0, 5_000, len(frames)).cumsum(),
            "episodes": generator.integers(1, 9, len(iterations)),
            "mean_return": low + noisy * (high - low),
        }
    )
    path = run_dir(results, run) / "returns.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    hours = table["frame"] / 2e6 * (1.4 if "baseline" in run.variant else 1.0 + 0.1 * gains(run.variant))
    timing = table[["iteration", "frame"]].assign(wall_seconds=3600 * hours)
    timing.to_parquet(path.with_name("timing.parquet"), index=False)
    manifest = {"spec_digest": study.train_spec(run.cell).digest(), "sha256": {}}
    path.with_name("manifest.json").write_text(json.dumps(manifest))
    put_table(path, table)
    return table


def put_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table of a finished run as if it had been trained so."""
    table.to_parquet(path, index=False)
    record(path)


def record(path: Path) -> None:
    """Put the checksum of a run's file into its manifest."""
    manifest = json.loads(path.with_name("manifest.json").read_bytes())
    manifest["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name("manifest.json").write_text(json.dumps(manifest))


def publish(study: Study, run: Run, results: Path) -> None:
    """What training writes beside the returns: losses, and a manifest with checksums, host and wall-clock."""
    folder = run_dir(results, run)
    returns = pd.read_parquet(folder / "returns.parquet")
    losses = returns[["iteration", "frame"]].assign(gradient_steps=returns["frame"] // 16, mean_loss=0.1)
    losses.to_parquet(folder / "losses.parquet", index=False)
    timing = returns[["iteration", "frame"]].assign(wall_seconds=returns["frame"] / 1e4)
    timing.to_parquet(folder / "timing.parquet", index=False)
    names = ("returns.parquet", "losses.parquet")
    spec = study.train_spec(run.cell)
    manifest = {
        "spec": json.loads(spec.canonical_json()),
        "spec_digest": spec.digest(),
        "seed": run.seed,
        "agent_steps": 1,
        "gradient_steps": 1,
        "wall_seconds": 12.5,
        "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names},
        "versions": {"jax": "1"},
        "python": "3",
        "host": "somewhere",
        "device": "cpu",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def write_divergence(study: Study, run: Run, state: Path, step: int, iteration: int = 0) -> None:
    """A record that the run diverged."""
    record = Divergence(
        run=run.name,
        spec=study.train_spec(run.cell).digest(),
        problem=f"loss nan at gradient step {step}",
        gradient_step=step,
        agent_step=4 * step,
        frame=16 * step,
        iteration=iteration,
        checkpoint=None,
        checkpoint_agent_step=None,
        versions={},
    )
    path = divergence_file(state, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record.model_dump_json())


def write_analysis(study: Study, run: Run, results: Path) -> None:
    """A plausible analysis file beside the run's returns."""
    returns = pd.read_parquet(run_dir(results, run) / "returns.parquet")
    generator = np.random.default_rng([run.seed, 1, *run.variant.encode(), *run.game.encode()])
    level = {
        "entk_srank_0.01": 22.0,
        "feature_norm_variance": 4.0,
        "dormant_variance_0.001": 0.4,
        "unplotted": 1.0,
    }
    moe = "baseline" not in run.variant
    parts = []
    for metric in METRICS:
        trend = np.linspace(0.6, 1.0, len(returns)) * (1.3 if moe else 0.8) * level[metric]
        if metric.startswith("dormant") and moe:
            trend = trend * 0.0
        values = trend * generator.normal(1.0, 0.1) * generator.normal(1.0, 0.04, len(returns))
        parts.append(returns[["iteration", "frame"]].assign(metric=metric, value=values))
    path = analysis_file(results, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(parquet(pd.concat(parts, ignore_index=True), Origin.of(study, run)))


def write_tokens(study: Study, run: Run, results: Path) -> None:
    """A plausible token file: made-up frames with a bright square, two snapshots, routing by what is seen."""
    network = study.variants[run.variant]
    generator = np.random.default_rng([run.seed, 2, *run.variant.encode(), *run.game.encode()])
    parts = []
    for iteration in (0, 1):
        frame = (iteration + 1) * study.iteration_frames
        if network.tokens is None:
            parts.append(no_tokens().assign(iteration=iteration, frame=frame))
            continue
        frames = np.full((2, 84, 84), 40, np.uint8)
        frames[1, 20 : 50 + 10 * iteration, 30:60] = 200
        cells = frames[:, ::8, ::8].reshape(2, -1)
        logits = generator.normal(0, 0.4, (2, cells.shape[1], network.num_experts))
        logits[..., 3] += np.where(cells == 200, 4.0, 0.0)
        logits[..., 5] += np.where(cells == 40, 0.7, 0.0)
        if network.module is Module.TOP1:
            routing = top1_routing(jnp.asarray(2 * logits), None, 16)
        else:
            routing = soft_routing(
                jnp.asarray(logits), slot_averages(jnp.asarray(logits)), network.num_experts
            )
        parts.append(routed_tokens(network, routing, frames).assign(iteration=iteration, frame=frame))
    path = tokens_file(results, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(parquet(pd.concat(parts, ignore_index=True), Origin.of(study, run)))


def load(folder: Path, **settings: str) -> Study:
    """Write a study file into `folder` and load it."""
    defaults = {
        "games": "AirRaid, Pong, Breakout",  # the first has no human score
        "seeds": "0, 1, 2",
        "short": "6M",
        "full": "8M",
        "agents": "dqn: {}",
        "figures": "{fig01: {encoder: cnn}, fig10: {encoder: cnn, agent: dqn}}",
        "extra": "",
    }
    path = folder / "synthetic.yaml"
    path.write_text(STUDY.format(**(defaults | settings)), encoding="utf-8")
    return load_study(path)


def write_runs(study: Study, figure_name: str, results: Path) -> list[Run]:
    """The results of every run of a figure, with analyses where the figure needs them."""
    figure = study.figure(figure_name)
    runs = study.figure_runs(figure)
    for run in runs:
        write_returns(study, run, results)
        if figure.analysed:
            write_analysis(study, run, results)
            write_tokens(study, run, results)
    return runs


def svg_text(study: Study, figure: str, results: Path) -> str:
    """Everything the figure says: the SVG's glyphs are outlines, its comments the text."""
    source = figure_files(results, figure)[2].read_text(encoding="utf-8")
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
    root = ET.fromstring(source, parser)
    return " ".join(node.text.strip() for node in root.iter(ET.Comment))
