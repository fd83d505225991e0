"""What both parity tests of the MoE modules compare: moerl's modules on the oracle's inputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from network_parity import flatten, load_inputs

from moerl.networks.balance import importance_loss, load_loss
from moerl.networks.moe import SoftMoE, Top1MoE
from moerl.study.specs import Phi

inputs = load_inputs("oracle_moe_inputs")


def module(case: str) -> SoftMoE | Top1MoE:
    """moerl's module of a case."""
    chosen = inputs.options(case)
    sizes = (chosen["num_experts"], inputs.HIDDEN, chosen["noisy"])
    capacity_factor = chosen["capacity_factor"]
    if chosen["module"] == "top1":
        return Top1MoE(*sizes, router_noise=chosen["router_noise"], capacity_factor=capacity_factor)
    phi = Phi.REDRAW if chosen["random"] else Phi.LEARNED
    return SoftMoE(*sizes, phi=phi, normalised=chosen["normalised"], capacity_factor=capacity_factor)


def compute(case: str) -> dict[str, np.ndarray]:
    """Every quantity that envs/oracle_moe.py writes for a case, by its keys without the case."""
    layer, tokens, cotangent = module(case), inputs.tokens(case), inputs.cotangent(case)
    keys, router_keys = (
        jax.random.split(jax.random.key(seed), inputs.BATCH_SIZE)
        for seed in (inputs.EXPERT_KEY, inputs.ROUTER_KEY)
    )
    shapes = jax.eval_shape(layer.init, jax.random.key(0), tokens)["params"]
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(inputs.parameter(case, "/".join(key.key for key in path), leaf.shape)),
        shapes,
    )

    def objective(params, tokens):
        found = layer.apply({"params": params}, tokens, keys, router_keys)
        return jnp.sum(found.tokens * cotangent), found

    gradient = jax.grad(objective, argnums=(0, 1), has_aux=True)
    (by_parameter, by_token), found = gradient(params, tokens)
    values = {
        "values": found.tokens,
        "hidden": found.hidden,
        "gates": found.routing.gates,
        "gradient/tokens": by_token,
    } | {f"gradient/{name}": leaf for name, leaf in flatten(by_parameter).items()}
    return {name: np.asarray(value) for name, value in values.items()}


def balance() -> dict[str, np.ndarray]:
    """The load-balancing losses and their gradients by the router's logits."""
    logits = jnp.asarray(inputs.balance_logits())
    deviation = 1.0 / logits.shape[-1]
    noise = deviation * jax.random.normal(jax.random.key(inputs.BALANCE_KEY), logits.shape)
    losses = {
        "importance": lambda x: jnp.mean(importance_loss(jax.nn.softmax(x))),
        "load": lambda x: jnp.mean(load_loss(x, noise, deviation)),
    }
    found = {}
    for name, loss in losses.items():
        value, gradient = jax.value_and_grad(loss)(logits)
        found |= {f"balance/{name}": np.asarray(value), f"balance/{name}/gradient": np.asarray(gradient)}
    return found


def check(case: str, theirs: dict[str, np.ndarray]) -> None:
    """Compare a case with the oracle's quantities, each to 1e-5 of its norm."""
    ours = compute(case)
    names = {key.removeprefix(f"{case}/") for key in theirs if key.startswith(f"{case}/")}
    assert set(ours) == names
    for name, value in ours.items():
        expected = theirs[f"{case}/{name}"].astype(np.float64)
        if case == "softmoe-normalised-zeros" and name == "gradient/tokens":
            # The published gradient by a zero token is NaN (the norm's, at 0); ours is finite.
            lost = np.isnan(expected)
            assert lost[:, 1::3].all()
            assert not lost[:, 0::3].any()
            assert np.isfinite(value).all()
            value, expected = value[~lost], expected[~lost]
        error = np.linalg.norm(value - expected)
        assert error <= 1e-5 * np.linalg.norm(expected), f"{name}: {error:.2e}"


def check_balance(theirs: dict[str, np.ndarray]) -> None:
    """Compare the load-balancing losses with the oracle's."""
    for key, value in balance().items():
        np.testing.assert_allclose(value, theirs[key], rtol=1e-5, atol=1e-6, err_msg=key)
