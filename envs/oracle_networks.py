"""Run the paper-era DQN networks and update on the shared inputs; write what they compute.

Runs in the oracle's environment (envs/oracle.txt):

    python envs/oracle_networks.py full DIRECTORY       every tensor, for the live check
    python envs/oracle_networks.py goldens DIRECTORY    summaries, for tests/golden/networks

Writes `<case>-<loss>.npz` with the keys `q_values`, `next_q_values` `[B, A]`, `loss`, and per
parameter `gradient/<name>` and `step/<name>` (what one Adam step from zero moments changes; in
goldens the tensor's `oracle_inputs.summary`), and `adam.npz` with `parameters` `[3, 1000]`: zeros
after each of three Adam steps along the shared gradients.

Loss and step come from the official `train`; it does not return gradients, so they are read off
Adam's first moment, (1 - 0.9) times the first gradient.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
warnings.filterwarnings("ignore")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import oracle_inputs  # noqa: E402
import oracle_settings  # noqa: E402
from absl import logging  # noqa: E402
from dopamine.jax.agents.dqn import dqn_agent  # noqa: E402
from dopamine.labs.moes.agents import dqn_moe_agent  # noqa: E402
from dopamine.labs.moes.architectures import networks  # noqa: E402

logging.set_verbosity(logging.ERROR)
jax.config.update("jax_threefry_partitionable", True)


def network(case):
    """The official network of variant `case`."""
    factory = {"cnn": networks.NatureDQNMoE, "impala": networks.ImpalaMoE}[case.split("-", 1)[0]]
    return factory(num_actions=oracle_inputs.NUM_ACTIONS, **oracle_inputs.options(case))


@dataclasses.dataclass(frozen=True)
class HandsOnThirdKey:
    """A network that hands a third of its key on to the mixture, as the official Rainbow's does.

    The official DQN hands it on whole. The project has one rule for all agents; which draw becomes
    the random matrix is otherwise no difference.
    """

    net: object
    num_experts: int = 8
    num_selected_experts: int = 1

    def apply(self, params, state, key):
        """Evaluate one state."""
        return self.net.apply(params, state, key=jax.random.split(key, 3)[2])


def flatten(tree):
    """A nested dict of arrays as `{path: array}`, paths joined by `/`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


def parameters(net, case):
    """The oracle's parameter tree filled with the shared values, and `{our name: its name}`."""
    zeros = np.zeros((84, 84, 4), np.uint8)
    key = jax.random.PRNGKey(0)
    tree = jax.eval_shape(lambda k: net.init(k, x=zeros, key=k), key)
    names = {ours: oracle_inputs.oracle_name(ours, case) for ours in oracle_inputs.parameter_names(case)}
    shapes = {path: leaf.shape for path, leaf in flatten(tree).items()}
    if sorted(names.values()) != sorted(shapes):
        raise SystemExit(f"{case}: parameter names differ: {sorted(set(names.values()) ^ set(shapes))}")
    values = {theirs: oracle_inputs.parameter(ours, shapes[theirs]) for ours, theirs in names.items()}
    filled = jax.tree_util.tree_map_with_path(
        lambda path, _: jax.numpy.asarray(values["/".join(key.key for key in path)]), tree
    )
    return filled, names


def compute(case, loss):
    """Every compared quantity of `case` under `loss`, by key."""
    net = network(case)
    params, names = parameters(net, case)
    batch = oracle_inputs.batch(case)
    states, next_states = (np.moveaxis(batch[k], 1, -1) for k in ("state", "next_state"))
    key = jax.random.PRNGKey(0)

    @jax.jit
    def q_values(x):
        return jax.vmap(lambda state: net.apply(params, state, key=key).q_values)(x)

    optimizer = dqn_agent.create_optimizer(
        "adam", learning_rate=oracle_inputs.LEARNING_RATE, eps=oracle_inputs.ADAM_EPS
    )
    trained = dqn_moe_agent.train(
        HandsOnThirdKey(net) if case.endswith("randphi") else net,
        params, params, optimizer, optimizer.init(params), states, batch["action"],
        next_states, batch["reward"], batch["terminal"].astype(np.uint8), oracle_inputs.GAMMA,
        key, False, False, loss_type=loss,
    )  # fmt: skip
    old, new = flatten(params), flatten(trained["online_params"])
    momentum = flatten(trained["optimizer_state"][0].mu)
    found = {
        "q_values": q_values(states),
        "next_q_values": q_values(next_states),
        "loss": trained["combined_loss"],
    }
    for ours, theirs in names.items():
        found[f"gradient/{ours}"] = np.asarray(momentum[theirs]) / np.float32(1 - 0.9)
        found[f"step/{ours}"] = np.asarray(new[theirs]) - np.asarray(old[theirs])
    return {k: np.asarray(v, np.float32) for k, v in found.items()}


def adam():
    """Zeros after each of three Adam steps along the shared gradients."""
    optimizer = dqn_agent.create_optimizer(
        "adam", learning_rate=oracle_inputs.LEARNING_RATE, eps=oracle_inputs.ADAM_EPS
    )
    gradients = oracle_inputs.adam_gradients()
    params = jax.numpy.zeros_like(gradients[0])
    state = optimizer.init(params)
    trace = []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params=params)
        params = optax.apply_updates(params, updates)
        trace.append(np.asarray(params))
    return np.stack(trace)


def summarise(case, loss, tensors):
    """Replace per-parameter tensors by their summaries."""
    return {
        key: oracle_inputs.summary(f"{case}/{loss}/{key}", tensor) if "/" in key else tensor
        for key, tensor in tensors.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("full", "goldens"))
    parser.add_argument("directory", type=Path)
    parser.add_argument("runs", nargs="*", help="<case>-<loss>; all if none is named")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    for case, loss in oracle_inputs.RUNS:
        if arguments.runs and f"{case}-{loss}" not in arguments.runs:
            continue
        with oracle_settings.settings(case, jax.random.PRNGKey(0), dqn=True):
            found = compute(case, loss)
        path = arguments.directory / f"{case}-{loss}.npz"
        if arguments.kind == "full":
            np.savez(path, **found)
        else:
            np.savez_compressed(path, **summarise(case, loss, found))
        print(path, file=sys.stderr)
    np.savez_compressed(arguments.directory / "adam.npz", parameters=adam())


if __name__ == "__main__":
    main()
