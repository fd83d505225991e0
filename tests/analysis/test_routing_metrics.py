"""Routing statistics by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from moerl.analysis.routing import entropy, expert_usage, routing_metrics
from moerl.networks.routing import slot_averages, soft_routing, top1_routing


def test_entropy_by_hand() -> None:
    found = entropy([[1.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]], axis=1)
    np.testing.assert_allclose(found, [0.0, np.log(4), 0.0])


def test_usage_counts_first_choices() -> None:
    gates = np.array([[[0.6, 0.4, 0.0], [0.5, 0.5, 0.0]], [[0.1, 0.2, 0.7], [0.3, 0.4, 0.3]]])
    np.testing.assert_allclose(expert_usage(gates), [0.5, 0.25, 0.25])


def test_top1_metrics() -> None:
    # Three of four tokens want expert 0, which has two slots.
    logits = jnp.log(jnp.array([[[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.2, 0.8]]]))
    metrics = routing_metrics(top1_routing(logits, None, 2))
    assert metrics["routing_usage_0"] == 0.75
    assert metrics["routing_usage_1"] == 0.25
    assert metrics["routing_usage_entropy"] == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))
    assert metrics["routing_dropped"] == 0.25
    assert metrics["routing_dispatch_entropy"] == metrics["routing_combine_entropy"] == 0.0
    sharp, sharper = (-p * np.log(p) - (1 - p) * np.log(1 - p) for p in (0.8, 0.9))
    assert metrics["routing_gate_entropy"] == pytest.approx((sharp + 3 * sharper) / 4, rel=1e-5)


def test_indifferent_softmoe_metrics() -> None:
    """Equal logits: every slot averages all tokens, every token all slots."""
    logits = jnp.zeros((2, 5, 6))  # 3 experts of 2 slots
    metrics = routing_metrics(soft_routing(logits, slot_averages(logits), 3))
    assert metrics["routing_dispatch_entropy"] == pytest.approx(np.log(5))
    assert metrics["routing_combine_entropy"] == pytest.approx(np.log(6))
    assert metrics["routing_gate_entropy"] == pytest.approx(np.log(3))
    assert metrics["routing_dropped"] == 0.0
    assert metrics["routing_usage_0"] == 1.0  # ties go to the lowest index


def test_a_token_that_no_softmoe_slot_sees_is_not_dropped() -> None:
    """Far below the others, its dispatch weights underflow; it still gets an average of the slots."""
    logits = jnp.array([[[0.0, 0.0], [-200.0, -200.0]]])
    routing = soft_routing(logits, slot_averages(logits), 2)
    assert np.asarray(routing.dispatch)[0, 1].max() == 0.0
    assert routing_metrics(routing)["routing_dropped"] == 0.0
