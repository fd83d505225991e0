"""How a study differs from the paper, figure by figure, in words: figures print it on their face."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moerl.study.expansion import Deviations, frames_label
from moerl.study.figures import (
    AGENT_TITLES,
    ENCODER_TITLES,
    FigureSpec,
    Score,
    base_agent,
)
from moerl.study.games import Game, game_sets
from moerl.study.specs import (
    HIDDEN_UNITS,
    AgentSpec,
    Evaluation,
    IterationEnd,
)
from moerl.study.study_file import Offline, StudyFile, read_entries

PAPER_FRAMES = {
    Score.TRAINING: {"short": 50_000_000, "full": 200_000_000, "iteration": 1_000_000},
    Score.EVALUATION: {"short": 400_000, "full": 400_000, "iteration": 40_000},
}
"""The paper's budgets, in emulated frames; with evaluation: the Atari-100k protocol's."""
PAPER_SCHEDULE: dict[Score, dict[str, Any]] = {
    Score.TRAINING: {"iteration_end": IterationEnd.EPISODE, "max_noops": 0},
    Score.EVALUATION: {
        "iteration_end": IterationEnd.STEP,
        "max_noops": 29,
        "evaluation": Evaluation(episodes=100, epsilon=0.001),
    },
}
"""The paper's settings of the schedule, besides its budgets (method 4.2, 4.7)."""
PAPER_OFFLINE = Offline(folder="{game}/{run}", name="DQN Replay Dataset")
"""The paper's offline runs, but for where their data lies."""
PAPER_SEEDS = 5
"""Seeds of a figure that does not say otherwise."""
_ENDS = {IterationEnd.EPISODE: "with an episode", IterationEnd.STEP: "at a step"}
PAPER_SETS = {"games20": "games20_paper"}
"""Game sets as figures name them → the list printed in the paper (Appendix A)."""


def deviations(
    file: StudyFile,
    shared: Path,
    figures: Mapping[str, FigureSpec],
    games: Mapping[str, Game],
    trainable: Mapping[str, AgentSpec],
) -> Deviations:
    """How each figure of a study falls short of the paper's.

    Args:
        file: The study.
        shared: The shared `figures.yaml`.
        figures: The study's resolved figures.
        games: All games.
        trainable: Agents that can be trained, with the study's overrides.
    """
    configured = read_entries(shared)
    defaults = {name: trainable[name].model_dump() for name in file.agents}
    changed = {
        name: f"{AGENT_TITLES.get(name, name)}: {', '.join(keys)} changed"
        for name, overrides in file.agents.items()
        if (keys := [key for key, value in overrides.items() if value != defaults[name][key]])
    }
    budgets: dict[str, tuple[str, ...]] = {}
    own: dict[str, tuple[str, ...]] = {}
    for name, override in file.figures.items():
        if name not in figures or figures[name].kind == "schematic":
            continue
        figure, found = figures[name], []
        original = FigureSpec.model_validate(configured[name])
        offline = figure.over == "gradient steps"
        budgets[name] = tuple(
            _offline_deviations(file) if offline else _budget_deviations(file, figure, original.score)
        )
        if figure.kind == "routing":  # not in the paper; encoder, agent, game and seed are named in its title
            own[name] = ()
            continue
        if figure.encoder is not original.encoder:
            titles = ENCODER_TITLES[figure.encoder], ENCODER_TITLES[original.encoder]
            found.append(f"{titles[0]} encoder instead of {titles[1]}")
        if figure.score is not original.score:
            found.append(f"{figure.score} returns instead of {original.score} returns")
        if override.agent and override.agent != original.panels[0].agent:
            title = AGENT_TITLES.get(override.agent, override.agent)
            found.append(f"{title} instead of {original.panels[0].title}")
        found += _other_games(figure, original, games)
        found += [f"{series.name} added" for series in override.add_series]
        own[name] = tuple(found)
    for name, figure in figures.items():
        agents = {agent for view in figure.views for _, _, agent, _ in view.places()}
        agents |= {base_agent(agent) for agent in agents}
        own[name] = (*own.get(name, ()), *(text for agent, text in changed.items() if agent in agents))
    return Deviations(budgets, own)


