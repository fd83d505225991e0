"""`moerl params`: the table of parameter counts in its three formats."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from moerl.cli.main import cli
from moerl.cli.params import as_latex, as_text, rows_of, shared_scope, table
from moerl.study.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Figure 1 of the demo study on other games, and a variant more."""
    fields = yaml.safe_load((ROOT / "config" / "studies" / "demo.yaml").read_text())
    fields["figures"] = {"fig01": {"encoder": "cnn"}}
    fields["games"] = {"games20": ["SpaceInvaders", "Asterix"]}
    fields["variants"] = {"mine": {"encoder": "cnn", "module": "top1", "num_experts": 3, "tokens": "perfeat"}}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def test_csv_has_the_studys_variants_its_own_and_its_games_actions(study: Path) -> None:
    done = CliRunner().invoke(cli, ["params", "--study", str(study), "--format", "csv"])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader(io.StringIO(done.output)))
    cells = {(row["agents"], row["variant"], row["num_actions"]): row for row in rows}
    assert len(cells) == len(rows)
    assert {row["agents"] for row in rows} == {"dqn", "rainbow"}
    assert {row["num_actions"] for row in rows} == {"6", "9"}
    assert {row["variant"] for row in rows} >= {"cnn-baseline-x8", "cnn-softmoe8", "mine"}
    assert "cnn-softmoe8-big" not in {row["variant"] for row in rows}
    counted = cells["dqn", "cnn-softmoe8", "6"]
    assert counted["parameters"] == "661543"
    assert counted["of_baseline"] == f"{661_543 / 4_046_502:.4f}"
    assert int(counted["encoder"]) + int(counted["penultimate"]) + int(counted["head"]) == 661_543


def test_a_narrow_study_is_compared_with_its_own_baseline(study: Path) -> None:
    study.write_text(study.read_text() + "hidden_units: 32\n")
    for actions in ([], [4]):
        rows = list(csv.DictReader(io.StringIO(table(study, ["dqn"], actions, "csv"))))
        ratios = {row["variant"]: row["of_baseline"] for row in rows}
        assert ratios["cnn-baseline"] == "1.0000"
        assert float(ratios["cnn-baseline-x2"]) > 1.5
    assert next(row["parameters"] for row in rows if row["variant"] == "cnn-baseline") == "325956"


def test_text_and_latex_show_counts_and_ratios() -> None:
    scope = shared_scope()
    variants = {name: scope.variants[name] for name in ("impala-baseline", "impala-softmoe8")}
    rows = rows_of(type(scope)(scope.heads, variants, (6,)))
    text = [line.strip() for line in as_text(rows).splitlines()]
    assert text[0] == "DQN, CQL"  # they ask the same of a network
    assert "│ impala-baseline │ 2,083,798 (1.00) │" in text
    assert "│ impala-softmoe8 │   391,575 (0.19) │" in text
    assert "│ impala-softmoe8 │ 1,750,998 (0.77) │" in text[text.index("CQL + C51") :]
    assert "Rainbow, DER" in text
    latex = as_latex(rows)
    assert "impala-softmoe8 & 3,268,827 (0.74) \\\\" in latex
    assert r"\multicolumn{2}{l}{\emph{DrQ($\epsilon$)}} \\" in latex
    assert latex.count(r"\midrule") == 1
    assert latex.endswith("\\bottomrule\n\\end{tabular}\n")


def test_narrowed_to_an_agent_and_an_action_count(study: Path) -> None:
    text = table(study, ["rainbow"], [4], "text")
    assert "4 actions" in text
    assert "DQN" not in text
    with pytest.raises(UserError, match="did you mean 'rainbow'"):
        table(study, ["rainbo"], [], "text")
