from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rliable import metrics
from synthetic_study import put_table, write_divergence, write_returns, write_runs

from moerl.analysis.stage import parquet
from moerl.statistics import scores_stage, table_stage
from moerl.statistics.tables import analysis_table, bar_table, readouts
from moerl.study.errors import UserError
from moerl.study.expansion import Run, Study
from moerl.study.origin import Origin
from moerl.study.paths import analysis_file, run_dir, scores_file, table_files, tokens_file


def table(study: Study, figure: str, results: Path, allow_partial: bool = False) -> pd.DataFrame:
    scores_stage.run(study, figure, results, allow_partial)
    table_stage.run(study, figure, results, allow_partial)
    return pd.read_csv(table_files(results, figure)[0], dtype={"n_seeds": str})


def test_bars_hold_rliables_iqm_of_the_last_iteration(study: Study, results: Path) -> None:
    rows = table(study, "fig01", results)
    assert len(rows) == 3 * 4 * 2  # series, x, read-outs
    row = rows[(rows["series"] == "SoftMoE") & (rows["x"] == 4) & (rows["readout"] == "last")].iloc[0]
    scores = pd.read_parquet(scores_file(results, "fig01"))
    last = scores[(scores["variant"] == "cnn-softmoe4") & (scores["iteration"] == 7)]
    expected = metrics.aggregate_iqm(last["human_normalised"].dropna().to_numpy())
    assert row["iqm"] == pytest.approx(expected, rel=1e-12)
    assert row["ci_low"] < row["iqm"] < row["ci_high"]
    assert row["frame"] == 8_000_000
    assert (row["n_games"], row["n_seeds"], row["games_left_out"]) == (2, "3", "AirRaid")


def test_the_robust_readout_averages_each_run_first(study: Study, results: Path) -> None:
    rows = table(study, "fig01", results).set_index(["series", "x", "readout"])
    scores = pd.read_parquet(scores_file(results, "fig01"))
    late = scores[(scores["variant"] == "cnn-baseline") & (scores["iteration"] >= 3)]
    per_run = late.groupby(["game", "seed"])["human_normalised"].mean().dropna()
    expected = metrics.aggregate_iqm(per_run.to_numpy())
    assert rows.loc[("Baseline", 1, "last_5"), "iqm"] == pytest.approx(expected, rel=1e-12)


def test_readouts() -> None:
    assert readouts(200, 1_000_000, 40_000_000) == {
        "last": (199, 199),
        "last_5": (195, 199),
        "early": (39, 39),
    }
    assert readouts(5, 1_000, None) == {"last": (4, 4), "last_5": (0, 4)}
    assert readouts(4, 1_000, None) == {"last": (3, 3)}  # five of four would be a lie
    with pytest.raises(UserError, match="early_readout: 5000 frames"):
        readouts(4, 1_000, 5_000)


def test_early_readout_of_the_study(make_study: Callable[..., Study], tmp_path: Path) -> None:
    study = make_study(games="Pong", extra="early_readout: 2M")
    write_runs(study, "fig01", tmp_path)
    rows = table(study, "fig01", tmp_path)
    early = rows[rows["readout"] == "early"]
    assert early["frame"].unique().tolist() == [2_000_000]
    scores = pd.read_parquet(scores_file(tmp_path, "fig01"))
    second = scores[(scores["variant"] == "cnn-baseline") & (scores["iteration"] == 1)]
    assert early["iqm"].iloc[0] == pytest.approx(second["human_normalised"].mean())  # 3 scores: no trim


def test_one_seed_claims_no_interval(make_study: Callable[..., Study], tmp_path: Path) -> None:
    study = make_study(seeds="4")
    for figure, columns in (("fig01", ["ci_low", "ci_high"]), ("fig10", ["se_low", "se_high"])):
        write_runs(study, figure, tmp_path)
        rows = table(study, figure, tmp_path)
        assert rows[columns].isna().all(axis=None)
        assert (rows["n_seeds"] == "1").all()


def test_no_scored_game_is_refused(make_study: Callable[..., Study], tmp_path: Path) -> None:
    study = make_study(games="AirRaid, Pooyan")
    write_runs(study, "fig01", tmp_path)
    with pytest.raises(UserError, match="none of the games AirRaid, Pooyan has a human score"):
        table(study, "fig01", tmp_path)


