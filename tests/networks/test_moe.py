"""SoftMoE and Top1-MoE on arrays small enough to compute by hand or by loops."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moerl.networks.moe import SoftMoE, Top1MoE, build_moe
from moerl.networks.routing import slots_per_expert, top1_dispatch
from moerl.study.specs import Encoder, NetworkSpec
from moerl.study.specs import Module as Kind

M, D, H = 7, 3, 5


def softmax(x: np.ndarray) -> np.ndarray:
    exponentials = np.exp(x - x.max())
    return exponentials / exponentials.sum()


def expert(params: dict[str, dict[str, np.ndarray]], e: int, x: np.ndarray) -> np.ndarray:
    """One expert on one slot."""
    hidden = np.maximum(x @ params["hidden"]["kernel"][e] + params["hidden"]["bias"][e], 0)
    return hidden @ params["output"]["kernel"][e] + params["output"]["bias"][e]


def randomised(module: nn.Module, tokens: jax.Array) -> dict[str, object]:
    """Parameters of `module` with random biases too."""
    params = module.init(jax.random.key(0), tokens)["params"]
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [rng.normal(size=leaf.shape) for leaf in leaves])


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(4).normal(size=(M, D))


@pytest.mark.parametrize("num_experts", [1, 2, 4])
def test_softmoe_equals_its_definition(num_experts: int, tokens: np.ndarray) -> None:
    module = SoftMoE(num_experts, H)
    params = randomised(module, jnp.asarray(tokens))
    phi = params["phi"]
    slots = -(-M // num_experts)
    assert phi.shape == (D, num_experts, slots)
    logits = np.einsum("md,dep->mep", tokens, phi)
    expected = np.zeros((M, D))
    for e in range(num_experts):
        for p in range(slots):
            dispatch = softmax(logits[:, e, p])
            output = expert(params["experts"], e, dispatch @ tokens)
            for m in range(M):
                expected[m] += softmax(logits[m].ravel())[e * slots + p] * output
    found = module.apply({"params": params}, jnp.asarray(tokens))
    np.testing.assert_allclose(found.tokens, expected, rtol=2e-5, atol=1e-5)
    assert found.hidden.shape == (num_experts, slots, H)
    assert float(found.hidden.min()) == 0.0


def test_softmoe_scalar_is_learnable_but_unused(tokens: np.ndarray) -> None:
    module = SoftMoE(2, H)
    params = randomised(module, jnp.asarray(tokens))
    gradients = jax.grad(lambda p: jnp.sum(module.apply({"params": p}, tokens).tokens))(params)
    assert gradients["scalar"].shape == (1,)
    assert float(gradients["scalar"][0]) == 0.0


@pytest.mark.parametrize("num_experts", [1, 2, 4])
def test_top1_equals_its_definition(num_experts: int, tokens: np.ndarray) -> None:
    module = Top1MoE(num_experts, H)
    params = randomised(module, jnp.asarray(tokens))
    capacity = -(-M // num_experts)
    used = [0] * num_experts
    expected = np.zeros((M, D))
    dropped = 0
    for m in range(M):
        gates = softmax(tokens[m] @ params["router"]["kernel"])
        e = int(np.argmax(gates))
        if used[e] < capacity:
            expected[m] = gates[e] * expert(params["experts"], e, tokens[m])
            used[e] += 1
        else:
            dropped += 1
    found = module.apply({"params": params}, jnp.asarray(tokens))
    np.testing.assert_allclose(found.tokens, expected, rtol=2e-5, atol=1e-5)
    assert (num_experts > 1) == (dropped > 0), "the case should drop tokens where it can"


def test_top1_dispatch_fills_in_raster_order_and_drops_the_rest() -> None:
    dispatch = np.asarray(top1_dispatch(jnp.array([1, 0, 1, 1, 0]), num_experts=3, slots=2))
    assert dispatch.shape == (5, 3, 2)
    filled = [tuple(map(int, place)) for place in np.argwhere(dispatch)]
    assert filled == [(0, 1, 0), (1, 0, 0), (2, 1, 1), (4, 0, 1)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=6, max_size=6), st.integers(1, 6))
def test_top1_dispatch_is_a_partial_permutation(choice: list[int], slots: int) -> None:
    dispatch = np.asarray(top1_dispatch(jnp.array(choice), 4, slots))
    assert set(np.unique(dispatch)) <= {0.0, 1.0}
    assert dispatch.sum(axis=0).max() <= 1
    placed = dispatch.sum(axis=(1, 2))
    for e in range(4):
        mine = [m for m in range(6) if choice[m] == e]
        assert [m for m in mine if placed[m]] == mine[:slots]


def test_a_single_top1_expert_is_a_shared_mlp(tokens: np.ndarray) -> None:
    module = Top1MoE(1, H)
    params = randomised(module, jnp.asarray(tokens))
    found = module.apply({"params": params}, jnp.asarray(tokens))
    expected = np.stack([expert(params["experts"], 0, token) for token in tokens])
    np.testing.assert_allclose(found.tokens, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [SoftMoE, Top1MoE])
def test_a_batch_equals_its_samples(kind: type[SoftMoE | Top1MoE]) -> None:
    batch = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2, M, D)), jnp.float32)
    module = kind(2, H)
    params = module.init(jax.random.key(0), batch[0, 0])
    whole = module.apply(params, batch)
    mapped = jax.vmap(jax.vmap(lambda x: module.apply(params, x)))(batch)
    single = module.apply(params, batch[1, 0])
    leaves = map(jax.tree.leaves, (whole, mapped, single))
    for found, by_map, one in zip(*leaves, strict=True):
        np.testing.assert_allclose(found, by_map, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[1, 0], one, rtol=1e-5, atol=1e-6)


def test_slots_cover_the_tokens() -> None:
    assert [slots_per_expert(121, n) for n in (1, 2, 4, 8)] == [121, 61, 31, 16]
    assert slots_per_expert(1, 8) == 1


def test_initial_scales() -> None:
    """Φ has deviation 1/sqrt(D·E) (B10); expert kernels have the fans of one expert."""
    tokens = jnp.zeros((121, 64))
    params = SoftMoE(8, 512).init(jax.random.key(0), tokens)["params"]
    assert np.std(params["phi"]) == pytest.approx((64 * 8) ** -0.5, rel=0.02)
    limit = (6 / (64 + 512)) ** 0.5
    for layer in ("hidden", "output"):
        kernel = np.asarray(params["experts"][layer]["kernel"])
        assert 0.99 * limit < np.abs(kernel).max() <= limit
        assert not np.array_equal(kernel[0], kernel[1])
        assert not np.any(params["experts"][layer]["bias"])


def test_a_baseline_has_no_mixture() -> None:
    with pytest.raises(ValueError, match="no mixture"):
        build_moe(NetworkSpec(encoder=Encoder.CNN, module=Kind.BASELINE))
