from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_study import put_table, record, write_divergence, write_runs

from moerl.statistics import scores_stage
from moerl.statistics.readers import read_left_out
from moerl.study.errors import UserError
from moerl.study.expansion import Study
from moerl.study.paths import left_out_file, run_dir, scores_file, state_dir


def scores(study: Study, figure: str, results: Path) -> pd.DataFrame:
    scores_stage.run(study, figure, results)
    return pd.read_parquet(scores_file(results, figure))


def test_every_run_of_the_figure_once_in_its_order(study: Study, results: Path) -> None:
    table = scores(study, "fig01", results)
    assert list(table.columns) == [
        *("panel", "series", "x", "agent", "variant", "game", "seed"),
        *("iteration", "frame", "mean_return", "human_normalised"),
    ]
    assert len(table) == 3 * 4 * 3 * 3 * 8  # series, x, games, seeds, iterations
    assert table["panel"].unique().tolist() == ["DQN"]  # Rainbow is not in the study
    assert table["series"].unique().tolist() == ["Baseline", "SoftMoE", "Top1-MoE"]
    assert table["x"].unique().tolist() == [1, 2, 4, 8]
    assert table.loc[table["x"] == 4, "variant"].unique().tolist() == [
        "cnn-baseline-x4",
        "cnn-softmoe4",
        "cnn-top1-4",
    ]


def test_values_come_from_the_run_and_are_normalised(study: Study, results: Path) -> None:
    table = scores(study, "fig01", results)
    run = study.figure_runs(study.figure("fig01"))[4]
    assert (run.game, run.seed) == ("Pong", 1)
    rows = table[(table["variant"] == run.variant) & (table["game"] == "Pong") & (table["seed"] == 1)]
    returns = pd.read_parquet(run_dir(results, run) / "returns.parquet")
    np.testing.assert_array_equal(rows["mean_return"], returns["mean_return"])
    np.testing.assert_array_equal(rows["frame"], returns["frame"])
    np.testing.assert_allclose(rows["human_normalised"], (returns["mean_return"] + 20.7) / 35.3)
    assert table.loc[table["game"] == "AirRaid", "human_normalised"].isna().all()


def test_without_a_scaling_axis_x_is_null(study: Study, results: Path) -> None:
    table = scores(study, "fig10", results)
    assert table["x"].isna().all()
    assert table["iteration"].max() == 5  # the short milestone


def test_missing_runs_are_refused_unless_allowed(study: Study, results: Path) -> None:
    run = study.figure_runs(study.figure("fig01"))[4]
    (run_dir(results, run) / "returns.parquet").unlink()
    expected = (
        r"fig01: 1 of 108 runs are not finished: dqn cnn-baseline Pong seed 1 \(missing\); --allow-partial"
    )
    with pytest.raises(UserError, match=expected):
        scores_stage.run(study, "fig01", results)
    assert not scores_file(results, "fig01").exists()
    scores_stage.run(study, "fig01", results, allow_partial=True)
    table = pd.read_parquet(scores_file(results, "fig01"))
    assert len(table) == 107 * 8
    assert read_left_out(left_out_file(results, "fig01")) == {run: "missing"}


def test_every_run_left_out_is_named_with_its_reason(study: Study, results: Path, tmp_path: Path) -> None:
    diverged, outdated, missing, elsewhere = study.figure_runs(study.figure("fig01"))[:4]
    state = tmp_path / "state"
    (run_dir(results, diverged) / "returns.parquet").unlink()
    write_divergence(study, diverged, state, 37, iteration=7)
    (run_dir(results, outdated) / "manifest.json").write_text('{"spec_digest": "0123"}')
    (run_dir(results, missing) / "manifest.json").unlink()  # the last file that training writes
    kept = state_dir(state, elsewhere) / elsewhere.milestone  # its pack's job failed
    kept.parent.mkdir(parents=True)
    run_dir(results, elsewhere).rename(kept)
    with pytest.raises(UserError, match=rf"3 of 108 .*: {diverged.name} \(diverged at gradient step 37\), "):
        scores_stage.run(study, "fig01", results, state=state)
    scores_stage.run(study, "fig01", results, allow_partial=True, state=state)
    assert len(pd.read_parquet(scores_file(results, "fig01"))) == 105 * 8
    lines = left_out_file(results, "fig01").read_text().splitlines()
    assert lines == [
        "agent,variant,game,seed,milestone,why",
        f"dqn,cnn-baseline,AirRaid,{diverged.seed},8M,diverged at gradient step 37",
        f"dqn,cnn-baseline,AirRaid,{outdated.seed},8M,trained under another spec",
        f"dqn,cnn-baseline,AirRaid,{missing.seed},8M,missing",
    ]
    # Without the state nobody knows of the divergence, nor of the run kept there.
    with pytest.raises(UserError, match=r"4 of 108 .*and 1 more"):
        scores_stage.run(study, "fig01", results)


