"""Rows of single tokens by hand, and the pixels they stand for."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from moerl.analysis.tokens import TYPES, routed_tokens, token_table
from moerl.networks.routing import slot_averages, soft_routing, top1_routing
from moerl.study.specs import Encoder, Module, NetworkSpec, Tokens


def spec(tokens: Tokens, module: Module = Module.TOP1) -> NetworkSpec:
    return NetworkSpec(encoder=Encoder.IMPALA, module=module, num_experts=2, tokens=tokens)


def test_top1_tokens_by_hand() -> None:
    # Three of four channels want expert 1, which has two slots and takes the first.
    logits = jnp.log(jnp.array([[[0.2, 0.8], [0.1, 0.9], [0.7, 0.3], [0.4, 0.6]]]))
    found = routed_tokens(
        spec(Tokens.PERFEAT), top1_routing(logits, None, 2), np.zeros((1, 84, 84), np.uint8)
    )
    assert found["token"].tolist() == [0, 1, 2, 3]
    assert found["expert"].tolist() == [1, 1, 0, 1]
    assert found["dropped"].tolist() == [False, False, False, True]
    np.testing.assert_allclose(found["gate"], [0.8, 0.9, 0.7, 0.6], rtol=1e-6)
    assert (
        found[["top", "bottom", "left", "right", "pixels"]].isna().all(axis=None)
    )  # a channel is everywhere


def test_a_softmoe_gate_is_the_weight_of_all_slots_of_an_expert_and_nothing_is_dropped() -> None:
    logits = jnp.log(jnp.array([[[1.0, 2.0, 3.0, 4.0]]]))  # one token, two experts of two slots
    routing = soft_routing(logits, slot_averages(logits), 2)
    found = routed_tokens(spec(Tokens.PERSAMP, Module.SOFTMOE), routing, np.zeros((1, 84, 84), np.uint8))
    assert (found["expert"].tolist(), found["dropped"].tolist()) == ([1], [False])
    assert found["gate"].tolist() == pytest.approx([0.7])


def test_a_baseline_routes_no_token_but_has_a_table_of_the_same_columns(tmp_path: Path) -> None:
    baseline = NetworkSpec(encoder=Encoder.CNN, module=Module.BASELINE)
    frames = jnp.zeros((1, 4, 84, 84), jnp.uint8)
    none = token_table(baseline, frames, None)
    one = routed_tokens(
        spec(Tokens.PERSAMP), top1_routing(jnp.zeros((1, 1, 2)), None, 1), np.asarray(frames[:, 3])
    )
    assert (len(none), len(one)) == (0, 1)
    for table in (none, one):
        assert table.dtypes.astype(str).to_dict() == TYPES
        table.to_parquet(tmp_path / "tokens.parquet", index=False)
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "tokens.parquet"), table)


def test_the_cells_of_a_state_tile_its_frame() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 84, 84), dtype=np.uint8)
    routing = top1_routing(jnp.zeros((2, 121, 2)), None, 61)
    found = routed_tokens(spec(Tokens.PERCONV), routing, frames)
    for state, rows in found.groupby("state"):
        drawn, times = np.zeros((84, 84), np.uint8), np.zeros((84, 84), int)
        for top, bottom, left, right, pixels in rows[["top", "bottom", "left", "right", "pixels"]].to_numpy():
            shape = bottom - top, right - left
            drawn[top:bottom, left:right] = np.frombuffer(pixels, np.uint8).reshape(shape)
            times[top:bottom, left:right] += 1
        np.testing.assert_array_equal(drawn, frames[state])
        assert (times == 1).all()
    one = found[(found["state"] == 1) & (found["token"] == 12)].iloc[0]  # second row, second column
    assert one[["top", "bottom", "left", "right"]].tolist() == [8, 16, 8, 16]
