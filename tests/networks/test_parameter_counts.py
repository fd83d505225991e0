"""Parameter counts against method 2.5 (measured there on the paper-era networks), row by row."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from moerl.cli.params import OFFLINE_HEADS
from moerl.networks.counts import parameter_counts
from moerl.study.config import shared_agents
from moerl.study.specs import NetworkSpec

CONFIG = Path(__file__).parents[2] / "config"
VARIANTS = {
    name: NetworkSpec.model_validate(fields)
    for name, fields in yaml.safe_load((CONFIG / "networks.yaml").read_text()).items()
}
HEADS = {name: spec.head for name, spec in shared_agents(CONFIG).items()} | OFFLINE_HEADS

SCALING = {
    "baseline": ("baseline", "baseline-x2", "baseline-x4", "baseline-x8"),
    "softmoe": ("softmoe1", "softmoe2", "softmoe4", "softmoe8"),
    "top1": ("top1-1", "top1-2", "top1-4", "top1-8"),
    "divided": ("softmoe1", "softmoe2-divided", "softmoe4-divided", "softmoe8-divided"),
}
TOKENISATIONS = ("softmoe8-perfeat", "top1-8-perfeat", "softmoe8-persamp", "top1-8-persamp")
LOW_DATA = ("baseline", "softmoe4", "softmoe8", "top1-4", "top1-8")

TABLE = """
dqn cnn 6 baseline 4,046,502 8,015,014 15,952,038 31,826,086
dqn cnn 6 softmoe 198,311 264,487 396,839 661,543
dqn cnn 6 top1 190,630 256,806 389,158 653,862
dqn cnn 6 divided 198,311 198,439 198,695 199,207
dqn cnn 18 baseline 4,052,658 8,027,314 15,976,626 31,875,250
dqn cnn 18 softmoe 291,251 357,427 489,779 754,483
dqn cnn 18 top1 283,570 349,746 482,098 746,802
dqn cnn 18 divided 291,251 291,379 291,635 292,147
dqn impala 6 baseline 2,083,798 4,069,846 8,041,942 15,986,134
dqn impala 6 softmoe 158,167 191,511 258,199 391,575
dqn impala 6 top1 154,326 187,670 254,358 387,734
dqn impala 6 divided 158,167 158,231 158,359 158,615
dqn impala 18 baseline 2,089,954 4,082,146 8,066,530 16,035,298
dqn impala 18 softmoe 204,643 237,987 304,675 438,051
dqn impala 18 top1 200,802 234,146 300,834 434,210
dqn impala 18 divided 204,643 204,707 204,835 205,091
rainbow cnn 6 baseline 8,375,146 16,671,594 33,264,490 66,450,282
rainbow cnn 6 softmoe 5,715,051 5,814,507 6,013,419 6,411,243
rainbow cnn 6 top1 5,707,370 5,806,826 6,005,738 6,403,562
rainbow cnn 6 divided 5,715,051 5,715,179 5,715,435 5,715,947
rainbow cnn 18 baseline 9,003,058 17,926,194 35,772,466 71,465,010
rainbow cnn 18 softmoe 15,194,931 15,294,387 15,493,299 15,891,123
rainbow cnn 18 top1 15,187,250 15,286,706 15,485,618 15,883,442
rainbow cnn 18 divided 15,194,931 15,195,059 15,195,315 15,195,827
rainbow impala 6 baseline 4,429,978 8,761,498 17,424,538 34,750,618
rainbow impala 6 softmoe 2,917,147 2,967,387 3,067,867 3,268,827
rainbow impala 6 top1 2,913,306 2,963,546 3,064,026 3,264,986
rainbow impala 6 divided 2,917,147 2,917,211 2,917,339 2,917,595
rainbow impala 18 baseline 5,057,890 10,016,098 19,932,514 39,765,346
rainbow impala 18 softmoe 7,657,699 7,707,939 7,808,419 8,009,379
rainbow impala 18 top1 7,653,858 7,704,098 7,804,578 8,005,538
rainbow impala 18 divided 7,657,699 7,657,763 7,657,891 7,658,147
dqn cnn 6 tokens 1,128,495 1,121,718 63,691,303 63,691,302
dqn cnn 18 tokens 1,221,435 1,214,658 63,784,243 63,784,242
dqn impala 6 tokens 1,121,151 1,118,246 31,906,455 31,906,454
dqn impala 18 tokens 1,167,627 1,164,722 31,952,931 31,952,930
rainbow cnn 6 tokens 7,111,667 7,104,890 100,898,283 100,898,282
rainbow cnn 18 tokens 16,591,547 16,584,770 110,378,163 110,378,162
rainbow impala 6 tokens 4,362,947 4,360,042 50,512,347 50,512,346
rainbow impala 18 tokens 9,103,499 9,100,594 55,252,899 55,252,898
drq_eps impala 6 low-data 2,084,311 262,072 395,448 258,231 391,607
drq_eps impala 18 low-data 2,090,467 308,548 441,924 304,707 438,083
drq_eps cnn 6 low-data 4,047,015 404,584 669,288 396,903 661,607
drq_eps cnn 18 low-data 4,053,171 497,524 762,228 489,843 754,547
cql_c51 impala 6 low-data 2,263,861 1,617,622 1,750,998 1,613,781 1,747,157
cql_c51 impala 18 low-data 2,577,817 3,987,898 4,121,274 3,984,057 4,117,433
der impala 6 low-data 4,429,978 3,067,867 3,268,827 3,064,026 3,264,986
der impala 18 low-data 5,057,890 7,808,419 8,009,379 7,804,578 8,005,538
cql impala 6 low-data 2,083,798 258,199 391,575 254,358 387,734
cql impala 18 low-data 2,089,954 304,675 438,051 300,834 434,210
"""
"""Agent, encoder, actions, row, counts. Columns: n = 1, 2, 4, 8 experts or times the width, else as below."""
COLUMNS = SCALING | {"tokens": TOKENISATIONS, "low-data": LOW_DATA}


def cells() -> list[tuple[str, int, str, int]]:
    """(agent, actions, variant, count) of every cell of the table."""
    found = []
    for line in TABLE.strip().splitlines():
        agent, encoder, actions, row, *counts = line.split()
        for module, count in zip(COLUMNS[row], counts, strict=True):
            found.append((agent, int(actions), f"{encoder}-{module}", int(count.replace(",", ""))))
    return found


@pytest.mark.parametrize(("agent", "actions", "variant", "count"), cells())
def test_parameter_count(agent: str, actions: int, variant: str, count: int) -> None:
    assert sum(parameter_counts(VARIANTS[variant], actions, HEADS[agent]).values()) == count


def test_counts_by_module() -> None:
    """Method 2.5's check values: Impala, 6 actions."""
    dqn, rainbow = HEADS["dqn"], HEADS["rainbow"]
    assert parameter_counts(VARIANTS["impala-baseline"], 6, dqn) == {
        "encoder": 97_744,
        "hidden": 1_982_976,
        "head": 3_078,
    }
    experts, phi, scalar = 8 * 33_312, 4_096, 1
    expected = {"encoder": 97_744, "moe": experts + phi + scalar, "head": 23_238}
    assert parameter_counts(VARIANTS["impala-softmoe8"], 6, dqn) == expected
    expected = {"encoder": 97_744, "moe": 8 * 50_208 + phi + scalar, "head": 2_370_276 + 395_046}
    assert parameter_counts(VARIANTS["impala-softmoe8"], 6, rainbow) == expected


