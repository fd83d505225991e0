"""`moerl dataset`: what a dataset for offline agents holds, whether it is sound, and a run as one.

The dataset is a folder in the published layout, or that of a finished run (docs/offline.md).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from moerl.cli.plan import readable_bytes
from moerl.offline.convert import convert, facts
from moerl.offline.episodes import Episode
from moerl.offline.layout import Layout, side_by_side
from moerl.offline.recorded import RecordedRun
from moerl.offline.subset import open_source
from moerl.study.errors import one_line

PERCENTS = (5, 10, 50, 100)
_TRANSITION_BYTES = 84 * 84 + 7 + 8  # frame; what else the ring has of it; its number among the states

LEGACY = (
    "not made by moerl: the published data was recorded with the ROMs of atari-py, and agents that learn "
    "from it are evaluated with those of ale-py, which can differ from game to game (not verified)"
)


@dataclass(frozen=True)
class Summary:
    """A dataset in numbers; transitions count padding."""

    layout: str
    run: dict[str, str | int] | None
    """The run it is of, where that is known."""
    checkpoints: int
    transitions: int
    episodes: int
    """That end with a terminal; in a run, all that ended, cut ones too."""
    actions: list[int]
    """Those that occur."""
    reward_range: list[float] | None
    """Smallest and largest reward; None where they are made anew from the log."""
    memory_bytes: dict[int, int]
    """Of subsets of so many percent."""
    warnings: list[str]


def summary(path: Path, per_checkpoint: int) -> Summary:
    """Describe a dataset from its small files; frames are neither read nor made. Raises DatasetError."""
    source = open_source(path, per_checkpoint)
    return _of_files(source) if isinstance(source, Layout) else _of_run(source)


def _of_files(source: Layout) -> Summary:
    def look(checkpoint: int) -> tuple[int, int, set[int], float, float]:
        columns = source.columns(checkpoint)
        action, reward, terminal = (
            values[columns.order] for values in (columns.action, columns.reward, columns.terminal)
        )
        actions = set(np.unique(action).tolist())
        return columns.length, int(terminal.sum()), actions, float(reward.min()), float(reward.max())

    found = side_by_side(look, range(len(source)), "checkpoints read")
    lengths, episodes, actions, least, most = zip(*found, strict=True)
    warnings = [] if source.facts else [LEGACY]
    if source.facts and (then := source.facts.get("ale_py")) != (now := version("ale-py")):
        warnings.append(f"made with ale-py {then}, here is {now}: its ROMs may play differently")
    return Summary(
        layout="files",
        run=source.facts,
        checkpoints=len(source),
        transitions=sum(lengths),
        episodes=sum(episodes),
        actions=sorted(set().union(*actions)),
        reward_range=[min(least), max(most)],
        memory_bytes=_memory(sum(lengths)),
        warnings=warnings,
    )


def _of_run(source: RecordedRun) -> Summary:
    return Summary(
        layout="finished run",
        run=facts(source),
        checkpoints=len(source),
        transitions=source.length,
        episodes=len(source.log.episode_lengths),
        actions=sorted(set(source.log.actions)),
        reward_range=None,
        memory_bytes=_memory(source.length),
        warnings=[],
    )


def _memory(transitions: int) -> dict[int, int]:
    return {percent: transitions * percent // 100 * _TRANSITION_BYTES for percent in PERCENTS}


def to_json(found: Summary) -> str:
    """The summary, for programs."""
    return json.dumps(asdict(found), indent=1, ensure_ascii=False)


def lines(path: Path, found: Summary) -> list[str]:
    """For people."""
    said = [f"{path}: {found.layout}"]
    if found.run:
        run = one_line(", ".join(f"{key} {value}" for key, value in found.run.items()))
        said.append(f"run           {run}")
    said += [
        f"checkpoints   {found.checkpoints:,}",
        f"transitions   {found.transitions:,} (padding included)",
        f"episodes      {found.episodes:,} ended{'' if found.reward_range is None else ' with a terminal'}",
        f"actions       {', '.join(map(str, found.actions))}",
    ]
    if found.reward_range:
        said.append("rewards       {:g} to {:g}".format(*found.reward_range))
    needs = ", ".join(f"{p} %: {readable_bytes(size)}" for p, size in found.memory_bytes.items())
    said.append(f"memory        {needs}")
    return [*said, *(f"warning: {text}" for text in found.warnings)]


def verify(path: Path) -> str:
    """Read, or replay, all of a dataset; returns what was found in one line. Raises DatasetError."""
    source = open_source(path)
    if isinstance(source, RecordedRun):
        source.verify()
        return (
            f"{path}: sound: replaying {len(source.log.actions):,} actions ended every game where the log "
            f"says and gave the mean returns of {len(source.rows)} iterations"
        )
    episodes = source.episodes()
    parts = [part for checkpoint in episodes for part in checkpoint]
    return (
        f"{path}: sound: {len(episodes):,} checkpoints, {sum(map(len, parts)):,} transitions, {len(parts):,} "
        f"episodes or parts of one, {states(parts):,} of them states"
    )


def states(episodes: list[Episode]) -> int:
    """Transitions that are neither padding nor without the frames before them."""
    return sum(episode.stop - episode.first_state for episode in episodes)


def write(path: Path, out: Path, per_checkpoint: int) -> str:
    """Convert a finished run; returns what was written in one line. Raises DatasetError."""
    run = RecordedRun.open(path, per_checkpoint)
    convert(run, out)
    return f"{out}: {run.length:,} transitions in {len(run):,} checkpoints"
