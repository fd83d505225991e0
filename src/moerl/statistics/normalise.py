"""Human-normalised scores (paper section 4 and Appendix A; Mnih et al. 2015).

A game whose human score was never published (AirRaid and four others of the 60) has no normalised
score: it is trained and its raw returns are kept, but no aggregate over games may contain it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]


def human_normalised(returns: npt.ArrayLike, random: float | None, human: float | None) -> Scores | None:
    """``(return - random) / (human - random)``: random agent 0, human tester 1.

    Args:
        returns: Raw episode returns (undiscounted, unclipped), any shape.
        random: Mean return of a random agent in this game, or None if never published.
        human: Mean return of the human tester in this game, or None if never published.

    Returns:
        The normalised scores, in the shape of `returns`; None for a game without both references.

    Raises:
        ValueError: A return is not finite, or the references are equal.
    """
    raw = np.asarray(returns, dtype=np.float64)
    if not np.isfinite(raw).all():
        raise ValueError("a return is NaN or infinite; a diverged run must not be scored")
    if random is None or human is None:
        return None
    if human == random:
        raise ValueError(f"human and random score are both {human}; the normalised score is undefined")
    return (raw - random) / (human - random)