def test_missing_runs_are_refused_or_named(study: Study, results: Path) -> None:
    run = study.figure_runs(study.figure("fig01"))[4]
    (run_dir(results, run) / "returns.parquet").unlink()
    scores_stage.run(study, "fig01", results, allow_partial=True)
    expected = r"fig01: lacks runs, among them dqn cnn-baseline Pong seed 1 \(missing\); --allow-partial"
    with pytest.raises(UserError, match=expected):
        table_stage.run(study, "fig01", results)
    rows = table(study, "fig01", results, allow_partial=True)
    lacking = rows[rows["missing_runs"].notna()]
    assert lacking[["series", "x"]].drop_duplicates().to_numpy().tolist() == [["Baseline", 1]]
    assert lacking["missing_runs"].unique().tolist() == ["dqn cnn-baseline Pong seed 1 (missing)"]
    assert lacking["n_seeds"].unique().tolist() == ["2-3"]
    assert rows["games_without_runs"].isna().all()


def test_a_game_without_any_run_is_out_of_the_iqm_by_name(
    study: Study, results: Path, tmp_path: Path
) -> None:
    """Two seeds diverged, one is missing: the bar is over one game less, the others as they were."""
    complete = table(study, "fig01", results)
    for run in study.figure_runs(study.figure("fig01")):
        if (run.variant, run.game) == ("cnn-softmoe2", "Pong"):
            (run_dir(results, run) / "returns.parquet").unlink()
            if run.seed:
                write_divergence(study, run, tmp_path / "state", 10 * run.seed)
    scores_stage.run(study, "fig01", results, True, tmp_path / "state")
    table_stage.run(study, "fig01", results, True)
    rows = pd.read_csv(table_files(results, "fig01")[0], dtype={"n_seeds": str})
    changed = (rows["series"] == "SoftMoE") & (rows["x"] == 2)
    pd.testing.assert_frame_equal(rows[~changed].iloc[:, :10], complete[~changed].iloc[:, :10])
    row = rows[changed & (rows["readout"] == "last")].iloc[0]
    assert (row["n_games"], row["n_seeds"], row["games_without_runs"]) == (1, "3", "Pong")
    assert row["missing_runs"].split("; ") == [
        "dqn cnn-softmoe2 Pong seed 0 (missing)",
        "dqn cnn-softmoe2 Pong seed 1 (diverged at gradient step 10)",
        "dqn cnn-softmoe2 Pong seed 2 (diverged at gradient step 20)",
    ]
    scores = pd.read_parquet(scores_file(results, "fig01"))
    left = scores[(scores["variant"] == "cnn-softmoe2") & (scores["iteration"] == 7)]
    assert set(left["game"]) == {"AirRaid", "Breakout"}
    assert row["iqm"] == pytest.approx(metrics.aggregate_iqm(left["human_normalised"].dropna().to_numpy()))
    tex = table_files(results, "fig01")[1].read_text(encoding="utf-8")
    assert "Without any run in some cells, whose IQM is over the other games: Pong." in tex
    assert "cnn-softmoe2 Pong seed 2 (diverged at gradient step 20)" in tex


def test_of_complete_data_partial_tables_are_the_same_bytes(study: Study, results: Path) -> None:
    for figure in study.figures:
        found = []
        for allow_partial in (False, True):
            table(study, figure, results, allow_partial)
            found.append([path.read_bytes() for path in table_files(results, figure)])
        assert found[0] == found[1]


def test_only_unscored_games_finished_is_said(study: Study, results: Path) -> None:
    for run in study.figure_runs(study.figure("fig01")):
        if run.game != "AirRaid":
            (run_dir(results, run) / "returns.parquet").unlink()
    with pytest.raises(UserError, match="no game with a human score has a run with a finished episode"):
        table(study, "fig01", results, allow_partial=True)


def test_the_analysis_of_a_run_that_is_left_out_does_not_count(study: Study, results: Path) -> None:
    run = study.figure_runs(study.figure("fig10"))[1]
    (run_dir(results, run) / "returns.parquet").unlink()
    assert analysis_file(results, run).is_file()  # of whatever was there before
    rows = table(study, "fig10", results, allow_partial=True)
    lacking = rows[rows["missing_runs"].notna()]
    assert set(lacking["metric"]) == set(rows["metric"])
    assert lacking["missing_runs"].unique().tolist() == [f"{run.name} (missing)"]
    assert set(lacking["n_seeds"]) == {"2"}


def test_a_bar_without_any_run_keeps_its_row(study: Study, results: Path) -> None:
    for run in study.figure_runs(study.figure("fig01")):
        if run.variant == "cnn-top1-8":
            (run_dir(results, run) / "returns.parquet").unlink()
    rows = table(study, "fig01", results, allow_partial=True)
    empty = rows[rows["iqm"].isna()]
    assert len(empty) == 2
    assert (empty["n_games"] == 0).all()
    assert empty["missing_runs"].iloc[0].count("seed") == 9


