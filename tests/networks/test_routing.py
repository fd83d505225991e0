"""Invariants of routing and tokenisation, and which parameters learn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moerl.networks.balance import balance_loss, importance_loss, load_loss
from moerl.networks.moe import MoEOutput, SoftMoE, Top1MoE
from moerl.networks.q_network import build_network
from moerl.networks.routing import l2_normalise, slots_per_expert, top1_routing
from moerl.networks.tokens import tokenise, untokenise
from moerl.study.specs import HeadSpec, NetworkSpec, Phi, Tokens

B, M, D, H = 2, 7, 3, 5
SEEDS = st.integers(0, 2**32 - 1)
SOFT = {
    "learned": SoftMoE(3, H),
    "normalised": SoftMoE(3, H, normalised=True),
    "redrawn": SoftMoE(3, H, phi=Phi.REDRAW),
    "frozen": SoftMoE(3, H, phi=Phi.FROZEN),
    "capacity": SoftMoE(2, H, capacity_factor=1.5),
    "slots": SoftMoE(4, H, slots=1),
}


def random_tokens(seed: int, scale: float = 1.0) -> jax.Array:
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=(B, M, D)), jnp.float32)


def mixed(module: SoftMoE | Top1MoE, tokens: jax.Array, seed: int = 0) -> MoEOutput:
    """Outputs under fresh parameters, as initialised."""
    keys = jax.random.split(jax.random.key(seed), B)
    params = jax.jit(module.init)(jax.random.key(seed), tokens)
    return jax.jit(module.apply)(params, tokens, keys, keys)


@pytest.mark.parametrize("name", SOFT)
@settings(max_examples=8, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 1.0, 100.0]))
def test_dispatch_columns_and_combine_rows_sum_to_one(name: str, seed: int, scale: float) -> None:
    routing = mixed(SOFT[name], random_tokens(seed, scale), seed % 100).routing
    experts = SOFT[name].num_experts
    assert routing.dispatch.shape == routing.combine.shape == routing.logits.shape
    assert routing.dispatch.shape[:3] == (B, M, experts)
    np.testing.assert_allclose(routing.dispatch.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(routing.combine.sum(axis=(2, 3)), 1.0, rtol=1e-5)
    np.testing.assert_allclose(routing.gates, routing.combine.sum(axis=-1), rtol=1e-6)


@pytest.mark.parametrize("name", SOFT)
@settings(max_examples=8, deadline=None)
@given(SEEDS, st.permutations(range(M)))
def test_softmoe_is_equivariant_to_token_permutation(name: str, seed: int, order: list[int]) -> None:
    tokens = random_tokens(seed)
    straight = mixed(SOFT[name], tokens)
    shuffled = mixed(SOFT[name], tokens[:, jnp.array(order)])
    np.testing.assert_allclose(shuffled.tokens, straight.tokens[:, jnp.array(order)], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shuffled.hidden, straight.hidden, rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 8), st.booleans(), st.booleans())
def test_top1_never_exceeds_capacity(seed: int, slots: int, coarse: bool, noisy: bool) -> None:
    """Coarse logits tie often."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, 2, (B, M, 4)) if coarse else rng.normal(size=(B, M, 4))
    noise = jnp.asarray(rng.normal(size=(M, 4)), jnp.float32) if noisy else None
    routing = top1_routing(jnp.asarray(logits, jnp.float32), noise, slots)
    dispatch = np.asarray(routing.dispatch)
    assert dispatch.shape == (B, M, 4, slots)
    assert set(np.unique(dispatch)) <= {0.0, 1.0}
    assert dispatch.sum(axis=1).max() <= 1  # tokens in a slot
    assert dispatch.sum(axis=(1, 3)).max() <= slots  # tokens of an expert
    assert dispatch.sum(axis=(2, 3)).max() <= 1  # slots of a token
    gates = np.asarray(routing.gates)
    np.testing.assert_allclose(gates.sum(axis=-1), 1.0, rtol=1e-5)
    highest = np.broadcast_to(gates.max(axis=-1)[..., None, None], dispatch.shape)
    np.testing.assert_allclose(routing.combine, dispatch * highest, rtol=1e-6)
    placed = dispatch.sum(axis=-1).astype(bool)
    assert (gates.argmax(axis=-1) == placed.argmax(axis=-1))[placed.any(axis=-1)].all()


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(Tokens))
def test_untokenise_undoes_tokenise(seed: int, tokens: Tokens) -> None:
    features = np.random.default_rng(seed).normal(size=(2, 3, 4, 5)).astype(np.float32)
    cut = tokenise(features, tokens)
    np.testing.assert_array_equal(untokenise(cut, tokens, (3, 4, 5)), features)
    shapes = {Tokens.PERCONV: (12, 5), Tokens.PERFEAT: (5, 12), Tokens.PERSAMP: (1, 60)}
    assert cut.shape == (2, *shapes[tokens])


