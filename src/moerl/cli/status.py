"""`moerl status`: the runs of a study as a table, live if asked, or as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from moerl.study.expansion import Study
from moerl.study.status import STATES, Folders, RunStatus, State, run_statuses

MARKS: dict[State, tuple[str, str]] = {
    "done": ("✓", "green"),
    "running": ("▶", "cyan"),
    "failed": ("✗", "bold red"),
    "paused": ("‖", "yellow"),
    "stale": ("↻", "magenta"),
    "missing": ("·", "dim"),
}
"""Mark and colour of each state."""
BAR = 12  # characters of a progress bar
NAMED = 20  # runs whose trouble is told; the rest are counted


def look(study: Study, folders: Folders, figures: Sequence[str]) -> list[RunStatus]:
    """How every run stands now. Raises UserError on a figure that the study does not draw."""
    return run_statuses(study, folders, time.time(), figures)


def to_json(study: Study, statuses: Sequence[RunStatus]) -> str:
    """Every run, for programs; frames are emulated frames, of offline runs gradient steps."""
    runs = [
        {
            "agent": s.run.agent,
            "variant": s.run.variant,
            "game": s.run.game,
            "seed": s.run.seed,
            "milestone": s.run.milestone,
            "state": s.state,
            "frames": s.frames,
            "target_frames": s.target_frames,
            "frames_per_second": s.frames_per_second,
            "eta_seconds": s.eta_seconds,
            "reason": s.reason,
            "log": str(s.log) if s.log else None,
        }
        for s in statuses
    ]
    return json.dumps({"study": study.name, "counts": counts(statuses), "runs": runs}, ensure_ascii=False)


def counts(statuses: Sequence[RunStatus]) -> dict[State, int]:
    """Runs in each state."""
    return {state: sum(s.state == state for s in statuses) for state in STATES}


def watch(read: Callable[[], list[RunStatus]], study: Study, console: Console, seconds: float) -> None:
    """Show the table again and again until every run is done (or the user interrupts)."""
    with Live(console=console, auto_refresh=False) as live:
        while True:
            statuses = read()
            # The table last: what does not fit on the screen is cut off.
            live.update(Group(*render(study, statuses)[::-1]), refresh=True)
            if all(s.state == "done" for s in statuses):
                return
            time.sleep(seconds)


def render(study: Study, statuses: Sequence[RunStatus]) -> list[RenderableType]:
    """The table, what is in trouble and why, and the counts."""
    table = Table(title=f"Study {study.name}", title_justify="left")
    for title in ("agent", "variant", "game", "seeds", "trained"):
        table.add_column(title)
    for title in ("frames/s", "ETA"):
        table.add_column(title, justify="right")
    for rows in _lines(statuses):
        first = rows[0].run
        games = list(dict.fromkeys(s.run.game for s in rows))
        game = games[0] if len(games) == 1 else f"{len(games)} games"
        rates = [s.frames_per_second for s in rows if s.frames_per_second]
        unit = " steps/s" if first.milestone == study.offline_milestone else ""
        etas = [s.eta_seconds for s in rows if s.eta_seconds is not None]
        table.add_row(
            first.agent,
            first.variant,
            game,
            _seeds(rows[: len(rows) // len(games)]),
            _bar(sum(s.share for s in rows) / len(rows)),
            f"{sum(rates):,.0f}{unit}" if rates else "",
            readable_seconds(max(etas)) if etas else "",
        )
    found = counts(statuses)
    total = ", ".join(f"{number:,} {state}" for state, number in found.items() if number)
    legend = Text("  ").join(Text(f"{mark} {state}", style) for state, (mark, style) in MARKS.items())
    return [
        table,
        *_troubles(statuses),
        Text(f"{len(statuses):,} run{'s' if len(statuses) != 1 else ''}: {total}."),
        legend,
    ]


def _lines(statuses: Sequence[RunStatus]) -> list[list[RunStatus]]:
    """A line per agent, variant and game; games where nothing but the same happened share one."""
    cells: dict[tuple[Any, ...], list[RunStatus]] = {}
    for s in statuses:
        cells.setdefault((s.run.agent, s.run.variant, s.run.game), []).append(s)
    lines: dict[tuple[Any, ...], list[RunStatus]] = {}
    for (agent, variant, game), rows in cells.items():
        states = tuple((s.run.seed, s.state) for s in rows)
        quiet = all(s.state == "done" or (s.state == "missing" and not s.frames) for s in rows)
        lines.setdefault((agent, variant, states if quiet else game), []).extend(rows)
    return list(lines.values())


def _seeds(rows: Sequence[RunStatus]) -> Text:
    return Text(" ").join(Text(f"{s.run.seed}{MARKS[s.state][0]}", MARKS[s.state][1]) for s in rows)


def _bar(share: float) -> str:
    filled = int(share * BAR)
    return f"{'█' * filled}{'░' * (BAR - filled)} {100 * share:3.0f} %"


def _troubles(statuses: Sequence[RunStatus]) -> list[RenderableType]:
    """A line per run that failed, paused or is stale, and those of a start: why, and the log."""
    found = [s for s in statuses if s.reason]
    told: list[RenderableType] = []
    for s in found[:NAMED]:
        mark, style = MARKS[s.state]
        log = f" ({s.log})" if s.log else ""
        told.append(Text.assemble((f"{mark} {s.state}", style), f": {_name(s)}: {s.reason}{log}"))
    if len(found) > NAMED:
        told.append(Text(f"… and {len(found) - NAMED} more (--json has all)"))
    return told


def _name(status: RunStatus) -> str:
    run = status.run
    return f"{run.agent} {run.variant} {run.game} seed {run.seed}"


def readable_seconds(seconds: float) -> str:
    """A duration in the two units that suit it: "3 d 4 h"."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
