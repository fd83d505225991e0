"""Parameter counts against method 2.5 (measured there on the paper-era networks)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest

from moerl.networks.q_network import build_network
from moerl.study.specs import NetworkSpec

COUNTS = {
    ("cnn", 6, "baseline"): (4_046_502, 8_015_014, 15_952_038, 31_826_086),
    ("cnn", 6, "softmoe"): (198_311, 264_487, 396_839, 661_543),
    ("cnn", 6, "top1"): (190_630, 256_806, 389_158, 653_862),
    ("cnn", 6, "softmoe divided"): (198_311, 198_439, 198_695, 199_207),
    ("cnn", 18, "baseline"): (4_052_658, 8_027_314, 15_976_626, 31_875_250),
    ("cnn", 18, "softmoe"): (291_251, 357_427, 489_779, 754_483),
    ("cnn", 18, "top1"): (283_570, 349_746, 482_098, 746_802),
    ("cnn", 18, "softmoe divided"): (291_251, 291_379, 291_635, 292_147),
    ("impala", 6, "baseline"): (2_083_798, 4_069_846, 8_041_942, 15_986_134),
    ("impala", 6, "softmoe"): (158_167, 191_511, 258_199, 391_575),
    ("impala", 6, "top1"): (154_326, 187_670, 254_358, 387_734),
    ("impala", 6, "softmoe divided"): (158_167, 158_231, 158_359, 158_615),
    ("impala", 18, "baseline"): (2_089_954, 4_082_146, 8_066_530, 16_035_298),
    ("impala", 18, "softmoe"): (204_643, 237_987, 304_675, 438_051),
    ("impala", 18, "top1"): (200_802, 234_146, 300_834, 434_210),
    ("impala", 18, "softmoe divided"): (204_643, 204_707, 204_835, 205_091),
}
"""By (encoder, actions, variant): counts at n = 1, 2, 4, 8."""
CELLS = [(*key, 2**i, count) for key, row in COUNTS.items() for i, count in enumerate(row)]


def spec(encoder: str, variant: str, n: int) -> NetworkSpec:
    match variant:
        case "baseline":
            fields: dict[str, object] = {"module": "baseline", "width": n}
        case "softmoe divided":
            fields = {"module": "softmoe", "num_experts": n, "hidden_units": 512 // n}
        case module:
            fields = {"module": module, "num_experts": n}
    if variant != "baseline":
        fields["tokens"] = "perconv"
    return NetworkSpec.model_validate({"encoder": encoder, **fields})


@pytest.mark.parametrize(("encoder", "actions", "variant", "n", "count"), CELLS)
def test_parameter_count(encoder: str, actions: int, variant: str, n: int, count: int) -> None:
    network = build_network(spec(encoder, variant, n), actions)
    state = jax.ShapeDtypeStruct((84, 84, 4), jnp.uint8)
    variables = jax.eval_shape(network.init, jax.random.key(0), state)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables)) == count
