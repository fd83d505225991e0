"""Golden traces: a few hundred agent steps (offline: gradient steps) of real training per agent, as numbers.

`PJRT_NPROC=1 python tests/training/golden_trace.py [AGENT …]` rewrites them; do so only together with raising
`TRAINING_REVISION`, which retrains everything the family has trained.
"""

import hashlib
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from offline_runs import TinyOffline, collect, offline_cell
from tiny_runs import tiny

from moerl.study.specs import TRAINING_REVISION, EvaluationPhase
from moerl.training.progress import IterationRow
from moerl.training.statefile import load

FOLDER = Path(__file__).parents[1] / "golden" / "traces"
AGENTS = dict.fromkeys(("dqn", "rainbow", "der", "drq_eps", "cql", "cql_c51"), "value")
"""Agent → its family in `TRAINING_REVISION`."""


def cell_of(agent: str) -> Any:
    """The agent's trace cell: frequent episode ends, terminal and cut, and every action explored.

    Actions then do not hang on the last bits of Q-values, which differ between devices.
    """
    settings: dict[str, Any] = {"max_episode_steps": 190, "epsilon_train": 1.0, "update_period": 16}
    return tiny("Breakout", 300, 2, variant="cnn-softmoe2", agent=agent, **settings)


def offline_cell_of(agent: str, root: Path) -> TinyOffline:
    """An offline agent's trace cell: what was played at random, evaluated at random as well."""
    cell = offline_cell(collect(root / "data"), agent, variant="cnn-softmoe2")
    phase = EvaluationPhase(agent_steps=100, epsilon=1.0)
    schedule = cell.spec.schedule.model_copy(update={"iteration_steps": 12, "evaluation_phase": phase})
    return replace(cell, spec=cell.spec.model_copy(update={"schedule": schedule}))


def record(agent: str, root: Path) -> dict[str, Any]:
    """Train the agent's trace cell and return what is compared."""
    cell = offline_cell_of(agent, root) if agent.startswith("cql") else cell_of(agent)
    cell.train(root)
    folder = root / "results" / "seed0" / "end"
    tensors, meta = load(folder / "resume.safetensors")
    log, _ = load(folder / "actions.safetensors")
    params = {name: value for name, value in tensors.items() if name.startswith("params/")}
    return {
        "revision": TRAINING_REVISION[AGENTS[agent]],
        "actions": hashlib.sha256(log["actions"].tobytes()).hexdigest(),
        "episode_lengths": log["episode_lengths"].tolist(),
        "rows": [vars(IterationRow(**row)) for row in meta["rows"]],
        "parameter_norms": {
            name: float((value.astype("f8") ** 2).sum() ** 0.5) for name, value in params.items()
        },
    }


if __name__ == "__main__":
    if os.environ.get("PJRT_NPROC") != "1":
        sys.exit("set PJRT_NPROC=1: the tests run on one thread, and the number of threads changes rounding")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or AGENTS:
        with tempfile.TemporaryDirectory() as scratch:
            trace = record(name, Path(scratch))
        (FOLDER / f"{name}.json").write_text(json.dumps(trace, indent=1) + "\n")