def test_a_random_phi_is_no_parameter_and_a_frozen_one_is() -> None:
    learned, redrawn, frozen, normalised = (
        sum(parameter_counts(VARIANTS[f"impala-softmoe8{suffix}"], 6, HEADS["dqn"]).values())
        for suffix in ("", "-randphi", "-randphi-frozen", "-normalised")
    )
    assert learned - redrawn == 32 * 8 * 16
    assert learned == frozen == normalised


@pytest.mark.parametrize("encoder", ["cnn", "impala"])
def test_load_balancing_has_no_parameters(encoder: str) -> None:
    plain, balanced = (VARIANTS[f"{encoder}-top1-8{suffix}"] for suffix in ("", "-balanced"))
    assert parameter_counts(plain, 6, HEADS["dqn"]) == parameter_counts(balanced, 6, HEADS["dqn"])


def test_big_is_n_networks_and_their_routing() -> None:
    """Method 3.5: n × baseline + 28,224·n, and the scalar; Rainbow shares its head."""
    baseline, big = VARIANTS["impala-baseline"], VARIANTS["impala-softmoe8-big"]
    routing = 28_224 * 8 + 1
    alone = sum(parameter_counts(baseline, 6, HEADS["dqn"]).values())
    assert parameter_counts(big, 6, HEADS["dqn"]) == {"moe": 8 * alone + routing}
    parts = parameter_counts(baseline, 6, HEADS["rainbow"])
    inside = 8 * (parts["encoder"] + parts["hidden"]) + routing
    assert parameter_counts(big, 6, HEADS["rainbow"]) == {"moe": inside, "head": parts["head"]}


def test_all_is_n_of_every_layer_and_their_routing() -> None:
    """Inputs of the three stacks, the penultimate layer and (DQN) the head."""
    baseline, layers = VARIANTS["impala-baseline"], VARIANTS["impala-softmoe8-all"]
    widths = (84 * 84 * 4, 42 * 42 * 16, 21 * 21 * 32, 11 * 11 * 32)
    parts = parameter_counts(baseline, 18, HEADS["dqn"])
    routing = 8 * (sum(widths) + 512) + 5
    assert parameter_counts(layers, 18, HEADS["dqn"]) == {"moe": 8 * sum(parts.values()) + routing}
    parts = parameter_counts(baseline, 18, HEADS["rainbow"])
    inside = 8 * (parts["encoder"] + parts["hidden"] + sum(widths)) + 4
    assert parameter_counts(layers, 18, HEADS["rainbow"]) == {"moe": inside, "head": parts["head"]}


@pytest.mark.parametrize("size", [4, 6])
def test_filter_size_is_that_of_every_impala_convolution(size: int) -> None:
    weights = sum(c_in * c + 4 * c * c for c_in, c in ((4, 16), (16, 32), (32, 32)))
    biases = 5 * (16 + 32 + 32)
    counts = parameter_counts(VARIANTS[f"impala-baseline-filter{size}"], 6, HEADS["dqn"])
    assert counts["encoder"] == size**2 * weights + biases
    plain = parameter_counts(VARIANTS["impala-baseline"], 6, HEADS["dqn"])
    assert plain["encoder"] == 9 * weights + biases
    assert counts["hidden"] == plain["hidden"]
