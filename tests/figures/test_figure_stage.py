from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from synthetic_study import load, svg_text, write_divergence, write_runs

from moerl.figures import stage
from moerl.figures.analysis_grid import analysis_figure
from moerl.figures.notes import reduced_note
from moerl.figures.scaling import scaling_figure
from moerl.figures.style import paper_style
from moerl.statistics import scores_stage, table_stage
from moerl.study.config import load_study
from moerl.study.errors import UserError
from moerl.study.expansion import Study
from moerl.study.paths import figure_files, run_dir, table_files

FIGURES = ("fig01", "fig10")


def make_tables(study: Study, results: Path, allow_partial: bool = False) -> None:
    for name in study.figures:
        scores_stage.run(study, name, results, allow_partial)
        table_stage.run(study, name, results, allow_partial)


@pytest.fixture(scope="module")
def tabled(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of the usual study; nobody writes here after this."""
    folder = tmp_path_factory.mktemp("tabled")
    results = Path(shutil.copytree(written, folder / "results"))
    make_tables(load(folder), results)
    return results


@pytest.fixture
def tables(tabled: Path, tmp_path: Path) -> Path:
    """A results folder of one's own with the tables of the usual study and nothing else."""
    shutil.copytree(tabled / "tables", tmp_path / "results" / "tables")
    return tmp_path / "results"


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_in_three_formats(study: Study, tables: Path, figure: str) -> None:
    stage.run(study, figure, tables)
    pdf, png, svg = (path.read_bytes() for path in figure_files(tables, figure))
    assert (pdf[:4], png[1:4]) == (b"%PDF", b"PNG")
    assert b"<svg" in svg
    assert b"/Type3" not in pdf  # publishers refuse it


def test_fig01_says_what_the_papers_does(study: Study, tables: Path) -> None:
    stage.run(study, "fig01", tables)
    said = svg_text(study, "fig01", tables)
    for words in (
        "DQN",
        "Rainbow",
        "not in this study",
        "Number of Experts",
        "Baseline",
        "SoftMoE",
        "Top1-MoE",
    ):
        assert words in said
    assert "IQM Human Normalized Score" in said


def test_fig01_draws_the_headline_readout_of_the_table(study: Study, tables: Path) -> None:
    table = pd.read_csv(table_files(tables, "fig01")[0])
    with paper_style():
        figure = scaling_figure(table, study.figure("fig01"), study.agents)
    top, bottom = figure.axes
    heights = [bar.get_height() for bars in top.containers for bar in bars]
    expected = table[table["readout"] == "last"].sort_values(["series", "x"])["iqm"]
    assert heights == expected.tolist()
    assert not bottom.containers


def test_fig10_draws_every_game_metric_and_series(study: Study, tables: Path) -> None:
    table = pd.read_csv(table_files(tables, "fig10")[0])
    spec = study.figure("fig10")
    with paper_style():
        figure = analysis_figure(table, spec)
    assert len(figure.axes) == 3 * 4
    assert [ax.get_title() for ax in figure.axes[:4]] == [metric.label for metric in spec.metrics]
    assert [figure.axes[row * 4].get_ylabel() for row in range(3)] == list(spec.games)
    for place, ax in enumerate(figure.axes):
        game, metric = spec.games[place // 4], spec.metrics[place % 4].name
        for line in ax.lines:
            rows = table[
                (table["game"] == game) & (table["metric"] == metric) & (table["series"] == line.get_label())
            ]
            assert line.get_ydata().tolist() == rows["mean"].tolist()
            assert line.get_xdata() == pytest.approx(rows["frame"] / 1e6)
        assert len(ax.collections) == 3  # a band each


def test_a_reduced_study_says_so_on_the_face(study: Study, tables: Path) -> None:
    for figure in FIGURES:
        stage.run(study, figure, tables)
    said = svg_text(study, "fig01", tables)
    assert "Reduced study “synthetic”" in said
    for words in (
        "8M frames instead of 200M",
        "3 seeds instead of 5",
        "Nature CNN encoder instead of Impala",
    ):
        assert words in said
    assert "AirRaid, Pong, Breakout instead of the paper's 20 games" in said
    said = svg_text(study, "fig10", tables)
    for words in ("6M frames instead of 50M", "Nature CNN encoder instead of Impala; DQN instead of Rainbow"):
        assert words in said


def test_notes_speak_of_their_own_figure_only(tmp_path: Path) -> None:
    file = Path(__file__).parents[2] / "config" / "studies" / "paper.yaml"
    text = file.read_text(encoding="utf-8")
    assert text.count("fig10: {}") == 1
    (tmp_path / "paper.yaml").write_text(text.replace("fig10: {}", "fig10: {agent: dqn}"), encoding="utf-8")
    paper = load_study(tmp_path / "paper.yaml")
    assert reduced_note(paper, "fig01") is None
    note = reduced_note(paper, "fig10")
    assert note is not None
    assert note.startswith("Study “paper”")
    assert note.endswith("DQN instead of Rainbow.")


def test_missing_runs_are_refused_or_named_on_the_face(study: Study, results: Path) -> None:
    for run in study.figure_runs(study.figure("fig01")):
        if run.variant == "cnn-top1-8" or (run.variant, run.seed) == ("cnn-softmoe2", 1):
            (run_dir(results, run) / "returns.parquet").unlink()
    make_tables(study, results, allow_partial=True)
    with pytest.raises(UserError, match=r"lacks runs, the first: dqn cnn-softmoe2 AirRaid seed 1 \(missing"):
        stage.run(study, "fig01", results)
    assert not figure_files(results, "fig01")[0].exists()
    stage.run(study, "fig01", results, allow_partial=True)
    said = svg_text(study, "fig01", results)
    assert "PARTIAL: 96 of 108 runs; missing: dqn cnn-softmoe2 AirRaid seed 1, " in said
    assert "and 6 more (all named in the table)." in said
    assert said.count("no runs") == 1  # where Top1-MoE 8 would stand


def test_diverged_runs_and_bars_over_fewer_games_are_named_on_the_face(
    study: Study, results: Path, tmp_path: Path
) -> None:
    for run in study.figure_runs(study.figure("fig01")):
        if (run.variant, run.game) == ("cnn-softmoe2", "Pong"):
            (run_dir(results, run) / "returns.parquet").unlink()
            if run.seed:
                write_divergence(study, run, tmp_path, 10 * run.seed)
    scores_stage.run(study, "fig01", results, True, tmp_path)
    table_stage.run(study, "fig01", results, True)
    stage.run(study, "fig01", results, True)
    said = svg_text(study, "fig01", results)
    names = [f"dqn cnn-softmoe2 Pong seed {seed}" for seed in range(3)]
    expected = f"PARTIAL: 105 of 108 runs; diverged: {names[1]}, {names[2]}; missing: {names[0]}; "
    assert f"{expected}IQM over fewer games: DQN SoftMoE 2 without Pong." in said
    assert "no runs" not in said


def test_of_complete_data_a_partial_figure_is_the_same_bytes(study: Study, tables: Path) -> None:
    for figure in FIGURES:
        found = []
        for allow_partial in (False, True):
            stage.run(study, figure, tables, allow_partial)
            found.append([path.read_bytes() for path in figure_files(tables, figure)])
        assert found[0] == found[1]


def test_a_game_without_any_run_leaves_its_row_empty(study: Study, results: Path) -> None:
    for run in study.figure_runs(study.figure("fig10")):
        if run.game == "Asterix":
            (run_dir(results, run) / "returns.parquet").unlink()
            shutil.rmtree(results / "analysis" / run.agent / run.variant / run.game, ignore_errors=True)
    make_tables(study, results, allow_partial=True)
    stage.run(study, "fig10", results, allow_partial=True)
    said = svg_text(study, "fig10", results)
    assert "PARTIAL: 18 of 27 runs; missing: dqn cnn-baseline Asterix seed 0, " in said
    assert said.count("no runs") == 4  # once in each panel of the row


def test_a_series_without_runs_is_named_where_its_curve_would_be(study: Study, results: Path) -> None:
    for run in study.figure_runs(study.figure("fig10")):
        if (run.game, run.variant) == ("Pong", "cnn-softmoe8"):
            (run_dir(results, run) / "returns.parquet").unlink()
    make_tables(study, results, allow_partial=True)
    stage.run(study, "fig10", results, allow_partial=True)
    assert svg_text(study, "fig10", results).count("no runs: SoftMoE") == 4


def test_without_a_table_the_error_names_it(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(table_files(tmp_path, "fig01")[0])):
        stage.run(study, "fig01", tmp_path)


def test_one_seed_one_point(make_study: Callable[..., Study], tmp_path: Path) -> None:
    study = make_study(games="Pong", seeds="0", short="1M", full="1M")
    for figure in FIGURES:
        write_runs(study, figure, tmp_path)
    make_tables(study, tmp_path)
    for figure in FIGURES:
        stage.run(study, figure, tmp_path)


SCRIPT = """
import sys
from pathlib import Path
from moerl.figures import stage
from moerl.statistics import scores_stage, table_stage
from moerl.study.config import load_study
study, results = load_study(Path(sys.argv[1])), Path(sys.argv[2])
for figure in study.figures:
    for module in (scores_stage, table_stage, stage):
        module.run(study, figure, results)
"""


def test_the_same_bytes_in_any_process_folder_and_environment(
    make_study: Callable[..., Study], tmp_path: Path
) -> None:
    study = make_study(games="Pong, Breakout", seeds="0, 1", short="2M", full="2M")
    processes = []
    for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo")):
        folder = tmp_path / f"elsewhere{seed}"
        folder.mkdir()
        # What a user has lying about must not leak into the figures.
        (folder / "matplotlibrc").write_text(f"font.size: {seed}0\nsavefig.dpi: {seed}0\naxes.grid: False\n")
        for name in FIGURES:
            write_runs(study, name, folder / "results")
        environment = os.environ | {"PYTHONHASHSEED": seed, "TZ": zone}
        environment.pop("SOURCE_DATE_EPOCH", None)
        command = [sys.executable, "-W", "error", "-c", SCRIPT, str(study.path), "results"]
        processes.append((folder, subprocess.Popen(command, cwd=folder, env=environment)))
    found = []
    for folder, process in processes:
        assert process.wait() == 0
        made = [p for kind in ("scores", "tables", "figures") for p in (folder / "results" / kind).iterdir()]
        found.append({path.name: path.read_bytes() for path in made})
    assert len(found[0]) == 2 * (2 + 2 + 3)
    assert found[0] == found[1]


def test_the_figure_stage_does_not_depend_on_the_statistics() -> None:
    # Which jobs rerun after an edit is decided by imports: a change of the bootstrap redraws
    # nothing whose numbers stay the same.
    code = (
        "import sys, moerl.figures.stage; print([m for m in sys.modules if m.startswith('moerl.statistics')])"
    )
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "[]"
