"""`moerl params`: parameter counts of network variants, as text, CSV or LaTeX (method 2.5).

The paper's Fig 1 compares a Baseline ×n with a mixture of n experts as if they matched; this table
shows by how much they do not.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from moerl.networks.counts import parameter_counts
from moerl.statistics.latex import escape
from moerl.study.config import config_dir, load_study, shared_agents
from moerl.study.errors import UserError, one_of
from moerl.study.expansion import Study
from moerl.study.figures import AGENT_TITLES, base_agent
from moerl.study.specs import HIDDEN_UNITS, AgentSpec, HeadSpec, Module, NetworkSpec
from moerl.study.study_file import read_yaml
from moerl.study.variants import load_variants

PAPER_ACTIONS = (6, 18)
"""Action counts shown when no study says which games are played: most games have one of these."""
OFFLINE_HEADS = {"cql": HeadSpec(), "cql_c51": HeadSpec(dueling=True, num_atoms=51, v_max=10.0)}
"""What the agents of Figs 11 and 17, which cannot be trained yet, ask of a network (method 5)."""
PARTS = ("encoder", "penultimate", "head")


@dataclass(frozen=True)
class Row:
    """One variant of agents that ask the same of a network."""

    agents: tuple[str, ...]
    variant: str
    num_actions: int
    parts: tuple[int, int, int]
    """Encoder, penultimate module, head. BIG and ALL hold encoders, and perhaps heads, in their module."""
    baseline: int
    """Parameters of Baseline ×1 with the same encoder."""

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parts)

    @property
    def ratio(self) -> float:
        """Of Baseline ×1."""
        return self.total / self.baseline


@dataclass(frozen=True)
class Scope:
    """What is counted."""

    heads: dict[str, HeadSpec]
    """By agent."""
    variants: dict[str, NetworkSpec]
    actions: tuple[int, ...]
    hidden_units: int = HIDDEN_UNITS
    """Of the Baseline ×1 that all are compared with."""


def study_scope(study: Study) -> Scope:
    """A study's agents, the variants of its figures and its own, and the action counts of its games."""
    cells = [cell for figure in study.figures.values() for cell in study.figure_cells(figure)]
    shared = read_yaml(config_dir(study.path) / "networks.yaml")
    own = [name for name in study.variants if name not in shared]
    variants = dict.fromkeys([*(cell.variant for cell in cells), *own])
    actions = sorted({study.games[cell.game].num_actions for cell in cells}) or PAPER_ACTIONS
    taken = {name: study.variants[name] for name in variants}
    return Scope(_heads(study.agents), taken, tuple(actions), study.hidden_units)


def _heads(agents: Mapping[str, AgentSpec]) -> dict[str, HeadSpec]:
    """What agents ask of a network, without the versions of them, whose networks are the same."""
    return {name: spec.head for name, spec in agents.items() if base_agent(name) == name}


def shared_scope() -> Scope:
    """Every agent of the paper's Atari figures, and every variant of the shared configuration.

    Raises ConfigError.
    """
    folder = config_dir(Path("config") / "networks.yaml")
    networks_file = folder / "networks.yaml"
    return Scope(
        _heads(shared_agents(folder)) | OFFLINE_HEADS,
        load_variants(networks_file),
        PAPER_ACTIONS,
    )


def rows_of(scope: Scope) -> list[Row]:
    """The table's rows, by head, variant and action count."""
    heads: dict[HeadSpec, tuple[str, ...]] = {}
    for name, head in scope.heads.items():
        heads[head] = (*heads.get(head, ()), name)
    return [
        Row(
            agents,
            variant,
            actions,
            _parts(spec, actions, head),
            sum(_parts(_baseline(spec, scope.hidden_units), actions, head)),
        )
        for head, agents in heads.items()
        for variant, spec in scope.variants.items()
        for actions in scope.actions
    ]


def _baseline(spec: NetworkSpec, hidden_units: int) -> NetworkSpec:
    """Baseline ×1 with the encoder of `spec`."""
    return NetworkSpec(
        encoder=spec.encoder,
        module=Module.BASELINE,
        hidden_units=hidden_units,
        filter_size=spec.filter_size,
    )


def _parts(spec: NetworkSpec, actions: int, head: HeadSpec) -> tuple[int, int, int]:
    counts = parameter_counts(spec, actions, head)
    return (
        counts.get("encoder", 0),
        counts.get("hidden", 0) + counts.get("moe", 0),
        counts.get("head", 0),
    )


def as_csv(rows: Sequence[Row]) -> str:
    """One line per row, with the counts by part."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["agents", "variant", "num_actions", *PARTS, "parameters", "of_baseline"])
    for row in rows:
        agents = " ".join(row.agents)
        writer.writerow([agents, row.variant, row.num_actions, *row.parts, row.total, f"{row.ratio:.4f}"])
    return out.getvalue()


def as_text(rows: Sequence[Row]) -> str:
    """A table per head, a line per variant, a column per action count: count and ratio to Baseline ×1."""
    console = Console(width=1000)  # tables are as wide as they need, and never shortened
    with console.capture() as captured:
        for title, header, body in _blocks(rows):
            made = Table(title=title, title_justify="left", header_style="")
            for place, name in enumerate(header):
                made.add_column(name, justify="right" if place else "left", no_wrap=True)
            for cells in body:
                made.add_row(*cells)
            console.print(made)
        console.print("In brackets: times the parameters of Baseline ×1 with the same encoder.")
    return captured.get()


def as_latex(rows: Sequence[Row]) -> str:
    """The same as a booktabs table."""
    lines: list[str] = [r"% Needs \usepackage{booktabs}."]
    for i, (title, header, body) in enumerate(_blocks(rows)):
        if i == 0:
            columns = "l" + "r" * (len(header) - 1)
            lines += [f"\\begin{{tabular}}{{{columns}}}", r"\toprule"]
            lines += [" & ".join(map(escape, header)) + r" \\", r"\midrule"]
        else:
            lines.append(r"\addlinespace")
        lines.append(f"\\multicolumn{{{len(header)}}}{{l}}{{\\emph{{{escape(title)}}}}} \\\\")
        lines += [" & ".join(map(escape, cells)) + r" \\" for cells in body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _blocks(rows: Sequence[Row]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, header and cells of each head's block."""
    actions = list(dict.fromkeys(row.num_actions for row in rows))
    header = ["variant", *(f"{count} actions" for count in actions)]
    blocks = []
    for agents in dict.fromkeys(row.agents for row in rows):
        lines: dict[str, list[str]] = {}
        for row in rows:
            if row.agents == agents:
                lines.setdefault(row.variant, []).append(f"{row.total:,} ({row.ratio:.2f})")
        title = ", ".join(AGENT_TITLES.get(name, name) for name in agents)
        blocks.append((title, header, [[variant, *cells] for variant, cells in lines.items()]))
    return blocks


FORMATS: dict[str, Callable[[Sequence[Row]], str]] = {"text": as_text, "csv": as_csv, "latex": as_latex}


def table(study_path: Path | None, agents: Sequence[str], actions: Sequence[int], form: str) -> str:
    """The table for a study, or for the shared configuration, narrowed to `agents` and `actions` if given.

    Raises UserError on an agent that is not there.
    """
    scope = shared_scope() if study_path is None else study_scope(load_study(study_path))
    for name in agents:
        if name not in scope.heads:
            raise UserError(one_of(name, scope.heads, "agent"))
    chosen = {name: scope.heads[name] for name in agents} or scope.heads
    return FORMATS[form](rows_of(replace(scope, heads=chosen, actions=tuple(actions) or scope.actions)))
