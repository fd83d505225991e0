"""Milliseconds of one update and one greedy action, with and without reusing freed memory.

    python benchmarks/bench_update.py [--variants cnn-baseline cnn-softmoe8 …]

Each measurement is a process of its own (two XLA threads, batch 32, 6 actions); the two memory policies
run in turn, so a change in the machine's load meets both. `keep` is what `moerl train` does
(`keep_freed_memory`), `return` is glibc's default. Writes benchmarks/results/bench_update.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def worker(variant: str, memory: str) -> None:
    """Measure one variant under one memory policy; prints a JSON line."""
    from moerl.cli import train

    if memory == "return":
        train.keep_freed_memory = lambda: None
    train.configure_jax(threads=2)
    import jax
    import numpy as np

    from moerl.agents.value import Batch, ValueAgent
    from moerl.study.config import load_study
    from moerl.study.expansion import Cell

    spec = load_study(ROOT / "config" / "studies" / "paper.yaml").train_spec(Cell("dqn", variant, "Pong"))
    agent = ValueAgent(spec.hyper, spec.network, spec.num_actions)
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(2, 32, 4, 84, 84), dtype=np.uint8)
    flags = np.zeros(32, dtype=np.bool_)
    batch = Batch(frames[0], np.zeros(32, np.int32), np.ones(32, np.float32), frames[1], flags)
    key = jax.random.key(0)
    learner = jax.jit(agent.init)(key)
    update, greedy = jax.jit(agent.update, donate_argnums=0), jax.jit(agent.greedy_action)

    def one_update() -> None:
        nonlocal learner
        learner, _ = jax.block_until_ready(update(learner, batch, key))

    milliseconds = {
        "update": timed(one_update, 40),
        "act": timed(lambda: int(greedy(learner.params, frames[0, 0])), 200),
    }
    print(json.dumps({"variant": variant, "memory": memory, "milliseconds": milliseconds}))


def timed(work: Callable[[], Any], repeats: int) -> list[float]:
    """Milliseconds of each of `repeats` calls, after three that compile and warm up."""
    for _ in range(3):
        work()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        found.append(round((time.perf_counter() - start) * 1e3, 3))
    return found


def main() -> None:
    """Run every pair in turn and print medians and ratios."""
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ["cnn-baseline", "cnn-softmoe8", "cnn-top1-8"]
    parser.add_argument("--variants", nargs="+", default=default)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows = []
    for _ in range(arguments.repeats):
        for variant in arguments.variants:
            for memory in ("return", "keep"):
                command = [sys.executable, __file__, "--worker", variant, memory]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                rows.append(json.loads(done.stdout.splitlines()[-1]))
    for variant in arguments.variants:
        for what in ("update", "act"):
            median = {
                memory: statistics.median(
                    t
                    for r in rows
                    if (r["variant"], r["memory"]) == (variant, memory)
                    for t in r["milliseconds"][what]
                )
                for memory in ("return", "keep")
            }
            ratio = median["return"] / median["keep"]
            print(f"{variant:<16} {what:<7} {median['return']:7.2f} → {median['keep']:7.2f} ms, ×{ratio:.2f}")
    out = ROOT / "benchmarks" / "results" / "bench_update.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
