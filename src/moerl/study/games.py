"""The 60 Atari games: actions, random and human scores, and the game sets (`config/games.tsv`).

Scores are those every paper on the benchmark normalises with; five games have no human score and
are therefore left out of aggregates (method 2.6, 7.2).
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from moerl.study.errors import ConfigError, one_line

MOST_ACTIONS = 18
"""Of any Atari game."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*")


@dataclass(frozen=True)
class Game:
    """One game; `random` and `human` are undiscounted returns, None where nobody published one."""

    name: str
    num_actions: int
    random: float | None
    human: float | None
    sets: tuple[str, ...]

    @property
    def rom(self) -> str:
        """The ROM's snake_case name in ale-py."""
        return re.sub(r"(?<!^)([A-Z])", r"_\1", self.name).lower()

    @property
    def scored(self) -> bool:
        """Whether human-normalised scores exist."""
        return self.random is not None and self.human is not None


@cache
def load_games(path: Path) -> dict[str, Game]:
    """Read the table, in file order. Raises ConfigError naming the line that is wrong."""
    games: dict[str, Game] = {}
    try:
        text = io.StringIO(path.read_bytes().decode("utf-8"), newline="")
        rows = list(csv.DictReader(text, delimiter="\t"))
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(path, "", f"cannot be read ({one_line(error)})") from error
    for line, row in enumerate(rows, start=2):
        try:
            game = Game(
                name=row["game"],
                num_actions=int(row["actions"]),
                random=_score(row["random"]),
                human=_score(row["human"]),
                sets=tuple(row["sets"].split(",")),
            )
            if not _NAME.fullmatch(game.name) or game.name in games:
                raise ValueError(f"bad name {game.name!r}: letters and digits, and every name once")
            if not 1 <= game.num_actions <= MOST_ACTIONS:
                raise ValueError(f"{game.num_actions} actions; 1 to {MOST_ACTIONS}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(path, f"line {line}", f"not a game row ({one_line(error)})") from error
        games[game.name] = game
    return games


def _score(text: str) -> float | None:
    score = float(text) if text else None
    if score is not None and not math.isfinite(score):
        raise ValueError(f"{text} is no score")
    return score


def game_sets(games: dict[str, Game]) -> dict[str, tuple[str, ...]]:
    """Name of each game set → its games, in file order."""
    sets: dict[str, list[str]] = {}
    for game in games.values():
        for name in game.sets:
            sets.setdefault(name, []).append(game.name)
    return {name: tuple(members) for name, members in sets.items()}


SET_TITLES = {"games20_paper": "games of Appendix A", "games20_alt": "alternative games"}
"""Game sets in words, for the panels of a figure that aggregates over several."""


@dataclass(frozen=True)
class GameChoice:
    """Games to be shown: a list of them, a set, or several sets, each of which is aggregated by itself."""

    games: tuple[str, ...]
    parts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Where there are several sets: each one's name and games."""


def union(names: Iterable[str], sets: Mapping[str, GameChoice]) -> GameChoice:
    """The games of several sets together, each once."""
    parts = [part for name in names for part in sets[name].parts or [(name, sets[name].games)]]
    return GameChoice(tuple(dict.fromkeys(game for _, games in parts for game in games)), tuple(parts))
