"""What both Rainbow parity tests compare: moerl's Rainbow, DER and DrQ(ε) on the oracle's inputs."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import numpy as np
from network_parity import (
    TOLERANCE,
    configured,
    flatten,
    load_inputs,
    network_spec,
    targets_and_gradients,
)

from moerl.agents.value import Batch, Draw, ValueAgent
from moerl.study.specs import AgentSpec, Replay

inputs = load_inputs("oracle_rainbow_inputs")


@cache
def agent(name: str, case: str) -> ValueAgent:
    """The configured agent on the configured network."""
    hyper = AgentSpec.model_validate(configured("agents")[name])
    return ValueAgent(hyper, network_spec(case), inputs.NUM_ACTIONS)


@cache
def shapes(name: str, case: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters, by name."""
    tree = jax.eval_shape(agent(name, case).init, jax.random.key(0)).params
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): leaf.shape for path, leaf in leaves}


def parameters(name: str, case: str) -> Any:
    """The agent's parameter tree filled with the shared values."""
    tree = jax.eval_shape(agent(name, case).init, jax.random.key(0)).params
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: inputs.parameter("/".join(key.key for key in path), leaf.shape), tree
    )


def compute(name: str, case: str) -> dict[str, np.ndarray]:
    """Every quantity that envs/oracle_rainbow.py writes for an agent and a variant, by its keys."""
    value_agent = agent(name, case)
    learner = value_agent.start(parameters(name, case))
    fields = inputs.batch(name, case)
    weight = fields.pop("weight")
    batch = Batch(**fields, weight=weight if value_agent.hyper.replay is Replay.PRIORITISED else None)
    key = jax.random.key(inputs.KEY)

    @jax.jit
    def everything(learner, batch):
        """`update`, and the pieces of it that it does not return: compiled together, they share work."""
        seen = value_agent.augmented(batch, key)
        targets, gradients = targets_and_gradients(value_agent, learner, seen, key)
        keys = None
        if value_agent.draws:
            keys = jax.random.split(jax.random.fold_in(key, Draw.ONLINE), len(seen.action))
        updated, result = value_agent.update(learner, batch, key)
        whole = {
            "logits": value_agent.evaluate(learner.params, seen.state, keys).logits,
            "losses": value_agent.losses(learner.params, targets, seen, keys),
            "loss": result.loss,
            "priorities": result.priorities,
        }
        return whole, gradients, updated

    found, gradients, updated = everything(learner, batch)
    gradients = flatten(gradients)
    old, new = flatten(learner.params), flatten(updated.params)
    for parameter in old:
        found[f"gradient/{parameter}"] = gradients[parameter]
        found[f"step/{parameter}"] = new[parameter] - old[parameter]
    return {key: np.asarray(value) for key, value in found.items()}


def accepted_error(name: str, case: str, key: str, expected_norm: float) -> float:
    """Largest accepted norm of the difference in quantity `key`; as in `network_parity`."""
    accepted = TOLERANCE * expected_norm
    if key.startswith("step/"):
        parameter = key.removeprefix("step/")
        values = inputs.parameter(parameter, shapes(name, case)[parameter])
        accepted += 2 * 2.0**-24 * float(np.linalg.norm(values))
    return accepted
