"""What both parity tests compare: moerl's networks and update on the oracle's inputs."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import yaml

from moerl.agents.value import Batch, Draw, Learner, Params, ValueAgent
from moerl.study.specs import AgentSpec, NetworkSpec

ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-5
"""Largest accepted norm of a difference, relative to the norm of the oracle's tensor."""


def load_inputs(name: str) -> ModuleType:
    """A module of the oracle's folder that makes inputs on both sides; others there may import it."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "envs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


inputs = load_inputs("oracle_inputs")


@cache
def configured(name: str) -> dict[str, Any]:
    """A file of `config/`."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
    return loaded


def network_spec(case: str) -> NetworkSpec:
    """The configured network variant `case`, with the experts' width of the comparison."""
    fields = configured("networks")[case]
    units = inputs.EXPERT_UNITS.get(fields.get("tokens"))
    return NetworkSpec.model_validate(fields | ({"hidden_units": units} if units else {}))


def agent_spec(loss: str) -> AgentSpec:
    """DQN as the oracle's script runs it."""
    return AgentSpec.model_validate(
        {
            "learning_rate": inputs.LEARNING_RATE,
            "adam_eps": inputs.ADAM_EPS,
            "gamma": inputs.GAMMA,
            "n_step": 1,
            "batch_size": inputs.BATCH_SIZE,
            "replay_capacity": 1_000_000,
            "min_replay_history": 20_000,
            "update_period": 4,
            "updates_per_period": 1,
            "target_update_period": 8_000,
            "epsilon_train": 0.01,
            "epsilon_decay_period": 250_000,
            "loss": loss,
            "sticky_actions": 0.25,
            "max_episode_steps": 27_000,
        }
    )


def agent(case: str, loss: str) -> ValueAgent:
    """The agent whose network is `case`."""
    return ValueAgent(agent_spec(loss), network_spec(case), inputs.NUM_ACTIONS)


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """A nested dict of arrays as `{path: array}`, paths joined by `/`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): np.asarray(leaf) for path, leaf in leaves}


def parameters(value_agent: ValueAgent) -> Any:
    """The agent's parameter tree filled with the shared values."""
    shapes = jax.eval_shape(value_agent.init, jax.random.key(0)).params
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: inputs.parameter("/".join(key.key for key in path), leaf.shape), shapes
    )


def targets_and_gradients(
    value_agent: ValueAgent, learner: Learner, batch: Batch, key: jax.Array
) -> tuple[jax.Array, Params]:
    """The pieces of `update` that it does not return: targets, and gradients of what it minimises."""
    target_key, online_keys = None, None
    if value_agent.draws:
        target_key = jax.random.fold_in(key, Draw.TARGET)
        online_keys = jax.random.split(jax.random.fold_in(key, Draw.ONLINE), len(batch.action))
    targets = value_agent.targets(learner, batch, target_key)
    gradient = jax.grad(value_agent.objective, has_aux=True)
    balance_key = jax.random.fold_in(key, Draw.BALANCE)
    return targets, gradient(learner.params, targets, batch, online_keys, balance_key)[0]


def compute(case: str, loss: str) -> dict[str, np.ndarray]:
    """Every quantity that envs/oracle_networks.py writes for `case` and `loss`, by its keys."""
    value_agent = agent(case, loss)
    key = jax.random.key(0)

    @jax.jit
    def everything(learner: Learner, batch: Batch) -> tuple[dict[str, jax.Array], Params, Learner]:
        _, gradients = targets_and_gradients(value_agent, learner, batch, key)
        updated, result = value_agent.update(learner, batch, key)
        q_values = value_agent.evaluate(learner.params, batch.state).q_values
        next_q_values = value_agent.evaluate(learner.params, batch.next_state).q_values
        values = {"q_values": q_values, "next_q_values": next_q_values, "loss": result.loss}
        return values, gradients, updated

    params = parameters(value_agent)
    batch = Batch(**inputs.batch(case))
    values, gradients, updated = everything(value_agent.start(params), batch)
    found = {name: np.asarray(value) for name, value in values.items()}
    old, new = flatten(params), flatten(updated.params)
    for name, gradient in flatten(gradients).items():
        found[f"gradient/{name}"] = gradient
        found[f"step/{name}"] = new[name] - old[name]
    return found


def adam() -> np.ndarray:
    """Zeros after each of three Adam steps along the shared gradients, `[3, 1000]`."""
    value_agent = agent("cnn-baseline", "mse")
    gradients = inputs.adam_gradients()
    learner = value_agent.start({"zeros": np.zeros_like(gradients[0])})
    trace = []
    for gradient in gradients:
        learner = value_agent.apply_gradients(learner, {"zeros": gradient})
        trace.append(np.asarray(learner.params["zeros"]))
    return np.stack(trace)


def accepted_error(case: str, key: str, expected_norm: float) -> float:
    """Largest accepted norm of the difference in quantity `key`.

    A step is read off as new minus old parameters, and each side rounds its new parameters to
    float32: at most half a unit in the last place, 2**-24 relative to the parameter.
    """
    accepted = TOLERANCE * expected_norm
    if key.startswith("step/"):
        name = key.removeprefix("step/")
        shape = shapes(case)[name]
        accepted += 2 * 2.0**-24 * float(np.linalg.norm(inputs.parameter(name, shape)))
    return accepted


@cache
def shapes(case: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of `case`, by name."""
    tree = jax.eval_shape(agent(case, "mse").init, jax.random.key(0)).params
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(str(key.key) for key in path): leaf.shape for path, leaf in leaves}
