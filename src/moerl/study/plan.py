"""What figures take before anything runs: runs that are new to them, jobs that are left, agent steps.

Runs are counted as the paper does: a run that an earlier figure of the list trains is not new, also
where that one goes on to more frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from moerl.study.expansion import Cell, Run, Study
from moerl.study.figures import AGENT_FAMILIES, FigureSpec, base_agent
from moerl.study.paths import analysis_file, figure_files, scores_file, table_files, tokens_file
from moerl.study.specs import FRAMES_PER_STEP
from moerl.study.standing import Standing

COUNTED_IN_FRAMES = ("online", "low-data")
"""Families of agents whose runs are as long as a study says; the others have a length of their own."""
Identity = tuple[Cell, int]
"""A run whatever its length: its cell and seed."""


@dataclass(frozen=True)
class Counted:
    """Runs of one figure."""

    runs: int
    new: int
    """Not in a figure before it."""


@dataclass
class Work:
    """What is left to do for a figure, without what the figures before it do already."""

    counted: Counted
    done: int
    """Runs of the figure that are published."""
    diverged: int
    """Runs of the figure that diverged: their jobs are tried, and end at once."""
    steps: dict[Cell, int] = field(default_factory=dict)
    """Agent steps to train, over all seeds of a cell; gradient steps of an offline one."""
    published: dict[Cell, dict[str, int]] = field(default_factory=dict)
    """Runs to publish, per milestone, of each cell."""
    train_jobs: int = 0
    analyse_jobs: int = 0
    other_jobs: int = 0
    """Scores, table, figure."""
    trainable: bool = True
    """Whether the figure can be made: otherwise its runs are counted, and nothing more is known of it."""

    @property
    def jobs(self) -> int:
        """All jobs."""
        return self.train_jobs + self.analyse_jobs + self.other_jobs


def count(figures: Mapping[str, Sequence[Run]]) -> dict[str, Counted]:
    """Runs of each figure, and how many of them no figure before it has."""
    seen: set[Identity] = set()
    counted = {}
    for name, runs in figures.items():
        here = {(run.cell, run.seed) for run in runs}
        counted[name] = Counted(len(here), len(here - seen))
        seen |= here
    return counted


def group(figures: Mapping[str, Sequence[Run]], frames: Mapping[str, int]) -> dict[str, int]:
    """Distinct runs by kind of agent and, of those counted in frames, by the longest milestone of any figure.

    Args:
        figures: The runs of each figure.
        frames: Milestone labels → length.
    """
    longest: dict[Identity, str] = {}
    for runs in figures.values():
        for run in runs:
            key = run.cell, run.seed
            longest[key] = max(longest.get(key, run.milestone), run.milestone, key=lambda m: frames[m])
    groups: dict[str, int] = {}
    for (cell, _), milestone in longest.items():
        family = AGENT_FAMILIES[base_agent(cell.agent)]
        name = f"{family}, {milestone} frames" if family in COUNTED_IN_FRAMES else family
        groups[name] = groups.get(name, 0) + 1
    return groups


def work(standing: Standing, figures: Sequence[str]) -> dict[str, Work]:
    """What each figure still needs, in order. Raises UserError if the study does not list one of them."""
    study, results = standing.study, standing.results
    runs = {name: study.listed_runs(name) for name in figures}
    counted = count(runs)
    reached: dict[tuple[Cell, tuple[int, ...], str], bool] = {}
    analysed: set[Run] = set()
    found = {}
    for name in figures:
        if name in study.planned:
            found[name] = Work(counted[name], 0, 0, trainable=False)
            continue
        figure = study.figure(name)
        absent = [run for run in runs[name] if not standing.published(run)]
        diverged = sum(standing.divergence(run) is not None for run in absent)
        left = found[name] = Work(counted[name], len(runs[name]) - len(absent), diverged)
        ends = {run.cell: run.milestone for run in [*study.collected(runs[name]), *runs[name]]}
        for cell, milestone in ends.items():
            for pack in _packs(study, figure):
                _train(standing, left, cell, pack, milestone, reached)
        if figure.analysed:
            open_runs = [r for r in runs[name] if r not in analysed and not _is_analysed(results, r)]
            analysed |= set(open_runs)
            left.analyse_jobs = len(open_runs)
        products = [figure_files(results, name)[1]]
        if figure.kind != "schematic":
            products += [scores_file(results, name), table_files(results, name)[0]]
        left.other_jobs = sum(not path.is_file() for path in products)
    return found


def _is_analysed(results: Path, run: Run) -> bool:
    return analysis_file(results, run).is_file() and tokens_file(results, run).is_file()


def _packs(study: Study, figure: FigureSpec) -> list[tuple[int, ...]]:
    """The packs that have a seed the figure shows."""
    return [pack for pack in study.packs if not set(pack).isdisjoint(study.figure_seeds(figure))]


def _train(
    standing: Standing,
    left: Work,
    cell: Cell,
    pack: tuple[int, ...],
    milestone: str,
    reached: dict[tuple[Cell, tuple[int, ...], str], bool],
) -> None:
    """Add the jobs that take a pack to a milestone, and note them in `reached`."""
    study, before = standing.study, 0
    per_step = 1 if milestone == study.offline_milestone else FRAMES_PER_STEP
    for label, frames in study.course(milestone).items():
        key = cell, pack, label
        if key not in reached:
            reached[key] = True
            runs = [Run(cell.agent, cell.variant, cell.game, seed, label) for seed in pack]
            absent = [run for run in runs if not standing.published(run)]
            if absent:
                left.train_jobs += 1
                coming = [run for run in absent if standing.divergence(run) is None]
                ahead = [run for run in coming if not _trained(standing, run)]
                steps = len(ahead) * (frames - before) // per_step
                left.steps[cell] = left.steps.get(cell, 0) + steps
                per_label = left.published.setdefault(cell, {})
                per_label[label] = per_label.get(label, 0) + len(coming)
        before = frames


def _trained(standing: Standing, run: Run) -> bool:
    """Whether publishing the run costs next to nothing: its state has all of it, or it went on already."""
    study = standing.study
    longer = [label for label in study.milestones if run.milestone in list(study.course(label))[:-1]]
    return standing.finished(run) is not None or any(
        standing.published(replace(run, milestone=label)) for label in longer
    )