def test_perfeat_tokens_are_channels_and_the_persamp_token_is_everything() -> None:
    features = jnp.arange(2 * 3 * 4).reshape(2, 3, 4)
    np.testing.assert_array_equal(tokenise(features, Tokens.PERFEAT)[3], features[..., 3].ravel())
    np.testing.assert_array_equal(tokenise(features, Tokens.PERSAMP)[0], features.ravel())


@pytest.mark.parametrize("module", [SoftMoE(1, H), Top1MoE(1, H)], ids=["softmoe", "top1"])
def test_one_expert_and_one_token_is_that_expert(module: SoftMoE | Top1MoE) -> None:
    tokens = random_tokens(0)[:, :1]
    params = module.init(jax.random.key(0), tokens)
    experts = params["params"]["experts"]
    hidden = np.maximum(np.asarray(tokens) @ experts["hidden"]["kernel"][0], 0)
    expected = hidden @ experts["output"]["kernel"][0]
    np.testing.assert_allclose(module.apply(params, tokens).tokens, expected, rtol=1e-5, atol=1e-6)


def test_slots_by_capacity_or_by_number() -> None:
    assert slots_per_expert(121, 8, 2.0) == 31
    assert slots_per_expert(121, 8, 0.5) == 8
    assert slots_per_expert(121, 8, fixed=3) == 3
    assert mixed(SOFT["slots"], random_tokens(0)).hidden.shape == (B, 4, 1, H)
    assert mixed(SOFT["capacity"], random_tokens(0)).hidden.shape == (B, 2, 6, H)


def test_normalisation_by_hand_and_at_zero() -> None:
    np.testing.assert_allclose(l2_normalise(jnp.array([[3.0, 4.0]]), -1), [[0.6, 0.8]], rtol=1e-6)
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    assert np.isfinite(jax.jacobian(lambda y: l2_normalise(y, -1))(x)).all()
    np.testing.assert_array_equal(l2_normalise(x, -1)[1], 0.0)


def test_normalised_logits_are_cosines_times_the_scalar() -> None:
    module, tokens = SOFT["normalised"], random_tokens(3)
    params = module.init(jax.random.key(0), tokens)["params"] | {"scalar": jnp.array([2.5])}
    logits = np.asarray(module.apply({"params": params}, tokens).routing.logits)
    phi = np.asarray(params["phi"])
    cosines = np.einsum("bmd,dep->bmep", tokens, phi) / (
        np.linalg.norm(tokens, axis=-1)[..., None, None] * np.linalg.norm(phi, axis=0)
    )
    np.testing.assert_allclose(logits, 2.5 * cosines, rtol=1e-4, atol=1e-5)
    longer = module.apply({"params": params}, 10 * tokens)
    np.testing.assert_allclose(longer.routing.logits, logits, rtol=1e-4, atol=1e-5)


def test_a_redrawn_phi_is_drawn_for_each_key() -> None:
    module, tokens = SOFT["redrawn"], jnp.broadcast_to(random_tokens(0)[:1], (B, M, D))
    params = module.init(jax.random.key(0), tokens)
    assert "phi" not in params["params"]
    first, second = jax.random.split(jax.random.key(1), B)

    def logits(keys: jax.Array | None) -> np.ndarray:
        return np.asarray(module.apply(params, tokens, None, keys).routing.logits)

    own = logits(jnp.stack([first, second]))
    assert not np.allclose(own[0], own[1])
    np.testing.assert_allclose(logits(first)[1], own[0], rtol=1e-5)  # one key: one Φ for all states
    np.testing.assert_array_equal(logits(None), logits(None))
    np.testing.assert_allclose(logits(None)[0], logits(None)[1], rtol=1e-6)
    phi = np.linalg.lstsq(np.asarray(tokens[0]), own[0].reshape(M, -1), rcond=None)[0]
    draw = jax.random.normal(jax.random.split(first)[0], (D, 3, 3))
    np.testing.assert_allclose(phi.reshape(D, 3, 3), draw, rtol=1e-3, atol=1e-4)


