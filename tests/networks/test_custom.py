"""A module outside of the package: the worked example against a loop, and what is refused when it runs."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moerl.networks.balance import balance_loss
from moerl.networks.counts import parameter_counts
from moerl.study.errors import UserError
from moerl.study.specs import HeadSpec, NetworkSpec

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
B, M, D, E, H = 2, 7, 3, 4, 5
FIELDS = {
    "encoder": "cnn",
    "module": "topk:TopKMoE",
    "num_experts": E,
    "tokens": "perconv",
    "hidden_units": 16,
}


@pytest.fixture(autouse=True)
def _examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)


def routed_by_loop(logits: np.ndarray, k: int, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Dispatch and combine `[M, E, P]` of one state, token by token."""
    tokens, experts = logits.shape
    dispatch, combine = np.zeros((2, tokens, experts, slots))
    taken = [0] * experts
    for rank in range(k):
        for m in range(tokens):
            best = sorted(range(experts), key=lambda e: (-logits[m, e], e))[:k]
            weights = np.exp(logits[m, best]) / np.exp(logits[m, best]).sum()  # Shazeer et al.'s form
            e = best[rank]
            if taken[e] < slots:
                dispatch[m, e, taken[e]] = 1
                combine[m, e, taken[e]] = weights[rank]
                taken[e] += 1
    return dispatch, combine


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, E), st.sampled_from([1, 2, 4, 9]), st.booleans())
def test_topk_routing_is_the_obvious_loop(seed: int, k: int, slots: int, coarse: bool) -> None:
    """Coarse logits tie often."""
    from topk import topk_routing

    rng = np.random.default_rng(seed)
    logits = (rng.integers(0, 2, (B, M, E)) if coarse else rng.normal(size=(B, M, E))).astype(np.float32)
    routing = topk_routing(jnp.asarray(logits), k, slots)
    for b in range(B):
        dispatch, combine = routed_by_loop(logits[b], k, slots)
        np.testing.assert_array_equal(routing.dispatch[b], dispatch)
        np.testing.assert_allclose(routing.combine[b], combine, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(routing.gates, jax.nn.softmax(logits, axis=-1), rtol=1e-6)


def test_first_choices_come_before_second_ones() -> None:
    """Both tokens want experts 0 and 1, a slot each: a first choice beats an earlier second."""
    from topk import topk_routing

    logits = jnp.array([[2.0, 1.0], [1.0, 2.0]])
    routing = topk_routing(logits, 2, 1)
    np.testing.assert_array_equal(routing.dispatch[..., 0], np.eye(2))
    kept = 1 / (1 + np.exp(-1.0))  # not raised to 1 because the other choice had no room
    np.testing.assert_allclose(routing.combine[..., 0], kept * np.eye(2), rtol=1e-6)


def test_with_room_for_all_a_token_is_the_average_of_its_experts() -> None:
    from topk import TopKMoE

    module = TopKMoE(E, H, noisy=False, capacity_factor=float(E), slots=None)
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(M, D)), jnp.float32)
    params = module.init(jax.random.key(1), tokens)["params"]
    mixed = module.apply({"params": params}, tokens)
    assert mixed.hidden.shape == (E, 2 * M, H)  # each of the 2·M choices has a place in every expert
    experts = jax.device_get(params["experts"])
    logits = np.asarray(tokens @ params["router"]["kernel"])
    for m in range(M):
        best = np.argsort(-logits[m])[:2]
        weights = np.exp(logits[m, best]) / np.exp(logits[m, best]).sum()
        outputs = [
            np.maximum(tokens[m] @ experts["hidden"]["kernel"][e], 0) @ experts["output"]["kernel"][e]
            for e in best
        ]
        np.testing.assert_allclose(mixed.tokens[m], weights @ np.array(outputs), rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter_and_balancing_the_router() -> None:
    from topk import TopKMoE

    spec = NetworkSpec.model_validate(FIELDS | {"importance_weight": 1.0, "load_weight": 1.0})
    module = TopKMoE(E, H, noisy=True, capacity_factor=1.0, slots=None)
    tokens = jnp.asarray(np.random.default_rng(0).normal(size=(B, M, D)), jnp.float32)
    params = module.init(jax.random.key(1), tokens)["params"]
    keys = jax.random.split(jax.random.key(2), B)

    def losses(params: dict[str, object]) -> jax.Array:
        mixed = module.apply({"params": params}, tokens, keys)
        return jnp.stack([jnp.sum(jnp.sin(mixed.tokens)), balance_loss(spec, mixed.routing, keys[0])])

    for name, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.jacrev(losses))(params)):
        assert np.isfinite(leaf).all(), name
        assert np.any(leaf[0]), name
        assert np.any(leaf[1]) == ("router" in str(name)), name