def test_analysis_means_and_standard_errors(study: Study, results: Path) -> None:
    rows = table(study, "fig10", results)
    assert len(rows) == 3 * 4 * 3 * 6  # games, metrics, series, iterations
    row = rows[(rows["metric"] == "dormant_variance_0.001") & (rows["series"] == "Baseline")].iloc[5]
    values, frames = [], []
    for run in study.figure_runs(study.figure("fig10")):
        if (run.variant, run.game) == ("cnn-baseline", "Asterix"):
            analysed = pd.read_parquet(analysis_file(results, run))
            point = analysed[(analysed["metric"] == row["metric"]) & (analysed["iteration"] == 5)]
            values.append(point["value"].item())
            frames.append(point["frame"].item())
    assert (row["game"], row["iteration"], row["n_seeds"]) == ("Asterix", 5, "3")
    assert row["mean"] == pytest.approx(sum(values) / 3)
    assert row["frame"] == pytest.approx(sum(frames) / 3)
    error = np.std(values, ddof=1) / np.sqrt(3)
    assert row["se_high"] - row["mean"] == pytest.approx(error)
    assert row["mean"] - row["se_low"] == pytest.approx(error)


def test_standard_error_by_hand() -> None:
    values = pd.DataFrame(
        {
            "game": "Pong",
            "metric": "m",
            "series": "s",
            "seed": [0, 1, 2, 3],
            "iteration": 0,
            "frame": [10, 20, 30, 40],
            "value": [1.0, 3.0, 1.0, 3.0],
        }
    )
    row = analysis_table(values, [("Pong", "m", "s")], {}).iloc[0]
    assert (row["mean"], row["frame"]) == (2.0, 25.0)
    assert row["se_high"] - 2.0 == pytest.approx(np.sqrt(4 / 3) / 2)


def test_missing_analyses_are_refused_or_named(study: Study, results: Path) -> None:
    run = study.figure_runs(study.figure("fig10"))[1]
    analysis_file(results, run).unlink()
    scores_stage.run(study, "fig10", results)
    expected = r"fig10: lacks runs, among them dqn cnn-baseline Asterix seed 1 \(not analysed\)"
    with pytest.raises(UserError, match=expected):
        table_stage.run(study, "fig10", results)
    rows = table(study, "fig10", results, allow_partial=True)
    lacking = rows[rows["missing_runs"].notna()]
    assert set(lacking["game"] + lacking["series"]) == {"AsterixBaseline"}
    assert "return" not in set(lacking["metric"])  # its returns are there
    assert set(lacking["n_seeds"]) == {"2"}


def test_an_unknown_metric_is_refused(study: Study, results: Path) -> None:
    run = study.figure_runs(study.figure("fig10"))[0]
    path = analysis_file(results, run)
    values = pd.read_parquet(path)
    values = values[values["metric"] != "entk_srank_0.01"]
    path.write_bytes(parquet(values, Origin.of(study, run)))
    with pytest.raises(UserError, match=r"no metric 'entk_srank_0\.01'"):
        table(study, "fig10", results)


@pytest.mark.parametrize(("figure", "file"), [("fig10", analysis_file), ("routing", tokens_file)])
def test_the_analysis_of_other_training_is_refused(
    make_study: Callable[..., Study], tmp_path: Path, figure: str, file: Callable[[Path, Run], Path]
) -> None:
    """Analysed, trained anew with another gamma, and not analysed again."""
    before = make_study(figures=f"{{{figure}: {{encoder: cnn, agent: dqn, games: [Pong]}}}}")
    write_runs(before, figure, tmp_path)
    agents = {"dqn": before.agents["dqn"].model_copy(update={"gamma": 0.9})}
    study = replace(before, agents=agents)
    for run in study.figure_runs(study.figure(figure)):
        write_returns(study, run, tmp_path)
    expected = r": is of other training \(its spec is \w{16}, the study's \w{16}\); analyse this"
    with pytest.raises(UserError, match=expected) as caught:
        table(study, figure, tmp_path, allow_partial=True)
    run = study.figure_runs(study.figure(figure))[0]
    assert str(caught.value).startswith(f"{file(tmp_path, run)}: ")
    pd.read_parquet(file(tmp_path, run)).to_parquet(file(tmp_path, run))
    with pytest.raises(UserError, match="does not say which training it is of"):
        table(study, figure, tmp_path)


def test_without_scores_the_error_names_the_file(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(scores_file(tmp_path, "fig01"))):
        table_stage.run(study, "fig01", tmp_path)


