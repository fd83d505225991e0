"""Where the places of an encoder's last feature map lie in the frame: what a PerConv token looks at.

Height and width are treated alike, so everything is about one axis. Pixel p covers [p, p + 1) and its
centre is called p. A place's *field* is what it sees; fields overlap, and their centres are one stride
product apart. A *cell* is the part of the frame that is closer to its place's centre than to any other.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from jax import lax

from moerl.networks.encoders import IMPALA_CHANNELS, NATURE_LAYERS
from moerl.networks.pooling import STRIDE, WINDOW
from moerl.study.specs import Encoder, NetworkSpec


def window_path(spec: NetworkSpec) -> list[tuple[int, int]]:
    """(window, stride) of each layer that decides on places, from the image to the last feature map.

    Impala's residual blocks are left out: they add to each place what surrounds it and leave it where
    it is. (With filters of even size they look further to one side than to the other.)
    """
    match spec.encoder:
        case Encoder.CNN:
            return [(size, stride) for _, size, stride in NATURE_LAYERS]
        case Encoder.IMPALA:
            return [layer for _ in IMPALA_CHANNELS for layer in ((spec.filter_size, 1), (WINDOW, STRIDE))]


def field_centres(path: Iterable[tuple[int, int]], size: int) -> npt.NDArray[np.float64]:
    """Centre of each place's field, in pixels of an axis of `size`; padding can put it outside.

    A SAME-padded layer with a window of k and stride s sees, at place i, its input's places s·i - low
    to s·i - low + k - 1, where low is the padding before the first: the centre is s·i + (k - 1)/2 - low.

    Args:
        path: (window, stride) of each layer, as from `window_path`.
        size: Pixels of the axis.
    """
    first, step = 0.0, 1
    for window, stride in path:
        ((low, _),) = lax.padtype_to_pads((size,), (window,), (stride,), "SAME")
        first += step * ((window - 1) / 2 - low)
        step *= stride
        size = -(-size // stride)
    return first + step * np.arange(size, dtype=np.float64)


def cell_edges(centres: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.int64]:
    """Edges of the cells along an axis of `size` pixels, `[N + 1]`: cell i has pixels edge i to edge i+1 - 1.

    A pixel halfway between two of the ascending `centres` `[N]` goes to the lower. The outermost cells
    end with the frame.
    """
    halfway = (centres[:-1] + centres[1:]) / 2
    inner = np.floor(halfway).astype(np.int64) + 1
    return np.concatenate(([0], np.clip(inner, 0, size), [size]))
