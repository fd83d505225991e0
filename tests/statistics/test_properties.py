"""What the numbers behind a figure do not depend on, and what they are in the cases at the edge."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_study import load, record, svg_text, write_runs

from moerl.analysis.stage import parquet
from moerl.figures import stage
from moerl.statistics import scores_stage, table_stage, tables
from moerl.statistics.iqm import Estimate, iqm, iqm_estimate, mean_estimate
from moerl.statistics.tables import analysis_table, bar_row, bar_table, curve_row, curve_table
from moerl.study.errors import UserError
from moerl.study.expansion import Study
from moerl.study.figures import NO_EPISODE
from moerl.study.origin import Origin
from moerl.study.paths import analysis_file, figure_files, run_dir, scores_file, table_files

NAN, INF = float("nan"), float("inf")
SCORED, UNSCORED = ("Pong", "Breakout"), "AirRaid"
ITERATIONS = 6
FRAMES = 1_000_000
WINDOWS = {"last": (5, 5), "last_5": (1, 5)}
CELLS = [("DQN", "Baseline", 1), ("DQN", "SoftMoE", 8)]
FIGURES = {
    "fig01": "{encoder: cnn}",
    "fig07": "{}",
    "learning": "{games: [Pong]}",
    "fig10": "{encoder: cnn, agent: dqn, games: [Pong]}",
    "fig19": "{}",
}
"""One of each kind that aggregates, and of curves both kinds of panels, and one over hours."""

finite = st.floats(-1e6, 1e6, allow_subnormal=False)
returns = st.one_of(finite, st.just(NAN))
Table = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(autouse=True, scope="module")
def few_repetitions() -> Iterator[None]:
    """What holds of 40 repetitions holds of any number."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tables, "BAR_REPETITIONS", 40)
        patched.setattr(tables, "CURVE_REPETITIONS", 40)
        yield


def run_rows(cell: tuple[str, str, int], game: str, seed: int, values: Sequence[float]) -> pd.DataFrame:
    """A run as the scores have it; its wall-clock is some number that all digits matter of."""
    raw = np.asarray(values, dtype=np.float64)
    panel, series, x = cell
    return pd.DataFrame(
        {
            "panel": panel,
            "series": series,
            "x": x,
            "game": game,
            "seed": seed,
            "iteration": range(len(raw)),
            "frame": np.arange(1, len(raw) + 1) * FRAMES + 4 * seed**5,
            "mean_return": raw,
            "human_normalised": np.full(len(raw), NAN) if game == UNSCORED else (raw + 20.7) / 35.3,
            "wall_seconds": np.arange(1, len(raw) + 1) * (1.1 + 0.37 * seed + len(game) / 7),
        }
    )


@st.composite
def scores(draw: st.DrawFn, value: st.SearchStrategy[float] = returns, most_seeds: int = 4) -> pd.DataFrame:
    """Scores of two bars or curves, with up to three games that have seeds of their own each."""
    values = st.lists(value, min_size=ITERATIONS, max_size=ITERATIONS)
    parts = [
        run_rows(cell, game, seed, draw(values))
        for cell in CELLS
        for game in draw(st.lists(st.sampled_from((*SCORED, UNSCORED)), min_size=1, unique=True))
        for seed in draw(st.lists(st.integers(0, 9), min_size=1, max_size=most_seeds, unique=True))
    ]
    return pd.concat(parts, ignore_index=True)


def bars(rows: pd.DataFrame) -> pd.DataFrame:
    return bar_table(rows, CELLS, WINDOWS, FRAMES, {})


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    return curve_table(rows, [cell[:2] for cell in CELLS], "iqm", FRAMES, {}, over="hours")


def returns_per_game(rows: pd.DataFrame) -> pd.DataFrame:
    panels = rows.assign(panel=rows["game"])
    cells = [(game, cell[1]) for game in (*SCORED, UNSCORED) for cell in CELLS]
    return curve_table(panels, cells, "return", FRAMES, {})


def analyses(rows: pd.DataFrame) -> pd.DataFrame:
    known = rows[rows["mean_return"].notna()].rename(columns={"mean_return": "value"})
    values = known.assign(metric="m")
    cells = [(game, "m", cell[1]) for game in (*SCORED, UNSCORED) for cell in CELLS]
    return analysis_table(values, cells, {})


TABLES = (bars, curves, returns_per_game, analyses)
each_table = pytest.mark.parametrize("table", TABLES)


def csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False)


# What changes nothing


