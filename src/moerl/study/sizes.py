"""Sizes of networks as tables and figures tell them; who counts them is `moerl.cli.sizes`.

The paper calls a wider baseline and a mixture of as many experts parameter-matched. In the published code
they are not (method 0.2), so their sizes stand beside Figs 1 and 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moerl.study.specs import AgentSpec, NetworkSpec


@dataclass(frozen=True)
class Size:
    """Parameters of a network as a function of the number of actions."""

    fixed: int
    per_action: int

    def parameters(self, num_actions: int) -> int:
        """Parameters for a game with so many actions."""
        return self.fixed + self.per_action * num_actions


SizeOf = Callable[[AgentSpec, NetworkSpec], Size]
"""The size of a network under the head of an agent."""


def millions(low: int, high: int) -> str:
    """Parameters in millions, a range unless it rounds to one number: "0.39" or "3.1–8.0"."""
    few, many = (f"{count / 1e6:.{1 if count >= 1e6 else 2}f}" for count in (low, high))
    return few if few == many else f"{few}–{many}"
