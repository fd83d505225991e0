"""Norms and ranks of the features, the vector that enters the Q head, over a batch (paper Fig 10).

Sources: the statistics of the published code (method 6) and Kumar et al. (2021) for the effective
rank. All arithmetic is float64. Axes: B batch, F features.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]


def batch_variance(features: npt.ArrayLike) -> Array:
    """Population variance of each unit over the batch. features: `[B, F]`; returns `[F]`."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2:
        raise ValueError(f"features must be [B, F], not of shape {features.shape}")
    return np.asarray(features.var(axis=0))


def variance_norm(features: npt.ArrayLike) -> float:
    """The figure's FeatureNorm: the L2 norm, over units, of each unit's variance over the batch.

    B8: as published, a norm of variances, not of features. features: `[B, F]`.
    """
    return float(np.sqrt(np.sum(batch_variance(features) ** 2)))


def mean_norm(features: npt.ArrayLike) -> float:
    """Mean over the batch of the L2 norm ‖h‖₂ of a sample's features. features: `[B, F]`."""
    features = np.asarray(features, np.float64)
    return float(np.mean(np.sqrt(np.sum(features**2, axis=1))))


def singular_values(matrix: npt.ArrayLike) -> Array:
    """Singular values in descending order. matrix: `[R, C]`; returns `[min(R, C)]`."""
    return np.asarray(np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False))


def threshold_rank(spectrum: npt.ArrayLike, threshold: float) -> int:
    """How many singular values exceed `threshold` times the largest: #{σ_i / σ_max > threshold}.

    The published `srank_t` and `entk_srank_t`. spectrum: `[K]`; an all-zero one has rank 0.
    """
    spectrum = np.asarray(spectrum, np.float64)
    return int(np.sum(spectrum > threshold * spectrum.max()))


def effective_rank(spectrum: npt.ArrayLike, delta: float) -> int:
    """Kumar et al.'s srank_δ: the least k whose k largest values hold 1-δ of the spectrum's sum.

    spectrum: `[K]`, descending, non-negative; an all-zero one has rank 0.
    """
    cumulative = np.cumsum(np.asarray(spectrum, np.float64))
    if cumulative[-1] == 0.0:
        return 0
    return int(np.argmax(cumulative >= (1.0 - delta) * cumulative[-1])) + 1
