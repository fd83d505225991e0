"""Tiny offline runs: real data of a game played at random, a few gradient steps, real evaluation games."""

from dataclasses import dataclass, replace
from pathlib import Path

from tiny_runs import AGENTS, Tiny, files, narrow, tiny

from moerl.study.specs import AgentSpec, DatasetSpec, EvaluationPhase, Schedule, TrainSpec
from moerl.training.checkpoint import RunFolders
from moerl.training.loop import Options, train

EPISODE = 40
"""Agent steps after which evaluation games are cut."""


@dataclass(frozen=True)
class TinyOffline:
    """An offline cell, and the data its seeds learn from."""

    spec: TrainSpec
    rom: str
    iterations: int
    datasets: dict[int, Path]

    def folders(self, root: Path, seed: int, milestone: str = "end") -> RunFolders:
        place = f"seed{seed}/{milestone}"
        return RunFolders(root / "state" / place, root / "results" / place)

    def train(self, root: Path, seeds=(0,), iterations=None, options=Options(), milestone="end"):  # noqa: B008
        runs = {seed: self.folders(root, seed, milestone) for seed in seeds}
        many = self.iterations if iterations is None else iterations
        train(self.spec, self.rom, runs, many, options, datasets=self.datasets)
        return {seed: files(folders.results) for seed, folders in runs.items()}


def collect(root: Path, game: str = "Breakout", steps: int = 500) -> dict[int, Path]:
    """Two runs that act at random: the datasets of seeds 0 and 1."""
    cell = tiny(game, steps, 1, "cnn-baseline", min_replay_history=100_000, replay_capacity=2_000)
    schedule = cell.spec.schedule.model_copy(update={"snapshot_every": 0})
    cell = narrow(Tiny(cell.spec.model_copy(update={"schedule": schedule}), cell.rom, 1))
    cell.train(root, seeds=(0, 1))
    return {seed: root / "results" / f"seed{seed}" / "end" for seed in (0, 1)}


def offline_cell(
    datasets: dict[int, Path], agent: str = "cql_c51", variant: str = "cnn-softmoe1", **hyper
) -> TinyOffline:
    """Two iterations of six gradient steps on Breakout, each with evaluation games of 100 agent steps."""
    small = {"batch_size": 4, "target_update_period": 4, "max_episode_steps": EPISODE}
    large = {"data_percent": 50, "replay_capacity": 25_000_000}
    base = narrow(tiny("Breakout", 1, 1, variant))
    spec = TrainSpec(
        **base.spec.model_dump(exclude={"agent", "hyper", "schedule", "dataset"}),
        agent=agent,
        hyper=AgentSpec.model_validate(AGENTS[agent] | small | large | hyper),
        schedule=Schedule(
            iteration_steps=6,
            snapshot_every=1,
            snapshot_batches=1,
            evaluation_phase=EvaluationPhase(agent_steps=100),
        ),
        dataset=DatasetSpec(name="played at random"),
    )
    return TinyOffline(spec, base.rom, 2, datasets)


def without_penalty(cell: TinyOffline) -> TinyOffline:
    """The same agent without its conservative penalty."""
    hyper = cell.spec.hyper.model_copy(update={"cql_weight": 0.0})
    return replace(cell, spec=cell.spec.model_copy(update={"hyper": hyper}))
