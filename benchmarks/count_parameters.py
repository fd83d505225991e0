"""Count the parameters of every variant under every agent into results/parameters.json, for `moerl plan`.

    python benchmarks/count_parameters.py

What is not in the file is counted when it is needed, which takes a second or so.
"""

from __future__ import annotations

from pathlib import Path

from moerl.cli.sizes import write
from moerl.cli.train import configure_jax
from moerl.study.config import shared_agents
from moerl.study.variants import load_variants

ROOT = Path(__file__).parents[1]

if __name__ == "__main__":
    configure_jax(1)
    agents = list(shared_agents(ROOT / "config").values())
    networks = list(load_variants(ROOT / "config" / "networks.yaml").values())
    write(ROOT / "benchmarks" / "results" / "parameters.json", [(a, n) for a in agents for n in networks])
