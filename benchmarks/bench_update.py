"""Milliseconds of an update and a greedy action per network variant, with and without reusing freed memory.

    python benchmarks/bench_update.py [--variants cnn-baseline cnn-softmoe8 …]

A process measures all variants under one memory policy (two XLA threads, batch 32, 6 actions): one update
of each in turn, so that a change in the machine's load meets all of them. `keep` is what `moerl train` does
(`keep_freed_memory`), `return` is glibc's default; processes of both alternate. Prints medians, and the ratio
to the first variant. Writes benchmarks/results/bench_update.json.
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

from bench_train import hardware

ROOT = Path(__file__).parents[1]


UPDATES, ACTIONS = 40, 200


def worker(memory: str, variants: list[str]) -> None:
    """Measure the variants under one memory policy; prints a JSON line for each."""
    from moerl.cli import train

    if memory == "return":
        train.keep_freed_memory = lambda: None
    train.configure_jax(threads=2)
    import jax
    import numpy as np

    from moerl.agents.value import Batch, ValueAgent
    from moerl.study.config import load_study
    from moerl.study.expansion import Cell

    study = load_study(ROOT / "config" / "studies" / "paper.yaml")
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(2, 32, 4, 84, 84), dtype=np.uint8)
    flags = np.zeros(32, dtype=np.bool_)
    batch = Batch(frames[0], np.zeros(32, np.int32), np.ones(32, np.float32), frames[1], flags)
    key = jax.random.key(0)

    def calls(variant: str) -> dict[str, Callable[[], Any]]:
        spec = study.train_spec(Cell("dqn", variant, "Pong"))
        agent = ValueAgent(spec.hyper, spec.network, spec.num_actions)
        learner = jax.jit(agent.init)(key)
        update, greedy = jax.jit(agent.update, donate_argnums=0), jax.jit(agent.greedy_action)

        def one_update() -> None:
            nonlocal learner
            learner, _ = jax.block_until_ready(update(learner, batch, key))

        return {"update": one_update, "act": lambda: int(greedy(learner.params, frames[0, 0]))}

    made = {variant: calls(variant) for variant in variants}
    updates = timed({variant: one["update"] for variant, one in made.items()}, UPDATES)
    actions = timed({variant: one["act"] for variant, one in made.items()}, ACTIONS)
    for variant in variants:
        milliseconds = {"update": updates[variant], "act": actions[variant]}
        print(json.dumps({"variant": variant, "memory": memory, "milliseconds": milliseconds}))


def timed(work: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each of `repeats` calls of each, in turn, after three that compile and warm up."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(3 + repeats):
        for name, call in work.items():
            start = time.perf_counter()
            call()
            if repeat >= 3:
                found[name].append(round((time.perf_counter() - start) * 1e3, 3))
    return found


def main() -> None:
    """Run both policies in turn and print medians and ratios."""
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ["cnn-baseline", "cnn-softmoe8", "cnn-top1-8"]
    parser.add_argument("--variants", nargs="+", default=default)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows = []
    for _ in range(arguments.repeats):
        for memory in ("return", "keep"):
            command = [sys.executable, __file__, "--worker", memory, *arguments.variants]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows += [json.loads(line) for line in done.stdout.splitlines()]
    for what in ("update", "act"):
        for variant in arguments.variants:
            before, after = (median(rows, variant, memory, what) for memory in ("return", "keep"))
            times = after / median(rows, arguments.variants[0], "keep", what)
            print(f"{variant:<16} {what:<7} {before:7.2f} → {after:7.2f} ms, {times:.2f} times the first")
    record = {"hardware": hardware(), "measurements": rows}
    out = ROOT / "benchmarks" / "results" / "bench_update.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n")


def median(rows: list[dict[str, Any]], variant: str, memory: str, what: str) -> float:
    """Over all processes."""
    mine = [r for r in rows if (r["variant"], r["memory"]) == (variant, memory)]
    return statistics.median(t for r in mine for t in r["milliseconds"][what])


if __name__ == "__main__":
    main()
