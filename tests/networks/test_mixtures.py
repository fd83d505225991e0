"""BIG and ALL against obvious loops over experts (the oracle has neither), and Impala's filter sizes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moerl.networks.encoders import ImpalaEncoder
from moerl.networks.heads import Head
from moerl.networks.mixtures import Penultimate
from moerl.networks.q_network import NetworkOutput, QNetwork, build_network
from moerl.study.specs import HeadSpec, NetworkSpec

STATES = np.random.default_rng(0).integers(0, 256, (2, 84, 84, 4), dtype=np.uint8)
ACTIONS, UNITS = 3, 6
C51 = HeadSpec(noisy=True, dueling=True, num_atoms=5, v_max=2.0)


def network(encoder: str, head: HeadSpec, **fields: Any) -> QNetwork:
    spec = {"encoder": encoder, "hidden_units": UNITS, **fields}
    return build_network(NetworkSpec.model_validate(spec), ACTIONS, head)


def mixture(encoder: str, head: HeadSpec, kind: str, experts: int, **fields: Any) -> QNetwork:
    shared = {"module": "softmoe", "tokens": "persamp", "expert_type": kind, "num_experts": experts}
    return network(encoder, head, **shared, **fields)


def scrambled(net: QNetwork) -> Any:
    """Random parameters, biases and Φ too."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), STATES)["params"]
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(1)

    def values(shape: tuple[int, ...]) -> jax.Array:
        scale = 1 / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 0.5
        return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)

    return jax.tree.unflatten(tree, [values(leaf.shape) for leaf in leaves])


def evaluate(net: QNetwork, params: Any, keys: jax.Array | None = None) -> NetworkOutput:
    return jax.jit(net.apply)({"params": params}, STATES, keys)


def weights(x: np.ndarray, params: Any, normalised: bool) -> np.ndarray:
    """Softmax over experts of x·Φ for one flat input, in float64."""
    x, phi = np.asarray(x, np.float64).ravel(), np.asarray(params["phi"], np.float64)[..., 0]
    if normalised:
        x = x / np.linalg.norm(x)
        phi = float(params["scalar"][0]) * phi / np.linalg.norm(phi, axis=0)
    exponentials = np.exp(x @ phi - np.max(x @ phi))
    return exponentials / exponentials.sum()


def as_baseline(expert: Any) -> Any:
    """An expert of BIG as the parameters of a baseline."""
    return expert | {"hidden": expert["hidden"]["dense"]}


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("encoder", ["cnn", "impala"])
def test_big_is_the_average_of_whole_networks(encoder: str, normalised: bool) -> None:
    net = mixture(encoder, HeadSpec(), "big", 3, normalised=normalised)
    baseline = network(encoder, HeadSpec(), module="baseline")
    params = scrambled(net)
    found = evaluate(net, params)
    experts = params["moe"]["experts"]
    alone = [evaluate(baseline, as_baseline(experts[f"expert{e}"])) for e in range(3)]
    for b, state in enumerate(STATES):
        gates = weights(state / 255.0, experts, normalised)
        np.testing.assert_allclose(found.routing.gates[b, 0], gates, rtol=1e-4)
        expected = sum(g * np.asarray(out.q_values[b]) for g, out in zip(gates, alone, strict=True))
        np.testing.assert_allclose(found.q_values[b], expected, rtol=1e-4, atol=1e-5)
        expected = sum(g * np.asarray(out.hidden[b]) for g, out in zip(gates, alone, strict=True))
        np.testing.assert_allclose(found.head_input[b], expected, rtol=1e-4, atol=1e-5)
        for e, out in enumerate(alone):
            np.testing.assert_allclose(found.hidden[b, e, 0], out.hidden[b], rtol=1e-4, atol=1e-5)


