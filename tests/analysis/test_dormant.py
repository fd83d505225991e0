"""Both notions of dormancy against hand-computed values, and their invariances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from moerl.analysis import dormant

hidden_layers = arrays(np.float64, (3, 2, 4, 5), elements=st.floats(0.0, 10.0, width=32))


def test_variance_dormant_by_hand() -> None:
    # variances over the batch of two: 0, 0.0004, 0.0064, 1
    values = np.array([[7.0, 0.02, 0.08, 1.0], [7.0, -0.02, -0.08, -1.0]])
    assert dormant.variance_dormant(values, 0.0) == 0.25
    assert dormant.variance_dormant(values, 0.001) == 0.5
    assert dormant.variance_dormant(values, 0.01) == 0.75


def test_a_variance_equal_to_the_threshold_is_dormant() -> None:
    assert dormant.variance_dormant([[1.0, 0.0], [3.0, 10.0]], 1.0) == 0.5


def test_a_constant_unit_is_dormant_by_variance_but_not_by_activity() -> None:
    hidden = np.array([[5.0, 1.0], [5.0, 3.0]])
    assert dormant.variance_dormant(hidden, 0.0) == 0.5
    assert dormant.tau_dormant(dormant.unit_activity(hidden), 0.1) == 0.0


def test_tau_dormant_by_hand() -> None:
    # mean activity 2: scores 0, 0.02, 0.08, 3.9
    activity = [0.0, 0.04, 0.16, 7.8]
    assert dormant.tau_dormant(activity, 0.0) == 0.25
    assert dormant.tau_dormant(activity, 0.025) == 0.5
    assert dormant.tau_dormant(activity, 0.1) == 0.75


def test_a_dead_layer_is_all_dormant() -> None:
    assert dormant.tau_dormant(np.zeros((2, 3)), 0.0) == 1.0


def test_unit_activity_of_a_baseline() -> None:
    np.testing.assert_array_equal(dormant.unit_activity([[0.0, 1.0], [0.0, 3.0]]), [0.0, 2.0])


def test_unit_activity_of_experts_averages_samples_and_slots() -> None:
    # B = 1, E = 2, P = 2, H = 1: expert 0 fires 1 and 3, expert 1 never
    hidden = np.array([[[[1.0], [3.0]], [[0.0], [0.0]]]])
    np.testing.assert_array_equal(dormant.unit_activity(hidden), [[2.0], [0.0]])


def test_a_unit_of_one_expert_is_judged_against_the_whole_layer() -> None:
    # expert 1 is weak as a whole: its units fall below a tenth of the layer's mean, 0.5025
    hidden = np.array([[[[1.0, 1.0]], [[0.01, 0.0]]]])
    assert dormant.tau_dormant(dormant.unit_activity(hidden), 0.025) == 0.5


def test_other_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="rank 3"):
        dormant.unit_activity(np.zeros((2, 3, 4)))


@given(hidden_layers, st.sampled_from([0.25, 2.0, 8.0]))
def test_tau_dormancy_ignores_scale_and_order(hidden: np.ndarray, factor: float) -> None:
    activity = dormant.unit_activity(hidden)
    if activity.mean() < 1e-3:
        return  # near-dead layers meet the guard against 0/0, which has a scale
    permuted = dormant.unit_activity(factor * hidden[::-1, ::-1, ::-1, ::-1])
    for tau in (0.0, 0.5):
        margin = np.abs(activity / activity.mean() - tau).min()
        if tau == 0.0 or margin > 1e-6:
            assert dormant.tau_dormant(permuted, tau) == dormant.tau_dormant(activity, tau)


@given(hidden_layers)
def test_more_is_dormant_at_a_higher_threshold(hidden: np.ndarray) -> None:
    activity = dormant.unit_activity(hidden)
    fractions = [dormant.tau_dormant(activity, tau) for tau in (0.0, 0.025, 0.1)]
    assert fractions == sorted(fractions)
    flat = hidden.reshape(3, -1)
    fractions = [dormant.variance_dormant(flat, t) for t in (0.0, 0.001, 0.01)]
    assert fractions == sorted(fractions)
