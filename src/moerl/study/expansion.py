"""From figures to runs: which (agent, variant, game, seed) are trained to which milestone.

Figures share runs: a cell that five figures use is trained once. A job trains one *pack*: several
seeds of one (agent, variant, game) to one milestone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from moerl.study.errors import UserError, one_of
from moerl.study.figures import AGENT_TITLES, FigureSpec, View, base_agent
from moerl.study.games import Game
from moerl.study.specs import (
    FRAMES_PER_STEP,
    TRAINING_REVISION,
    AgentSpec,
    Evaluation,
    IterationEnd,
    NetworkSpec,
    Schedule,
    TrainSpec,
)


@dataclass(frozen=True, order=True)
class Cell:
    """What is trained, but for its seed."""

    agent: str
    variant: str
    game: str


@dataclass(frozen=True, order=True)
class Run:
    """One run up to a milestone (`milestone` is a label such as "50M")."""

    agent: str
    variant: str
    game: str
    seed: int
    milestone: str

    @property
    def name(self) -> str:
        """The run in words; its milestone is left out."""
        return f"{self.agent} {self.variant} {self.game} seed {self.seed}"

    @property
    def cell(self) -> Cell:
        """The run without its seed and milestone."""
        return Cell(self.agent, self.variant, self.game)


@dataclass(frozen=True)
class Deviations:
    """How a study differs from the paper's setting, in words for figures and manifests."""

    budget: dict[str, tuple[str, ...]]
    """Per figure: frames, seeds, iteration length, width."""
    figures: dict[str, tuple[str, ...]]
    """Per figure: encoder, agent, games, and which hyper-parameters of its agents are changed."""

    def of(self, figure: str) -> tuple[str, ...]:
        """Every deviation that concerns one figure."""
        return (*self.budget.get(figure, ()), *self.figures.get(figure, ()))


