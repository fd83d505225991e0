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
    DatasetSpec,
    Evaluation,
    IterationEnd,
    NetworkSpec,
    Schedule,
    TrainSpec,
)
from moerl.study.study_file import Offline


@dataclass(frozen=True, order=True)
class Cell:
    """What is trained, but for its seed."""

    agent: str
    variant: str
    game: str


@dataclass(frozen=True, order=True)
class Run:
    """One run up to a milestone (`milestone` is a label such as "50M", offline "12500k-steps")."""

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
    offline: Offline | None
    deviations: Deviations

    def milestone(self, which: str) -> str:
        """Label of the milestone that figures call "short" or "full"."""
        return frames_label(self.milestone_frames[which])

    @cached_property
    def milestones(self) -> dict[str, int]:
        """Milestone labels → frames, ascending, each once."""
        return {frames_label(f): f for f in sorted(set(self.milestone_frames.values()))}

    @property
    def offline_milestone(self) -> str | None:
        """Label of the one milestone of offline runs, in gradient steps; None if the study has none."""
        if self.offline is None:
            return None
        return f"{frames_label(self.offline.iterations * self.offline.iteration_steps)}-steps"

    def figure_milestone(self, figure: FigureSpec) -> str:
        """Label of the milestone of a figure's runs."""
        offline = any(agent in self.agents and self.agents[agent].offline for agent in figure.agents)
        if offline and self.offline_milestone is not None:
            return self.offline_milestone
        return self.milestone(figure.milestone)

    @cached_property
    def lengths(self) -> dict[str, int]:
        """Milestone labels → frames, of offline runs gradient steps."""
        if self.offline is None or self.offline_milestone is None:
            return self.milestones
        steps = self.offline.iterations * self.offline.iteration_steps
        return self.milestones | {self.offline_milestone: steps}

    def course(self, label: str) -> dict[str, int]:
        """The milestones on the way to `label`, itself included, ascending → their lengths."""
        if label == self.offline_milestone:
            return {label: self.lengths[label]}
        return {m: frames for m, frames in self.milestones.items() if frames <= self.milestones[label]}

    def previous_milestone(self, label: str) -> str | None:
        """The milestone whose resume files a job to `label` starts from; None: from scratch."""
        return next(iter(list(self.course(label))[-2:-1]), None)

    def iterations(self, label: str) -> int:
        """Training iterations up to a milestone. Raises UserError on an unknown label."""
        if self.offline is not None and label == self.offline_milestone:
            return self.offline.iterations
        if label not in self.milestones:
            raise UserError(f"{self.path}: {one_of(label, self.lengths, 'milestone')}")
        return self.milestones[label] // self.iteration_frames

    def iteration_length(self, figure: FigureSpec) -> int:
        """Frames of an iteration of a figure's runs, of offline ones gradient steps."""
        label = self.figure_milestone(figure)
        return self.lengths[label] // self.iterations(label)

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
        label, seeds = self.figure_milestone(figure), self.figure_seeds(figure)
        return [Run(c.agent, c.variant, c.game, seed, label) for c in cells for seed in seeds]

    def runs(self) -> list[Run]:
        """Runs of the figures that the study makes unasked, and those that these learn from, each once."""
        return self.runs_of(self.usual_figures)

    def runs_of(self, names: Iterable[str]) -> list[Run]:
        """Runs of some figures of the study, and those that these learn from, each once."""
        shown = [run for name in names for run in self.figure_runs(self.figures[name])]
        return list(dict.fromkeys([*self.collected(shown), *shown]))

    def collected(self, runs: Iterable[Run]) -> list[Run]:
        """The runs of the study whose experience some of `runs` learn from, each once."""
        collect = self.offline.collect if self.offline else None
        if collect is None:
            return []
        label = self.milestone(collect.milestone)
        learners = (run for run in runs if run.milestone == self.offline_milestone)
        found = (Run(collect.agent, collect.variant, run.game, run.seed, label) for run in learners)
        return list(dict.fromkeys(found))

    @cached_property
    def analysed_cells(self) -> frozenset[Cell]:
        """Cells of the figures that show analyses: these take snapshots.

        Analysis grids count drawn or not, if the study can resolve them, routing figures if they are listed.
        """
        figures = [f for f in self.configured_figures.values() if f.analysed]
        return frozenset(c for f in figures for c in self.figure_cells(f))

    def analysed_milestone(self, agent: str) -> str:
        """The milestone whose snapshots of an agent are analysed, that of the figures that show analyses."""
        if self.offline_milestone is not None and agent in self.agents and self.agents[agent].offline:
            return self.offline_milestone
        figures = (f for f in self.configured_figures.values() if f.over == "frames")
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
        schedule, dataset = self._schedule(cell), None
        if self.agents[cell.agent].offline:
            schedule, dataset = self._offline_schedule(cell), self._dataset(cell)
        return TrainSpec(
            agent=cell.agent,
            variant=cell.variant,
            game=cell.game,
            num_actions=self.games[cell.game].num_actions,
            hyper=self.agents[cell.agent],
            network=self.variants[cell.variant],
            schedule=schedule,
            cpu_threads=self.cpu_threads,
            revision=TRAINING_REVISION["value"],
            dataset=dataset,
        )

    def _schedule(self, cell: Cell) -> Schedule:
        return Schedule(
            iteration_steps=self.iteration_frames // FRAMES_PER_STEP,
            snapshot_every=self.snapshot_every if cell in self.analysed_cells else 0,
            iteration_end=self.iteration_end,
            max_noops=self.max_noops,
            evaluation=self.evaluation,
        )

    def _offline_schedule(self, cell: Cell) -> Schedule:
        assert self.offline is not None, "checked when the study was loaded"
        return Schedule(
            iteration_steps=self.offline.iteration_steps,
            snapshot_every=self.snapshot_every if cell in self.analysed_cells else 0,
            evaluation_phase=self.offline.evaluation,
        )

    def _dataset(self, cell: Cell) -> DatasetSpec:
        assert self.offline is not None, "checked when the study was loaded"
        if (collect := self.offline.collect) is None:
            assert self.offline.name is not None, "checked when the study was loaded"
            return DatasetSpec(name=self.offline.name)
        source = Cell(collect.agent, collect.variant, cell.game)
        return DatasetSpec(
            name=f"{collect.agent} {collect.variant}",
            collected=self.train_spec(source).digest(),
            iterations=self.iterations(self.milestone(collect.milestone)),
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
