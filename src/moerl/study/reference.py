"""Published runs to compare with: what Dopamine's authors published, and which figures it can stand in.

Per game and encoder, google/dopamine has one JSON file with the mean training returns of five runs, per
agent and iteration of 1M frames (method 9). Its DQN is configured as the paper's Baseline; its Rainbow is the
simple one, without double, dueling or noisy networks.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from moerl.study.errors import UserError
from moerl.study.expansion import Study
from moerl.study.figures import FigureSpec, Score, View
from moerl.study.specs import IMPALA_FILTER_SIZE, Encoder

URL = (
    "https://raw.githubusercontent.com/google/dopamine/"
    "9f616b924451cc5c23800c49e8907ebc67f8498b/baselines/atari/data/"  # the commit that added these files
)
AGENTS = {"dqn": "DQN", "rainbow": "Rainbow"}
"""Agents of ours → theirs."""
SUFFIXES = {Encoder.CNN: "CNN", Encoder.IMPALA: "Impala"}
SERIES = "Baseline (Google, published)"
ITERATION_FRAMES = 1_000_000
"""Emulated frames between two of their points."""


def file_name(game: str, encoder: Encoder) -> str:
    """The file of one game and encoder."""
    return f"{game.lower()}_{SUFFIXES[encoder]}.json"


def views_with_reference(study: Study, figure: FigureSpec) -> list[View]:
    """The panels that published runs can be drawn in: training curves over frames, long enough, of an agent
    and one encoder that they have (their Impala has filters of the default size).

    The encoder of a view returned is that of the networks it shows, whatever its panel or figure says: a
    variant need not take its name, or its encoder, from there.
    """
    frames = study.lengths[study.figure_milestone(figure)]
    curves = figure.kind == "curves" and figure.over == "frames" and figure.score is Score.TRAINING
    if not curves or frames < ITERATION_FRAMES:
        return []
    found = []
    for view in figure.views:
        if view.agent not in AGENTS or view.agent not in study.agents:
            continue
        shown = [study.variants[variant] for series in view.series for variant in series.variants]
        encoders = {network.encoder for network in shown}
        if len(encoders) == 1 and any(network.filter_size == IMPALA_FILTER_SIZE for network in shown):
            found.append(replace(view, encoder=encoders.pop()))
    return found


def can_stand_in(study: Study, figure: FigureSpec) -> bool:
    """Whether published runs can be drawn in a figure."""
    return bool(views_with_reference(study, figure))


def figures_with_reference(study: Study) -> list[str]:
    """Names of the study's figures that published runs can be drawn in."""
    return [name for name, figure in study.figures.items() if can_stand_in(study, figure)]


def wanted_games(study: Study) -> dict[Encoder, tuple[str, ...]]:
    """The games of those figures, per encoder. Raises UserError if there is no such figure."""
    wanted: dict[Encoder, dict[str, None]] = {}
    for name in figures_with_reference(study):
        for view in views_with_reference(study, study.figures[name]):
            wanted.setdefault(view.encoder, {}).update(dict.fromkeys(view.games))
    if not wanted:
        raise UserError(
            f"{study.path}: no figure that published runs can be drawn in: they are training curves of "
            f"{' and '.join(AGENTS)}, a point every {ITERATION_FRAMES} frames"
        )
    return {encoder: tuple(games) for encoder, games in wanted.items()}


def returns_file(results: Path) -> Path:
    """The published returns that a study uses."""
    return results / "reference" / "returns.parquet"


def checksums_file(results: Path) -> Path:
    """SHA-256 of every published file when it was first seen. No job's output: Snakemake deletes those."""
    return results / "reference" / "manifest.json"


def curves_file(results: Path, figure: str) -> Path:
    """Published runs aggregated as the curves of a figure; columns as in the figure's own table."""
    return results / "reference" / f"{figure}.csv"
