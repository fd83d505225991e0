"""Agent steps per second of packed runs: P processes × L lanes on one device, training included.

    python benchmarks/bench_lanes.py --processes 1 4 --lanes 1 4 [--variant V] [--seconds 20] [--json FILE]

Each process runs the production round loop on a filled replay with ε = 0.01. Prints one line per
(P, L) with the sum over processes; compilation and replay filling are left out of the timing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STUDY = Path(__file__).parents[1] / "config" / "studies" / "paper.yaml"


def worker(variant: str, game: str, lanes: int, first_seed: int, seconds: float, go: Path) -> None:
    """Time one process; prints a JSON line."""
    from moerl.cli.train import configure_jax

    configure_jax(threads=max(1, len(os.sched_getaffinity(0)) // 2))
    import jax

    from moerl.agents.value import ValueAgent
    from moerl.study.config import load_study
    from moerl.study.expansion import Cell
    from moerl.training.lane import Lane
    from moerl.training.online import Pack

    study = load_study(STUDY)
    spec = study.train_spec(Cell("dqn", variant, game))
    quick = {"replay_capacity": 20_000, "min_replay_history": 500, "epsilon_decay_period": 1}
    spec = spec.model_copy(update={"hyper": spec.hyper.model_copy(update=quick)})
    agent = ValueAgent(spec.hyper, spec.network, spec.num_actions)
    seeds = range(first_seed, first_seed + lanes)
    pack = Pack.create(spec, study.games[game].rom, [Lane.fresh(spec, seed, agent) for seed in seeds], agent)
    active = list(range(lanes))
    for _ in range(600):
        pack.round(active)
    Path(f"{go}.ready{first_seed}").touch()
    while not go.exists():
        time.sleep(0.01)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(16):
            pack.round(active)
        steps += 16 * lanes
    jax.block_until_ready([lane.learner for lane in pack.lanes])
    elapsed = time.perf_counter() - start
    facts = {"steps": steps, "seconds": elapsed, "device": jax.devices()[0].device_kind}
    print(json.dumps(facts), flush=True)


def measure(variant: str, game: str, processes: int, lanes: int, seconds: float) -> dict[str, object]:
    """Run P workers at once and add up their rates."""
    go = Path(tempfile.mkdtemp()) / "go"
    command = [sys.executable, __file__, "--worker", variant, game, str(lanes)]
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    workers = [
        subprocess.Popen(
            [*command, str(100 * i), str(seconds), str(go)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for i in range(processes)
    ]
    ready = [Path(f"{go}.ready{100 * i}") for i in range(processes)]
    while not all(path.exists() for path in ready) and all(w.poll() is None for w in workers):
        time.sleep(0.05)
    go.touch()
    facts = [json.loads(w.communicate()[0].splitlines()[-1]) for w in workers]
    for path in (go, *ready):
        path.unlink(missing_ok=True)
    rate = sum(f["steps"] / f["seconds"] for f in facts)
    return {
        "variant": variant,
        "game": game,
        "processes": processes,
        "lanes": lanes,
        "agent_steps_per_second": round(rate, 1),
        "frames_per_second": round(4 * rate, 1),
        "device": facts[0]["device"],
        "cpus": len(os.sched_getaffinity(0)),
        "host_cpu": platform.processor() or platform.machine(),
    }


def main() -> None:
    """Parse the command line."""
    if sys.argv[1:2] == ["--worker"]:
        variant, game, lanes, first_seed, seconds, go = sys.argv[2:]
        worker(variant, game, int(lanes), int(first_seed), float(seconds), Path(go))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1])
    parser.add_argument("--lanes", type=int, nargs="+", default=[1])
    parser.add_argument("--variant", default="cnn-baseline")
    parser.add_argument("--game", default="Pong")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for processes in arguments.processes:
        for lanes in arguments.lanes:
            row = measure(arguments.variant, arguments.game, processes, lanes, arguments.seconds)
            rows.append(row)
            print(json.dumps(row), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
