"""Noisy layers against naively materialised weights, and where their noise comes from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moerl.networks.experts import Experts, NoisyExpertDense
from moerl.networks.noisy import NoisyDense, draw_noise
from moerl.networks.q_network import build_network
from moerl.study.specs import HeadSpec, NetworkSpec

RNG = np.random.default_rng(0)
KEYS = jax.random.split(jax.random.key(3), 5)


def random(*shape):
    return jnp.asarray(RNG.normal(size=shape).astype(np.float32))


def f(x):
    return np.sign(x) * np.sqrt(np.abs(x))


def naive(params, key, inputs):
    """Weights and biases of one state, as in Fortunato et al. 2018, equations 8 to 11."""
    outputs = params["bias_mu"].shape[-1]
    key_p, key_q = jax.random.split(key)
    p = f(np.asarray(jax.random.normal(jax.random.fold_in(key_p, inputs), (inputs,))))
    q = f(np.asarray(jax.random.normal(jax.random.fold_in(key_q, outputs), (outputs,))))
    weights = np.asarray(params["kernel_mu"]) + np.asarray(params["kernel_sigma"]) * np.outer(p, q)
    return weights, np.asarray(params["bias_mu"]) + np.asarray(params["bias_sigma"]) * q


def scrambled(module, *arguments):
    """Parameters of a module with random values: no σ is constant, no bias zero."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)["params"]
    return jax.tree.map(lambda leaf: random(*leaf.shape), shapes)


def test_layer_equals_materialised_weights_with_a_key_per_state():
    layer, x = NoisyDense(7), random(5, 11)
    params = scrambled(layer, x, KEYS)
    out = layer.apply({"params": params}, x, KEYS)
    for i in range(5):
        weights, bias = naive(params, KEYS[i], 11)
        np.testing.assert_allclose(out[i], np.asarray(x[i]) @ weights + bias, rtol=2e-5, atol=2e-5)


