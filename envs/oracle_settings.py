"""Settings of the official code that depend on the compared variant; used by the oracle's scripts."""

from __future__ import annotations

import contextlib
import dataclasses
from unittest import mock

import gin
import jax
import jax.numpy as jnp
from dopamine.labs.moes.agents import losses

BALANCE = 5
"""The project's number of the load loss's draw: its key is the update's, folded with this."""
_split = jax.random.split


def numbered_from_one(key, num=2):
    """`jax.random.split`, but the four keys of an update come in the order 1, 2, 3, 0.

    The official DQN uses 0 for the loss and 1 for the targets, the official Rainbow, and the
    project for all agents, 1 and 2.
    """
    keys = _split(key, num)
    return jnp.roll(keys, -1, axis=0) if num == 4 else keys


@contextlib.contextmanager
def settings(case, key, dqn=False):
    """Run the official code as variant `case` needs it, with an update's `key` numbered as the project's."""
    # Settings are no part of what jitted functions are cached by.
    jax.clear_caches()
    gin.clear_config()
    gin.bind_parameter("SoftMoE.normalization", case.endswith("normalised"))
    gin.bind_parameter("SoftMoE.use_random_phi", case.endswith("randphi"))
    if case.endswith("balanced"):
        gin.parse_config("aux_loss.loss_fns = (@importance_loss, @load_loss)")
    official = losses.aux_loss

    def aux_loss(parameters):
        """The official losses, under the project's key."""
        return official(dataclasses.replace(parameters, key=jax.random.fold_in(key, BALANCE)))

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(losses, "aux_loss", aux_loss))
        if dqn:
            stack.enter_context(mock.patch.object(jax.random, "split", numbered_from_one))
        yield
