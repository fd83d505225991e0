"""How single tokens are routed: a row per token of some states of a snapshot. Not in the paper.

| column | |
|---|---|
| `state` | the state's place in the snapshot's first batch, from 0 |
| `token` | from 0: PerConv position in raster order, PerFeat channel, PerSamp 0 |
| `top`, `bottom`, `left`, `right` | PerConv: the token's cell in the frame (`moerl.networks.geometry`), in \
pixels; rows `top` to `bottom` - 1, columns `left` to `right` - 1 |
| `expert` | the expert of the token's highest gate, from 0; ties to the lowest |
| `gate` | that gate. Top1: the router's probability, before tokens are dropped. SoftMoE: the sum of the \
token's combine weights over the expert's slots. Either is at least 1/n of n experts |
| `dropped` | whether the token reaches no slot (SoftMoE: never) |
| `pixels` | PerConv: the newest frame in the cell, row by row, a byte per pixel |

The cells of a state tile its frame, so it can be put together from them; tokens of other kinds have
none (null). Experts are those of the penultimate layer, or with BIG the networks.

Axes: B states, M tokens, E experts; H height, W width of a frame.
"""

from __future__ import annotations

import jax
import numpy as np
import numpy.typing as npt
import pandas as pd

from moerl.analysis.routing import dropped_tokens
from moerl.networks.geometry import cell_edges, field_centres, window_path
from moerl.networks.routing import Routing
from moerl.study.specs import ANALYSED_STATES, NetworkSpec, Tokens

Pixels = npt.NDArray[np.uint8]
TYPES = {
    "state": "int16",
    "token": "int16",
    "top": "Int16",
    "bottom": "Int16",
    "left": "Int16",
    "right": "Int16",
    "expert": "int16",
    "gate": "float32",
    "dropped": "bool",
    "pixels": "binary[pyarrow]",
}


def token_table(network: NetworkSpec, states: jax.Array, routing: Routing | None) -> pd.DataFrame:
    """Columns `TYPES` of the first `ANALYSED_STATES` states of a batch; no rows for a baseline.

    Args:
        network: The variant.
        states: `[B, 4, 84, 84]`.
        routing: How it routes their tokens, `gates` `[B, M, E]`; None for a baseline.
    """
    if routing is None:
        return no_tokens()
    newest = np.asarray(states[:ANALYSED_STATES, -1])
    first: Routing = jax.tree.map(lambda x: x[:ANALYSED_STATES], routing)
    return routed_tokens(network, first, newest)


def no_tokens() -> pd.DataFrame:
    """Columns `TYPES` without a row."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in TYPES.items()})


def routed_tokens(network: NetworkSpec, routing: Routing, frames: Pixels) -> pd.DataFrame:
    """Columns `TYPES`, a row per state and token.

    Args:
        network: The variant.
        routing: How it routes the tokens of the states, `gates` `[B, M, E]`.
        frames: The states' newest frames `[B, H, W]`.
    """
    gates = np.asarray(routing.gates)
    states, tokens, _ = gates.shape
    state, token = (x.ravel() for x in np.indices((states, tokens)))
    table = pd.DataFrame(
        {
            "state": state,
            "token": token,
            "expert": gates.argmax(axis=-1).ravel(),
            "gate": gates.max(axis=-1).ravel(),
            "pixels": None,
            "dropped": dropped_tokens(routing).ravel(),
        }
    )
    if network.tokens is Tokens.PERCONV:
        cells = token_cells(network, *frames.shape[1:])
        for i, name in enumerate(("top", "bottom", "left", "right")):
            table[name] = np.tile(cells[:, i], states)
        table["pixels"] = [
            frame[top:bottom, left:right].tobytes() for frame in frames for top, bottom, left, right in cells
        ]
    return table.reindex(columns=list(TYPES)).astype(TYPES)


def token_cells(network: NetworkSpec, height: int, width: int) -> npt.NDArray[np.int64]:
    """Cell `(top, bottom, left, right)` of each PerConv token in a frame, `[M, 4]`, in raster order."""
    path = window_path(network)
    rows, columns = (cell_edges(field_centres(path, size), size) for size in (height, width))
    row, column = (x.ravel() for x in np.indices((len(rows) - 1, len(columns) - 1)))
    return np.stack([rows[row], rows[row + 1], columns[column], columns[column + 1]], axis=1)
