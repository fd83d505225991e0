"""Tiny real runs: real games and real updates, a few hundred agent steps."""

from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from moerl.study.config import load_study
from moerl.study.expansion import Cell
from moerl.study.specs import AgentSpec, TrainSpec
from moerl.training import loop
from moerl.training.checkpoint import RunFolders
from moerl.training.loop import Options, train

STUDY = Path(__file__).parents[2] / "config" / "studies" / "paper.yaml"


@dataclass(frozen=True)
class Tiny:
    """A cell small enough to train in seconds, and how to train it."""

    spec: TrainSpec
    rom: str
    iterations: int

    def train(self, root: Path, seeds=(0,), iterations=None, options=Options(), milestone="end"):  # noqa: B008
        runs = {
            seed: RunFolders(
                root / "state" / f"seed{seed}" / milestone, root / "results" / f"seed{seed}" / milestone
            )
            for seed in seeds
        }
        train(self.spec, self.rom, runs, self.iterations if iterations is None else iterations, options)
        return {seed: files(folders.results) for seed, folders in runs.items()}


def save_now_and_then(monkeypatch, rng, rounds: int) -> None:
    """Make training save once in so many rounds, on average, as `rng` draws it, instead of by the clock."""
    monkeypatch.setattr(loop._Clock, "save_due", lambda _: rng.random() < 1 / rounds)


def files(folder: Path) -> dict[str, bytes]:
    """The byte-reproducible files of a published run."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in paths
        if p.name not in ("timing.parquet", "manifest.json")
    }


def tiny(
    game: str, iteration_steps: int, iterations: int, variant="cnn-softmoe1", agent="dqn", **hyper
) -> Tiny:
    study = load_study(STUDY)
    spec = study.train_spec(Cell(agent, variant, game))
    small = {
        "min_replay_history": 100,
        "epsilon_decay_period": 500,
        "update_period": 16,
        "target_update_period": 64,
        "replay_capacity": 600,
    }
    schedule = {"iteration_steps": iteration_steps, "snapshot_every": 1, "snapshot_batches": 1}
    spec = spec.model_copy(
        update={
            "hyper": spec.hyper.model_copy(update=small | hyper),
            "schedule": spec.schedule.model_copy(update=schedule),
        }
    )
    return Tiny(spec, study.games[game].rom, iterations)


def narrow(cell: Tiny) -> Tiny:
    """The same with a narrow network, whose files are small."""
    network = cell.spec.network.model_copy(update={"hidden_units": 64})
    return replace(cell, spec=cell.spec.model_copy(update={"network": network}))


AGENTS = yaml.safe_load((Path(__file__).parents[2] / "config" / "agents.yaml").read_text())
SMALL = {
    "batch_size": 4,
    "replay_capacity": 400,
    "min_replay_history": 100,
    "update_period": 16,
    "target_update_period": 64,
    "max_episode_steps": 150,
}


def tiny_agent(agent: str, variant="cnn-softmoe1", **hyper) -> Tiny:
    """Two short iterations of `agent` on Breakout; lives are lost, episodes cut, the replay wraps."""
    cell = tiny("Breakout", 200, 2, variant=variant)
    spec = cell.spec.model_copy(
        update={"agent": agent, "hyper": AgentSpec.model_validate(AGENTS[agent] | SMALL | hyper)}
    )
    return narrow(Tiny(spec, cell.rom, cell.iterations))


TINY = {
    # One long episode; a replay that wraps; the episode is running whenever training is interrupted.
    "Pong": narrow(tiny("Pong", 200, 1)),
    # Frequent episode ends, terminal ones and cut ones.
    "Breakout": narrow(tiny("Breakout", 300, 2, max_episode_steps=190)),
}
