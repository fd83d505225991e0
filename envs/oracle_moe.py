"""Run the paper-era MoE modules and load-balancing losses on small inputs; write what they compute.

Runs in the oracle's environment (envs/oracle.txt):

    python envs/oracle_moe.py FILE.npz      (tests/golden/moe.npz)

Keys are `<case>/values` `[B, M, D]`, `<case>/hidden` `[B, E, P, H]`, `<case>/gates` `[B, M, E]`, each
token's weight per expert, `<case>/gradient/tokens` and `<case>/gradient/<parameter>`; and
`balance/{importance,load}` with the gradients `balance/{importance,load}/gradient` `[B, M, E]` with
respect to the router's logits. As in oracle_rainbow, equal keys give equal noise in any JAX.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
warnings.filterwarnings("ignore")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import oracle_moe_inputs as inputs  # noqa: E402
from absl import logging  # noqa: E402
from dopamine.jax import networks as base_networks  # noqa: E402
from dopamine.labs.moes.agents import losses, types  # noqa: E402
from dopamine.labs.moes.architectures import moe, networks, routers, softmoe  # noqa: E402
from dopamine.labs.moes.architectures import types as arch_types  # noqa: E402

logging.set_verbosity(logging.ERROR)
jax.config.update("jax_threefry_partitionable", True)


def sample_noise(key, shape):
    """Standard normals of a key of their own length."""
    return jax.random.normal(jax.random.fold_in(key, math.prod(shape)), shape)


base_networks.NoisyNetwork.sample_noise = staticmethod(sample_noise)


def module(case, expert_key):
    """The official module of a case."""
    chosen = inputs.options(case)
    expert = networks.ExpertModel(expert_hidden_size=inputs.HIDDEN, noisy=chosen["noisy"], rng_key=expert_key)
    shared = {
        "module": expert,
        "num_experts": chosen["num_experts"],
        "capacity_factor": chosen["capacity_factor"],
    }
    if chosen["module"] == "softmoe":
        return softmoe.SoftMoE(**shared, normalization=chosen["normalised"], use_random_phi=chosen["random"])
    noisy_routing = chosen["router_noise"] > 0
    router = functools.partial(
        routers.TopKRouter, noisy_routing=noisy_routing, noise_std=chosen["router_noise"]
    )
    return moe.MoE(**shared, num_selected_experts=1, router_cls=router)


def our_name(path):
    """The project's name of the oracle's parameter at `path`."""
    match path:
        case ["phi_weights"]:
            return "phi"
        case ["router", "Dense_0", "kernel"]:
            return "router/kernel"
        case ["module", "net", leaf]:
            return f"experts/hidden/{leaf}"
        case ["module", "Dense_0", leaf]:
            return f"experts/output/{leaf}"
    return "/".join(path)


def compute(case):
    """Every compared quantity of a case, by key."""
    chosen, tokens, cotangent = inputs.options(case), inputs.tokens(case), inputs.cotangent(case)
    expert_keys, router_keys = (
        jax.random.split(jax.random.PRNGKey(seed), inputs.BATCH_SIZE)
        for seed in (inputs.EXPERT_KEY, inputs.ROUTER_KEY)
    )
    shapes = jax.eval_shape(lambda key: module(case, key).init(key, tokens[0], key=key), router_keys[0])[
        "params"
    ]
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(
            inputs.parameter(case, our_name([key.key for key in path]), leaf.shape)
        ),
        shapes,
    )

    def outputs(params, tokens):
        def one(x, expert_key, router_key):
            found = module(case, expert_key).apply({"params": params}, x, key=router_key)
            return found.values, found.experts_hidden, found.router_out.probabilities

        return jax.vmap(one)(tokens, expert_keys, router_keys)

    def objective(params, tokens):
        return jnp.sum(outputs(params, tokens)[0] * cotangent)

    values, hidden, gates = outputs(params, tokens)
    if chosen["module"] == "softmoe":
        gates = gates * hidden.shape[2]  # the official one averages over slots
    by_parameter, by_token = jax.grad(objective, argnums=(0, 1))(params, tokens)
    found = {"values": values, "hidden": hidden, "gates": gates, "gradient/tokens": by_token}
    for path, leaf in jax.tree_util.tree_flatten_with_path(by_parameter)[0]:
        found[f"gradient/{our_name([key.key for key in path])}"] = leaf
    return {f"{case}/{name}": np.asarray(value) for name, value in found.items()}


def balance():
    """The official load-balancing losses and their gradients."""
    logits = inputs.balance_logits()

    def loss(function, logits):
        router = arch_types.RouterReturn(
            output=logits,
            probabilities=jax.nn.softmax(logits),
            top_expert_weights=jnp.zeros(1),
            top_experts=jnp.zeros(1),
        )
        parameters = types.MoELossParameters(
            moe_out=arch_types.MoEModuleReturn(values=jnp.zeros(1), router_out=router),
            num_experts=logits.shape[-1],
            num_selected_experts=1,
            key=jax.random.PRNGKey(inputs.BALANCE_KEY),
        )
        return function(parameters).value

    found = {}
    for name, function in (("importance", losses.importance_loss), ("load", losses.load_loss)):
        value, gradient = jax.value_and_grad(functools.partial(loss, function))(logits)
        found |= {f"balance/{name}": np.asarray(value), f"balance/{name}/gradient": np.asarray(gradient)}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    found = balance()
    for case in inputs.CASES:
        found |= compute(case)
    np.savez_compressed(parser.parse_args().file, **found)


if __name__ == "__main__":
    main()
