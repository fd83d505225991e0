"""What an agent step of a cell costs, for `moerl plan`: CPU seconds, or seconds of a GPU.

    python benchmarks/bench_throughput.py --agent rainbow --variant impala-softmoe8

Trains Pong through the loop of `moerl train`, on the device that JAX finds, and times every
iteration but the first, which compiles. On a CPU what counts is the CPU time of the process, so that
other work on the machine disturbs little; on a GPU it is the wall-clock. The record replaces
the one of the same cell, device and number of seeds in results/throughput.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from moerl.cli.train import configure_jax
from moerl.study.checkout import processor
from moerl.study.config import load_study
from moerl.study.expansion import Cell, Study
from moerl.study.specs import AgentSpec, TrainSpec

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks" / "results" / "throughput.json"
GAME = "Pong"
EPISODE_STEPS = 200
"""Games are cut, so that an iteration may be short."""


def spec_of(study: Study, arguments: argparse.Namespace) -> TrainSpec:
    """The cell as the paper trains it, with a replay that fits a benchmark."""
    spec = study.train_spec(Cell(arguments.agent, arguments.variant, GAME))
    hyper = spec.hyper.model_dump() | {
        "replay_capacity": arguments.replay_capacity,
        "min_replay_history": 100,
        "epsilon_decay_period": None if spec.hyper.epsilon_decay_period is None else 1,
        "max_episode_steps": EPISODE_STEPS,
    }
    schedule = spec.schedule.model_copy(
        update={"iteration_steps": arguments.steps // arguments.iterations, "snapshot_every": 0}
    )
    update = {"hyper": AgentSpec(**hyper), "schedule": schedule, "cpu_threads": arguments.threads}
    return spec.model_copy(update=update)


def measure(spec: TrainSpec, rom: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds and counts of all iterations but the first, over all lanes."""
    from moerl.training.checkpoint import RunFolders
    from moerl.training.lane import Lane
    from moerl.training.loop import Options, train

    marks: list[tuple[float, float, int, int]] = []

    @dataclass
    class Timed(RunFolders):
        """Also notes the clocks whenever a lane ends an iteration."""

        counts: dict[int, tuple[int, int]] = field(default_factory=dict)

        def stamp(self, lane: Lane, seconds: float) -> None:
            super().stamp(lane, seconds)
            self.counts[len(lane.rows)] = (lane.agent_steps, lane.gradient_steps)
            marks.append((time.process_time(), time.monotonic(), lane.agent_steps, lane.gradient_steps))

    with tempfile.TemporaryDirectory() as folder:
        runs = {
            seed: Timed(Path(folder) / f"state{seed}" / "bench", Path(folder) / f"results{seed}")
            for seed in range(arguments.seeds)
        }
        train(spec, rom, dict(runs), arguments.iterations + 1, Options())
        first, last = marks[arguments.seeds - 1], marks[-1]
        counts = [(r.counts[1], r.counts[arguments.iterations + 1]) for r in runs.values()]
        resume = (Path(folder) / "results0" / "resume.safetensors").stat().st_size
    return {
        "agent_steps": sum(after[0] - before[0] for before, after in counts),
        "gradient_steps": sum(after[1] - before[1] for before, after in counts),
        "cpu_seconds": round(last[0] - first[0], 3),
        "wall_seconds": round(last[1] - first[1], 3),
        "resume_bytes": resume,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--study", type=Path, default=ROOT / "config" / "studies" / "paper.yaml")
    parser.add_argument("--agent", required=True)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--seeds", type=int, default=1, help="trained side by side")
    parser.add_argument("--steps", type=int, default=800, help="agent steps of each seed that are timed")
    parser.add_argument("--iterations", type=int, default=2, help="that these are cut into")
    parser.add_argument("--threads", type=int, default=1, help="XLA's threads on a CPU")
    parser.add_argument("--replay-capacity", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    study = load_study(arguments.study)
    spec = spec_of(study, arguments)
    configure_jax(spec.cpu_threads)
    load = os.getloadavg()[0]
    measured = measure(spec, study.games[GAME].rom, arguments)
    import jax

    device = jax.devices()[0]
    record: dict[str, Any] = {
        "agent": arguments.agent,
        "variant": arguments.variant,
        "seeds": arguments.seeds,
        "device": "cpu" if device.platform == "cpu" else "gpu",
        "device_kind": processor() if device.platform == "cpu" else device.device_kind,
        "threads": spec.cpu_threads,
        "date": datetime.now(UTC).date().isoformat(),
        "load_average_before": round(load, 2),
        "versions": {name: version(name) for name in ("moerl", "jax", "jaxlib")},
        **measured,
    }
    same = ("agent", "variant", "seeds", "device_kind", "threads")
    old = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    kept = [other for other in old if any(other[key] != record[key] for key in same)]
    records = sorted([*kept, record], key=lambda r: [str(r[key]) for key in same])
    arguments.out.write_text(json.dumps(records, indent=1) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
