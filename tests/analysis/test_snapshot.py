"""Metrics on real networks of every module, and the stage from snapshot files to its table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from moerl.agents.value import Batch, Learner, ValueAgent
from moerl.analysis import dormant, features, ntk, snapshot, stage
from moerl.analysis.snapshot import Snapshot
from moerl.networks.q_network import NetworkOutput
from moerl.study.errors import UserError
from moerl.study.origin import Origin
from moerl.study.specs import (
    AgentSpec,
    Encoder,
    Loss,
    Module,
    NetworkSpec,
    Schedule,
    Tokens,
    TrainSpec,
)
from moerl.training.statefile import StateError, store

BATCH = 3
ACTIONS = 4
HYPER = AgentSpec(
    learning_rate=1e-3,
    adam_eps=1e-4,
    gamma=0.99,
    n_step=1,
    batch_size=BATCH,
    replay_capacity=100,
    min_replay_history=10,
    update_period=4,
    updates_per_period=1,
    target_update_period=100,
    epsilon_train=0.01,
    epsilon_decay_period=100,
    loss=Loss.MSE,
    sticky_actions=0.25,
    max_episode_steps=1000,
)
NETWORKS = {
    Module.BASELINE: NetworkSpec(encoder=Encoder.CNN, module=Module.BASELINE, hidden_units=8),
    Module.SOFTMOE: NetworkSpec(
        encoder=Encoder.CNN,
        module=Module.SOFTMOE,
        num_experts=2,
        hidden_units=8,
        tokens=Tokens.PERCONV,
    ),
    Module.TOP1: NetworkSpec(
        encoder=Encoder.CNN,
        module=Module.TOP1,
        num_experts=2,
        hidden_units=8,
        tokens=Tokens.PERCONV,
    ),
}


def make_spec(module: Module) -> TrainSpec:
    return TrainSpec(
        agent="dqn",
        variant=module.value,
        game="Pong",
        num_actions=ACTIONS,
        hyper=HYPER,
        network=NETWORKS[module],
        schedule=Schedule(iteration_steps=100, snapshot_every=1, snapshot_batches=2),
        revision=1,
    )


def make_agent(module: Module) -> ValueAgent:
    return ValueAgent(HYPER, NETWORKS[module], ACTIONS)


def make_batch(seed: int, size: int = BATCH) -> Batch:
    generator = np.random.default_rng(seed)
    frames = generator.integers(0, 256, (2, size, 4, 84, 84), dtype=np.uint8)
    return Batch(
        state=jnp.asarray(frames[0]),
        action=jnp.asarray(generator.integers(0, ACTIONS, size, dtype=np.int32)),
        reward=jnp.asarray(generator.normal(size=size).astype(np.float32)),
        next_state=jnp.asarray(frames[1]),
        terminal=jnp.asarray(generator.random(size) < 0.3),
    )


def make_snapshot(agent: ValueAgent, batches: int = 1) -> Snapshot:
    init = jax.jit(agent.init)
    learners = [init(jax.random.key(k)) for k in (0, 1)]
    return Snapshot(
        iteration=0,
        frame=400,
        params=learners[0].params,
        target_params=learners[1].params,  # another network: the target must come from here
        batches=tuple(make_batch(k) for k in range(batches)),
    )


def measured(agent: ValueAgent, taken: Snapshot) -> snapshot.Metrics:
    return snapshot.measure(agent, taken, snapshot.network_outputs(agent, taken))


@pytest.mark.parametrize("module", list(Module))
def test_ntk_equals_the_stacked_gradients_of_the_batch(module: Module) -> None:
    agent = make_agent(module)
    taken = make_snapshot(agent)
    (batch,) = taken.batches
    targets = agent.targets(Learner(taken.params, taken.target_params, ()), batch)

    @jax.jit
    def gradient(params: dict[str, object], index: int) -> list[jax.Array]:
        return jax.tree.leaves(jax.grad(lambda p: agent.losses(p, targets, batch)[index])(params))

    stacked = np.stack(
        [
            np.concatenate([np.asarray(g, np.float64).ravel() for g in gradient(taken.params, i)])
            for i in range(BATCH)
        ]
    )
    kernel = snapshot.empirical_ntk(agent, taken, batch)

    assert stacked.shape[1] == sum(leaf.size for leaf in jax.tree.leaves(taken.params))
    assert np.abs(kernel).min() > 0
    np.testing.assert_allclose(kernel, stacked @ stacked.T, rtol=1e-4)
    np.testing.assert_array_equal(kernel, kernel.T)
    assert np.linalg.eigvalsh(kernel).min() >= -1e-12 * kernel.trace()


@pytest.mark.parametrize("module", list(Module))
def test_metrics_are_those_of_the_networks_activations(module: Module) -> None:
    agent = make_agent(module)
    taken = make_snapshot(agent)
    (batch,) = taken.batches
    samples = [agent.evaluate(taken.params, state) for state in batch.state]
    head_input = np.stack([np.asarray(s.head_input) for s in samples])
    hidden = np.stack([np.asarray(s.hidden) for s in samples])
    metrics = measured(agent, taken)

    assert metrics["feature_norm_variance"] == pytest.approx(features.variance_norm(head_input), rel=1e-4)
    assert metrics["feature_norm_mean"] == pytest.approx(features.mean_norm(head_input), rel=1e-4)
    spectrum = features.singular_values(head_input)
    assert metrics["srank_0.01"] == features.threshold_rank(spectrum, 0.01)
    assert metrics["srank_kumar_0.01"] == features.effective_rank(spectrum, 0.01)
    largest = [float(np.max(s.q_values)) for s in samples]
    assert metrics["q_value"] == pytest.approx(np.mean(largest), rel=1e-4)
    assert metrics["dormant_variance_0.001"] == dormant.variance_dormant(head_input, 0.001)
    assert metrics["dormant_tau_0.1"] == dormant.tau_dormant(dormant.unit_activity(hidden), 0.1)
    gram = snapshot.empirical_ntk(agent, taken, batch)
    assert metrics["entk_srank_0.01"] == features.threshold_rank(features.singular_values(gram), 0.01)


@pytest.mark.parametrize(
    ("module", "summed"),
    [(Module.BASELINE, 1 + 4), (Module.SOFTMOE, 1 + 4 + 4 + 9), (Module.TOP1, 1 + 4 + 4 + 9)],
)
def test_the_published_sum_counts_moe_tokens_twice(module: Module, summed: int) -> None:
    one = np.ones((1, 1), np.float32)
    hidden = 3 * one[..., None, None]
    outputs = NetworkOutput(q_values=one, head_input=2 * one, hidden=hidden, logits=one[..., None])
    added = snapshot.published_outputs(module, outputs)
    np.testing.assert_array_equal(ntk.contaminated(np.zeros((1, 1)), added), [[summed]])


def test_metrics_are_averaged_over_batches() -> None:
    agent = make_agent(Module.BASELINE)
    taken = make_snapshot(agent, batches=2)
    both = measured(agent, taken)
    alone = [measured(agent, replace(taken, batches=(b,))) for b in taken.batches]
    assert alone[0]["feature_norm_mean"] != alone[1]["feature_norm_mean"]
    for name, value in both.items():
        assert value == pytest.approx((alone[0][name] + alone[1][name]) / 2)


def write_snapshot(folder: Path, spec: TrainSpec, iteration: int, poison: bool = False) -> Path:
    """A snapshot file as training writes it: two batches, drawn from `iteration`."""
    agent = ValueAgent(spec.hyper, spec.network, spec.num_actions)
    learner = jax.jit(agent.init)(jax.random.key(iteration))
    tensors = {}
    for name, params in (("params", learner.params), ("target_params", learner.target_params)):
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
            inner = jax.tree_util.keystr(path, simple=True, separator="/")
            tensors[f"{name}/{inner}"] = np.array(leaf)
    if poison:
        tensors["params/head/q/bias"][0] = np.nan
    fields = vars(make_batch(iteration, 6)).items()
    tensors |= {f"batch/{name}": np.asarray(value) for name, value in fields if value is not None}
    file = folder / "snapshots" / f"iteration{iteration + 1:04d}.safetensors"
    meta = {"iteration": iteration, "frame": 400 * (iteration + 1), "spec": spec.digest(), "seed": 0}
    store(file, tensors, meta)
    return file


def test_a_snapshot_survives_its_file(tmp_path: Path) -> None:
    spec = make_spec(Module.SOFTMOE)
    taken = snapshot.read(write_snapshot(tmp_path, spec, 2), spec)
    assert (taken.iteration, taken.frame) == (2, 1200)
    expected = jax.jit(make_agent(Module.SOFTMOE).init)(jax.random.key(2)).params
    jax.tree.map(np.testing.assert_array_equal, taken.params, expected)
    halves = [jax.tree.map(lambda x, s=s: x[s], make_batch(2, 6)) for s in (slice(3), slice(3, 6))]
    jax.tree.map(np.testing.assert_array_equal, taken.batches, tuple(halves))


def test_stage_writes_a_tidy_table_and_the_same_bytes_again(tmp_path: Path) -> None:
    spec = make_spec(Module.TOP1)
    for iteration in (0, 1):
        write_snapshot(tmp_path, spec, iteration)
    outs = [(tmp_path / folder / "seed0.parquet", tmp_path / folder / "tokens.parquet") for folder in "ab"]
    for out in outs:
        stage.run(spec, "800", tmp_path, *out)
    for one, other in zip(*outs, strict=True):
        assert one.read_bytes() == other.read_bytes()
        metadata = pq.read_schema(one).metadata
        Origin(spec.digest(), "800").check("", metadata)
        with pytest.raises(UserError, match="its milestone is 800, the study's 900"):
            Origin(spec.digest(), "900").check("", metadata)

    table = pd.read_parquet(outs[0][0])
    assert [str(t) for t in table.dtypes] == ["int64", "int64", "object", "float64"]
    assert list(table.columns) == ["iteration", "frame", "metric", "value"]
    assert not table.duplicated(["iteration", "metric"]).any()
    assert set(table["frame"]) == {400, 800}
    headline = {"entk_srank_0.01", "feature_norm_variance", "dormant_variance_0.001"}
    for _, rows in table.groupby("iteration"):
        assert headline <= set(rows["metric"])
    assert np.isfinite(table["value"]).all()
    tokens = pd.read_parquet(outs[0][1])
    assert set(tokens["frame"]) == {400, 800}
    assert len(tokens) == 2 * BATCH * 121  # the first batch of each snapshot; it is shorter than what is kept
    second = tokens[(tokens["iteration"] == 1) & (tokens["state"] == 2)]
    newest = np.asarray(make_batch(1, 6).state)[2, 3]
    assert b"".join(second.loc[second["top"] == 80, "pixels"]) == b"".join(
        newest[80:84, left : left + 8].tobytes() for left in range(0, 84, 8)
    )


def test_a_run_without_snapshots_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no snapshots"):
        stage.run(
            make_spec(Module.BASELINE), "800", tmp_path, tmp_path / "out.parquet", tmp_path / "tokens.parquet"
        )


def test_a_snapshot_of_another_spec_is_refused(tmp_path: Path) -> None:
    write_snapshot(tmp_path, make_spec(Module.TOP1), 0)
    with pytest.raises(StateError, match="another spec"):
        stage.run(
            make_spec(Module.SOFTMOE), "800", tmp_path, tmp_path / "out.parquet", tmp_path / "tokens.parquet"
        )


def test_a_diverged_snapshot_is_refused_and_nothing_written(tmp_path: Path) -> None:
    spec = make_spec(Module.BASELINE)
    file = write_snapshot(tmp_path, spec, 0, poison=True)
    with pytest.raises(StateError, match=f"{file.name}.*not finite"):
        stage.run(spec, "800", tmp_path, tmp_path / "out.parquet", tmp_path / "tokens.parquet")
    assert not list(tmp_path.glob("*.parquet"))