def test_of_complete_data_partial_scores_are_the_same_bytes(study: Study, results: Path) -> None:
    found = []
    for allow_partial in (False, True):
        scores_stage.run(study, "fig01", results, allow_partial)
        found.append([f(results, "fig01").read_bytes() for f in (scores_file, left_out_file)])
    assert found[0] == found[1]
    assert read_left_out(left_out_file(results, "fig01")) == {}


def test_nothing_at_all_is_refused_even_if_partial_is_allowed(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="108 of 108"):
        scores_stage.run(study, "fig01", tmp_path / "empty", allow_partial=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda t: t.assign(mean_return=t["mean_return"].where(t["iteration"] != 3)),
            "iteration 3 is not finite",
        ),
        (lambda t: t.iloc[:-1], "expected iterations 0 to 7, found 7 rows ending at 6"),
        (lambda t: t.iloc[::-1], "expected iterations 0 to 7"),
        (lambda t: t.drop(columns="frame"), "lacks the column 'frame'"),
    ],
)
def test_untrustworthy_returns_are_refused_by_name(study: Study, results: Path, damage, message: str) -> None:
    path = run_dir(results, study.figure_runs(study.figure("fig01"))[0]) / "returns.parquet"
    put_table(path, damage(pd.read_parquet(path)))
    with pytest.raises(UserError, match=message) as caught:
        scores_stage.run(study, "fig01", results, allow_partial=True)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_torn_file_is_refused_by_name(study: Study, results: Path) -> None:
    path = run_dir(results, study.figure_runs(study.figure("fig01"))[0]) / "returns.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"checksum differs from the one in .*manifest\.json") as caught:
        scores_stage.run(study, "fig01", results)
    assert str(caught.value).startswith(f"{path}: ")
    record(path)
    with pytest.raises(UserError, match="not a readable Parquet file") as caught:
        scores_stage.run(study, "fig01", results)
    assert str(caught.value).startswith(f"{path}: ")


def test_returns_that_were_changed_after_training_are_refused_by_name(study: Study, results: Path) -> None:
    path = run_dir(results, study.figure_runs(study.figure("fig01"))[0]) / "returns.parquet"
    table = pd.read_parquet(path)
    table.assign(mean_return=table["mean_return"] + 1).to_parquet(path, index=False)
    with pytest.raises(UserError, match=r"was changed after training; delete it") as caught:
        scores_stage.run(study, "fig01", results)
    assert str(caught.value).startswith(f"{path}: checksum differs from the one in ")
    (path.parent / "manifest.json").write_text(json.dumps({"spec_digest": standing_digest(study)}))
    with pytest.raises(UserError, match="checksum differs"):
        scores_stage.run(study, "fig01", results)


def standing_digest(study: Study) -> str:
    return study.train_spec(study.figure_runs(study.figure("fig01"))[0].cell).digest()


def test_the_same_bytes_again(make_study: Callable[..., Study], tmp_path: Path) -> None:
    study = make_study(games="Pong", seeds="0")
    for folder in ("one", "two"):
        write_runs(study, "fig01", tmp_path / folder)
        scores_stage.run(study, "fig01", tmp_path / folder)
    one, two = (scores_file(tmp_path / folder, "fig01").read_bytes() for folder in ("one", "two"))
    assert one == two


def test_a_figure_of_evaluation_returns(make_study: Callable[..., Study], tmp_path: Path) -> None:
    study = make_study(
        games="Pong",
        seeds="0, 1",
        extra="evaluation: {episodes: 3}",
        figures="{fig01: {encoder: cnn, score: evaluation}}",
    )
    runs = write_runs(study, "fig01", tmp_path)
    with pytest.raises(UserError, match=r"evaluations\.parquet"):
        scores_stage.run(study, "fig01", tmp_path)
    for run in runs:
        folder = run_dir(tmp_path, run)
        returns = pd.read_parquet(folder / "returns.parquet")
        evaluated = returns.assign(mean_return=returns["mean_return"] + 100, episodes=3)
        put_table(folder / "evaluations.parquet", evaluated)
    table = scores(study, "fig01", tmp_path)
    expected = pd.read_parquet(run_dir(tmp_path, runs[0]) / "evaluations.parquet")["mean_return"]
    np.testing.assert_array_equal(table["mean_return"][: len(expected)], expected)


def test_an_iteration_without_an_episode_has_no_score(study: Study, results: Path) -> None:
    run = study.figure_runs(study.figure("fig01"))[4]
    path = run_dir(results, run) / "returns.parquet"
    returns = pd.read_parquet(path)
    without = returns["iteration"].isin([0, 7])
    returns["episodes"] = returns["episodes"].mask(without, 0)
    returns["mean_return"] = returns["mean_return"].mask(without)
    put_table(path, returns)
    table = scores(study, "fig01", results)
    rows = table[(table["variant"] == run.variant) & (table["game"] == "Pong") & (table["seed"] == run.seed)]
    assert rows["mean_return"].isna().tolist() == without.tolist()
    assert rows["human_normalised"].isna().tolist() == without.tolist()