@each_table
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_the_order_of_rows_changes_nothing(table: Table, data: st.DataObject) -> None:
    rows = data.draw(scores())
    order = data.draw(st.permutations(range(len(rows))))
    assert csv(table(rows.iloc[order])) == csv(table(rows))


@each_table
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_in_how_many_parts_and_order_they_come_changes_nothing(table: Table, data: st.DataObject) -> None:
    rows = data.draw(scores())
    place = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))))
    parts = [rows[place == part] for part in data.draw(st.permutations(range(4)))]
    assert csv(table(pd.concat([part for part in parts if len(part)]))) == csv(table(rows))


@each_table
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_which_seed_has_which_curve_changes_nothing(table: Table, data: st.DataObject) -> None:
    rows = data.draw(scores())
    renamed = rows["seed"].copy()
    for _, group in rows.groupby(["series", "game"]):
        seeds = sorted(set(group["seed"]))
        others = data.draw(st.permutations(range(20)))[: len(seeds)]
        renamed[group.index] = group["seed"].map(dict(zip(seeds, others, strict=True)))
    assert csv(table(rows.assign(seed=renamed))) == csv(table(rows))


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_other_bars_and_curves_change_nothing(data: st.DataObject) -> None:
    rows = data.draw(scores())
    alone = rows[rows["series"] == "SoftMoE"]
    for table in TABLES:
        both, one = table(rows), table(alone)
        pd.testing.assert_frame_equal(
            both[both["series"] == "SoftMoE"].reset_index(drop=True),
            one[one["series"] == "SoftMoE"].reset_index(drop=True),
            check_exact=True,
            check_dtype=False,
        )


# What is defined at the edge


@settings(max_examples=50, deadline=None)
@given(rows=scores())
def test_a_run_counts_where_it_has_a_score_and_games_without_any_are_named(rows: pd.DataFrame) -> None:
    made = curves(rows).set_index(["series", "iteration"])
    for (series, iteration), point in rows.groupby(["series", "iteration"]):
        row = made.loc[(series, iteration)]
        there = point[point["human_normalised"].notna()]
        counts = there.groupby("game").size()
        expected = "0" if counts.empty else "-".join(map(str, sorted({counts.min(), counts.max()})))
        assert (row["n_games"], row["n_seeds"]) == (len(counts), expected)
        silent = {
            game + (NO_EPISODE if runs["mean_return"].isna().all() else "")
            for game, runs in point.groupby("game")
            if game not in counts
        }
        assert set(filter(None, row["games_left_out"].split("; "))) == silent
        if there.empty:
            assert row[["value", "ci_low", "ci_high"]].isna().all()
        else:
            ordered = there.sort_values(["game", "human_normalised"])["human_normalised"]
            assert row["value"] == pytest.approx(iqm(ordered), rel=1e-12, abs=1e-12)
            assert pd.isna(row["ci_low"]) == pd.isna(row["ci_high"]) == (counts.max() == 1)


@each_table
@settings(max_examples=20, deadline=None)
@given(rows=scores())
def test_scores_that_a_run_does_not_have_are_left_out(table: Table, rows: pd.DataFrame) -> None:
    """The same numbers as without their rows; only what is left out is told of rows that are there."""
    silent = rows["mean_return"].isna()
    with_them, without = table(rows), table(rows[~silent])
    told = [name for name in ("games_left_out", "hours") if name in with_them]
    key = [name for name in ("panel", "game", "series", "readout", "iteration") if name in with_them]
    value = next(name for name in ("iqm", "value", "mean") if name in with_them)
    one, two = (t[t[value].notna()].drop(columns=told).set_index(key) for t in (with_them, without))
    pd.testing.assert_frame_equal(one, two, check_exact=True, check_dtype=False)


@each_table
@settings(max_examples=20, deadline=None)
@given(data=st.data(), bad=st.sampled_from((INF, -INF)))
def test_an_infinite_score_is_refused(table: Table, data: st.DataObject, bad: float) -> None:
    rows = data.draw(scores(finite))
    place = data.draw(st.sampled_from(rows.index[rows["iteration"] >= 1].tolist()))
    rows.loc[place, ["mean_return", "human_normalised"]] = bad
    with pytest.raises(ValueError, match="infinite"):
        table(rows)


def test_infinities_that_cancel_are_no_missing_episode() -> None:
    rows = run_rows(CELLS[0], "Pong", 0, [0.0, 1.0, 2.0, INF, -INF, 3.0])
    with pytest.raises(ValueError, match="a score is infinite"):
        bar_row(rows, (1, 5))


