"""The paper's tables of hyper-parameters as data: what was printed, and why the code did otherwise.

The values that are used come from elsewhere: the resolved study, and the encoders.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from moerl.study.config import config_dir
from moerl.study.errors import UserError, one_of
from moerl.study.expansion import Study
from moerl.study.figures import AGENT_TITLES, ENCODER_TITLES
from moerl.study.specs import Frozen
from moerl.study.study_file import read_entries, validate

Value = bool | int | float | str | None

NAME_COLUMN = "Hyper-parameter"
DISAGREES = "Where the published table and the code disagree"
"""First and last column of every such table; between them is one per agent or encoder."""


class TableRow(Frozen):
    """One hyper-parameter: a field of the agents or a fact of the encoders."""

    key: str
    name: str
    printed: dict[str, Value] = Field(default_factory=dict)
    """What the paper's table says, per column; a column that is not here is not in the table."""
    why: dict[str, str] = Field(default_factory=dict)
    """Why the code does otherwise, or where its value comes from, per column."""


class TableSpec(Frozen):
    """One table of `config/tables.yaml`."""

    title: str
    of: Literal["agents", "encoders"]
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]

    def heading(self, column: str) -> str:
        """A column as the paper prints it."""
        return (AGENT_TITLES if self.of == "agents" else ENCODER_TITLES)[column]


def load_tables(study: Study) -> dict[str, TableSpec]:
    """The tables configured beside a study. Raises ConfigError."""
    file = config_dir(study.path) / "tables.yaml"
    return {name: validate(TableSpec, value, file, name) for name, value in read_entries(file).items()}


def agent_defaults(study: Study) -> dict[str, dict[str, Any]]:
    """Every agent of `agents.yaml`, before a study changes anything. Raises ConfigError."""
    return read_entries(config_dir(study.path) / "agents.yaml")


def shown_columns(study: Study, name: str, table: TableSpec) -> tuple[str, ...]:
    """The columns of a table that a study can fill, in order; of a table of agents those it trains.

    Raises UserError, one line, if there are none.
    """
    if table.of == "encoders":
        return table.columns
    if found := tuple(column for column in table.columns if column in study.agents):
        return found
    titles = " and ".join(table.heading(column) for column in table.columns)
    raise UserError(
        f"{study.path}: {name} shows {titles}, none of which is among this study's agents "
        f"({', '.join(study.agents)})"
    )


def find_table(study: Study, name: str) -> TableSpec:
    """The table called `name`. Raises UserError if there is none."""
    tables = load_tables(study)
    if name not in tables:
        raise UserError(one_of(name, tables, "table"))
    return tables[name]


def made_tables(study: Study) -> list[str]:
    """Names of the tables that a study can fill at least in part."""

    def fits(name: str, table: TableSpec) -> bool:
        try:
            return bool(shown_columns(study, name, table))
        except UserError:
            return False

    return [name for name, table in load_tables(study).items() if fits(name, table)]
