"""Shapes, initial values and batching of the Q-networks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moerl.networks.q_network import QNetwork, build_network
from moerl.networks.tokens import tokenise
from moerl.study.specs import NetworkSpec, Tokens


def network(encoder: str, **fields: object) -> QNetwork:
    return build_network(NetworkSpec.model_validate({"encoder": encoder, **fields}), 4)


SOFTMOE = {"module": "softmoe", "num_experts": 8, "tokens": "perconv"}
TOP1 = {"module": "top1", "num_experts": 2, "tokens": "perconv"}


@pytest.mark.parametrize(
    ("encoder", "fields", "head_input", "hidden"),
    [
        ("cnn", {"module": "baseline"}, (512,), (512,)),
        ("impala", {"module": "baseline", "width": 2}, (1024,), (1024,)),
        ("cnn", SOFTMOE, (7744,), (8, 16, 512)),
        ("impala", SOFTMOE, (3872,), (8, 16, 512)),
        ("impala", TOP1 | {"hidden_units": 64}, (3872,), (2, 61, 64)),
    ],
)
def test_shapes(
    encoder: str, fields: dict[str, object], head_input: tuple[int, ...], hidden: tuple[int, ...]
) -> None:
    net = network(encoder, **fields)
    for batch in ((), (3,)):
        state = jax.ShapeDtypeStruct((*batch, 84, 84, 4), jnp.uint8)
        output, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), state)
        assert output.q_values.shape == (*batch, 4)
        assert output.head_input.shape == (*batch, *head_input)
        assert output.hidden.shape == (*batch, *hidden)
        assert set(variables["params"]) == {
            "encoder",
            "head",
            "hidden" if fields["module"] == "baseline" else "moe",
        }


@pytest.mark.parametrize("encoder", ["cnn", "impala"])
@pytest.mark.parametrize("fields", [{"module": "baseline", "hidden_units": 32}, SOFTMOE, TOP1])
def test_a_batch_equals_its_states(encoder: str, fields: dict[str, object]) -> None:
    net = network(encoder, **fields)
    states = np.random.default_rng(0).integers(0, 256, (2, 84, 84, 4), dtype=np.uint8)
    variables = net.init(jax.random.key(1), states[0])
    batch = net.apply(variables, states)
    for i, state in enumerate(states):
        alone = jax.tree.leaves(net.apply(variables, state))
        for whole, one in zip(jax.tree.leaves(batch), alone, strict=True):
            np.testing.assert_allclose(whole[i], one, rtol=1e-4, atol=1e-5)


def test_the_baselines_hidden_layer_is_its_head_input() -> None:
    net = network("cnn", module="baseline", hidden_units=16)
    state = np.random.default_rng(0).integers(0, 256, (84, 84, 4), dtype=np.uint8)
    output, _ = net.init_with_output(jax.random.key(0), state)
    np.testing.assert_array_equal(output.head_input, output.hidden)
    assert float(output.hidden.min()) == 0.0


def test_residual_convolutions_start_from_lecun_normal() -> None:
    """B18: truncated normal of deviation 1/sqrt(fan in); the first of a stack is Glorot uniform."""
    state = np.zeros((84, 84, 4), np.uint8)
    params = network("impala", module="baseline", hidden_units=8).init(jax.random.key(0), state)
    stack = params["params"]["encoder"]["stack2"]
    limit = (6 / (9 * 32 + 9 * 32)) ** 0.5
    assert 0.99 * limit < np.abs(stack["conv"]["kernel"]).max() <= limit
    for block in ("block0", "block1"):
        for conv in ("conv0", "conv1"):
            kernel = np.asarray(stack[block][conv]["kernel"])
            assert kernel.std() == pytest.approx((9 * 32) ** -0.5, rel=0.03)
            assert np.abs(kernel).max() > limit


def test_perconv_tokens_are_positions_in_raster_order() -> None:
    features = jnp.arange(2 * 3 * 4).reshape(2, 3, 4)
    tokens = tokenise(features, Tokens.PERCONV)
    assert tokens.shape == (6, 4)
    np.testing.assert_array_equal(tokens[4], features[1, 1])