def test_a_value_that_is_none_has_no_place_in_an_analysis() -> None:
    values = run_rows(CELLS[0], "Pong", 0, [NAN]).assign(metric="m", value=NAN)
    with pytest.raises(ValueError, match="a value is NaN or infinite"):
        analysis_table(values, [("Pong", "m", "Baseline")], {})


@pytest.mark.parametrize("lacking", ["no scores", "no run of a cell", "no episode", "no human score"])
def test_a_bar_or_curve_without_any_score_has_its_rows_and_no_value(lacking: str) -> None:
    game = UNSCORED if lacking == "no human score" else "Pong"
    rows = pd.concat(
        [
            run_rows(CELLS[0], "Pong", 0, [0.0] * ITERATIONS),
            run_rows(CELLS[1], game, 0, [NAN if lacking == "no episode" else 1.0] * ITERATIONS),
        ]
    )
    if lacking == "no scores":
        rows = rows.iloc[:0]
    elif lacking == "no run of a cell":
        rows = rows[rows["series"] == "Baseline"]
    named = {"no episode": f"Pong{NO_EPISODE}", "no human score": UNSCORED}.get(lacking, "")
    for table, count in ((bars, 2), (curves, ITERATIONS if named else 1)):
        made = table(rows)
        empty = made[made["series"] == "SoftMoE"]
        assert len(empty) == count
        values = ["iqm" if table is bars else "value", "ci_low", "ci_high"]
        assert empty[values].isna().all(axis=None)
        assert empty[["n_games", "n_seeds", "games_left_out"]].drop_duplicates().to_numpy().tolist() == [
            [0, "0", named]
        ]
    empty = analyses(rows[rows["game"] != "Pong"])
    empty = empty[(empty["game"] == "Pong") & (empty["series"] == "SoftMoE")]
    assert empty["n_seeds"].tolist() == [0]
    assert empty[["iteration", "frame", "mean", "se_low", "se_high"]].isna().all(axis=None)


@settings(max_examples=20, deadline=None)
@given(rows=scores(finite, most_seeds=1))
def test_one_seed_has_a_value_and_no_interval(rows: pd.DataFrame) -> None:
    for table in TABLES:
        made = table(rows)
        made = made[made["n_seeds"].astype(str) != "0"]
        assert (made["n_seeds"].astype(str) == "1").all()
        value = next(name for name in ("iqm", "value", "mean") if name in made)
        bounds = [name for name in ("ci_low", "ci_high", "se_low", "se_high") if name in made]
        assert made[value].notna().all()
        assert made[bounds].isna().all(axis=None)


@settings(max_examples=20, deadline=None)
@given(value=finite)
def test_one_game_and_one_seed_are_that_score(value: float) -> None:
    rows = run_rows(CELLS[0], "Pong", 0, [value] * ITERATIONS)
    row = bar_row(rows, (5, 5))
    assert (row["iqm"], row["ci_low"], row["n_games"], row["n_seeds"]) == (
        rows["human_normalised"].iloc[0],
        None,
        1,
        "1",
    )
    point = curve_row(rows[rows["iteration"] == 0], "return")
    assert point == {"n_games": 1, "n_seeds": "1", "games_left_out": "", "value": value}


@settings(max_examples=100, deadline=None)
@given(value=finite, games=st.integers(1, 2), seeds=st.integers(2, 7))
def test_of_equal_scores_the_value_and_its_interval_are_that_score(
    value: float, games: int, seeds: int
) -> None:
    rows = pd.concat(
        [
            run_rows(cell, game, seed, [value] * ITERATIONS)
            for cell in CELLS
            for game in SCORED[:games]
            for seed in range(seeds)
        ]
    )
    score = rows["human_normalised"].iloc[0]
    for table, columns, expected in (
        (bars, ["iqm", "ci_low", "ci_high"], score),
        (curves, ["value", "ci_low", "ci_high"], score),
        (returns_per_game, ["value", "ci_low", "ci_high"], value),
        (analyses, ["mean", "se_low", "se_high"], value),
    ):
        made = table(rows)
        made = made[made["n_seeds"].astype(str) != "0"]
        assert set(made[columns].to_numpy(dtype=np.float64).ravel()) == {expected}