@dataclass(frozen=True)
class Study:
    """A resolved study; see `moerl.study.config.StudyFile` for the meaning of the fields."""

    path: Path
    name: str
    agents: dict[str, AgentSpec]
    variants: Mapping[str, NetworkSpec]
    """Those of the figures and the study's own are right; taking another may raise ConfigError."""
    games: dict[str, Game]
    listed: tuple[str, ...]
    """Every figure that the study lists, in its order: those of `figures` and of `planned`."""
    figures: dict[str, FigureSpec]
    planned: dict[str, FigureSpec]
    """Figures whose agents cannot be trained yet: they are counted, not drawn."""
    on_request: frozenset[str]
    """Figures that are made only when they are named."""
    configured_figures: dict[str, FigureSpec]
    seeds: tuple[int, ...]
    seeds_per_job: int
    iteration_frames: int
    milestone_frames: dict[str, int]
    early_readout: int | None
    snapshot_every: int
    hidden_units: int
    """What the 512 of the shared variants are here."""
    cpu_threads: int
    iteration_end: IterationEnd
    max_noops: int
    evaluation: Evaluation | None
    deviations: Deviations

    def milestone(self, which: str) -> str:
        """Label of the milestone that figures call "short" or "full"."""
        return frames_label(self.milestone_frames[which])

    @cached_property
    def milestones(self) -> dict[str, int]:
        """Milestone labels → frames, ascending, each once."""
        return {frames_label(f): f for f in sorted(set(self.milestone_frames.values()))}

    def previous_milestone(self, label: str) -> str | None:
        """The milestone whose resume files a job to `label` starts from; None: from scratch."""
        labels = list(self.milestones)
        position = labels.index(label)
        return labels[position - 1] if position else None

    def iterations(self, label: str) -> int:
        """Training iterations up to a milestone. Raises UserError on an unknown label."""
        if label not in self.milestones:
            raise UserError(f"{self.path}: {one_of(label, self.milestones, 'milestone')}")
        return self.milestones[label] // self.iteration_frames

    @cached_property
    def packs(self) -> tuple[tuple[int, ...], ...]:
        """Seeds that train in one job."""
        n = self.seeds_per_job
        return tuple(self.seeds[i : i + n] for i in range(0, len(self.seeds), n))

    def figure(self, name: str) -> FigureSpec:
        """A figure of this study. Raises UserError if the study does not draw it."""
        if name in self.planned:
            raise UserError(self.why_planned(name))
        if name not in self.figures:
            raise UserError(f"{self.path}: figures: {one_of(name, self.listed, 'figure')}")
        return self.figures[name]

    def data_figure(self, name: str) -> FigureSpec:
        """A figure of this study that shows runs. Raises UserError if the study has none of that name."""
        figure = self.figure(name)
        if figure.kind == "schematic":
            raise UserError(f"{name}: a schematic shows no runs: it has neither scores nor a table")
        return figure

    def why_planned(self, name: str) -> str:
        """Why a figure of `planned` cannot be made, in one line."""
        titles = dict.fromkeys(AGENT_TITLES[base_agent(agent)] for agent in self.planned[name].agents)
        return f"{name}: {' and '.join(titles)} cannot be trained yet, so there is nothing to draw"

    def figure_seeds(self, figure: FigureSpec) -> tuple[int, ...]:
        """Seeds of the runs a figure shows."""
        return self.seeds[: figure.seeds] if figure.seed is None else (figure.seed,)

    def shows(self, view: View) -> bool:
        """Whether this study trains the agent of a panel."""
        return view.agent in self.agents

    @property
    def usual_figures(self) -> tuple[str, ...]:
        """The figures that the study makes unasked, in order."""
        return tuple(name for name in self.figures if name not in self.on_request)

    def figure_cells(self, figure: FigureSpec) -> list[Cell]:
        """Cells a figure shows, in order of panel, series, x, game; only agents of this study."""
        return _cells(view for view in figure.views if self.shows(view))

    def figure_runs(self, figure: FigureSpec) -> list[Run]:
        """Runs a figure needs, at its milestone, in order of cell and seed."""
        return self._runs(figure, self.figure_cells(figure))

    def listed_runs(self, name: str) -> list[Run]:
        """The runs of a figure that the study lists, also of one whose agents cannot be trained yet.

        Raises UserError if the study does not list it.
        """
        if name in self.planned:
            return self._runs(self.planned[name], _cells(self.planned[name].views))
        return self.figure_runs(self.figure(name))

    def _runs(self, figure: FigureSpec, cells: Iterable[Cell]) -> list[Run]:
        label, seeds = self.milestone(figure.milestone), self.figure_seeds(figure)
        return [Run(c.agent, c.variant, c.game, seed, label) for c in cells for seed in seeds]

    def runs(self) -> list[Run]:
        """Runs of the figures that the study makes unasked, each once."""
        return self.runs_of(self.usual_figures)

    def runs_of(self, names: Iterable[str]) -> list[Run]:
        """Runs of some figures of the study, each once."""
        return list(dict.fromkeys(run for name in names for run in self.figure_runs(self.figures[name])))

    @cached_property
    def analysed_cells(self) -> frozenset[Cell]:
        """Cells of the figures that show analyses: these take snapshots.

        Analysis grids count drawn or not, if the study can resolve them, routing figures if they are listed.
        """
        figures = [f for f in self.configured_figures.values() if f.analysed]
        return frozenset(c for f in figures for c in self.figure_cells(f))

    @property
    def analysed_milestone(self) -> str:
        """The milestone whose snapshots are analysed: the one of the figures that show analyses."""
        figures = self.configured_figures.values()
        return self.milestone(next((f.milestone for f in figures if f.analysed), "short"))

    def train_spec(self, cell: Cell) -> TrainSpec:
        """Everything a cell's training depends on.

        Raises UserError on an unknown agent, variant or game, or a variant that is wrong.
        """
        for value, known, what in (
            (cell.agent, self.agents, "agent"),
            (cell.variant, self.variants, "variant"),
            (cell.game, self.games, "game"),
        ):
            if value not in known:
                raise UserError(f"{self.path}: {one_of(value, known, what)}")
        return TrainSpec(
            agent=cell.agent,
            variant=cell.variant,
            game=cell.game,
            num_actions=self.games[cell.game].num_actions,
            hyper=self.agents[cell.agent],
            network=self.variants[cell.variant],
            schedule=Schedule(
                iteration_steps=self.iteration_frames // FRAMES_PER_STEP,
                snapshot_every=self.snapshot_every if cell in self.analysed_cells else 0,
                iteration_end=self.iteration_end,
                max_noops=self.max_noops,
                evaluation=self.evaluation,
            ),
            cpu_threads=self.cpu_threads,
            revision=TRAINING_REVISION["value"],
        )


def _cells(views: Iterable[View]) -> list[Cell]:
    """The cells of some panels, each once."""
    cells = {
        Cell(agent, variant, game): None
        for view in views
        for _, _, agent, variant in view.places()
        for game in view.games
    }
    return list(cells)


def frames_label(frames: int) -> str:
    """Shortest label of a frame count: 50_000_000 → "50M", 8_000 → "8k", 500 → "500"."""
    for unit, suffix in ((1_000_000, "M"), (1_000, "k")):
        if frames % unit == 0:
            return f"{frames // unit}{suffix}"
    return str(frames)
