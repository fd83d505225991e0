"""Parameter counts of noisy, dueling and distributional networks against method 2.5."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest

from moerl.networks.q_network import build_network
from moerl.study.specs import HeadSpec, NetworkSpec

RAINBOW = HeadSpec(noisy=True, dueling=True, num_atoms=51, v_max=10.0)
CQL_C51 = HeadSpec(dueling=True, num_atoms=51, v_max=10.0)
DRQ = HeadSpec(dueling=True)

COUNTS = {
    ("cnn", 6, "baseline"): (8_375_146, 16_671_594, 33_264_490, 66_450_282),
    ("cnn", 6, "softmoe"): (5_715_051, 5_814_507, 6_013_419, 6_411_243),
    ("cnn", 6, "top1"): (5_707_370, 5_806_826, 6_005_738, 6_403_562),
    ("cnn", 6, "softmoe divided"): (5_715_051, 5_715_179, 5_715_435, 5_715_947),
    ("cnn", 18, "baseline"): (9_003_058, 17_926_194, 35_772_466, 71_465_010),
    ("cnn", 18, "softmoe"): (15_194_931, 15_294_387, 15_493_299, 15_891_123),
    ("cnn", 18, "top1"): (15_187_250, 15_286_706, 15_485_618, 15_883_442),
    ("cnn", 18, "softmoe divided"): (15_194_931, 15_195_059, 15_195_315, 15_195_827),
    ("impala", 6, "baseline"): (4_429_978, 8_761_498, 17_424_538, 34_750_618),
    ("impala", 6, "softmoe"): (2_917_147, 2_967_387, 3_067_867, 3_268_827),
    ("impala", 6, "top1"): (2_913_306, 2_963_546, 3_064_026, 3_264_986),
    ("impala", 6, "softmoe divided"): (2_917_147, 2_917_211, 2_917_339, 2_917_595),
    ("impala", 18, "baseline"): (5_057_890, 10_016_098, 19_932_514, 39_765_346),
    ("impala", 18, "softmoe"): (7_657_699, 7_707_939, 7_808_419, 8_009_379),
    ("impala", 18, "top1"): (7_653_858, 7_704_098, 7_804_578, 8_005_538),
    ("impala", 18, "softmoe divided"): (7_657_699, 7_657_763, 7_657_891, 7_658_147),
}
"""Rainbow and DER, by (encoder, actions, variant): counts at n = 1, 2, 4, 8."""

LOW_DATA = {
    ("impala", 6, DRQ): (2_084_311, 262_072, 395_448, 258_231, 391_607),
    ("impala", 18, DRQ): (2_090_467, 308_548, 441_924, 304_707, 438_083),
    ("cnn", 6, DRQ): (4_047_015, 404_584, 669_288, 396_903, 661_607),
    ("cnn", 18, DRQ): (4_053_171, 497_524, 762_228, 489_843, 754_547),
    ("impala", 6, CQL_C51): (2_263_861, 1_617_622, 1_750_998, 1_613_781, 1_747_157),
    ("impala", 18, CQL_C51): (2_577_817, 3_987_898, 4_121_274, 3_984_057, 4_117_433),
}
"""By (encoder, actions, head): Baseline, SoftMoE-4, SoftMoE-8, Top1-4, Top1-8."""
LOW_DATA_VARIANTS = (("baseline", 1), ("softmoe", 4), ("softmoe", 8), ("top1", 4), ("top1", 8))

CELLS = [(*key, 2**i, RAINBOW, count) for key, row in COUNTS.items() for i, count in enumerate(row)] + [
    (encoder, actions, *variant, head, count)
    for (encoder, actions, head), row in LOW_DATA.items()
    for variant, count in zip(LOW_DATA_VARIANTS, row, strict=True)
]


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


@pytest.mark.parametrize(("encoder", "actions", "variant", "n", "head", "count"), CELLS)
def test_parameter_count(encoder, actions, variant, n, head, count) -> None:
    network = build_network(spec(encoder, variant, n), actions, head)
    state = jax.ShapeDtypeStruct((84, 84, 4), jnp.uint8)
    variables = jax.eval_shape(network.init, jax.random.key(0), state)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables)) == count
