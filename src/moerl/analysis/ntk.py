"""The empirical neural tangent kernel of a batch (paper Fig 10, second column).

G = J Jᵀ, where row i of J is the gradient, with respect to all parameters, of transition i's
unweighted TD loss with its target held fixed: the matrix of dot products between per-transition
gradients. Its rank says in how many directions a batch pulls the network.
Axes: B batch, W parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from moerl.analysis.features import Array

Gradient: TypeAlias = npt.NDArray[np.float32]
"""`[W]`"""

Row = Callable[[int], Gradient]
"""The gradient of the transition at an index of the batch."""

BUFFER_BYTES = 2 << 30  # per-sample gradients held at a time; 32 gradients of 16M parameters fit
_COLUMNS = 1 << 12  # parameters summed at a time in float64: 1 MB for 32 gradients stays in cache


def gradient_gram(row: Row, batch: int, width: int, buffer_bytes: int = BUFFER_BYTES) -> Array:
    """Gram matrix `[B, B]` of per-sample gradients, summed in float64.

    `row(i)` gives gradient i. If `buffer_bytes` cannot hold all of them, two blocks are held at a
    time and gradients are computed again for each pair of blocks: memory stays bounded for any W.
    """
    gram = np.empty((batch, batch))
    blocks = _blocks(batch, width, buffer_bytes)
    for i, left in enumerate(blocks):
        left_rows = [row(index) for index in left]
        gram[left.start : left.stop, left.start : left.stop] = _products(left_rows, left_rows)
        for right in blocks[i + 1 :]:
            products = _products(left_rows, [row(index) for index in right])
            gram[left.start : left.stop, right.start : right.stop] = products
            gram[right.start : right.stop, left.start : left.stop] = products.T
    return gram


def _blocks(batch: int, width: int, buffer_bytes: int) -> Sequence[range]:
    """Cut the batch into runs of which one (if it is the only one) or two fit into the buffer."""
    fitting = buffer_bytes // (np.dtype(np.float32).itemsize * width)
    size = batch if fitting >= batch else max(1, fitting // 2)
    return [range(i, min(i + size, batch)) for i in range(0, batch, size)]


def _products(left: Sequence[Gradient], right: Sequence[Gradient]) -> Array:
    """Dot products of `left` (I gradients `[W]`) and `right` (K of them), in float64: `[I, K]`."""
    products = np.zeros((len(left), len(right)))
    for start in range(0, len(left[0]), _COLUMNS):
        some = _columns(left, start)
        # One array on both sides lets BLAS compute one triangle: half the work, exact symmetry.
        other = some if right is left else _columns(right, start)
        products += some @ other.T
    return products


def _columns(gradients: Sequence[Gradient], start: int) -> Array:
    """`_COLUMNS` elements of each gradient (fewer at its end), as rows in float64."""
    return np.array([gradient[start : start + _COLUMNS] for gradient in gradients], np.float64)


def contaminated(gram: Array, outputs: Iterable[npt.ArrayLike]) -> Array:
    """The "NTK" of the published code (B7): `gram` `[B, B]` plus the Gram matrix of every output.

    Its `jacrev(..., has_aux=True)` returns the network's outputs beside the Jacobian, and both are
    summed. outputs: arrays `[B, ...]`, each flattened per sample.
    """
    total = gram.copy()
    for output in outputs:
        flat = np.asarray(output, np.float64).reshape(len(gram), -1)
        total += flat @ flat.T
    return total
