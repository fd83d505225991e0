"""The Gram matrix of per-sample gradients: known gradients, an explicit loop, and any blocking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moerl.analysis import features, ntk


def linear_gradients(inputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Gradients of (target - w·x)² for one linear unit in closed form: -2 (target - w·x) x."""
    errors = targets - inputs @ weights
    return (-2.0 * errors[:, None] * inputs).astype(np.float32)


def test_ntk_of_a_linear_unit_by_hand() -> None:
    # w = (1, 1); x: (1, 0), (0, 2), (1, 1); targets 2, 1, 2 -> errors 1, -1, 0
    inputs = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    gradients = linear_gradients(inputs, np.array([2.0, 1.0, 2.0]), np.ones(2))
    np.testing.assert_array_equal(gradients, [[-2.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    gram = ntk.gradient_gram(gradients.__getitem__, 3, 2)
    np.testing.assert_array_equal(gram, np.diag([4.0, 16.0, 0.0]))
    spectrum = features.singular_values(gram)
    assert features.threshold_rank(spectrum, 0.01) == 2
    assert features.threshold_rank(spectrum, 0.25) == 1


@given(st.integers(1, 7), st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_any_blocking_equals_an_explicit_loop(batch: int, width: int, held: int, seed: int) -> None:
    jacobian = np.random.default_rng(seed).normal(size=(batch, width)).astype(np.float32)
    calls = []

    def row(index: int) -> np.ndarray:
        calls.append(index)
        return jacobian[index]

    gram = ntk.gradient_gram(row, batch, width, buffer_bytes=4 * width * held)
    explicit = [
        [sum(float(a) * float(b) for a, b in zip(x, y, strict=True)) for y in jacobian] for x in jacobian
    ]
    np.testing.assert_allclose(gram, explicit, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(gram, gram.T)
    if held >= batch:
        assert calls == list(range(batch))  # nothing is recomputed when everything fits


def test_products_span_column_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ntk, "_COLUMNS", 4)
    jacobian = np.arange(22, dtype=np.float32).reshape(2, 11)
    np.testing.assert_array_equal(ntk.gradient_gram(jacobian.__getitem__, 2, 11), jacobian @ jacobian.T)


def test_products_are_summed_in_double_precision() -> None:
    # 1 + 2⁻²⁴ is not a float32, and the cross terms cancel only in float64
    jacobian = np.array([[1.0, 2.0**-12]], np.float32)
    assert ntk.gradient_gram(jacobian.__getitem__, 1, 2)[0, 0] == 1.0 + 2.0**-24


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 4.0]))
def test_ntk_follows_scale_and_order(seed: int, factor: float) -> None:
    generator = np.random.default_rng(seed)
    jacobian = generator.normal(size=(5, 12)).astype(np.float32)
    gram = ntk.gradient_gram(jacobian.__getitem__, 5, 12)
    order = generator.permutation(5)
    moved = factor * jacobian[order][:, generator.permutation(12)]
    np.testing.assert_allclose(ntk.gradient_gram(moved.__getitem__, 5, 12), factor**2 * gram[order][:, order])


def test_contamination_adds_the_gram_of_every_output() -> None:
    gram = np.eye(2)
    q_values = np.array([[1.0, 2.0], [0.0, 1.0]])  # Gram [[5, 2], [2, 1]]
    hidden = np.array([[[1.0], [0.0]], [[1.0], [1.0]]])  # flattened per sample: [[1, 1], [1, 2]]
    np.testing.assert_array_equal(ntk.contaminated(gram, [q_values, hidden]), [[7.0, 3.0], [3.0, 4.0]])
    np.testing.assert_array_equal(gram, np.eye(2))  # the clean kernel is left alone