@given(value=finite, sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_estimates_of_equal_scores_are_exact(value: float, sizes: list[int]) -> None:
    strata = [np.full(size, value) for size in sizes]
    expected = Estimate(value, value, value)
    assert iqm(np.concatenate(strata)) == value
    assert iqm_estimate(strata, np.random.default_rng(0), 20) == expected
    assert mean_estimate(strata[0], np.random.default_rng(0), 20) == expected


def test_zeros_have_no_sign() -> None:
    for zeros in ([-0.0, 0.0, 1.0], [0.0, -0.0, 1.0], [-0.0, -0.0, -0.0]):
        estimate = iqm_estimate([np.array(zeros)], np.random.default_rng(0), 20)
        assert "-0.0" not in repr(estimate)
        rows = pd.concat([run_rows(CELLS[0], "Pong", seed, [v]) for seed, v in enumerate(zeros)])
        assert "-0.0" not in csv(returns_per_game(rows)) + csv(analyses(rows)[["mean", "se_high"]])


# From files to files


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Study]:
    return partial(load, tmp_path)


def one_figure(make_study: Callable[..., Study], figure: str, **settings: str) -> Study:
    usual = {"games": "Pong", "seeds": "0, 1, 2", "short": "2M", "full": "2M"}
    usual["agents"] = "rainbow: {}" if figure == "fig19" else "dqn: {}"
    return make_study(figures=f"{{{figure}: {FIGURES[figure]}}}", **(usual | settings))


def made(study: Study, figure: str, results: Path) -> dict[str, bytes]:
    """The bytes of the scores, the table and the drawings of a figure."""
    for module in (scores_stage, table_stage, stage):
        module.run(study, figure, results)
    paths = [scores_file(results, figure), *table_files(results, figure), *figure_files(results, figure)]
    return {path.name: path.read_bytes() for path in paths}


def rewritten(path: Path, table: pd.DataFrame, **options: Any) -> None:
    """Write a Parquet file again with the metadata that it has, as if training had."""
    metadata = pq.read_schema(path).metadata
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(metadata)
    pq.write_table(arrow, path, **options)
    if path.name == "returns.parquet":
        record(path)


@pytest.mark.parametrize("figure", FIGURES)
def test_how_files_are_stored_and_split_changes_no_byte(
    make_study: Callable[..., Study], tmp_path: Path, figure: str
) -> None:
    """In row groups of one row, compressed otherwise; and the rows of the scores in another order."""
    study = one_figure(make_study, figure)
    runs = write_runs(study, figure, tmp_path)
    before = made(study, figure, tmp_path)
    for run in runs:
        for path in (run_dir(tmp_path, run) / "returns.parquet", analysis_file(tmp_path, run)):
            if path.is_file():
                rewritten(path, pd.read_parquet(path), row_group_size=1, compression="gzip")
    assert made(study, figure, tmp_path) == before
    path = scores_file(tmp_path, figure)
    table = pd.read_parquet(path).sample(frac=1, random_state=3)
    rewritten(path, table, row_group_size=7)
    table_stage.run(study, figure, tmp_path)
    assert {p.name: p.read_bytes() for p in table_files(tmp_path, figure)}.items() <= before.items()


@pytest.mark.parametrize("figure", FIGURES)
def test_the_order_of_seeds_in_the_study_changes_no_table_and_drawing(
    make_study: Callable[..., Study], tmp_path: Path, figure: str
) -> None:
    found = []
    for seeds in ("0, 1, 2", "2, 0, 1"):
        study = one_figure(make_study, figure, seeds=seeds)
        write_runs(study, figure, tmp_path)
        found.append(made(study, figure, tmp_path))
    for one in found:
        one.pop(f"{figure}.parquet")  # its rows are in the study's order
    assert found[0] == found[1]


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("value", [-20.7, -30.0])  # random play in Pong, and worse
def test_equal_scores_can_be_drawn(
    make_study: Callable[..., Study], tmp_path: Path, figure: str, value: float
) -> None:
    study = one_figure(make_study, figure)
    for run in write_runs(study, figure, tmp_path):
        path = run_dir(tmp_path, run) / "returns.parquet"
        rewritten(path, pd.read_parquet(path).assign(mean_return=value))
        if analysis_file(tmp_path, run).is_file():
            path = analysis_file(tmp_path, run)
            rewritten(path, pd.read_parquet(path).assign(value=value))
    made(study, figure, tmp_path)
    table = pd.read_csv(table_files(tmp_path, figure)[0])
    columns = next(
        names
        for names in (
            ["iqm", "ci_low", "ci_high"],
            ["value", "ci_low", "ci_high"],
            ["mean", "se_low", "se_high"],
        )
        if names[0] in table
    )
    assert len(set(table[columns].to_numpy().ravel())) == 1


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_of_one_seed_says_so_and_claims_no_interval(
    make_study: Callable[..., Study], tmp_path: Path, figure: str
) -> None:
    study = one_figure(make_study, figure, seeds="3")
    write_runs(study, figure, tmp_path)
    made(study, figure, tmp_path)
    table = pd.read_csv(table_files(tmp_path, figure)[0])
    assert set(table["n_seeds"]) == {1}
    assert table.filter(regex="^(ci|se)_").isna().all(axis=None)
    assert "1 seed instead of " in svg_text(study, figure, tmp_path)
    tex = table_files(tmp_path, figure)[1].read_text(encoding="utf-8")
    assert "\\pm" not in tex
    assert " [" not in tex


