"""Run the paper-era Rainbow, DER and DrQ(eps) updates on the shared inputs; write what they compute.

Runs in the oracle's environment (envs/oracle.txt):

    python envs/oracle_rainbow.py full DIRECTORY       every tensor, for the live check
    python envs/oracle_rainbow.py goldens DIRECTORY    summaries, for tests/golden/rainbow

Writes `<agent>-<variant>.npz` with `logits` `[B, A, Z]` of the online network under the update's own
noise, `losses`, `priorities` `[B]`, `loss`, and per parameter `gradient/<name>` and `step/<name>`; in
goldens `gradients` and `steps` `[N, 81]`, the `oracle_inputs.summary` of each, by sorted name.

Two things are set so that equal keys give equal noise in any JAX: the present default generator, and
noisy layers that fold their noise's length into their key (see `moerl.networks.noisy`; with the
generator of the paper's time draws of different length were independent, with this one they are
not). Which layer gets which key stays the official code's business.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
warnings.filterwarnings("ignore")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import oracle_inputs  # noqa: E402
import oracle_rainbow_inputs as inputs  # noqa: E402
import oracle_settings  # noqa: E402
from absl import logging  # noqa: E402
from dopamine.jax import networks as base_networks  # noqa: E402
from dopamine.jax.agents.dqn import dqn_agent  # noqa: E402
from dopamine.labs.atari_100k import atari_100k_rainbow_agent  # noqa: E402
from dopamine.labs.moes.agents import full_rainbow_moe_agent, rainbow_100k_moe_agent  # noqa: E402
from dopamine.labs.moes.architectures import networks  # noqa: E402

logging.set_verbosity(logging.ERROR)
jax.config.update("jax_threefry_partitionable", True)


def sample_noise(key, shape):
    """Standard normals of a key of their own length."""
    return jax.random.normal(jax.random.fold_in(key, math.prod(shape)), shape)


base_networks.NoisyNetwork.sample_noise = staticmethod(sample_noise)


def network(agent, case):
    """The official network of variant `case`, as `agent` configures it."""
    encoder = case.split("-", 1)[0]
    settings = inputs.AGENTS[agent]
    return networks.FullRainbowMoENetwork(
        num_actions=inputs.NUM_ACTIONS,
        num_atoms=settings["num_atoms"],
        noisy=settings["noisy"],
        dueling=True,
        distributional=settings["num_atoms"] > 1,
        inputs_preprocessed=agent != "rainbow",
        encoder_type=encoder.upper(),
        nn_scale=1,
        **oracle_inputs.options(case),
    )


def flatten(tree):
    """A nested dict of arrays as `{path: array}`, paths joined by `/`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


def parameters(net, agent, case, support):
    """The oracle's parameter tree filled with the shared values, and `{our name: its name}`."""
    zeros = np.zeros((84, 84, 4), np.uint8)
    key = jax.random.PRNGKey(0)
    tree = jax.eval_shape(lambda k: net.init(k, x=zeros, support=support, key=k), key)
    names = {ours: inputs.oracle_name(ours, case) for ours in inputs.parameter_names(agent, case)}
    shapes = {path: leaf.shape for path, leaf in flatten(tree).items()}
    if sorted(names.values()) != sorted(shapes):
        raise SystemExit(f"{case}: parameter names differ: {sorted(set(names.values()) ^ set(shapes))}")
    values = {theirs: inputs.parameter(ours, shapes[theirs]) for ours, theirs in names.items()}
    filled = jax.tree_util.tree_map_with_path(
        lambda path, _: jnp.asarray(values["/".join(key.key for key in path)]), tree
    )
    return filled, names


def states_of(agent, batch):
    """The states and next states as the official agent hands them to `train`."""
    key = jax.random.PRNGKey(inputs.KEY)
    states = []
    # The project's keys of the two augmentations are 3 and 4 of the update's key.
    for number, name in ((3, "state"), (4, "next_state")):
        images = np.moveaxis(batch[name], 1, -1)
        if agent != "rainbow":
            images = atari_100k_rainbow_agent.preprocess_inputs_with_augmentation(
                images, data_augmentation=agent == "drq_eps", rng=jax.random.fold_in(key, number)
            )
        states.append(images)
    return states


def compute(agent, case):
    """Every compared quantity of `agent` on `case`, by key."""
    settings = inputs.AGENTS[agent]
    net = network(agent, case)
    support = jnp.linspace(-10.0, 10.0, settings["num_atoms"])
    params, names = parameters(net, agent, case, support)
    batch = inputs.batch(agent, case)
    states, next_states = states_of(agent, batch)
    distributional = settings["num_atoms"] > 1
    weights = batch["weight"] if distributional else jnp.ones(inputs.BATCH_SIZE)
    rng = jax.random.PRNGKey(inputs.KEY)
    optimizer = dqn_agent.create_optimizer(
        "adam", learning_rate=settings["learning_rate"], eps=inputs.ADAM_EPS
    )
    arguments = [
        net, params, params, optimizer, optimizer.init(params), states, batch["action"],
        next_states, batch["reward"], batch["terminal"].astype(np.uint8), weights, support,
        math.pow(inputs.GAMMA, settings["n_step"]), True, distributional, False, rng, False,
    ]  # fmt: skip
    if agent == "rainbow":
        trained = full_rainbow_moe_agent.train(*arguments, False)
    else:
        trained = rainbow_100k_moe_agent.train(*arguments)

    # `train` does not return the logits: evaluate again, under the keys it makes for the loss.
    keys = jax.random.split(jax.random.split(rng, 4)[1], inputs.BATCH_SIZE)
    evaluate = jax.vmap(lambda state, key: net.apply(params, state, support=support, key=key).logits)
    old, new = flatten(params), flatten(trained["online_params"])
    momentum = flatten(trained["optimizer_state"][0].mu)
    found = {
        "logits": jax.jit(evaluate)(states, keys),
        "losses": trained["td_loss"],
        "priorities": jnp.sqrt(trained["td_loss"] + 1e-10),
        "loss": trained["combined_loss"],
    }
    for ours, theirs in names.items():
        found[f"gradient/{ours}"] = np.asarray(momentum[theirs]) / np.float32(1 - 0.9)
        found[f"step/{ours}"] = np.asarray(new[theirs]) - np.asarray(old[theirs])
    return {k: np.asarray(v, np.float32) for k, v in found.items()}


def summarise(agent, case, tensors):
    """What goldens keep: per-parameter tensors become rows of summaries."""
    kept = {key: tensor for key, tensor in tensors.items() if "/" not in key}
    for kind in ("gradient", "step"):
        keys = [f"{kind}/{name}" for name in inputs.parameter_names(agent, case)]
        kept[f"{kind}s"] = np.stack([oracle_inputs.summary(key, tensors[key]) for key in keys])
    return kept


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("full", "goldens"))
    parser.add_argument("directory", type=Path)
    parser.add_argument("runs", nargs="*", help="<agent>/<variant>; all if none is named")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for agent, case in inputs.RUNS:
        if arguments.runs and f"{agent}/{case}" not in arguments.runs:
            continue
        with oracle_settings.settings(case, jax.random.PRNGKey(inputs.KEY)):
            found = compute(agent, case)
        path = arguments.directory / f"{agent}-{case}.npz"
        if arguments.kind == "full":
            np.savez(path, **found)
        else:
            np.savez_compressed(path, **summarise(agent, case, found))
        print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