GOOD = """
import flax.linen as nn
import jax.numpy as jnp
from moerl.networks.moe import MoEOutput, Top1MoE


class Mine(nn.Module):
    num_experts: int
    hidden_units: int
    noisy: bool
    capacity_factor: float
    slots: int | None

    @nn.compact
    def __call__(self, tokens, keys=None, router_keys=None):
        moe = Top1MoE(self.num_experts, self.hidden_units, self.noisy, 0.0, self.capacity_factor, self.slots)
        return moe(tokens, keys, router_keys)
"""
WRONG = {
    "missing import": (
        "import flax.linen as nn",
        "import no_such_thing",
        "cannot be imported (ModuleNotFoundError: No module",
    ),
    "error of a library": (
        "class Mine(nn.Module)",
        "import json; json.loads('{\\n')\n\n\nclass Mine(nn.Module)",
        "cannot be imported (JSONDecodeError: Expecting property name",
    ),
    "error in a called function": (
        "class Mine(nn.Module)",
        "def number():\n    raise ValueError('one\\nother')\n\n\nnumber()\n\n\nclass Mine(nn.Module)",
        "cannot be imported (ValueError: one other; line 8 of ",
    ),
    "not Python in the end": ("import jax.numpy as jnp", "eval('1 +')", "cannot be imported (SyntaxError: "),
    "nothing for hidden": (
        "return moe(tokens, keys, router_keys)",
        "return moe(tokens, keys, router_keys)._replace(hidden=None)",
        "hidden is no array but NoneType",
    ),
    "a number for gates": (
        "return moe(tokens, keys, router_keys)",
        "mixed = moe(tokens); return mixed._replace(routing=mixed.routing._replace(gates=1.0))",
        "routing.gates is no array but float",
    ),
    "no module": ("class Mine(nn.Module)", "class Mine", "not a class derived from flax.linen.Module"),
    "other arguments": (
        "tokens, keys=None, router_keys=None",
        "tokens",
        "needs __call__(self, tokens, ",
    ),
    "bare tokens": (
        "return moe(tokens, keys, router_keys)",
        "return tokens",
        "not MoEOutput(tokens, ",
    ),
    "flat tokens": (
        "return moe(tokens, keys, router_keys)",
        "mixed = moe(tokens, keys, router_keys); return mixed._replace(tokens=jnp.sum(mixed.tokens, -2))",
        "tokens [..., M, D] has shape (64,), not (121, 64)",
    ),
    "hidden of one expert": (
        "return moe(tokens, keys, router_keys)",
        "mixed = moe(tokens, keys, router_keys); return mixed._replace(hidden=mixed.hidden[:1])",
        "hidden [..., E, P, H] has shape (1, 31, 16), not (4, 31, 16)",
    ),
}


def written(name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> NetworkSpec:
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return NetworkSpec.model_validate(FIELDS | {"module": f"{name}:Mine"})


def test_a_module_that_keeps_to_the_protocol_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = written("good_moe", GOOD, tmp_path, monkeypatch)
    top1 = NetworkSpec.model_validate(FIELDS | {"module": "top1"})
    assert parameter_counts(spec, 6, HeadSpec()) == parameter_counts(top1, 6, HeadSpec())


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_mixture_is_refused_in_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, expected = WRONG[case]
    assert GOOD.count(old) == 1
    name = f"wrong_{case.replace(' ', '_')}"
    spec = written(name, GOOD.replace(old, new), tmp_path, monkeypatch)
    with pytest.raises(UserError) as caught:
        parameter_counts(spec, 6, HeadSpec())
    line = str(caught.value)
    assert line.startswith(f"module {name}:Mine: ")
    assert expected in line
    assert "\n" not in line


def test_k_fits_the_number_of_experts() -> None:
    for experts, k in ((4, 1), (4, 5), (1, 2)):
        spec = NetworkSpec.model_validate(FIELDS | {"num_experts": experts, "options": {"k": k}})
        with pytest.raises(UserError, match=f"k is {k} with {experts} experts"):
            parameter_counts(spec, 6, HeadSpec())
