"""Where the time of an agent step goes: milliseconds of each stage, one run on Pong, and what they add up to.

    python benchmarks/bench_stages.py [--agent rainbow] [--variants cnn-baseline cnn-softmoe8 …] [--threads 2]

Every stage is timed alone, on a real replay memory and emulator. `targets`, `gradient` and `adam` are parts
of `update` compiled on their own, so their sum differs from it. Writes results/bench_stages_<agent>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moerl.cli.train import configure_jax
from moerl.study.config import load_study
from moerl.study.expansion import Cell

ROOT = Path(__file__).parents[1]
GAME = "Pong"
FILLED = 2_000
"""Transitions in the replay memory, so many that a batch lies scattered in memory."""
OUTSIDE_UPDATES = ("act", "step", "store")
PER_UPDATE = ("sample", "update", "priorities")


def timed(work: Callable[[], Any], repeats: int) -> float:
    """Median milliseconds of a call, after three that compile and warm up."""
    for _ in range(3):
        work()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        found.append((time.perf_counter() - start) * 1e3)
    return statistics.median(found)


def stages(agent_name: str, variant: str) -> dict[str, float]:
    """Milliseconds of each stage of one cell."""
    import jax
    import numpy as np

    from moerl.agents.value import ValueAgent
    from moerl.training.lane import Lane
    from moerl.training.online import Pack

    study = load_study(ROOT / "config" / "studies" / "paper.yaml")
    spec = study.train_spec(Cell(agent_name, variant, GAME))
    small = spec.hyper.model_copy(update={"replay_capacity": 20_000})
    spec = spec.model_copy(update={"hyper": small})
    agent = ValueAgent(spec.hyper, spec.network, spec.num_actions)
    lane = Lane.fresh(spec, 0, agent)
    pack = Pack.create(spec, study.games[GAME].rom, [lane], agent)
    rng = np.random.default_rng(0)
    pack._choose = lambda lane: int(rng.integers(spec.num_actions))  # fill the memory at random
    for _ in range(FILLED):
        pack.round([0])
    del pack._choose

    slots, batch = lane.sample_batch()
    batch = jax.device_put(batch)
    keys = jax.random.split(jax.random.key(0), spec.hyper.batch_size) if spec.hyper.noisy else None
    targets = jax.jit(agent.targets)
    gradient = jax.jit(jax.value_and_grad(agent.loss))
    adam = jax.jit(agent.apply_gradients, donate_argnums=0)
    wanted = jax.block_until_ready(targets(lane.learner, batch, lane.update_key))
    _, gradients = jax.block_until_ready(gradient(lane.learner.params, wanted, batch, keys))
    priorities = np.full(spec.hyper.batch_size, 0.5, np.float32)

    def update() -> None:
        lane.learner, _ = jax.block_until_ready(pack._update(lane.learner, batch, lane.update_key, 1))

    def one_adam() -> None:
        lane.learner = jax.block_until_ready(adam(lane.learner, gradients))

    def act() -> None:
        int(pack._greedy(lane.learner.params, lane.stack, lane.act_key, 1))

    def store() -> None:
        before = lane.ring.add_count
        lane.ring.add(lane.stack[-1], 0, 0.0, False, False)
        if lane.priorities is not None:
            lane.priorities.insert(before, lane.ring.add_count)

    return {
        "act": timed(act, 300),
        "step": timed(lambda: pack.env.step(np.zeros(1, np.int32)), 300),
        "store": timed(store, 300),
        "sample": timed(lambda: jax.block_until_ready(lane.sample_batch()[1].state), 100),
        "update": timed(update, 40),
        "priorities": timed(lambda: lane.set_priorities(slots, priorities), 100),
        "of update: targets": timed(
            lambda: jax.block_until_ready(targets(lane.learner, batch, lane.update_key)), 40
        ),
        "of update: gradient": timed(
            lambda: jax.block_until_ready(gradient(lane.learner.params, wanted, batch, keys)), 40
        ),
        "of update: adam": timed(one_adam, 40),
    }


def main() -> None:
    """Time the variants in turn and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--agent", default="rainbow")
    parser.add_argument("--variants", nargs="+", default=["cnn-baseline", "cnn-softmoe8", "cnn-top1-8"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    configure_jax(arguments.threads)
    load = os.getloadavg()
    found = {variant: stages(arguments.agent, variant) for variant in arguments.variants}
    for times in found.values():
        # An update every fourth agent step, at the paper's replay ratio.
        times["agent step"] = sum(times[s] for s in OUTSIDE_UPDATES) + sum(times[s] for s in PER_UPDATE) / 4
    print("| ms | " + " | ".join(found) + " |")
    print("|---|" + "---:|" * len(found))
    for stage in next(iter(found.values())):
        print(f"| {stage} | " + " | ".join(f"{times[stage]:.2f}" for times in found.values()) + " |")
    record = {"threads": arguments.threads, "load_average_before": load, "milliseconds": found}
    out = ROOT / "benchmarks" / "results" / f"bench_stages_{arguments.agent}.json"
    out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written to {out.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