def test_the_order_of_rows_does_not_matter(study: Study, results: Path) -> None:
    scores_stage.run(study, "fig01", results)
    scores = pd.read_parquet(scores_file(results, "fig01"))
    cells = [("DQN", "Baseline", 1), ("DQN", "SoftMoE", 8)]
    windows = readouts(8, 1_000_000, None)
    one = bar_table(scores, cells, windows, 1_000_000, {})
    two = bar_table(scores.sample(frac=1, random_state=1), cells, windows, 1_000_000, {})
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_equal_scores_get_equal_intervals_whatever_else_is_in_the_figure(study: Study, results: Path) -> None:
    scores_stage.run(study, "fig01", results)
    scores = pd.read_parquet(scores_file(results, "fig01"))
    windows = {"last": (7, 7)}
    alone = bar_table(scores, [("DQN", "SoftMoE", 8)], windows, 1_000_000, {})
    last = bar_table(scores, [("DQN", "Baseline", 1), ("DQN", "SoftMoE", 8)], windows, 1_000_000, {})
    assert alone.iloc[0].to_dict() == last.iloc[1].to_dict()


def test_latex_shows_the_numbers_of_the_csv(study: Study, results: Path) -> None:
    rows = table(study, "fig01", results)
    tex = table_files(results, "fig01")[1].read_text(encoding="utf-8")
    row = rows.iloc[0]
    assert rf"Baseline & {row['iqm']:.2f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}] & " in tex
    assert r"\emph{DQN, last iteration (8\,000\,000 frames)}" in tex
    assert tex.count(r"\begin{tabular}{lcccc}") == tex.count(r"\end{tabular}") == 1
    table(study, "fig10", results)
    tex = table_files(results, "fig10")[1].read_text(encoding="utf-8")
    assert "& Return & ENTK srank & Feature norm & Dormant fraction \\\\" in tex
    assert all(rf"\emph{{{game}}}" in tex for game in ("Asterix", "Pong", "SpaceInvaders"))


def without_episodes(study: Study, figure: str, results: Path, lacks: Callable[[Run], bool]) -> None:
    """Of some runs of a figure, let no episode end in the last iteration."""
    for run in filter(lacks, study.figure_runs(study.figure(figure))):
        path = run_dir(results, run) / "returns.parquet"
        returns = pd.read_parquet(path)
        last = returns["iteration"] == returns["iteration"].max()
        returns["episodes"] = returns["episodes"].mask(last, 0)
        returns["mean_return"] = returns["mean_return"].mask(last)
        put_table(path, returns)


def test_a_run_without_an_episode_has_no_score_in_the_readout(study: Study, results: Path) -> None:
    whole = table(study, "fig01", results).set_index(["series", "x", "readout"])
    lacks = ("cnn-baseline", "cnn-softmoe1")
    without_episodes(
        study,
        "fig01",
        results,
        lambda r: (r.variant == lacks[0] and r.seed == 1) or (r.variant == lacks[1] and r.game == "Pong"),
    )
    rows = table(study, "fig01", results).set_index(["series", "x", "readout"])
    scores = pd.read_parquet(scores_file(results, "fig01"))
    for key, n_games, n_seeds, left_out, variant in (
        (("Baseline", 1, "last"), 2, "2", "AirRaid", lacks[0]),
        (("SoftMoE", 1, "last"), 1, "3", "AirRaid; Pong (no episode ended)", lacks[1]),
    ):
        row = rows.loc[key]
        assert (row["n_games"], row["n_seeds"], row["games_left_out"]) == (n_games, n_seeds, left_out)
        last = scores[(scores["variant"] == variant) & (scores["iteration"] == 7)]
        left = last["human_normalised"].dropna().to_numpy()
        assert row["iqm"] == pytest.approx(metrics.aggregate_iqm(left), rel=1e-12)
    # With the iterations before, every run has a score; untouched bars are what they were.
    assert rows.loc[("SoftMoE", 1, "last_5"), "n_games"] == 2
    assert rows.loc[("SoftMoE", 1, "last_5"), "iqm"] != whole.loc[("SoftMoE", 1, "last_5"), "iqm"]
    pd.testing.assert_frame_equal(rows.loc["Top1-MoE"], whole.loc["Top1-MoE"])
    tex = table_files(results, "fig01")[1].read_text()
    assert "Without a human score, left out: AirRaid." in tex
    assert "Without a finished episode, left out: Pong." in tex


def test_a_curve_has_no_point_where_no_episode_ended(study: Study, results: Path) -> None:
    without_episodes(study, "fig10", results, lambda r: r.game == "Pong")
    rows = table(study, "fig10", results)
    returns = rows[rows["metric"] == "return"]
    assert set(returns[returns["game"] == "Pong"]["iteration"]) == set(range(5))
    assert set(returns[returns["game"] == "Asterix"]["iteration"]) == set(range(6))


def test_no_episode_at_all_is_told(make_study: Callable[..., Study], tmp_path: Path) -> None:
    study = make_study(games="Pong", seeds="0", short="1M", full="1M")
    write_runs(study, "fig01", tmp_path)
    without_episodes(study, "fig01", tmp_path, lambda _: True)
    with pytest.raises(UserError, match="no game with a human score has a run with a finished episode"):
        table(study, "fig01", tmp_path)