def _other_games(figure: FigureSpec, original: FigureSpec, games: Mapping[str, Game]) -> Iterator[str]:
    """How the games of a figure's panels differ from those of the paper's, as they are configured."""
    sets = game_sets(dict(games))
    listed = [panel.games or original.games for panel in original.panels]
    printed = [frozenset(sets[PAPER_SETS.get(one, one)] if isinstance(one, str) else one) for one in listed]
    shown = [frozenset(view.games) for view in figure.views]
    new = [game for view in figure.views if frozenset(view.games) not in printed for game in view.games]
    if new:
        few = list(dict.fromkeys(new))
        said = ", ".join(few) if len(few) <= 4 else f"{len(few)} games"
        gone = frozenset[str]().union(*(one for one in printed if one not in shown))
        yield f"{said} instead of the paper's {len(gone)} games" if gone else f"{said} in panels of their own"


def _offline_deviations(file: StudyFile) -> Iterator[str]:
    """How a study's offline runs fall short of the paper's (method 5)."""
    if file.offline is None:
        return
    given, paper = file.offline, PAPER_OFFLINE
    if (given.iterations, given.iteration_steps) != (paper.iterations, paper.iteration_steps):
        yield (
            f"{given.iterations} iterations of {given.iteration_steps:,} gradient steps "
            f"instead of {paper.iterations} of {paper.iteration_steps:,}"
        )
    if given.evaluation != paper.evaluation:
        yield (
            f"evaluation of {given.evaluation.agent_steps:,} agent steps at ε = {given.evaluation.epsilon:g} "
            f"instead of {paper.evaluation.agent_steps:,} at {paper.evaluation.epsilon:g}"
        )
    if given.collect is not None:
        frames = frames_label(getattr(file.milestones, given.collect.milestone))
        title = AGENT_TITLES[base_agent(given.collect.agent)]
        trained = f"{title} {given.collect.variant} trained here for {frames} frames"
        yield f"data of {trained} instead of the {paper.name}"
    elif given.name != paper.name:
        yield f"data {given.name!r} instead of the {paper.name}"
    if len(file.seeds) < PAPER_SEEDS:
        yield f"{_seeds(file)} instead of {PAPER_SEEDS}"
    if file.hidden_units != HIDDEN_UNITS:
        yield f"{file.hidden_units} hidden units instead of {HIDDEN_UNITS}"


def _seeds(file: StudyFile) -> str:
    return f"{len(file.seeds)} seed{'s' if len(file.seeds) > 1 else ''}"


def _budget_deviations(file: StudyFile, figure: FigureSpec, score: Score) -> Iterator[str]:
    """How a study's budget, width and schedule fall short of the paper's, of a figure that shows `score`."""
    budgets = PAPER_FRAMES[score]
    frames, printed = getattr(file.milestones, figure.milestone), budgets[figure.milestone]
    if frames != printed:
        yield f"{frames_label(frames)} frames instead of {frames_label(printed)}"
    needed = figure.seeds or PAPER_SEEDS
    if figure.kind != "routing" and len(file.seeds) < needed:
        yield f"{_seeds(file)} instead of {needed}"
    if file.iteration_frames != budgets["iteration"]:
        yield (
            f"iterations of {frames_label(file.iteration_frames)} frames "
            f"instead of {frames_label(budgets['iteration'])}"
        )
    if file.hidden_units != HIDDEN_UNITS:
        yield f"{file.hidden_units} hidden units instead of {HIDDEN_UNITS}"
    expected = PAPER_SCHEDULE[score]
    if file.iteration_end is not expected["iteration_end"]:
        yield f"iterations end {_ENDS[file.iteration_end]} instead of {_ENDS[expected['iteration_end']]}"
    if file.max_noops != expected["max_noops"]:
        yield f"episodes begin with up to {file.max_noops} no-op steps instead of {expected['max_noops']}"
    if figure.score is Score.EVALUATION and file.evaluation != expected.get("evaluation", file.evaluation):
        assert file.evaluation is not None
        yield (
            f"evaluation of {file.evaluation.episodes} episodes at ε = {file.evaluation.epsilon:g} "
            f"instead of {expected['evaluation'].episodes} at {expected['evaluation'].epsilon:g}"
        )
