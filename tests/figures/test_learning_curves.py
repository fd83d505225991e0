"""Learning curves, from made-up runs to the drawn page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from rliable import metrics
from synthetic_study import put_table, write_divergence, write_runs

from moerl.figures import stage
from moerl.figures.learning import grid, learning_figure
from moerl.figures.style import paper_style
from moerl.statistics import scores_stage, table_stage
from moerl.statistics.tables import curve_row
from moerl.study.errors import UserError
from moerl.study.expansion import Study
from moerl.study.figures import FigureSpec
from moerl.study.paths import figure_files, run_dir, scores_file, table_files
from moerl.study.reference import SERIES, curves_file

PER_AGENT = {"figures": "{fig07: {}}", "agents": "{dqn: {}, rainbow: {}}"}
PER_GAME = {"figures": "{learning: {games: [Pong, AirRaid, Breakout]}}"}


def table(study: Study, figure: str, results: Path, allow_partial: bool = False) -> pd.DataFrame:
    scores_stage.run(study, figure, results, allow_partial)
    table_stage.run(study, figure, results, allow_partial)
    return pd.read_csv(table_files(results, figure)[0], dtype={"n_seeds": str})


@pytest.fixture
def per_agent(make_study: Callable[..., Study], tmp_path: Path) -> tuple[Study, pd.DataFrame]:
    study = make_study(full="3M", short="3M", **PER_AGENT)
    write_runs(study, "fig07", tmp_path)
    return study, table(study, "fig07", tmp_path)


@pytest.fixture
def per_game(make_study: Callable[..., Study], tmp_path: Path) -> tuple[Study, pd.DataFrame]:
    study = make_study(short="3M", **PER_GAME)
    write_runs(study, "learning", tmp_path)
    return study, table(study, "learning", tmp_path)


def test_a_point_is_rliables_iqm_over_games_and_seeds(
    per_agent: tuple[Study, pd.DataFrame], tmp_path: Path
) -> None:
    rows = per_agent[1].set_index(["panel", "series", "iteration"])
    assert len(rows) == 2 * 3 * 3  # panels, series, iterations
    scores = pd.read_parquet(scores_file(tmp_path, "fig07"))
    here = (scores["agent"] == "rainbow") & (scores["variant"] == "cnn-top1-8") & (scores["iteration"] == 1)
    expected = metrics.aggregate_iqm(scores.loc[here, "human_normalised"].dropna().to_numpy())
    point = rows.loc[("Rainbow", "Top1-MoE", 1)]
    assert point["value"] == pytest.approx(expected, rel=1e-12)
    assert point["ci_low"] < point["value"] < point["ci_high"]
    assert point["frame"] == 2_000_000  # where the iteration ends, overruns left out
    assert (point["n_games"], point["n_seeds"], point["games_left_out"]) == (2, "3", "AirRaid")


def test_a_panel_per_game_shows_mean_returns_scored_or_not(
    per_game: tuple[Study, pd.DataFrame], tmp_path: Path
) -> None:
    rows = per_game[1]
    assert rows["panel"].unique().tolist() == ["Pong", "AirRaid", "Breakout"]
    returns = pd.read_parquet(scores_file(tmp_path, "learning"))
    for game in ("Pong", "AirRaid"):
        first = returns[(returns["game"] == game) & (returns["iteration"] == 0)]["mean_return"]
        row = rows[(rows["panel"] == game) & (rows["iteration"] == 0)].iloc[0]
        assert row["value"] == pytest.approx(first.mean())
        assert first.min() <= row["ci_low"] < row["value"] < row["ci_high"] <= first.max()


def test_one_seed_claims_no_band() -> None:
    point = pd.DataFrame({"game": ["Pong"], "seed": [0], "mean_return": [-20.0]})
    assert curve_row(point, "return") == {
        "n_games": 1,
        "n_seeds": "1",
        "games_left_out": "",
        "value": -20.0,
    }


def test_missing_runs_are_refused_or_named(make_study: Callable[..., Study], tmp_path: Path) -> None:
    study = make_study(short="2M", **PER_GAME)
    for run in write_runs(study, "learning", tmp_path):
        if run.game == "Pong" or (run.game, run.seed) == ("AirRaid", 2):
            (run_dir(tmp_path, run) / "returns.parquet").unlink()
    with pytest.raises(UserError, match="learning: 4 of 9 runs are not finished"):
        table(study, "learning", tmp_path)
    rows = table(study, "learning", tmp_path, allow_partial=True)
    empty, short = rows[rows["panel"] == "Pong"], rows[rows["panel"] == "AirRaid"]
    assert empty["value"].isna().all()
    name = "dqn cnn-baseline"
    assert empty["missing_runs"].tolist() == ["; ".join(f"{name} Pong seed {s} (missing)" for s in range(3))]
    assert short["missing_runs"].tolist() == [f"{name} AirRaid seed 2 (missing)"] * 2
    assert short["n_seeds"].tolist() == ["2", "2"]
    assert rows["games_without_runs"].isna().all()  # a panel shows one game or nothing
    with pytest.raises(UserError, match="lacks runs"):
        table_stage.run(study, "learning", tmp_path)
    stage.run(study, "learning", tmp_path, allow_partial=True)
    with pytest.raises(UserError, match="lacks runs"):
        stage.run(study, "learning", tmp_path)
    assert panel_texts(study, "learning", rows) == [["no runs"], [], []]


def test_published_runs_are_drawn_where_asked_for(
    per_agent: tuple[Study, pd.DataFrame], tmp_path: Path
) -> None:
    study, ours = per_agent
    with pytest.raises(UserError, match=r"reference/fig07\.csv: does not exist"):
        stage.run(study, "fig07", tmp_path, reference=True)
    theirs = ours[(ours["series"] == "Baseline") & (ours["panel"] == "Rainbow")].assign(series=SERIES)
    path = curves_file(tmp_path, "fig07")
    path.parent.mkdir()
    theirs.to_csv(path, index=False)
    files = figure_files(tmp_path, "fig07")
    stage.run(study, "fig07", tmp_path)
    without = [file.read_bytes() for file in files]
    assert SERIES not in files[2].read_text()
    stage.run(study, "fig07", tmp_path, reference=True)
    face = files[2].read_text()
    assert face.count(f"<!-- {SERIES} -->") == 1  # in the legend
    assert "whose Rainbow has no double" in face
    stage.run(study, "fig07", tmp_path)
    assert [file.read_bytes() for file in files] == without
    with paper_style():
        drawn = learning_figure(ours, study.figure("fig07"), study.agents, theirs)
    lines = [line for ax in drawn.axes for line in ax.lines if line.get_label() == SERIES]
    assert [(line.axes.get_title(), line.get_ydata().tolist()) for line in lines if line.axes] == [
        ("Rainbow", theirs["value"].tolist())
    ]


def panel_texts(study: Study, figure: str, rows: pd.DataFrame) -> list[list[str]]:
    """What is written inside each panel."""
    with paper_style():
        drawn = learning_figure(rows, study.figure(figure), study.agents)
    return [[text.get_text() for text in ax.texts] for ax in drawn.axes]


def test_left_out_runs_of_a_curve_over_games(make_study: Callable[..., Study], tmp_path: Path) -> None:
    study = make_study(full="2M", short="2M", **PER_AGENT)
    gone = {
        **{("rainbow", "cnn-softmoe8", "Pong", seed): "diverged" for seed in (0, 1, 2)},
        **{("dqn", "cnn-top1-8", game, s): "" for game in ("AirRaid", "Pong", "Breakout") for s in (0, 1, 2)},
    }
    for run in write_runs(study, "fig07", tmp_path):
        if (why := gone.get((run.agent, run.variant, run.game, run.seed))) is not None:
            (run_dir(tmp_path, run) / "returns.parquet").unlink()
            if why:
                write_divergence(study, run, tmp_path / "state", 9)
    scores_stage.run(study, "fig07", tmp_path, True, tmp_path / "state")
    table_stage.run(study, "fig07", tmp_path, True)
    rows = pd.read_csv(table_files(tmp_path, "fig07")[0], dtype={"n_seeds": str})
    fewer = rows[(rows["panel"] == "Rainbow") & (rows["series"] == "SoftMoE")]
    assert set(fewer["games_without_runs"]) == {"Pong"}
    assert set(fewer["n_games"]) == {1}
    expected = [f"rainbow cnn-softmoe8 Pong seed {s} (diverged at gradient step 9)" for s in range(3)]
    assert set(fewer["missing_runs"]) == {"; ".join(expected)}
    empty = rows[(rows["panel"] == "DQN") & (rows["series"] == "Top1-MoE")]
    assert (len(empty), empty["n_games"].item(), empty["value"].isna().item()) == (1, 0, True)
    others = rows.drop([*fewer.index, *empty.index])
    assert others[["missing_runs", "games_without_runs"]].isna().all(axis=None)
    assert panel_texts(study, "fig07", rows) == [["no runs: Top1-MoE"], []]
    assert stage.fewer_games(rows) == ["Rainbow SoftMoE without Pong"]
    tex = table_files(tmp_path, "fig07")[1].read_text(encoding="utf-8")
    assert "Without any run in some cells, whose IQM is over the other games: Pong." in tex
    stage.run(study, "fig07", tmp_path, allow_partial=True)


@pytest.mark.parametrize("figure", ["fig07", "learning"])
def test_an_iteration_in_which_no_episode_ended(
    figure: str, make_study: Callable[..., Study], tmp_path: Path
) -> None:
    settings = PER_AGENT if figure == "fig07" else PER_GAME
    study = make_study(full="3M", short="3M", **settings)
    for run in write_runs(study, figure, tmp_path):
        path = run_dir(tmp_path, run) / "returns.parquet"
        returns = pd.read_parquet(path)
        none = (run.game == "Pong") & (returns["iteration"] == 1) & (run.variant == "cnn-baseline")
        one = (run.game == "Pong") & (returns["iteration"] == 2) & (run.seed == 1)
        returns["episodes"] = returns["episodes"].mask(none | one, 0)
        returns["mean_return"] = returns["mean_return"].mask(none | one)
        put_table(path, returns)
    rows = table(study, figure, tmp_path)
    rows = rows[(rows["series"] == "Baseline") & rows["panel"].isin(["DQN", "Pong"])].set_index("iteration")
    scores = pd.read_parquet(scores_file(tmp_path, figure)).query(
        "agent == 'dqn' and variant == 'cnn-baseline'"
    )
    if figure == "fig07":
        assert rows["games_left_out"].tolist() == ["AirRaid", "AirRaid; Pong (no episode ended)", "AirRaid"]
        assert rows["n_seeds"].tolist() == ["3", "3", "2-3"]
        for iteration in (1, 2):
            left = scores[scores["iteration"] == iteration]["human_normalised"].dropna()
            expected = metrics.aggregate_iqm(left.to_numpy())
            assert rows.loc[iteration, "value"] == pytest.approx(expected, rel=1e-12)
    else:
        assert rows["games_left_out"].fillna("").tolist() == ["", "Pong (no episode ended)", ""]
        assert rows["n_seeds"].tolist() == ["3", "0", "2"]
        assert rows["value"].isna().tolist() == [False, True, False]
        left = scores.query("game == 'Pong' and iteration == 2")["mean_return"].mean()  # NaN is skipped
        assert rows.loc[2, "value"] == pytest.approx(left)
    stage.run(study, figure, tmp_path)


def test_curves_without_any_finished_episode(make_study: Callable[..., Study], tmp_path: Path) -> None:
    study = make_study(short="1M", **PER_GAME)
    runs = write_runs(study, "learning", tmp_path)

    def empty(only: str | None = None) -> None:
        for run in runs:
            path = run_dir(tmp_path, run) / "returns.parquet"
            if only in (None, run.game):
                put_table(path, pd.read_parquet(path).assign(episodes=0, mean_return=float("nan")))

    empty("Pong")
    assert panel_texts(study, "learning", table(study, "learning", tmp_path)) == [
        ["no episode ended"],
        [],
        [],
    ]
    empty()
    with pytest.raises(UserError, match="no game has a run with a finished episode"):
        table(study, "learning", tmp_path)


def test_curves_show_evaluation_returns_where_the_study_says_so(
    make_study: Callable[..., Study], tmp_path: Path
) -> None:
    study = make_study(
        short="2M",
        figures="{learning: {games: [Pong], score: evaluation}}",
        extra="evaluation: {episodes: 3}",
    )
    for run in write_runs(study, "learning", tmp_path):
        path = run_dir(tmp_path, run) / "returns.parquet"
        put_table(path.with_name("evaluations.parquet"), pd.read_parquet(path).assign(mean_return=7.0))
    assert table(study, "learning", tmp_path)["value"].tolist() == [7.0, 7.0]


@pytest.mark.parametrize("figure", ["fig07", "learning"])
def test_every_curve_is_drawn_from_the_table(
    figure: str, per_agent: tuple[Study, pd.DataFrame], per_game: tuple[Study, pd.DataFrame]
) -> None:
    study, rows = per_agent if figure == "fig07" else per_game
    spec = study.figure(figure)
    with paper_style():
        drawn = learning_figure(rows, spec, study.agents)
    assert [ax.get_title() for ax in drawn.axes] == rows["panel"].unique().tolist()
    for ax in drawn.axes:
        assert [line.get_label() for line in ax.lines] == [series.name for series in spec.series]
        assert len(ax.collections) == len(spec.series)  # a band each
        for line in ax.lines:
            mine = rows[(rows["panel"] == ax.get_title()) & (rows["series"] == line.get_label())]
            assert line.get_ydata().tolist() == mine["value"].tolist()
            assert line.get_xdata() == pytest.approx(mine["frame"] / 1e6)


def test_an_agent_of_another_study_keeps_its_panel(make_study: Callable[..., Study], tmp_path: Path) -> None:
    study = make_study(full="2M", short="2M", figures="{fig07: {}}")
    write_runs(study, "fig07", tmp_path)
    with paper_style():
        drawn = learning_figure(table(study, "fig07", tmp_path), study.figure("fig07"), study.agents)
    left, right = drawn.axes
    assert (len(left.lines), len(right.lines)) == (3, 0)
    assert [text.get_text() for text in right.texts] == ["not in this study"]


def test_a_game_without_a_human_score_says_so(make_study: Callable[..., Study], tmp_path: Path) -> None:
    study = make_study(short="2M", **PER_GAME)
    spec = study.figure("learning").model_copy(update={"measure": "iqm"})
    study.figures["learning"] = spec
    write_runs(study, "learning", tmp_path)
    with paper_style():
        drawn = learning_figure(table(study, "learning", tmp_path), spec, study.agents)
    assert [[text.get_text() for text in ax.texts] for ax in drawn.axes] == [[], ["no human score"], []]


def test_the_same_bytes_again(make_study: Callable[..., Study], tmp_path: Path) -> None:
    study = make_study(short="2M", full="2M", seeds="0, 1", **PER_AGENT)
    found = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_runs(study, "fig07", folder)
        table(study, "fig07", folder)
        stage.run(study, "fig07", folder)
        made = [*figure_files(folder, "fig07"), *table_files(folder, "fig07")]
        found.append([path.read_bytes() for path in made])
    assert found[0] == found[1]


def test_latex_shows_points_along_the_curve(per_agent: tuple[Study, pd.DataFrame], tmp_path: Path) -> None:
    tex = table_files(tmp_path, "fig07")[1].read_text(encoding="utf-8")
    assert r"Frames & 1\,000\,000 & 2\,000\,000 & 3\,000\,000 \\" in tex
    row = per_agent[1].iloc[2]
    assert f"& {row['value']:.2f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}] \\\\" in tex
    assert "Without a human score, left out: AirRaid." in tex


def test_panels_fill_the_page() -> None:
    assert [grid(panels, small=True) for panels in (1, 2, 3, 4, 9, 20, 26)] == [
        *((1, 1), (1, 2), (1, 3), (2, 3), (3, 3), (4, 5), (6, 5))
    ]
    assert [grid(panels, small=False) for panels in (1, 2, 3, 4)] == [(1, 1), (1, 2), (2, 2), (2, 2)]
    for panels in range(1, 61):
        for small in (True, False):
            rows, columns = grid(panels, small)
            assert rows * columns >= panels > (rows - 1) * columns


WRONG = {
    "no measure": ({"measure": None}, "has `measure` and `panel_per`"),
    "two agents in a grid": ({"panels": [{"title": a, "agent": a} for a in ("dqn", "der")]}, "one entry"),
    "returns of many games in one curve": ({"panel_per": "agent"}, "no common scale"),
    "measure of bars": ({"kind": "bars", "x": {"label": "n", "values": [1]}}, "only a curves figure"),
}


@pytest.mark.parametrize(("change", "said"), WRONG.values(), ids=WRONG)
def test_a_contradiction_is_refused(study: Study, change: dict[str, object], said: str) -> None:
    good = {
        "kind": "curves",
        "section": "",
        "caption": "",
        "milestone": "short",
        "measure": "return",
        "panel_per": "game",
        "games": ["Pong"],
        "encoder": "cnn",
        "panels": [{"title": "DQN", "agent": "dqn"}],
        "series": [{"name": "Baseline", "variants": ["cnn-baseline"]}],
    }
    assert FigureSpec.model_validate(good).measure == "return"
    with pytest.raises(ValueError, match=said):
        FigureSpec.model_validate(good | change)