@pytest.mark.parametrize("bad", [INF, -INF])
@pytest.mark.parametrize("column", ["mean_return", "human_normalised"])
def test_an_infinite_score_is_refused_by_name(
    make_study: Callable[..., Study], tmp_path: Path, column: str, bad: float
) -> None:
    study = one_figure(make_study, "fig01")
    write_runs(study, "fig01", tmp_path)
    scores_stage.run(study, "fig01", tmp_path)
    path = scores_file(tmp_path, "fig01")
    table = pd.read_parquet(path)
    rewritten(path, table.assign(**{column: table[column].where(table.index != 11, bad)}))
    with pytest.raises(UserError, match=rf"{column} of iteration 1 is not finite") as caught:
        table_stage.run(study, "fig01", tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("column", "bad", "message"),
    [
        ("mean_return", INF, "mean_return of iteration 1 is not finite"),
        ("mean_return", -INF, "mean_return of iteration 1 is not finite"),
        ("mean_return", NAN, "mean_return of iteration 1 is not finite"),
        ("episodes", NAN, "column 'episodes' does not hold integers alone"),
        ("episodes", -1, "episodes must be counts"),
    ],
)
def test_returns_that_are_none_are_refused_by_name(
    make_study: Callable[..., Study], tmp_path: Path, column: str, bad: float, message: str
) -> None:
    study = one_figure(make_study, "fig01")
    path = run_dir(tmp_path, write_runs(study, "fig01", tmp_path)[2]) / "returns.parquet"
    table = pd.read_parquet(path)
    rewritten(path, table.assign(**{column: table[column].where(table["iteration"] != 1, bad)}))
    with pytest.raises(UserError, match=message) as caught:
        scores_stage.run(study, "fig01", tmp_path, allow_partial=True)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("bad", [INF, -INF, NAN])
def test_analyses_and_times_that_are_none_are_refused_by_name(
    make_study: Callable[..., Study], tmp_path: Path, bad: float
) -> None:
    study = one_figure(make_study, "fig10")
    run = write_runs(study, "fig10", tmp_path)[1]
    path = analysis_file(tmp_path, run)
    values = pd.read_parquet(path)
    values["value"] = values["value"].where(values["iteration"] != 1, bad)
    path.write_bytes(parquet(values, Origin.of(study, run)))
    scores_stage.run(study, "fig10", tmp_path)
    with pytest.raises(UserError, match="value of iteration 1 is not finite") as caught:
        table_stage.run(study, "fig10", tmp_path)
    assert str(caught.value).startswith(f"{path}: ")

    study = one_figure(make_study, "fig19")
    path = run_dir(tmp_path, write_runs(study, "fig19", tmp_path)[1]) / "timing.parquet"
    times = pd.read_parquet(path)
    times.assign(wall_seconds=times["wall_seconds"].where(times["iteration"] != 1, bad)).to_parquet(path)
    with pytest.raises(UserError, match="wall_seconds must be finite") as caught:
        scores_stage.run(study, "fig19", tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


SCRIPT = """
import numpy as np
from moerl.statistics.iqm import iqm_estimate, mean_estimate
for seed in range(10):
    generator = np.random.default_rng(seed)
    strata = [generator.gamma(2.0, 1.0, 5) for _ in range(20)]
    print(iqm_estimate(strata, generator, 500), mean_estimate(strata[0], generator, 500))
"""


def test_the_vector_instructions_of_the_processor_change_no_digit() -> None:
    """NumPy sorts and adds with those that it finds: with fewer of them it must come to the same."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    fewer = " ".join(name for name in __cpu_dispatch__ if __cpu_features__[name])
    found = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT], env=os.environ | extra, check=True, capture_output=True, text=True
        ).stdout
        for extra in ({}, {"NPY_DISABLE_CPU_FEATURES": fewer})
    ]
    assert found[0].count("Estimate(") == 20
    assert found[0] == found[1]
