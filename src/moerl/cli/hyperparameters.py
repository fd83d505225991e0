"""`moerl hyperparameters`: the paper's Tables 1 to 4 from the resolved study, and where they disagree."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from moerl.networks.facts import encoder_facts
from moerl.statistics.latex import tabular
from moerl.study.expansion import Study
from moerl.study.paths import spec_table_files
from moerl.study.specs import Encoder
from moerl.study.tables import (
    DISAGREES,
    NAME_COLUMN,
    TableRow,
    TableSpec,
    Value,
    agent_defaults,
    find_table,
    shown_columns,
)
from moerl.training.statefile import write_atomic


def write_table(study: Study, name: str, results: Path) -> None:
    """Write `tables/<name>.csv`, `.tex` and `.md`. Raises UserError if the study cannot fill the table."""
    table = find_table(study, name)
    columns = shown_columns(study, name, table)
    rows = [table_row(study, table, row, columns) for row in table.rows]
    header = [NAME_COLUMN, *(table.heading(column) for column in columns), DISAGREES]
    absent = [table.heading(column) for column in table.columns if column not in columns]
    remarks = [f"Not in this study: {', '.join(absent)}."] if absent else []
    headline = f"{name} of the study {study.name}: {table.title}"
    alignment = "l" * (len(columns) + 1) + "p{7cm}"
    texts = (
        as_csv(header, rows),
        tabular(headline, alignment, header, rows, remarks),
        as_markdown(headline, header, rows, remarks),
    )
    for path, text in zip(spec_table_files(results, name), texts, strict=True):
        write_atomic(path, text.encode())


def table_row(study: Study, table: TableSpec, row: TableRow, columns: Sequence[str]) -> list[str]:
    """A row as text: its name, the value of each column, and the disagreements."""
    used = {column: value(study, table, row.key, column) for column in columns}
    found: dict[str, list[str]] = {}
    for column in columns:
        if said := disagreement(study, table, row, column, used[column]):
            found.setdefault(said, []).append(table.heading(column))
    remarks = [f"{', '.join(who)}: {said}" for said, who in found.items()]
    return [row.name, *(written(used[column]) for column in columns), "; ".join(remarks)]


def value(study: Study, table: TableSpec, key: str, column: str) -> Value:
    """What is used: a field of a resolved agent, or a fact of an encoder."""
    if table.of == "encoders":
        return encoder_facts(Encoder(column))[key]
    used: Value = study.agents[column].model_dump(mode="json")[key]
    return used


def disagreement(study: Study, table: TableSpec, row: TableRow, column: str, used: Value) -> str:
    """How the value used departs from the paper's table; empty where it does not."""
    if table.of == "agents":
        default = agent_defaults(study)[column].get(row.key, used)
        if default != used:
            return f"the study {study.name} changes {written(default)}"
    why = row.why.get(column)
    if column not in row.printed:
        return f"not in the table{f'; {why}' if why else ''}"
    printed = row.printed[column]
    if printed == used:
        return ""
    return f"the table says {written(printed)}{f'; {why}' if why else ''}"


def written(value: Value) -> str:
    """A value as a reader expects it: 1,000,000, 6.25e-05, yes, none."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:g}".replace("e-0", "e-")
        case _:
            return str(value)


def as_csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as CSV."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return file.getvalue()


def as_markdown(
    headline: str, header: Sequence[str], rows: Sequence[Sequence[str]], remarks: Sequence[str]
) -> str:
    """The table as Markdown, its remarks below."""
    lines = [header, ["---"] * len(header), *rows]
    body = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    return "\n\n".join([f"**{headline}**", body, *remarks]) + "\n"
