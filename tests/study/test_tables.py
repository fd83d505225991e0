"""The paper's tables of hyper-parameters: every field once, what was printed, every disagreement in words."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import yaml

from moerl.cli.hyperparameters import DISAGREES, write_table
from moerl.networks.facts import encoder_facts
from moerl.study.config import load_study
from moerl.study.errors import UserError
from moerl.study.expansion import Study
from moerl.study.paths import spec_table_files
from moerl.study.specs import AgentSpec, Encoder
from moerl.study.tables import load_tables, made_tables

CONFIG = Path(__file__).parents[2] / "config"


@pytest.fixture(scope="module")
def paper() -> Study:
    return load_study(CONFIG / "studies" / "paper.yaml")


def table(study: Study, name: str, results: Path) -> dict[str, dict[str, str]]:
    """Rows of a written table by hyper-parameter."""
    write_table(study, name, results)
    with spec_table_files(results, name)[0].open(encoding="utf-8", newline="") as file:
        return {row["Hyper-parameter"]: row for row in csv.DictReader(file)}


def test_every_field_of_an_agent_stands_in_its_table(paper: Study) -> None:
    tables = load_tables(paper)
    for name in ("table1", "table2"):
        assert sorted(row.key for row in tables[name].rows) == sorted(AgentSpec.model_fields)


def test_only_what_was_printed_and_named_columns_are_in_the_data(paper: Study) -> None:
    known = {c for spec in load_tables(paper).values() for c in spec.columns}
    for spec in load_tables(paper).values():
        for row in spec.rows:
            assert {*row.printed, *row.why} <= known


def test_rainbow_explores_by_noise_whatever_table_2_says(paper: Study, tmp_path: Path) -> None:
    rows = table(paper, "table2", tmp_path)
    row = rows["Exploration ε"]
    assert (row["DQN"], row["Rainbow"]) == ("0.01", "0")
    assert row[DISAGREES] == "Rainbow: the table says 0.01; the code explores by noise alone"
    assert rows["Adam learning rate"][DISAGREES] == ""
    assert (rows["Adam learning rate"]["DQN"], rows["Replay capacity"]["DQN"]) == ("6.25e-5", "1,000,000")
    assert rows["Target update period, steps"][DISAGREES] == "DQN, Rainbow: not in the table"


def test_drq_has_one_atom_not_none(paper: Study, tmp_path: Path) -> None:
    row = table(paper, "table1", tmp_path)["Number of atoms"]
    assert (row["DrQ(ε)"], row["DER"]) == ("1", "51")
    assert row[DISAGREES] == "DrQ(ε): the table says 0; the code has one, the Q-value itself"


def test_table_3_has_what_the_paper_omits_and_where_its_code_differs(paper: Study, tmp_path: Path) -> None:
    rows = table(paper, "table3", tmp_path)
    period = rows["Target update period, steps"]
    assert (period["CQL"], period["CQL + C51"]) == ("2,000", "100")
    assert period[DISAGREES].endswith("the code counts each gradient step twice, which makes it 50")
    capacity = rows["Replay capacity"]
    assert (capacity["CQL"], capacity[DISAGREES]) == ("2,500,000", "")
    assert rows["Part of the dataset, %"]["CQL"] == "5"
    assert rows["Weight of CQL's penalty"]["CQL + C51"] == "0.1"


def test_the_impala_column_of_table_4_is_wrong(paper: Study, tmp_path: Path) -> None:
    row = table(paper, "table4", tmp_path)["Channels"]
    assert (row["Nature CNN"], row["Impala"]) == ("32 / 64 / 64", "16 / 32 / 32")
    assert row[DISAGREES].startswith("Impala: the table says 32 / 64 / 64; the column repeats")


def test_encoder_facts_are_those_of_the_networks() -> None:
    cnn, impala = encoder_facts(Encoder.CNN), encoder_facts(Encoder.IMPALA)
    assert (cnn["filters"], cnn["grid"], cnn["parameters"]) == ("8 / 4 / 3", "11×11×64", 77_984)
    assert (impala["filters"], impala["grid"], impala["parameters"]) == ("3", "11×11×32", 97_744)
    assert (cnn["convolutions"], impala["convolutions"]) == (3, 15)


def test_what_a_study_changes_and_lacks_is_said(tmp_path: Path) -> None:
    demo = load_study(CONFIG / "studies" / "demo.yaml")
    row = table(demo, "table2", tmp_path)["Minimum replay history"]
    assert row["DQN"] == str(demo.agents["dqn"].min_replay_history) != "20000"
    assert row[DISAGREES].endswith(": the study demo changes 20,000")
    assert row[DISAGREES].startswith("DQN")
    markdown = spec_table_files(tmp_path, "table2")[2].read_text(encoding="utf-8")
    if "rainbow" not in demo.agents:
        assert markdown.endswith("Not in this study: Rainbow.\n")
    assert "| Discount factor γ | 0.99 |" in markdown


def test_the_files_are_the_same_twice_and_latex_is_escaped(paper: Study, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_table(paper, "table2", tmp_path / folder)
    one, two = ([p.read_bytes() for p in spec_table_files(tmp_path / f, "table2")] for f in ("one", "two"))
    assert one == two
    tex = one[1].decode()
    assert r"\begin{tabular}{lllp{7cm}}" in tex
    assert r"Adam $\epsilon$ & 0.00015 & 0.00015 &  \\" in tex


def test_tables_of_agents_that_are_absent_are_refused_in_one_line(paper: Study, tmp_path: Path) -> None:
    assert made_tables(paper) == ["table1", "table2", "table3", "table4"]
    demo = load_study(CONFIG / "studies" / "demo.yaml")
    with pytest.raises(UserError, match=r"demo\.yaml: table1 shows .*none of which is among .* \(dqn"):
        write_table(demo, "table1", tmp_path)
    with pytest.raises(UserError, match="unknown table 'table5'"):
        write_table(paper, "table5", tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_key_in_the_data_is_named(tmp_path: Path) -> None:
    shutil.copytree(CONFIG, tmp_path / "config")
    file = tmp_path / "config" / "tables.yaml"
    tables = yaml.safe_load(file.read_text())
    tables["table4"]["rows"][0]["pritned"] = {}
    file.write_text(yaml.safe_dump(tables))
    study = load_study(tmp_path / "config" / "studies" / "paper.yaml")
    with pytest.raises(UserError, match=r"table4\.rows\[0\]\.pritned: .*did you mean 'printed'"):
        load_tables(study)
