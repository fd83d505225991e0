"""A snapshot of a run, and everything that is measured on it (paper Fig 10, all columns).

Axes: N batches of a snapshot, B transitions of a batch, W parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import BaseModel

from moerl.agents.value import Batch, Learner, Params, ValueAgent
from moerl.analysis import dormant, features, ntk
from moerl.analysis.features import Array
from moerl.analysis.routing import routing_metrics
from moerl.networks.noisy import SIGMAS
from moerl.networks.q_network import NetworkOutput
from moerl.study.errors import one_line
from moerl.study.specs import Module, NonNegativeInt, TrainSpec
from moerl.training.statefile import StateError, Tensors, load

VARIANCE_THRESHOLDS = (0.0, 0.001, 0.01)  # published; which one the figure shows is not stated
RANK_THRESHOLDS = (0.0, 0.001, 0.01)  # published
TAUS = (0.0, 0.025, 0.1)  # Sokar et al. (2023)
KUMAR_DELTA = 0.01  # Kumar et al. (2021)
CONTAMINATED_THRESHOLD = 0.01

DRAWN = tuple(field.name for field in fields(Batch) if field.name != "weight")
"""What a snapshot stores of each transition."""

Metrics = dict[str, float]
"""Metric name to value."""


@dataclass(frozen=True)
class Snapshot:
    """Parameters of a run at the end of an iteration, and batches drawn from its replay then."""

    iteration: int
    """0-based."""
    frame: int
    """Cumulative emulated frames."""
    params: Params
    target_params: Params
    batches: tuple[Batch, ...]


def read(path: Path, spec: TrainSpec) -> Snapshot:
    """Read the snapshot at `path` of a run of `spec`.

    Raises:
        StateError: The file is torn, of another spec, or lacks something that a snapshot has.
    """
    tensors, said = load(path)
    if said.get("spec") != spec.digest():
        raise StateError(f"{path}: a snapshot of another spec than this run's; train it again")
    size = spec.hyper.batch_size
    try:
        when = _When.model_validate(said)
        # Drawn uniformly, so without importance weights.
        drawn = {name: tensors[f"batch/{name}"] for name in DRAWN}
        lengths = {len(values) if values.ndim else 0 for values in drawn.values()}
        if len(lengths) > 1 or not max(lengths) or max(lengths) % size:
            raise ValueError(f"its transitions are no batches of {size}")
        _check_parameters(tensors, spec)
    except (KeyError, ValueError) as error:
        raise StateError(f"{path}: not a snapshot ({one_line(error)}); train the run again") from error
    return Snapshot(
        iteration=when.iteration,
        frame=when.frame,
        params=_nested(tensors, "params"),
        target_params=_nested(tensors, "target_params"),
        batches=tuple(
            Batch(**{name: jnp.asarray(x[start : start + size]) for name, x in drawn.items()})
            for start in range(0, len(drawn["action"]), size)
        ),
    )


class _When(BaseModel):
    """The metadata of a snapshot but for the spec."""

    iteration: NonNegativeInt
    frame: NonNegativeInt


def _check_parameters(tensors: Tensors, spec: TrainSpec) -> None:
    """Raises ValueError unless the parameters are those of the network of `spec`."""
    for name, (shape, dtype) in _parameters(spec).items():
        for root in ("params", "target_params"):
            found = tensors.get(f"{root}/{name}")
            if found is None or found.shape != shape or found.dtype != dtype:
                raise ValueError(f"tensor {root}/{name} is missing or has another shape or type")
    if extra := [n for n in tensors if n.partition("/")[2] not in _parameters(spec) and n[:6] != "batch/"]:
        raise ValueError(f"the network has no {extra[0]}")


@cache
def _parameters(spec: TrainSpec) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Name → shape and type of every parameter of a network."""
    agent = ValueAgent(spec.hyper, spec.network, spec.num_actions)
    learner = jax.eval_shape(agent.init, jax.random.key(0))
    leaves = jax.tree.leaves_with_path(learner.params)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (leaf.shape, leaf.dtype)
        for path, leaf in leaves
    }


def _nested(tensors: Tensors, root: str) -> Params:
    """The tensors named `root/a/b/…` as nested dictionaries `{a: {b: …}}`."""
    nested: Params = {}
    for name, value in tensors.items():
        first, *folders, leaf = name.split("/")
        if first != root:
            continue
        inner = nested
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[leaf] = jnp.asarray(value)
    return nested


def network_outputs(agent: ValueAgent, snapshot: Snapshot) -> list[NetworkOutput]:
    """What the network computes for the states of each batch, without noise and with a fixed random Φ.

    As NumPy arrays.
    """
    found = [_outputs(agent, snapshot.params, batch.state) for batch in snapshot.batches]
    return jax.device_get(found)  # type: ignore[no-any-return]


def measure(agent: ValueAgent, snapshot: Snapshot, outputs: Sequence[NetworkOutput]) -> Metrics:
    """Every metric, each averaged over the snapshot's batches, for which `outputs` has `network_outputs`.

    Raises FloatingPointError if outputs or gradients of the network are not finite.
    """
    per_batch = [measure_batch(agent, snapshot, *one) for one in zip(snapshot.batches, outputs, strict=True)]
    return {name: float(np.mean([m[name] for m in per_batch])) for name in per_batch[0]}


