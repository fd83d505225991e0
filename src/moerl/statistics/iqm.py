"""Interquartile mean and its stratified bootstrap interval (Agarwal et al. 2021; paper section 4).

The scores of one bar or one point of a curve are given as strata: one array of per-seed scores for
each game. Point estimates come from rliable. Its bootstrap draws from NumPy's global generator and
calls Python once per repetition; the same resampling is done here in vectorised chunks from an
explicit generator (on equal draws both give equal intervals, see tests/statistics).

Axis legend: N all (game, seed) scores of a point, R bootstrap repetitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rliable import metrics

Scores = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

TRIM = 0.25  # cut from each tail: what is left is the interquartile range
LEVEL = 0.95
BAR_REPETITIONS = 50_000
CURVE_REPETITIONS = 2_000  # per point of a curve (method 7.3)
_CHUNK_SCORES = 2_000_000  # resampled scores held in memory at once


@dataclass(frozen=True)
class Estimate:
    """A point estimate with the bounds of its percentile bootstrap interval."""

    point: float
    low: float
    high: float


def iqm(scores: npt.ArrayLike) -> float:
    """Interquartile mean over all scores, of whatever shape, as rliable computes it; of equal scores theirs.

    Raises:
        ValueError: There are no scores, or one of them is not finite.
    """
    checked = _checked(np.asarray(scores, dtype=np.float64))
    return float(np.clip(metrics.aggregate_iqm(checked), checked.min(), checked.max()))


def trimmed_mean(scores: Scores) -> Scores:
    """The IQM of every row: scores `[R, N]`, returns `[R]`."""
    n = scores.shape[-1]
    cut = int(TRIM * n)
    middle = np.partition(scores, (cut, n - cut - 1), axis=-1)[..., cut : n - cut]
    return mean(middle)


def mean(values: Scores) -> Scores:
    """The mean over the last axis, which never rounds to beyond the least or the greatest value."""
    means: Scores = np.clip(values.mean(axis=-1), values.min(axis=-1), values.max(axis=-1))
    return means


def draw_indices(generator: np.random.Generator, sizes: Sequence[int], repetitions: int) -> Indices:
    """Bootstrap draws that resample the seeds of each game among themselves.

    Args:
        generator: Consumed.
        sizes: Seeds of each game; they may differ.
        repetitions: R.

    Returns:
        Indices `[R, N]` into the concatenation of the games' scores.
    """
    high = np.repeat(np.cumsum(sizes), sizes)
    low = np.repeat(np.cumsum(sizes) - np.asarray(sizes), sizes)
    return generator.integers(low, high, size=(repetitions, len(high)), dtype=np.int64)


def resampled_iqms(strata: Sequence[Scores], generator: np.random.Generator, repetitions: int) -> Scores:
    """The IQM of each bootstrap repetition.

    Seeds are exchangeable: the result does not depend on their order, only on the order of games.

    Args:
        strata: The scores of each game, one 1-D array per game; lengths may differ (a game with
            more seeds then weighs more, in the point estimate as well).
        generator: Consumed.
        repetitions: R.

    Returns:
        IQMs `[R]`.

    Raises:
        ValueError: A game without scores, or a score that is not finite.
    """
    flat = _flat(strata)
    sizes = [len(game) for game in strata]
    chunk = max(1, _CHUNK_SCORES // len(flat))
    return np.concatenate(
        [
            trimmed_mean(flat[draw_indices(generator, sizes, min(chunk, repetitions - done))])
            for done in range(0, repetitions, chunk)
        ]
    )


def iqm_estimate(
    strata: Sequence[Scores], generator: np.random.Generator, repetitions: int = BAR_REPETITIONS
) -> Estimate:
    """IQM over all scores of all games (as in `resampled_iqms`) with its 95 % interval."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(resampled_iqms(strata, generator, repetitions), [tail, 100 - tail])
    return Estimate(iqm(_flat(strata)), float(low), float(high))


def mean_estimate(
    scores: Scores, generator: np.random.Generator, repetitions: int = CURVE_REPETITIONS
) -> Estimate:
    """Mean over the seeds `[N]` of one game with its 95 % bootstrap interval.

    Raises:
        ValueError: No score, or one that is not finite.
    """
    ordered = np.sort(_checked(scores))
    means = mean(ordered[draw_indices(generator, [len(ordered)], repetitions)])
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Estimate(float(mean(ordered)), float(low), float(high))


def _flat(strata: Sequence[Scores]) -> Scores:
    if not strata:
        raise ValueError("no game has a score; there is nothing to aggregate")
    return np.concatenate([np.sort(_checked(game)) for game in strata])


def _checked(scores: Scores) -> Scores:
    if scores.size == 0:
        raise ValueError("a game has no scores; leave it out and say so")
    if not np.isfinite(scores).all():
        raise ValueError("a score is NaN or infinite; a diverged run must not be averaged in")
    return scores + 0.0  # -0.0 becomes 0.0: which of the two comes first must not matter
