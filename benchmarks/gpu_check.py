"""Does training on this device compute what it computes on a CPU, and the same every time?

    python benchmarks/gpu_check.py

Trains the golden trace cell several times on the default JAX device: twice alone and once packed with another
seed must give identical bytes; against the committed CPU trace the differences are printed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "training"))


def main() -> None:
    """Run and print one line per comparison; exits with 1 if repeats differ."""
    from moerl.cli.train import configure_jax

    configure_jax(threads=1)
    import jax
    from golden_trace import AGENTS, FOLDER, cell_of, record

    print("device", jax.devices()[0].device_kind, "jax", jax.__version__)
    good = True
    for agent in AGENTS:
        golden = json.loads((FOLDER / f"{agent}.json").read_text())
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            now = record(agent, root / "trace")
            cell = cell_of(agent)
            alone = [cell.train(root / str(i), seeds=(0,))[0] for i in range(2)]
            packed = cell.train(root / "packed", seeds=(0, 1))[0]
        print(agent, "repeat identical:", alone[0] == alone[1], "| packed identical:", alone[0] == packed)
        good &= alone[0] == alone[1] == packed
        print(agent, "actions equal to the CPU's:", now["actions"] == golden["actions"])
        for new, old in zip(now["rows"], golden["rows"], strict=True):
            loss = abs(new["mean_loss"] / old["mean_loss"] - 1)
            print(agent, "iteration", old["iteration"], "loss, relative difference:", f"{loss:.2e}")
        norms = [abs(now["parameter_norms"][k] / v - 1) for k, v in golden["parameter_norms"].items()]
        print(agent, "parameter norms, largest relative difference:", f"{max(norms):.2e}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