def measure_batch(agent: ValueAgent, snapshot: Snapshot, batch: Batch, outputs: NetworkOutput) -> Metrics:
    """Every metric on one batch `[B]`, for which the network computes `outputs`."""
    kernel = empirical_ntk(agent, snapshot, batch)
    if not (np.isfinite(kernel).all() and all(np.isfinite(o).all() for o in jax.tree.leaves(outputs))):
        raise FloatingPointError("the network's outputs or gradients are not finite")
    values = {"q_value": float(np.mean(np.max(outputs.q_values, axis=-1)))}
    found = values | _dormancy(outputs) | _feature_metrics(outputs) | _ntk_ranks(agent, kernel, outputs)
    return found if outputs.routing is None else found | routing_metrics(outputs.routing)


def empirical_ntk(agent: ValueAgent, snapshot: Snapshot, batch: Batch) -> Array:
    """Dot products `[B, B]` of the per-transition gradients of the unweighted TD loss.

    Gradients are with respect to all online parameters that have one; targets come from the stored
    target parameters and are held fixed.
    """
    targets = _targets(agent, snapshot.params, snapshot.target_params, batch)
    width = sum(leaf.size for leaf in _learning(snapshot.params))

    def row(index: int) -> ntk.Gradient:
        alone = jax.tree.map(lambda x: x[index : index + 1], (targets, batch))
        return np.asarray(_gradient(agent, snapshot.params, *alone))

    return ntk.gradient_gram(row, len(targets), width)


# One transition at a time: on CPU a mapped gradient becomes grouped convolutions, which are slower
# than this loop, and all gradients at once would not fit into memory for wide baselines.
@partial(jax.jit, static_argnames="agent")
def _gradient(agent: ValueAgent, params: Params, target: jax.Array, batch: Batch) -> jax.Array:
    """Gradient `[W]` of the loss of a batch of one, concatenated."""
    gradient = jax.grad(agent.loss)(params, target, batch)
    return jnp.concatenate([leaf.ravel() for leaf in _learning(gradient)])


def _learning(params: Params) -> list[jax.Array]:
    """The leaves that have a gradient without noise: σ, half of a noisy layer, has none."""
    return [leaf for path, leaf in jax.tree.leaves_with_path(params) if path[-1].key not in SIGMAS]


@partial(jax.jit, static_argnames="agent")
def _targets(agent: ValueAgent, params: Params, target_params: Params, batch: Batch) -> jax.Array:
    return agent.targets(Learner(params, target_params, opt_state=()), batch)


@partial(jax.jit, static_argnames="agent")
def _outputs(agent: ValueAgent, params: Params, states: jax.Array) -> NetworkOutput:
    return agent.evaluate(params, states)


def _dormancy(outputs: NetworkOutput) -> Metrics:
    activity = dormant.unit_activity(outputs.hidden)
    by_variance = {
        f"dormant_variance_{t:g}": dormant.variance_dormant(outputs.head_input, t)
        for t in VARIANCE_THRESHOLDS
    }
    return by_variance | {f"dormant_tau_{t:g}": dormant.tau_dormant(activity, t) for t in TAUS}


def _feature_metrics(outputs: NetworkOutput) -> Metrics:
    spectrum = features.singular_values(outputs.head_input)
    ranks = {f"srank_{t:g}": features.threshold_rank(spectrum, t) for t in RANK_THRESHOLDS}
    return {
        "feature_norm_variance": features.variance_norm(outputs.head_input),
        "feature_norm_mean": features.mean_norm(outputs.head_input),
        f"srank_kumar_{KUMAR_DELTA:g}": features.effective_rank(spectrum, KUMAR_DELTA),
        **ranks,
    }


def _ntk_ranks(agent: ValueAgent, kernel: Array, outputs: NetworkOutput) -> Metrics:
    spectrum = features.singular_values(kernel)
    summed = ntk.contaminated(kernel, published_outputs(agent.network.module, outputs))
    return {
        **{f"entk_srank_{t:g}": features.threshold_rank(spectrum, t) for t in RANK_THRESHOLDS},
        "entk_srank_contaminated": features.threshold_rank(
            features.singular_values(summed), CONTAMINATED_THRESHOLD
        ),
    }


def published_outputs(module: Module | str, outputs: NetworkOutput) -> list[jax.Array]:
    """The outputs whose Gram matrices the published code adds to the NTK (B7), as `[B, ...]` arrays.

    Baseline: Q-values and head input (its `hidden_act`; the penultimate ReLU is that same vector).
    MoE, also a custom one: Q-values, the combined tokens twice (returned as `moe_out.values` and as
    `hidden_act`) and the experts' hidden activations. Distributional heads: logits and probabilities as well.
    What the published MoE also adds and this leaves out: the router's probabilities, top weights and
    top expert indices.
    """
    heads = [outputs.q_values]
    if outputs.logits.shape[-1] > 1:
        heads += [outputs.logits, jax.nn.softmax(outputs.logits, axis=-1)]
    if module is Module.BASELINE:
        return [*heads, outputs.head_input]
    tokens = outputs.head_input
    return [*heads, tokens, tokens, outputs.hidden]
