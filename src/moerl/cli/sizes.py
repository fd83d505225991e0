"""Sizes of networks, for plans and tables: from a file that knows the usual ones, else counted with JAX."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from moerl.study.sizes import KnownSizes, Size, size_key
from moerl.study.specs import AgentSpec, NetworkSpec

ACTIONS = (3, 18)
"""Fewest and most actions of any game; sizes lie on a line between them."""


class Sizes(KnownSizes):
    """Looks up the size of an agent's network, and counts it where the file does not know it."""

    def of(self, agent: AgentSpec, network: NetworkSpec) -> Size:
        """The size of `network` under the head of `agent`."""
        key = size_key(agent, network)
        if key not in self.known:
            self.known[key] = asdict(counted(agent, network))
        return Size(**self.known[key])


def counted(agent: AgentSpec, network: NetworkSpec) -> Size:
    """The size of a network from its shapes; imports JAX."""
    from moerl.networks.counts import parameter_counts

    few, many = (sum(parameter_counts(network, actions, agent.head).values()) for actions in ACTIONS)
    per_action, rest = divmod(many - few, ACTIONS[1] - ACTIONS[0])
    assert rest == 0, "parameters grow linearly with actions"
    return Size(few - ACTIONS[0] * per_action, per_action)


def write(file: Path, cells: list[tuple[AgentSpec, NetworkSpec]]) -> None:
    """Count the networks of `cells` and write them to `file`."""
    found = {size_key(*cell): asdict(counted(*cell)) for cell in cells}
    file.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")