def test_big_of_a_distributional_agent_shares_its_head_and_noise() -> None:
    """Rainbow: experts end at the penultimate layer; all see the same noise of a state (B11)."""
    net = mixture("cnn", C51, "big", 2)
    params = scrambled(net)
    keys = jax.random.split(jax.random.key(5), len(STATES))
    found = evaluate(net, params, keys)
    experts = params["moe"]["experts"]
    assert set(params) == {"moe", "head"}
    assert set(experts["expert0"]) == {"encoder", "hidden"}
    split = jax.vmap(lambda key: jax.random.split(key, 3))(keys)
    encoded = []
    for e in range(2):
        features = _cnn(experts[f"expert{e}"]["encoder"], STATES / np.float32(255))
        layer = Penultimate(UNITS, noisy=True)
        flat = features.reshape(len(STATES), -1)
        encoded.append(layer.apply({"params": experts[f"expert{e}"]["hidden"]}, flat, split[:, 1]))
    for e in range(2):
        np.testing.assert_allclose(found.hidden[:, e, 0], encoded[e], rtol=1e-4, atol=1e-5)
    gates = np.stack([weights(state / 255.0, experts, False) for state in STATES])
    mixed = sum(gates[:, e, None] * np.asarray(encoded[e]) for e in range(2))
    logits = Head(C51, ACTIONS).apply({"params": params["head"]}, jnp.float32(mixed), split[:, 0])
    np.testing.assert_allclose(found.logits, logits, rtol=1e-4, atol=1e-5)


def _conv(params: Any, x: jax.Array, stride: int) -> jax.Array:
    dimensions = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(
        x, params["kernel"], (stride, stride), "SAME", dimension_numbers=dimensions
    )
    return y + params["bias"][None, None, None]


def _cnn(params: Any, x: jax.Array) -> jax.Array:
    for i, stride in enumerate((4, 2, 1)):
        x = jax.nn.relu(_conv(params[f"conv{i}"], x, stride))
    return x


def _average(params: Any, x: jax.Array, outputs: list[jax.Array], normalised: bool) -> jax.Array:
    """The experts' outputs averaged state by state."""
    averaged = []
    for b in range(len(x)):
        gates = weights(np.asarray(x[b]), params, normalised)
        averaged.append(sum(np.float32(g) * out[b] for g, out in zip(gates, outputs, strict=True)))
    return jnp.stack(averaged)


@pytest.mark.parametrize("normalised", [False, True])
def test_all_averages_every_layer(normalised: bool) -> None:
    net = mixture("cnn", HeadSpec(), "all", 3, normalised=normalised)
    params = scrambled(net)
    found = evaluate(net, params)
    moe = params["moe"]
    names = [f"expert{e}" for e in range(3)]
    x = jnp.float32(STATES / 255.0)
    for i, stride in enumerate((4, 2, 1)):
        layer = moe[f"encoder{i}"]
        outputs = [jax.nn.relu(_conv(layer[name]["conv"], x, stride)) for name in names]
        x = _average(layer, x, outputs, normalised)
    x = x.reshape(len(STATES), -1)
    dense = [moe["hidden"][name]["dense"] for name in names]
    hidden = [jax.nn.relu(x @ p["kernel"] + p["bias"][None]) for p in dense]
    mixed = _average(moe["hidden"], x, hidden, normalised)
    heads = [moe["head"][name]["q"] for name in names]
    q_values = _average(
        moe["head"], mixed, [mixed @ p["kernel"] + p["bias"][None] for p in heads], normalised
    )
    for e in range(3):
        np.testing.assert_allclose(found.hidden[:, e, 0], hidden[e], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.head_input, mixed, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.q_values, q_values, rtol=1e-4, atol=1e-5)


def test_all_of_a_distributional_agent_shares_its_head() -> None:
    net = mixture("impala", C51, "all", 2)
    shapes = jax.eval_shape(net.init, jax.random.key(0), STATES)["params"]
    assert set(shapes) == {"moe", "head"}
    assert set(shapes["moe"]) == {"encoder0", "encoder1", "encoder2", "hidden"}