def test_gradients_equal_those_of_materialised_weights():
    layer, x = NoisyDense(7), random(5, 11)
    params = scrambled(layer, x, KEYS)

    def factorised(params, x):
        return jnp.sum(jnp.sin(layer.apply({"params": params}, x, KEYS)))

    def materialised(params, x):
        def one(x, p, q):
            outer = p[:, None] * q[None, :]
            weights = params["kernel_mu"] + params["kernel_sigma"] * outer
            return x @ weights + params["bias_mu"] + params["bias_sigma"] * q

        noise = draw_noise(KEYS, 11, 7)
        return jnp.sum(jnp.sin(jax.vmap(one)(x, noise.inputs, noise.outputs)))

    ours = jax.grad(factorised, argnums=(0, 1))(params, x)
    expected = jax.grad(materialised, argnums=(0, 1))(params, x)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_one_key_is_shared_by_all_states():
    layer, x = NoisyDense(7), random(5, 11)
    params = scrambled(layer, x, KEYS)
    shared = layer.apply({"params": params}, x, KEYS[2])
    same = layer.apply({"params": params}, x, jnp.broadcast_to(KEYS[2], (5,)))
    np.testing.assert_allclose(shared, same, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(shared[2], layer.apply({"params": params}, x, KEYS)[2], rtol=1e-5, atol=1e-5)


def test_without_keys_there_is_no_noise():
    layer, x = NoisyDense(7), random(5, 11)
    params = scrambled(layer, x, KEYS)
    plain = x @ params["kernel_mu"] + params["bias_mu"][None]
    np.testing.assert_array_equal(layer.apply({"params": params}, x, None), plain)


def test_initial_values_b16():
    params = NoisyDense(400).init(jax.random.key(0), random(1, 900), None)["params"]
    np.testing.assert_allclose(params["kernel_sigma"], 0.1 / 30, rtol=1e-6)
    np.testing.assert_allclose(params["bias_sigma"], 0.1 / 30, rtol=1e-6)
    for name in ("kernel_mu", "bias_mu"):
        values = np.asarray(params[name])
        assert np.abs(values).max() <= 1 / 30
        assert np.abs(values).max() > 0.95 / 30
        assert abs(values.std() * 30 - 3**-0.5) < 0.05


def test_noise_of_equal_length_is_equal_and_of_other_length_independent_b16():
    key = jax.random.key(5)
    advantage, value = draw_noise(key, 512, 306), draw_noise(key, 512, 51)
    np.testing.assert_array_equal(advantage.inputs, value.inputs)
    # Drawn from one key without its length, the shorter draw would repeat the longer one's beginning.
    assert abs(np.corrcoef(advantage.outputs[:51], value.outputs)[0, 1]) < 0.5
    hidden = draw_noise(key, 7744, 512)
    assert abs(np.corrcoef(hidden.inputs[:512], value.inputs)[0, 1]) < 0.15
    assert abs(np.corrcoef(hidden.outputs, value.inputs)[0, 1]) < 0.15


def test_noise_has_the_law_of_f_of_a_normal():
    noise = np.asarray(draw_noise(jax.random.split(jax.random.key(0), 40), 500, 3).inputs)
    assert abs(noise.mean()) < 0.02
    assert abs((noise**2).mean() - (2 / np.pi) ** 0.5) < 0.02  # E f(x)^2 = E |x|


@pytest.mark.parametrize("keys", [KEYS, KEYS[0]], ids=["per state", "shared"])
def test_experts_share_a_states_noise_b11(keys):
    layer, slots = NoisyExpertDense(6), random(5, 3, 2, 4)
    params = scrambled(layer, slots, keys)
    rows = layer.apply({"params": params}, slots, keys).reshape(3, 5, 2, 6)
    for b in range(5):
        for e in range(3):
            own = {name: value[e] for name, value in params.items()}
            weights, bias = naive(own, keys[b] if keys.ndim else keys, 4)
            expected = np.asarray(slots[b, e]) @ weights + bias
            np.testing.assert_allclose(rows[e, b], expected, rtol=2e-5, atol=2e-5)


def test_experts_are_quiet_in_evaluation_and_their_output_layer_always():
    experts, slots = Experts(6, noisy=True), random(5, 3, 2, 4)
    params = scrambled(experts, slots, KEYS)
    assert set(params["output"]) == {"kernel", "bias"}
    quiet, _ = experts.apply({"params": params}, slots, None)
    silenced = params | {
        "hidden": {k: jnp.zeros_like(v) if "sigma" in k else v for k, v in params["hidden"].items()}
    }
    np.testing.assert_allclose(
        quiet, experts.apply({"params": silenced}, slots, KEYS)[0], rtol=1e-5, atol=1e-5
    )
    assert not np.allclose(quiet, experts.apply({"params": params}, slots, KEYS)[0])


@pytest.mark.parametrize(
    "fields", [{"module": "baseline"}, {"module": "top1", "num_experts": 2, "tokens": "perconv"}]
)
def test_network_is_quiet_without_keys_and_lone_states_equal_batched_ones(fields):
    spec = NetworkSpec.model_validate({"encoder": "cnn", "hidden_units": 16, **fields})
    network = build_network(spec, 3, HeadSpec(noisy=True, dueling=True, num_atoms=5, v_max=2.0))
    states = RNG.integers(0, 256, (2, 84, 84, 4), dtype=np.uint8)
    params = network.init(jax.random.key(0), states)
    apply = jax.jit(network.apply)
    quiet, noisy = apply(params, states), apply(params, states, KEYS[:2])
    assert not np.allclose(quiet.q_values, noisy.q_values)
    np.testing.assert_array_equal(quiet.q_values, apply(params, states).q_values)
    lone = apply(params, states[1], KEYS[1])
    np.testing.assert_allclose(lone.logits, noisy.logits[1], rtol=1e-4, atol=1e-5)
    assert lone.logits.shape == (3, 5)
