"""Captions of figures: what they show, and over how many games with a human score (method 7.4)."""

from __future__ import annotations

from moerl.study.expansion import Study


def scored_games(study: Study, name: str) -> str | None:
    """How many games a figure aggregates over, in one sentence; None where it aggregates over none.

    Games without a human score are trained and left out of every IQM.
    """
    figure = study.figure(name)
    if figure.kind != "bars" and figure.measure != "iqm":
        return None
    counts: dict[str, list[str]] = {}
    for view in figure.views:
        if study.shows(view):
            scored = sum(study.games[game].scored for game in view.games)
            counts.setdefault(f"{scored} of {len(view.games)}", []).append(view.title)
    games = [game for game in figure.all_games if not study.games[game].scored]
    without = f"; no human score: {', '.join(games)}" if games else ""
    if len(counts) == 1:
        return f"Scored games: {next(iter(counts))}{without}."
    told = ", ".join(f"{count} ({'; '.join(titles)})" for count, titles in counts.items())
    return f"Scored games: {told}{without}."


def caption(study: Study, name: str) -> str:
    """The whole caption of a figure of this study."""
    games = scored_games(study, name)
    return study.figure(name).caption + (f" {games}" if games else "")
