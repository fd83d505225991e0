"""Sizes of networks, for plans and tables: from a file that knows the usual ones, else counted with JAX."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moerl.study.closure import closure_digest
from moerl.study.errors import UserError
from moerl.study.expansion import Study
from moerl.study.figures import FigureSpec
from moerl.study.sizes import Size
from moerl.study.specs import AgentSpec, NetworkSpec, canonical_json, identity

KNOWN = Path(__file__).parents[3] / "benchmarks" / "results" / "parameters.json"
"""Sizes of the shared configuration's networks (benchmarks/count_parameters.py)."""
ACTIONS = (3, 18)
"""Fewest and most actions of any game; sizes lie on a line between them."""


class Sizes:
    """Looks up the size of an agent's network, and counts it where the file does not know it."""

    def __init__(self, file: Path) -> None:
        """Raises UserError if the file is there but cannot be read."""
        self._file = file
        try:
            self._known: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        except ValueError as error:
            raise UserError(f"{file}: is not JSON ({error}); count again") from error

    def of(self, agent: AgentSpec, network: NetworkSpec) -> Size:
        """The size of `network` under the head of `agent`."""
        key = _key(agent, network)
        if key not in self._known:
            self._known[key] = asdict(counted(agent, network))
        return Size(**self._known[key])

    def entry(self, agent: AgentSpec, network: NetworkSpec) -> Any:
        """What is known of a size before it is counted, as it stands in the file; None for nothing."""
        return self._known.get(_key(agent, network))


def counted(agent: AgentSpec, network: NetworkSpec) -> Size:
    """The size of a network from its shapes; imports JAX."""
    from moerl.networks.counts import parameter_counts

    few, many = (sum(parameter_counts(network, actions, agent.head).values()) for actions in ACTIONS)
    per_action, rest = divmod(many - few, ACTIONS[1] - ACTIONS[0])
    assert rest == 0, "parameters grow linearly with actions"
    return Size(few - ACTIONS[0] * per_action, per_action)


def size_dependencies(study: Study, figure: FigureSpec, sizes: Sizes) -> dict[str, Any] | None:
    """What the sizes beside a figure's bars depend on; None where it does not tell them."""
    if not figure.parameters:
        return None
    cells = study.figure_cells(figure)
    pairs = sorted({(cell.agent, cell.variant) for cell in cells})
    return {
        "code": closure_digest("moerl.cli.sizes"),
        "actions": sorted({study.games[cell.game].num_actions for cell in cells}),
        "heads": {agent: study.agents[agent].head.model_dump() for agent, _ in pairs},
        "networks": {variant: study.variants[variant].model_dump(mode="json") for _, variant in pairs},
        "known": [sizes.entry(study.agents[agent], study.variants[variant]) for agent, variant in pairs],
    }


def write(file: Path, cells: list[tuple[AgentSpec, NetworkSpec]]) -> None:
    """Count the networks of `cells` and write them to `file`."""
    found = {_key(*cell): asdict(counted(*cell)) for cell in cells}
    file.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")


def _key(agent: AgentSpec, network: NetworkSpec) -> str:
    return f"{canonical_json(identity('network', network))} {canonical_json(identity('hyper', agent.head))}"
