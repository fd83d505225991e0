"""Sizes of networks as tables and figures tell them; who counts them is `moerl.cli.sizes`.

The paper calls a wider baseline and a mixture of as many experts parameter-matched. In the published code
they are not (method 0.2), so their sizes stand beside Figs 1 and 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moerl.study.closure import closure_digest
from moerl.study.errors import UserError, one_line
from moerl.study.expansion import Study
from moerl.study.figures import FigureSpec
from moerl.study.json_file import parse_json
from moerl.study.specs import AgentSpec, HeadInit, NetworkSpec, canonical_json, identity

KNOWN = Path(__file__).parents[3] / "benchmarks" / "results" / "parameters.json"
"""Sizes of the shared configuration's networks (benchmarks/count_parameters.py)."""


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


class KnownSizes:
    """The sizes that a file knows."""

    def __init__(self, file: Path) -> None:
        """Raises UserError if the file is there but cannot be read."""
        try:
            known = parse_json(dict[str, Size], file.read_bytes()) if file.is_file() else {}
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: does not hold sizes ({one_line(error)}); count again") from error
        self.known: dict[str, Any] = {key: asdict(size) for key, size in known.items()}

    def entry(self, agent: AgentSpec, network: NetworkSpec) -> Any:
        """What is known of a size before it is counted, as it stands in the file; None for nothing."""
        return self.known.get(size_key(agent, network))


def size_key(agent: AgentSpec, network: NetworkSpec) -> str:
    """What a file knows a size by; how a head is initialised does not count."""
    head = agent.head.model_copy(update={"head_init": HeadInit.XAVIER})
    return f"{canonical_json(identity('network', network))} {canonical_json(identity('hyper', head))}"


def size_dependencies(study: Study, figure: FigureSpec, sizes: KnownSizes) -> dict[str, Any] | None:
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