def test_balance_losses_by_hand() -> None:
    gates = jnp.array([[0.8, 0.2], [0.6, 0.4]])  # importance 1.4 and 0.6: mean 1, deviation 0.4
    assert float(importance_loss(gates)) == pytest.approx(0.16)
    logits, noise = jnp.array([[0.0, 1.0]]), jnp.array([[0.5, 0.0]])
    # Threshold 1; expert 0 needs noise of 1 (2 deviations of 0.5), expert 1 of 0.
    chances = np.array([0.02275013, 0.5])
    expected = chances.var() / chances.mean() ** 2
    assert float(load_loss(logits, noise, 0.5)) == pytest.approx(expected, rel=1e-5)


def test_even_experts_cost_nothing_and_have_finite_gradients() -> None:
    """As for a single expert, or tokens that are all zero; the published gradient is NaN there."""
    spec = NetworkSpec.model_validate(
        {"encoder": "cnn", "module": "top1", "num_experts": 2, "tokens": "perconv", "importance_weight": 1}
    )

    def loss(logits: jax.Array) -> jax.Array:
        return balance_loss(spec, top1_routing(logits, None, 4), jax.random.key(0))

    value, gradient = jax.value_and_grad(loss)(jnp.zeros((B, M, 2)))
    assert float(value) == 0.0
    assert np.isfinite(gradient).all()


LEARNERS = {
    "softmoe": ({"module": "softmoe", "tokens": "perconv"}, {"moe/scalar"}),
    "perfeat": ({"module": "softmoe", "tokens": "perfeat"}, {"moe/scalar"}),
    "redraw": ({"module": "softmoe", "tokens": "perconv", "phi": "redraw"}, {"moe/scalar"}),
    "frozen": ({"module": "softmoe", "tokens": "perconv", "phi": "frozen"}, {"moe/scalar", "moe/phi"}),
    "normalised": ({"module": "softmoe", "tokens": "perconv", "normalised": True}, set()),
    "top1": ({"module": "top1", "tokens": "perconv"}, set()),
    "top1-1": ({"module": "top1", "tokens": "perfeat", "num_experts": 1}, {"moe/router/kernel"}),
    "big": (
        {"module": "softmoe", "tokens": "persamp", "expert_type": "big"},
        {"moe/experts/scalar"},
    ),
    "big-normalised": (
        {"module": "softmoe", "tokens": "persamp", "expert_type": "big", "normalised": True},
        set(),
    ),
    "all": (
        {"module": "softmoe", "tokens": "persamp", "expert_type": "all"},
        {f"moe/{layer}/scalar" for layer in ("encoder0", "encoder1", "encoder2", "hidden", "head")},
    ),
}
"""Variants, and their parameters that no gradient reaches."""


@pytest.mark.parametrize("case", LEARNERS)
def test_gradients_reach_what_should_learn_and_nothing_else(case: str) -> None:
    fields, still = LEARNERS[case]
    spec = NetworkSpec.model_validate({"encoder": "cnn", "num_experts": 2, "hidden_units": 16} | fields)
    network = build_network(spec, 3, HeadSpec())
    states = np.random.default_rng(0).integers(0, 256, (3, 84, 84, 4), dtype=np.uint8)
    params = jax.jit(network.init)(jax.random.key(1), states)["params"]
    keys = jax.random.split(jax.random.key(2), 3)

    @jax.jit
    def gradient(params: dict[str, object]) -> dict[str, object]:
        return jax.grad(lambda p: jnp.sum(jnp.sin(network.apply({"params": p}, states, keys).q_values)))(
            params
        )

    found = set()
    for path, leaf in jax.tree_util.tree_flatten_with_path(gradient(params))[0]:
        name = "/".join(key.key for key in path)
        assert np.isfinite(leaf).all(), name
        if not np.any(leaf):
            found.add(name)
    assert found == still
