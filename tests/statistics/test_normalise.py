from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moerl.statistics.normalise import human_normalised

PONG = (-20.7, 14.6)


def test_hand_computed() -> None:
    scores = human_normalised([-20.7, 14.6, 14.6 + 35.3, -3.05], *PONG)
    assert scores is not None
    np.testing.assert_allclose(scores, [0.0, 1.0, 2.0, 0.5], atol=1e-12)


def test_games_whose_human_score_is_below_zero_still_grow_with_the_return() -> None:
    scores = human_normalised([-17098.1, -4336.9, 0.0], -17098.1, -4336.9)  # Skiing
    assert scores is not None
    np.testing.assert_allclose(scores, [0, 1, 17098.1 / 12761.2])


def test_no_human_score_no_normalised_score() -> None:
    assert human_normalised([1.0, 2.0], None, None) is None
    assert human_normalised([1.0, 2.0], 3.0, None) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("human", [14.6, None])
def test_non_finite_returns_are_refused_even_without_a_human_score(bad: float, human: float | None) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        human_normalised([1.0, bad], -20.7, human)


def test_equal_references_are_refused() -> None:
    with pytest.raises(ValueError, match="undefined"):
        human_normalised(1.0, 5.0, 5.0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.floats(-1e4, 1e4), st.floats(1, 1e5))
def test_it_undoes(returns: list[float], random: float, span: float) -> None:
    scores = human_normalised(returns, random, random + span)
    assert scores is not None
    np.testing.assert_allclose(random + scores * ((random + span) - random), returns, rtol=1e-9, atol=1e-6)
