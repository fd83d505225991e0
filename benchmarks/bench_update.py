"""Milliseconds of an update and a greedy action per network variant, and what two settings of ours change.

    python benchmarks/bench_update.py [--variants cnn-baseline cnn-softmoe8 …] [--threads 2]

A process measures all variants under one policy (batch 32, 6 actions): one update of each in turn, so that a
change in the machine's load meets all of them. Processes of all policies alternate: `moerl` is what `moerl
train` does, `return` returns freed memory to the system (glibc's default, see `keep_freed_memory`), `ynnpack`
leaves convolutions to YNNPACK (XLA's default, see `XLA_FLAGS`). Prints medians, and the ratio to the first
variant. Writes benchmarks/results/bench_update.json.
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
POLICIES = ("return", "ynnpack", "moerl")


def worker(policy: str, threads: int, variants: list[str]) -> None:
    """Measure the variants under one policy; prints a JSON line for each."""
    from moerl.cli import train

    if policy == "return":
        train.keep_freed_memory = lambda: None
    if policy == "ynnpack":
        del train.XLA_FLAGS["xla_cpu_experimental_ynn_fusion_type"]
    train.configure_jax(threads)
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
        print(json.dumps({"variant": variant, "policy": policy, "milliseconds": milliseconds}))


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
    """Run the policies in turn and print medians and ratios."""
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ["cnn-baseline", "cnn-softmoe8", "cnn-top1-8"]
    parser.add_argument("--variants", nargs="+", default=default)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of XLA")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "bench_update.json")
    arguments = parser.parse_args()
    record = {"hardware": hardware(), "threads": arguments.threads}
    rows = []
    for _ in range(arguments.repeats):
        for policy in POLICIES:
            command = [sys.executable, __file__, "--worker", policy, str(arguments.threads)]
            done = subprocess.run([*command, *arguments.variants], capture_output=True, text=True, check=True)
            rows += [json.loads(line) for line in done.stdout.splitlines()]
    for what in ("update", "act"):
        for variant in arguments.variants:
            found = {policy: median(rows, variant, policy, what) for policy in POLICIES}
            times = found["moerl"] / median(rows, arguments.variants[0], "moerl", what)
            shown = ", ".join(f"{policy} {ms:.2f}" for policy, ms in found.items())
            print(f"{variant:<16} {what:<7} {shown} ms; {times:.2f} times the first")
    record["measurements"] = rows
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(record) + "\n")


def median(rows: list[dict[str, Any]], variant: str, policy: str, what: str) -> float:
    """Over all processes."""
    mine = [r for r in rows if (r["variant"], r["policy"]) == (variant, policy)]
    return statistics.median(t for r in mine for t in r["milliseconds"][what])


if __name__ == "__main__":
    main()
