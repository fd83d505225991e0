"""Feature norms and ranks against hand-computed values, and how they must behave under scaling."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from moerl.analysis import features

matrices = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=6),
    elements=st.floats(-10, 10, width=32),
)


def test_batch_variance_by_hand() -> None:
    # columns: (1, 3) -> mean 2, variance 1; (0, 6) -> mean 3, variance 9; constant -> 0
    values = [[1.0, 0.0, 5.0], [3.0, 6.0, 5.0]]
    np.testing.assert_array_equal(features.batch_variance(values), [1.0, 9.0, 0.0])


def test_variance_norm_is_the_norm_of_variances() -> None:
    # variances 3 and 4 (columns ±√3, ±2) -> norm 5
    root = np.sqrt(3.0)
    assert features.variance_norm([[root, 2.0], [-root, -2.0]]) == pytest.approx(5.0)


def test_mean_norm_by_hand() -> None:
    assert features.mean_norm([[3.0, 4.0], [0.0, 1.0]]) == pytest.approx(3.0)


def test_features_must_be_a_matrix() -> None:
    with pytest.raises(ValueError, match=r"\[B, F\]"):
        features.batch_variance(np.zeros((2, 3, 4)))


def test_singular_values_by_hand() -> None:
    # [[3, 0], [4, 5]]: eigenvalues of AAᵀ = [[9, 12], [12, 41]] are 45 and 5
    np.testing.assert_allclose(
        features.singular_values([[3.0, 0.0], [4.0, 5.0]]), [np.sqrt(45.0), np.sqrt(5.0)]
    )


@pytest.mark.parametrize(("threshold", "rank"), [(0.0, 3), (0.001, 2), (0.01, 2), (0.2, 1)])
def test_threshold_rank_by_hand(threshold: float, rank: int) -> None:
    # relative to 10: 1, 0.2, 0.0005, 0; an equal value (0.2) does not exceed its threshold
    assert features.threshold_rank([10.0, 2.0, 0.005, 0.0], threshold) == rank


@pytest.mark.parametrize(("delta", "rank"), [(0.5, 1), (0.3, 2), (0.1, 2), (0.05, 3), (0.0, 4)])
def test_effective_rank_by_hand(delta: float, rank: int) -> None:
    # cumulative shares of 8: 0.5, 0.9375, 0.96875 (3 of 4 values), 1.0
    assert features.effective_rank([4.0, 3.5, 0.25, 0.25], delta) == rank


def test_ranks_of_nothing_are_zero() -> None:
    assert features.threshold_rank(np.zeros(3), 0.01) == 0
    assert features.effective_rank(np.zeros(3), 0.01) == 0


def test_ranks_of_the_identity_are_full() -> None:
    spectrum = features.singular_values(np.eye(5, 9))
    assert features.threshold_rank(spectrum, 0.01) == 5
    assert features.effective_rank(spectrum, 0.01) == 5


@given(matrices, st.floats(0.5, 4.0))
def test_norms_scale_as_their_names_say(values: np.ndarray, factor: float) -> None:
    scaled = factor * values
    assert features.mean_norm(scaled) == pytest.approx(factor * features.mean_norm(values))
    # a variance, hence the square: the reason this "norm" is not one (B8)
    assert features.variance_norm(scaled) == pytest.approx(factor**2 * features.variance_norm(values))


@given(matrices, st.randoms(use_true_random=False))
def test_nothing_depends_on_the_order_of_samples_and_units(values: np.ndarray, random: Random) -> None:
    rows, columns = list(range(values.shape[0])), list(range(values.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    shuffled = values[rows][:, columns]
    assert features.mean_norm(shuffled) == pytest.approx(features.mean_norm(values))
    assert features.variance_norm(shuffled) == pytest.approx(features.variance_norm(values))
    np.testing.assert_allclose(
        features.singular_values(shuffled), features.singular_values(values), atol=1e-9
    )


@given(matrices, arrays(np.float64, 6, elements=st.floats(-10, 10)))
def test_variance_norm_ignores_a_constant(values: np.ndarray, shift: np.ndarray) -> None:
    shifted = values + shift[: values.shape[1]]
    assert features.variance_norm(shifted) == pytest.approx(features.variance_norm(values), abs=1e-9)


@given(arrays(np.float64, 6, elements=st.floats(0.0, 10.0, width=32)))
def test_ranks_fall_with_their_tolerance_and_ignore_scale(spectrum: np.ndarray) -> None:
    spectrum = np.sort(spectrum)[::-1]
    strict, loose = (features.threshold_rank(spectrum, t) for t in (0.001, 0.01))
    assert loose <= strict <= 6
    strict, loose = (features.effective_rank(spectrum, d) for d in (0.001, 0.01))
    assert loose <= strict <= 6
    assert features.threshold_rank(4.0 * spectrum, 0.01) == features.threshold_rank(spectrum, 0.01)
    assert features.effective_rank(4.0 * spectrum, 0.01) == features.effective_rank(spectrum, 0.01)
