"""Figures whose panels, agents or axes differ, from made-up runs to the drawn page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from synthetic_study import write_runs

from moerl.cli.manifest import products
from moerl.cli.sizes import Sizes
from moerl.figures import stage
from moerl.figures.learning import learning_figure
from moerl.figures.scaling import scaling_figure
from moerl.figures.style import paper_style
from moerl.statistics import scores_stage, table_stage, tables
from moerl.statistics.latex import number
from moerl.study.captions import caption, scored_games
from moerl.study.config import load_study
from moerl.study.errors import UserError
from moerl.study.expansion import Study
from moerl.study.paths import figure_files, run_dir, scores_file, table_files
from moerl.study.sizes import KNOWN

MakeStudy = Callable[..., Study]
BOTH = "{dqn: {}, rainbow: {}}"
PAPER = Path(__file__).parents[2] / "config" / "studies" / "paper.yaml"


@pytest.fixture(autouse=True)
def few_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are tested elsewhere."""
    monkeypatch.setattr(tables, "BAR_REPETITIONS", 100)
    monkeypatch.setattr(tables, "CURVE_REPETITIONS", 100)


def made(study: Study, figure: str, results: Path) -> pd.DataFrame:
    """The table of a figure of made-up runs."""
    write_runs(study, figure, results)
    scores_stage.run(study, figure, results)
    table_stage.run(study, figure, results, sizes=Sizes(KNOWN).of)
    return pd.read_csv(table_files(results, figure)[0], dtype={"n_seeds": str, "actions": str})


