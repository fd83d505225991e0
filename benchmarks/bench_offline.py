"""Offline training: how much of a step's time the device waits for its batch, frames in memory and on disk.

    python benchmarks/bench_offline.py [--transitions N] [--variant V] [--disk FOLDER] [--json FILE]

The production loop on a subset of random frames, against the same updates on one fixed batch, which wait
for nothing, in turn. `waiting` is the share of a step that the loop takes longer. With `--disk`, frames are
in a file there, and the page cache is emptied first where that is allowed (root).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

STUDY = Path(__file__).parents[1] / "config" / "studies" / "paper.yaml"
GAME = "Pong"
PAIRS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--agent", default="cql_c51")
    parser.add_argument("--variant", default="cnn-baseline")
    parser.add_argument("--transitions", type=int, default=250_000)
    parser.add_argument("--steps", type=int, default=200, help="Gradient steps of each measurement.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--disk", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    from moerl.cli.train import configure_jax

    configure_jax(arguments.threads)
    found = measure(arguments)
    print(json.dumps(found, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Steps per second of both, pair by pair, and the share of time spent waiting."""
    import jax
    import numpy as np

    from moerl.agents.value import ValueAgent
    from moerl.offline.subset import Subset, frames_on_disk
    from moerl.replay.ring import FrameRing
    from moerl.study.config import load_study
    from moerl.study.expansion import Cell
    from moerl.training.offline import OfflinePack
    from moerl.training.offline_lane import OfflineLane

    spec = load_study(STUDY).train_spec(Cell(arguments.agent, arguments.variant, GAME))
    agent = ValueAgent(spec.hyper, spec.network, spec.num_actions)
    count = arguments.transitions
    frames = None if arguments.disk is None else frames_on_disk(arguments.disk, count)
    ring = FrameRing(count, spec.hyper.n_step, spec.hyper.gamma, frames=frames)
    rng = np.random.default_rng(0)
    for start in range(0, count, 10_000):
        part = ring.frames[start : start + 10_000]
        part[:] = rng.integers(256, size=part.shape, dtype=np.uint8)
    ring.actions[:] = rng.integers(spec.num_actions, size=count)
    subset = Subset(ring, np.arange(4, count - 4))
    cold = arguments.disk is not None and forget(ring.frames)
    lane = OfflineLane.fresh(spec, 0, agent)
    lane.learn_from(subset)
    pack = OfflinePack(spec, [lane], agent)
    batch = lane.sample_batch()

    def fixed() -> None:
        learner, _ = pack._update(lane.learner, batch, lane.update_key, lane.gradient_steps)
        lane.learner = learner

    def rate(step: Any) -> float:
        jax.block_until_ready(lane.learner)
        start = time.perf_counter()
        for _ in range(arguments.steps):
            step()
        jax.block_until_ready(lane.learner)
        return arguments.steps / (time.perf_counter() - start)

    for _ in range(3):  # compile
        fixed()
        pack.round([0])
    if cold:
        forget(ring.frames)
    pairs = [(rate(fixed), rate(lambda: pack.round([0]))) for _ in range(PAIRS)]
    waiting = [max(0.0, 1 - real / free) for free, real in pairs]
    return {
        "agent": arguments.agent,
        "variant": arguments.variant,
        "transitions": count,
        "frames": "memory" if arguments.disk is None else "disk, page cache emptied" if cold else "disk",
        "device": jax.devices()[0].device_kind,
        "processor": platform.processor() or platform.machine(),
        "threads": arguments.threads,
        "cores": len(os.sched_getaffinity(0)),
        "date": time.strftime("%Y-%m-%d"),
        "steps_per_second": [{"fixed_batch": round(f, 2), "training": round(r, 2)} for f, r in pairs],
        "waiting": round(statistics.median(waiting), 4),
    }


def forget(frames: Any) -> bool:
    """Write a memory map back and empty the page cache; whether that was allowed."""
    frames.flush()
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
