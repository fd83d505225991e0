"""Where tokens lie in the frame: by hand from strides and padding, and as the encoders themselves see it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moerl.networks.encoders import build_encoder
from moerl.networks.geometry import cell_edges, field_centres, window_path
from moerl.study.specs import Encoder, Module, NetworkSpec

SIZE = 84


def spec(encoder: Encoder, filter_size: int = 3) -> NetworkSpec:
    return NetworkSpec(encoder=encoder, module=Module.BASELINE, filter_size=filter_size)


# Nature: 8 wide, stride 4, pads 2 before:  4i + 3.5 - 2 = 4i + 1.5
#         4 wide, stride 2, pads 1 before:  2i + 1.5 - 1 = 2i + 0.5, in pixels 8i + 2 + 1.5
#         3 wide, stride 1, pads 1 before:  i
# Impala: 3x3 convolutions keep places. Pools, 3 wide, stride 2: 84 and 42 pad none before, 2i + 1 each;
#         21 pads 1 before, 2i. In pixels 2(2(2i) + 1) + 1.
# Filters of 4 pad 1 before: each convolution adds half a place, 0.5 + 1 + 2 pixels.
BY_HAND = {
    "cnn": (spec(Encoder.CNN), 3.5, [0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 84]),
    "impala": (spec(Encoder.IMPALA), 3.0, [0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 84]),
    "impala-filter4": (spec(Encoder.IMPALA, 4), 6.5, [0, 11, 19, 27, 35, 43, 51, 59, 67, 75, 83, 84]),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_centres_and_cells_by_hand(case: str) -> None:
    network, first, edges = BY_HAND[case]
    centres = field_centres(window_path(network), SIZE)
    np.testing.assert_array_equal(centres, first + 8 * np.arange(11))
    np.testing.assert_array_equal(cell_edges(centres, SIZE), edges)


@pytest.mark.parametrize("case", BY_HAND)
def test_an_inner_place_sees_as_far_to_either_side_of_its_centre(case: str) -> None:
    """One white row at a time, and which of them reach the place; residual branches are switched off."""
    network = BY_HAND[case][0]
    encoder = build_encoder(network)
    rows = jnp.broadcast_to(
        jnp.eye(SIZE)[:, :, None, None], (SIZE, SIZE, 4, 1)
    )  # [row that is white, H, W, C]
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), rows)["params"]

    def open_or_closed(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        off = path[-1].key == "bias" or any("block" in step.key for step in path)
        return jnp.full(leaf.shape, 0.0 if off else 0.1)

    params = jax.tree_util.tree_map_with_path(open_or_closed, shapes)
    features = jax.jit(encoder.apply)({"params": params}, rows)
    reached = np.flatnonzero(np.asarray(features[:, 5, 0, 0]) > 0)
    centre = field_centres(window_path(network), SIZE)[5]
    assert reached[0] > 0  # not cut off by the frame
    assert reached[-1] < SIZE - 1
    assert (reached[0] + reached[-1]) / 2 == centre
