from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rliable import library, metrics

from moerl.statistics.iqm import (
    Scores,
    draw_indices,
    iqm,
    iqm_estimate,
    resampled_iqms,
    trimmed_mean,
)

finite = st.floats(-100, 100, allow_subnormal=False)


def scores_matrix(runs: int = 5, games: int = 7, seed: int = 0) -> Scores:
    return np.random.default_rng(seed).gamma(2.0, 1.0, (runs, games))


def by_game(matrix: Scores) -> list[Scores]:
    return list(matrix.T)


def test_hand_computed() -> None:
    assert iqm([1, 2, 3, 4]) == 2.5  # cuts 1 and 4
    assert iqm([100, 1, 2, 3, -50, 4, 5, 6]) == 3.5  # cuts -50, 1 and 6, 100
    assert iqm([1.0, 2.0, 9.0]) == 4.0  # a quarter of three is less than one: nothing is cut
    assert iqm([[7.0]]) == 7.0


def test_it_pools_runs_and_games_instead_of_averaging_games() -> None:
    matrix = np.array([[0.0, 10.0], [0.0, 10.0], [8.0, 10.0], [8.0, 10.0]])
    assert iqm(matrix) == (8 + 8 + 10 + 10) / 4  # the mean of per-game means would be 7


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_scores_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        iqm([1.0, bad])
    with pytest.raises(ValueError, match="NaN or infinite"):
        iqm_estimate([np.array([1.0, 2.0]), np.array([bad, 1.0])], np.random.default_rng(0), 10)


def test_nothing_to_aggregate_is_refused() -> None:
    with pytest.raises(ValueError, match="no scores"):
        iqm([])
    with pytest.raises(ValueError, match="no game"):
        iqm_estimate([], np.random.default_rng(0), 10)
    with pytest.raises(ValueError, match="no scores"):
        iqm_estimate([np.array([1.0]), np.array([])], np.random.default_rng(0), 10)


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=finite))
def test_rows_agree_with_rliable(matrix: Scores) -> None:
    expected = [metrics.aggregate_iqm(row) for row in matrix]
    np.testing.assert_allclose(trimmed_mean(matrix), expected, rtol=1e-12, atol=1e-12)


def test_interval_equals_rliable_on_the_same_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = scores_matrix()
    runs, games = matrix.shape
    repetitions = 300
    ours = iqm_estimate(by_game(matrix), np.random.default_rng(7), repetitions)
    # The same draws as (run, game) indices into the sorted matrix, served to rliable one by one.
    flat = draw_indices(np.random.default_rng(7), [runs] * games, repetitions)
    drawn = iter(flat.reshape(repetitions, games, runs).transpose(0, 2, 1) - np.arange(games) * runs)

    def choice(items: int, shape: tuple[int, ...], replace: bool) -> np.ndarray:
        assert (items, shape, replace) == (runs, (runs, games), True)
        return next(drawn)

    monkeypatch.setattr(library.np.random, "choice", choice)
    points, intervals = library.get_interval_estimates(
        {"m": np.sort(matrix, axis=0)}, lambda s: np.array([metrics.aggregate_iqm(s)]), reps=repetitions
    )
    assert next(drawn, None) is None
    np.testing.assert_allclose(ours.point, points["m"][0], rtol=1e-14)
    np.testing.assert_allclose([ours.low, ours.high], intervals["m"][:, 0], rtol=1e-12)


def test_interval_agrees_with_an_independent_rliable_run() -> None:
    matrix = scores_matrix(games=10)
    ours = iqm_estimate(by_game(matrix), np.random.default_rng(0), 20_000)
    np.random.seed(0)  # rliable knows no other way
    _, theirs = library.get_interval_estimates(
        {"m": matrix}, lambda s: np.array([metrics.aggregate_iqm(s)]), reps=2_000
    )
    width = ours.high - ours.low
    assert abs(ours.low - theirs["m"][0, 0]) < 0.06 * width
    assert abs(ours.high - theirs["m"][1, 0]) < 0.06 * width


def test_seeds_are_resampled_within_their_game() -> None:
    indices = draw_indices(np.random.default_rng(0), [2, 1, 3], 4_000)
    assert indices.shape == (4_000, 6)
    for columns, allowed in ((slice(0, 2), {0, 1}), (slice(2, 3), {2}), (slice(3, 6), {3, 4, 5})):
        values, counts = np.unique(indices[:, columns], return_counts=True)
        assert set(values) == allowed
        np.testing.assert_allclose(counts / counts.sum(), 1 / len(allowed), atol=0.02)


def test_ragged_seeds_pool_all_scores() -> None:
    strata = [np.array([1.0]), np.array([2.0, 3.0]), np.array([10.0])]
    estimate = iqm_estimate(strata, np.random.default_rng(0), 500)
    assert estimate.point == 2.5
    assert set(resampled_iqms(strata, np.random.default_rng(0), 500)) == {2.0, 2.5, 3.0}


def test_one_seed_per_game_has_no_spread() -> None:
    estimate = iqm_estimate(by_game(scores_matrix(runs=1)), np.random.default_rng(0), 100)
    assert estimate.low == estimate.high == estimate.point


@settings(max_examples=25)
@given(st.data())
def test_the_order_of_seeds_does_not_matter(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    strata = [data.draw(hnp.arrays(np.float64, size, elements=finite)) for size in sizes]
    shuffled = [np.array(data.draw(st.permutations(list(game)))) for game in strata]
    one = iqm_estimate(strata, np.random.default_rng(3), 50)
    assert iqm_estimate(shuffled, np.random.default_rng(3), 50) == one
    lowest, highest = min(map(min, strata)), max(map(max, strata))
    slack = 1e-12 * max(abs(lowest), abs(highest))  # a mean of equal numbers may miss them by an ulp
    assert lowest - slack <= one.low <= one.high <= highest + slack


def test_affine_scores_give_affine_estimates() -> None:
    matrix = scores_matrix()
    one = iqm_estimate(by_game(matrix), np.random.default_rng(1), 400)
    two = iqm_estimate(by_game(3 * matrix - 2), np.random.default_rng(1), 400)
    np.testing.assert_allclose(
        [two.point, two.low, two.high], [3 * v - 2 for v in (one.point, one.low, one.high)], rtol=1e-12
    )


def test_the_generator_decides_and_the_global_one_does_not() -> None:
    strata = by_game(scores_matrix())
    np.random.seed(1)
    first = iqm_estimate(strata, np.random.default_rng(5), 200)
    np.random.seed(2)
    assert iqm_estimate(strata, np.random.default_rng(5), 200) == first
    assert iqm_estimate(strata, np.random.default_rng(6), 200) != first


def test_chunks_do_not_lose_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    strata = by_game(scores_matrix())
    whole = resampled_iqms(strata, np.random.default_rng(0), 103)
    monkeypatch.setattr("moerl.statistics.iqm._CHUNK_SCORES", 10 * 35)
    np.testing.assert_array_equal(resampled_iqms(strata, np.random.default_rng(0), 103), whole)
    assert whole.shape == (103,)
