"""Time moerl on one cell, through the loop that `moerl train` runs. Called by bench_train.py.

Replay, action log, progress reports, checkpoints, publishing and the finiteness checks all run as
in production. Prints one JSON line; the cell is the one argument.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from settings import Cell, Mark, report

from moerl.cli.heartbeat import Heartbeat
from moerl.cli.train import configure_jax
from moerl.study.games import load_games
from moerl.study.specs import (
    FRAMES_PER_STEP,
    AgentSpec,
    Encoder,
    Module,
    NetworkSpec,
    Schedule,
    Tokens,
    TrainSpec,
)


def train_spec(cell: Cell) -> TrainSpec:
    module = Module(cell.module)
    return TrainSpec(
        agent=cell.agent,
        variant=f"cnn-{cell.module}",
        game=cell.game,
        num_actions=cell.num_actions,
        hyper=AgentSpec(**cell.hyper),
        network=NetworkSpec(
            encoder=Encoder.CNN,
            module=module,
            num_experts=cell.num_experts,
            tokens=None if module is Module.BASELINE else Tokens.PERCONV,
        ),
        schedule=Schedule(iteration_steps=cell.iteration_steps),
        cpu_threads=len(os.sched_getaffinity(0)),  # the oracle takes all cores, too
        revision=1,
    )


def marks_of(results: Path) -> list[Mark]:
    """Agent steps, gradient steps and seconds at the end of each iteration of a published run."""
    timing = pd.read_parquet(results / "timing.parquet")
    losses = pd.read_parquet(results / "losses.parquet")
    table = timing.merge(losses, on=["iteration", "frame"], validate="one_to_one")
    return [
        Mark(int(row.frame) // FRAMES_PER_STEP, int(row.gradient_steps), float(row.wall_seconds))
        for row in table.itertuples()
    ]


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    cell = Cell.from_json(sys.argv[1])
    spec = train_spec(cell)
    configure_jax(spec.cpu_threads)  # before JAX is imported
    from moerl.training.checkpoint import RunFolders
    from moerl.training.loop import Options, train

    games = load_games(Path(__file__).parents[1] / "config" / "games.tsv")
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        state = Path(folder) / "state" / "bench"
        runs = {cell.seed: RunFolders(state, results)}
        heartbeat = Heartbeat({cell.seed: state}, cell.iterations * cell.iteration_steps * FRAMES_PER_STEP)
        train(spec, games[cell.game].rom, runs, cell.iterations, Options(), heartbeat)
        returns = pd.read_parquet(results / "returns.parquet")["mean_return"]
        marks = marks_of(results)
    packages = ("moerl", "jax", "jaxlib", "flax", "ale-py", "numpy")
    report("moerl", marks, float(returns.iloc[-1]), {name: version(name) for name in packages})


if __name__ == "__main__":
    main()