def test_a_bar_of_another_replay_ratio_is_of_other_runs(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(figures="{fig04: {}}", agents=BOTH, games="Pong", seeds="0, 1", full="1M", short="1M")
    table = made(study, "fig04", tmp_path)
    assert table["x"].unique().tolist() == [0.25, 0.5, 1.0, 2.0]
    scores = pd.read_parquet(scores_file(tmp_path, "fig04"))
    seen = scores.groupby(["panel", "x"])["agent"].unique().map(list).to_dict()
    assert seen[("DQN", 0.25)] == ["dqn"]
    assert seen[("Rainbow", 2.0)] == ["rainbow_rr2"]
    assert len(scores[["agent", "variant", "seed"]].drop_duplicates()) == 2 * 4 * 2 * 2
    with paper_style():
        drawn = scaling_figure(table, study.figure("fig04"), study.agents)
    left, right = drawn.axes
    assert [label.get_text() for label in left.get_xticklabels()] == ["0.25", "0.5", "1", "2"]
    assert left.get_position().x1 <= right.get_position().x0  # beside each other
    assert "0.25 & 0.5 & 1 & 2" in table_files(tmp_path, "fig04")[1].read_text(encoding="utf-8")


def test_parameters_stand_beside_figures_1_and_5(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(
        figures="{fig05: {}}", agents=BOTH, games="Pong, Seaquest", seeds="0", full="1M", short="1M"
    )
    table = made(study, "fig05", tmp_path).set_index(["series", "x"])
    assert set(table["actions"]) == {"6-18"}
    for series, x, few, many in (  # method 2.5, Rainbow on Impala
        ("Baseline", 8, 34_750_618, 39_765_346),
        ("SoftMoE (unchanged)", 8, 3_268_827, 8_009_379),
        ("SoftMoE (÷ NumExperts)", 8, 2_917_595, 7_658_147),
        ("SoftMoE (÷ NumExperts)", 1, 2_917_147, 7_657_699),
    ):
        row = table.loc[(series, x)]
        assert (row["parameters_min"], row["parameters_max"]) == (few, many)
    tex = table_files(tmp_path, "fig05")[1].read_text(encoding="utf-8")
    assert "Rainbow, parameters in millions (6 to 18 actions)" in tex
    assert r"Baseline & 4.4--5.1 & 8.8--10.0 & 17.4--19.9 & 34.8--39.8 \\" in tex
    with paper_style():
        (ax,) = scaling_figure(table.reset_index(), study.figure("fig05"), study.agents).axes
    said = {text.get_text() for text in ax.texts}
    assert said >= {"34.8–39.8", "3.3–8.0", "÷ NumExperts"}
    one = table.loc[("SoftMoE (unchanged)", 1)]
    assert one.equals(table.loc[("SoftMoE (÷ NumExperts)", 1)])  # a run of one expert is in both series


def test_panels_are_over_their_own_games(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(
        figures="{fig08: {}}", agents=BOTH, games="AirRaid, Pong", seeds="0", full="1M", short="1M"
    )
    table = made(study, "fig08", tmp_path)
    counts = {panel: set(rows["n_games"]) for panel, rows in table.groupby("panel")}
    assert counts == {"Rainbow, 60 games": {55}, "Rainbow, random Φ": {1}}
    with paper_style():
        left, right = learning_figure(table, study.figure("fig08"), study.agents).axes
    assert [line.get_label() for line in left.lines] == ["Baseline", "SoftMoE"]
    assert [line.get_label() for line in right.lines] == ["Baseline", "SoftMoE", "SoftMoE (RandPhi)"]
    assert "AirRaid, Pong instead of the paper's 20 games" in study.deviations.of("fig08")
    told = "55 of 60 (Rainbow, 60 games), 1 of 2 (Rainbow, random Φ); no human score: AirRaid, Carnival, "
    assert told in table_files(tmp_path, "fig08")[1].read_text(encoding="utf-8")


def test_several_sets_are_aggregated_each_by_itself(make_study: MakeStudy, tmp_path: Path) -> None:
    settings = {"figures": "{fig06: {}}", "agents": BOTH, "seeds": "0", "full": "1M", "short": "1M"}
    both = made(make_study(games="games20_paper, games20_alt", **settings), "fig06", tmp_path)
    for which, games in (("games of Appendix A", "games20_paper"), ("alternative games", "games20_alt")):
        alone = made(make_study(games=games, **settings), "fig06", tmp_path)
        mine = both[both["panel"] == f"Rainbow, {which}"].assign(panel="Rainbow").reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, alone, check_dtype=False)
    assert set(both["n_games"]) == {19, 20}


def test_hours_are_those_of_the_first_seeds_runs(make_study: MakeStudy, tmp_path: Path) -> None:
    settings = {"games": "Pong, Breakout", "seeds": "0, 1, 2, 3", "full": "3M", "short": "3M"}
    study = make_study(figures="{fig19: {}}", agents=BOTH, **settings)
    table = made(study, "fig19", tmp_path)
    assert set(table["n_seeds"]) == {"3"}
    row = table.query("panel == 'Rainbow, Nature CNN' and series == 'SoftMoE' and iteration == 1").iloc[0]
    runs = [r for r in study.figure_runs(study.figure("fig19")) if r.variant == "cnn-softmoe8"]
    assert {run.seed for run in runs} == {0, 1, 2}
    seconds = [pd.read_parquet(run_dir(tmp_path, run) / "timing.parquet")["wall_seconds"][1] for run in runs]
    assert row["hours"] == pytest.approx(sum(seconds) / len(seconds) / 3600)
    latex = table_files(tmp_path, "fig19")[1].read_text(encoding="utf-8").splitlines()
    at = latex.index(r"\multicolumn{4}{l}{\emph{Rainbow, Nature CNN}} \\")
    place = next(i for i in range(at, len(latex)) if latex[i].startswith("SoftMoE & "))
    cells = latex[place + 1].removesuffix(r" \\").split(" & ")
    assert (cells[0], cells[2]) == (r"\quad hours", number(row["hours"]))  # after its second iteration
    with paper_style():
        drawn = learning_figure(table, study.figure("fig19"), study.agents)
    line = next(line for line in drawn.axes[1].lines if line.get_label() == "SoftMoE")
    assert line.get_xdata()[1] == pytest.approx(row["hours"])
    assert drawn.axes[1].get_xlabel() == "Hours of Training"
    stage.run(study, "fig19", tmp_path)
    assert table.columns[4] == "hours"
    listed = set(products(study, tmp_path))
    assert figure_files(tmp_path, "fig19")[0] not in listed  # no two machines are equally fast
    assert run_dir(tmp_path, runs[0]) / "returns.parquet" in listed
    timing = run_dir(tmp_path, runs[0]) / "timing.parquet"
    pd.read_parquet(timing).assign(wall_seconds=[2.0, 1.0, 3.0]).to_parquet(timing)
    with pytest.raises(UserError, match="wall_seconds must be finite and not decrease"):
        scores_stage.run(study, "fig19", tmp_path)


def test_six_curves_per_game(make_study: MakeStudy, tmp_path: Path) -> None:
    settings = {"games": "AirRaid, Pong, Breakout", "seeds": "0", "full": "1M", "short": "1M"}
    study = make_study(figures="{fig15: {}}", agents=BOTH, **settings)
    table = made(study, "fig15", tmp_path)
    with paper_style():
        drawn = learning_figure(table, study.figure("fig15"), study.agents)
    assert [ax.get_title() for ax in drawn.axes] == ["AirRaid", "Pong", "Breakout"]
    assert all(len(ax.lines) == 6 for ax in drawn.axes)
    assert set(pd.read_parquet(scores_file(tmp_path, "fig15"))["agent"]) == {"rainbow"}


def test_titles_of_a_full_grid_stay_on_the_page(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(figures="{fig14: {}}", games="games20_paper", seeds="0", full="1M", short="1M")
    table = made(study, "fig14", tmp_path)
    with paper_style():
        drawn = learning_figure(table, study.figure("fig14"), study.agents)
        drawn.set_layout_engine("constrained")
        drawn.draw_without_rendering()
    boxes = [ax.title.get_window_extent() for ax in drawn.axes]
    assert len(boxes) == 20
    assert all(box.x0 >= 0 and box.x1 <= drawn.bbox.x1 for box in boxes)


def test_a_schematic_needs_no_run_and_has_no_table(make_study: MakeStudy, tmp_path: Path) -> None:
    study = make_study(figures="{fig02: {}, fig03: {}}")
    for name in study.figures:
        stage.run(study, name, tmp_path)
        assert all(path.is_file() for path in figure_files(tmp_path, name))
        with pytest.raises(UserError, match=f"{name}: a schematic shows no runs"):
            table_stage.run(study, name, tmp_path)
    assert study.runs() == []
    parameters = 1
    assert len(list(products(study, tmp_path))) == 3 * (2 + len({"table2", "table4"})) + parameters


def test_every_caption_says_how_many_games_are_scored() -> None:
    paper = load_study(PAPER)
    told = {name: scored_games(paper, name) for name in paper.figures}
    without = {name for name, text in told.items() if text is None}
    assert without == {"fig02", "fig03", "fig10", "fig14", "fig15", "routing"}  # nothing is normalised there
    assert told["fig01"] == "Scored games: 19 of 20; no human score: AirRaid."
    assert told["fig12"] == "Scored games: 26 of 26."
    assert told["fig08"] is not None
    assert told["fig08"].startswith(
        "Scored games: 55 of 60 (Rainbow, 60 games), 19 of 20 (Rainbow, random Φ);"
    )
    for name, text in told.items():
        assert caption(paper, name).endswith(text or paper.figure(name).caption)
