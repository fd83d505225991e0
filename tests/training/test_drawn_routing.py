"""A random Φ in the training loop: drawn for each action and gradient step, from the run's own streams."""

from __future__ import annotations

import jax
import numpy as np
from tiny_runs import tiny

from moerl.agents.value import ValueAgent
from moerl.training import online
from moerl.training.lane import Lane

CELL = tiny("Breakout", 150, 1, variant="cnn-softmoe8-randphi")


def test_actions_draw_a_phi_of_their_own_at_each_step():
    spec = CELL.spec
    agent = ValueAgent(spec.hyper, spec.network, spec.num_actions)
    pack = online.Pack.create(spec, CELL.rom, [Lane.fresh(spec, 0, agent)], agent)
    lane = pack.lanes[0]
    # Blocks, so that tokens differ and it matters which of them a slot attends to.
    blocks = np.random.default_rng(0).integers(0, 2, (4, 6, 6)) * 255
    stack = np.kron(blocks, np.ones((1, 14, 14))).astype(np.uint8)
    key = jax.random.fold_in(lane.act_key, 7)
    expected = int(agent.greedy_action(lane.learner.params, stack, key))
    assert int(pack._greedy(lane.learner.params, stack, lane.act_key, 7)) == expected
    chosen = [int(pack._greedy(lane.learner.params, stack, lane.act_key, step)) for step in range(30)]
    assert len(set(chosen)) > 1


def test_a_run_is_reproduced_to_the_byte(tmp_path):
    alone = CELL.train(tmp_path / "alone", seeds=(1,))[1]
    packed = CELL.train(tmp_path / "packed", seeds=(0, 1))
    assert packed[1] == alone
    assert packed[0] != alone