def renamed(params: Any, encoder: str) -> Any:
    """ALL's parameters of expert 0 of each layer, as those of a baseline."""
    moe = params["moe"]
    layer = "conv" if encoder == "cnn" else "stack"
    own = {f"{layer}{i}": moe[f"encoder{i}"]["expert0"] for i in range(3)}
    if encoder == "cnn":
        own = {name: inner["conv"] for name, inner in own.items()}
    return {"encoder": own, "hidden": moe["hidden"]["expert0"]["dense"], "head": moe["head"]["expert0"]}


@pytest.mark.parametrize("encoder", ["cnn", "impala"])
def test_equal_experts_are_the_baseline_however_they_are_weighted(encoder: str) -> None:
    net = mixture(encoder, HeadSpec(), "all", 2)
    params = scrambled(net)
    for layer in params["moe"].values():
        layer["expert1"] = layer["expert0"]
    found = evaluate(net, params)
    baseline = evaluate(network(encoder, HeadSpec(), module="baseline"), renamed(params, encoder))
    np.testing.assert_allclose(found.q_values, baseline.q_values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.head_input, baseline.head_input, rtol=1e-4, atol=1e-5)
    assert not np.allclose(found.routing.gates[..., 0], 0.5, atol=1e-3)


@pytest.mark.parametrize("kind", ["big", "all"])
def test_one_expert_is_the_baseline(kind: str) -> None:
    net = mixture("cnn", HeadSpec(), kind, 1)
    params = scrambled(net)
    own = renamed(params, "cnn") if kind == "all" else as_baseline(params["moe"]["experts"]["expert0"])
    baseline = evaluate(network("cnn", HeadSpec(), module="baseline"), own)
    np.testing.assert_allclose(evaluate(net, params).q_values, baseline.q_values, rtol=1e-5, atol=1e-6)


def slow_conv(x: np.ndarray, params: Any) -> np.ndarray:
    """SAME convolution of one image, a position at a time, in float64."""
    kernel, bias = (np.asarray(params[k], np.float64) for k in ("kernel", "bias"))
    size = len(kernel)
    low = (size - 1) // 2
    padded = np.pad(x, ((low, size - 1 - low), (low, size - 1 - low), (0, 0)))
    out = np.empty((*x.shape[:2], kernel.shape[-1]))
    for i, j in np.ndindex(*x.shape[:2]):
        out[i, j] = np.tensordot(padded[i : i + size, j : j + size], kernel, 3) + bias
    return out


def slow_pool(x: np.ndarray) -> np.ndarray:
    """3x3 max-pool of stride 2, SAME: with even height and width, windows start on even places."""
    height, width = x.shape[:2]
    rows, columns = range(0, height, 2), range(0, width, 2)
    return np.array([[x[i : i + 3, j : j + 3].max(axis=(0, 1)) for j in columns] for i in rows])


@pytest.mark.parametrize("size", [3, 4, 6])
def test_impala_encoder_of_any_filter_size_equals_its_definition(size: int) -> None:
    encoder = ImpalaEncoder(size)
    image = np.random.default_rng(0).random((8, 8, 4))
    params = encoder.init(jax.random.key(0), jnp.float32(image))["params"]
    x = image
    for i in range(3):
        stack = params[f"stack{i}"]
        assert stack["block1"]["conv1"]["kernel"].shape[:2] == (size, size)
        x = slow_conv(x, stack["conv"])
        x = slow_pool(x)
        for block in ("block0", "block1"):
            y = slow_conv(np.maximum(x, 0), stack[block]["conv0"])
            x = x + slow_conv(np.maximum(y, 0), stack[block]["conv1"])
    found = encoder.apply({"params": params}, jnp.float32(image))
    np.testing.assert_allclose(found, np.maximum(x, 0), rtol=1e-4, atol=1e-5)
