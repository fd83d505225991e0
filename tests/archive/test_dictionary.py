"""Every column of every table is in the data dictionary, and tables that are something else are refused."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pandas as pd
import pytest

from moerl.archive.dictionary import COLUMNS, Kind, check_table, dictionary_csv
from moerl.cli.hyperparameters import write_table
from moerl.statistics import readers, tables
from moerl.study.config import load_study
from moerl.study.errors import UserError
from moerl.study.tables import made_tables
from moerl.training.progress import (
    EvaluationRow,
    IterationRow,
    TimingRow,
    evaluations_parquet,
    losses_parquet,
    returns_parquet,
    timing_parquet,
)

STUDIES = Path(__file__).parents[2] / "config" / "studies"
ROW = IterationRow(0, 4, 1, 1, None, None)


def parquet(**columns: object) -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame(columns).to_parquet(buffer, index=False)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("analysis", readers.ANALYSIS_COLUMNS),
        ("tokens", readers.TOKEN_COLUMNS),
        ("scores", readers.SCORE_COLUMNS),
        ("left out", readers.LEFT_OUT_COLUMNS),
        ("bars", tables.BAR_COLUMNS),
        ("curves", tables.CURVE_COLUMNS),
        ("analysis grid", tables.ANALYSIS_COLUMNS),
        ("routing", tables.ROUTING_COLUMNS),
    ],
)
def test_no_column_that_a_stage_writes_is_undocumented(kind: Kind, written: tuple[str, ...]) -> None:
    needed = [name for name, column in COLUMNS[kind].items() if not column.optional]
    # Over gradient steps, a column of that name takes the place of `frame`.
    assert needed == [name for name in written if name != "frame" or not COLUMNS[kind][name].optional]
    assert set(written) <= set(COLUMNS[kind])


def test_what_training_writes_is_documented() -> None:
    check_table("returns.parquet", returns_parquet([ROW]), "returns")
    check_table("losses.parquet", losses_parquet([ROW]), "losses")
    check_table("timing.parquet", timing_parquet([TimingRow(0, 4, 0.5)]), "timing")
    check_table("evaluations.parquet", evaluations_parquet([EvaluationRow(0, 4, 1, 2.0)]), "evaluations")
    with pytest.raises(
        UserError, match=r"^a.parquet: column 'gradient_steps' is not in the data dictionary of ret"
    ):
        check_table("a.parquet", losses_parquet([ROW]), "returns")


def test_the_papers_tables_are_documented(tmp_path: Path) -> None:
    study = load_study(STUDIES / "paper.yaml")
    for name in made_tables(study):
        write_table(study, name, tmp_path)
        check_table(name + ".csv", (tmp_path / "tables" / f"{name}.csv").read_bytes(), "hyper-parameters")


def test_the_dictionary_says_something_of_each_column() -> None:
    rows = list(csv.DictReader(io.StringIO(dictionary_csv())))
    assert len(rows) == sum(len(columns) for columns in COLUMNS.values())
    assert all(row["meaning"] and row["holds"] for row in rows)
    numbers = [row for row in rows if row["holds"] == "number" and not row["unit"]]
    assert [row["column"] for row in numbers] == ["mean_loss"]  # has none


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.parquet", b"PAR1 torn", "not a readable table"),
        (
            "a.parquet",
            parquet(iteration=[0], frame=[4], metric=["m"]),
            "lacks the column 'value' of analysis",
        ),
        (
            "a.parquet",
            parquet(iteration=[0], frame=[4], metric=["m"], value=["x"]),
            "value holds text, not number",
        ),
        (
            "a.csv",
            b"iteration,frame,metric,value\n0,4,m\n",
            r"not a readable table \(rows of unequal length\)",
        ),
        ("a.csv", b"iteration,frame,metric,value\n0.5,4,m,1\n", "iteration holds text, not integer"),
        ("a.csv", b"\xff", "not a readable table"),
        ("a.csv", b"", "not a readable table"),
    ],
)
def test_what_is_no_such_table_is_refused(name: str, data: bytes, problem: str) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        check_table(name, data, "analysis")
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)
