"""Dormant neurons (paper Fig 10, right column), in both senses the literature uses.

The published code counts head inputs whose variance over the batch vanishes (B8); Sokar et al.
(2023, equation 1) call a ReLU unit τ-dormant when its mean activation is small beside its layer's.
Axes: B batch, F head inputs, E experts, P slots, H hidden units.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moerl.analysis.features import Array, batch_variance

_TINY = 1e-9  # keeps an all-zero layer's scores at 0 (all dormant) rather than 0/0


def variance_dormant(features: npt.ArrayLike, threshold: float) -> float:
    """Fraction of units whose variance over the batch is at most `threshold`.

    features: `[B, F]`, the vector that enters the head. The published code counts these units; the
    figure shows a fraction. A linear head input (MoE) hardly ever has zero variance, so MoE's small
    values are partly a matter of definition (B8).
    """
    return float(np.mean(batch_variance(features) <= threshold))


def unit_activity(hidden: npt.ArrayLike) -> Array:
    """Mean absolute activation of each penultimate ReLU unit over the batch (and over slots).

    hidden: `[B, H]` (baseline) or `[B, E, P, H]` (experts); returns `[H]` or `[E, H]`: every
    (expert, unit) pair is one unit. Slots an expert leaves unused count as the network computes
    them, an expert run on zeros. Raises ValueError on any other rank.
    """
    activity = np.abs(np.asarray(hidden, np.float64))
    match activity.ndim:
        case 2:
            return np.asarray(activity.mean(axis=0))
        case 4:
            return np.asarray(activity.mean(axis=(0, 2)))
        case rank:
            raise ValueError(f"hidden activations must be [B, H] or [B, E, P, H], not of rank {rank}")


def tau_dormant(activity: npt.ArrayLike, tau: float) -> float:
    """Fraction of units that are τ-dormant: activity / (mean activity of the layer) ≤ `tau`.

    activity: non-negative mean absolute activations of one layer's units, any shape.
    """
    activity = np.asarray(activity, np.float64)
    scores = activity / (activity.mean() + _TINY)
    return float(np.mean(scores <= tau))
