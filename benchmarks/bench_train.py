"""Training speed of moerl against the paper-era code: Pong, Nature CNN, one run at a time.

    python benchmarks/bench_train.py --oracle-python .venv-oracle/bin/python [--agent rainbow]

The two sides run in turn, `--repeats` times, on the same cores, with the same settings
(settings.py), so a change in the machine's load meets both. Prints the agent steps per second and
the ratio of each pair, and writes every raw number to benchmarks/results/. Run it on a quiet
machine: it records the load average it started under.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from settings import Cell

HERE = Path(__file__).parent
AGENTS = {"dqn": "DQN", "rainbow": "Rainbow"}
MODULES = {"Baseline": ("baseline", 1), "SoftMoE-8": ("softmoe", 8)}
LENGTHS = {"dqn": (5, 1000, 4), "rainbow": (3, 600, 2)}
"""Repeats, agent steps per iteration and iterations of each agent, if not said otherwise."""
GAME, NUM_ACTIONS = "Pong", 6
Result = dict[str, Any]


def measure(python: str, script: str, cell: Cell) -> Result:
    """One side's measurement of a cell, in a process of its own."""
    # The oracle's jax is CPU only; the comparison is of CPUs on both sides.
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [python, "-W", "ignore", str(HERE / script), cell.to_json()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr}")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def run_pairs(arguments: argparse.Namespace) -> list[Result]:
    """Both sides of every cell in turn; which side goes first alternates between repeats."""
    sides = [(arguments.oracle_python, "oracle_side.py"), (sys.executable, "moerl_side.py")]
    pairs = []
    for repeat in range(arguments.repeats):
        for title, (module, num_experts) in MODULES.items():
            name = f"{AGENTS[arguments.agent]} {title}"
            cell = Cell(
                agent=arguments.agent,
                module=module,
                num_experts=num_experts,
                game=GAME,
                num_actions=NUM_ACTIONS,
                seed=repeat,
                iteration_steps=arguments.iteration_steps,
                iterations=arguments.iterations,
            )
            ordered = sides if repeat % 2 == 0 else sides[::-1]
            results = {r["side"]: r for r in (measure(*side, cell) for side in ordered)}
            speeds = {side: r["agent_steps_per_second"] for side, r in results.items()}
            ratio = speeds["moerl"] / speeds["oracle"]
            written = asdict(cell) | {"hyper": cell.hyper}
            pairs.append({"name": name, "repeat": repeat, "ratio": ratio, "cell": written} | results)
            print(
                f"{name}, repeat {repeat}: oracle {speeds['oracle']:.1f}, moerl {speeds['moerl']:.1f} "
                f"agent steps/s, ratio {ratio:.2f}",
                file=sys.stderr,
            )
    return pairs


def summarise(pairs: list[Result]) -> list[Result]:
    """Medians over repeats, per cell in the order measured; the ratio is the median of the pairs' ratios."""
    rows = []
    for name in dict.fromkeys(pair["name"] for pair in pairs):
        mine = [pair for pair in pairs if pair["name"] == name]
        ratios = [pair["ratio"] for pair in mine]
        speed = {
            side: statistics.median(pair[side]["agent_steps_per_second"] for pair in mine)
            for side in ("oracle", "moerl")
        }
        rows.append(
            {
                "name": name,
                "oracle": speed["oracle"],
                "moerl": speed["moerl"],
                "ratio": statistics.median(ratios),
                "least_ratio": min(ratios),
                "greatest_ratio": max(ratios),
            }
        )
    return rows


def table(rows: list[Result]) -> str:
    lines = [
        "agent steps/s, median   oracle    moerl    ratio (least to greatest)",
        *(
            f"{r['name']:<20} {r['oracle']:>9.1f} {r['moerl']:>8.1f} {r['ratio']:>8.2f}"
            f" ({r['least_ratio']:.2f} to {r['greatest_ratio']:.2f})"
            for r in rows
        ),
    ]
    return "\n".join(lines)


def hardware() -> Result:
    cpu = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores_used": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average_before": os.getloadavg(),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--oracle-python", required=True, help="interpreter of the oracle's environment")
    parser.add_argument("--agent", choices=LENGTHS, default="dqn")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--iteration-steps", type=int, help="agent steps per iteration")
    parser.add_argument("--iterations", type=int, help="the first is the warm-up and is not timed")
    parser.add_argument("--out", type=Path, help="default: results/bench_train_<agent>.json")
    arguments = parser.parse_args()
    lengths = zip(("repeats", "iteration_steps", "iterations"), LENGTHS[arguments.agent], strict=True)
    for name, default in lengths:
        if getattr(arguments, name) is None:
            setattr(arguments, name, default)
    arguments.out = arguments.out or HERE / "results" / f"bench_train_{arguments.agent}.json"
    if arguments.iterations < 2:
        parser.error("--iterations must be at least 2: the first one is not timed")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    facts = {"date": datetime.now(UTC).date().isoformat(), "hardware": hardware()}
    pairs = run_pairs(arguments)
    rows = summarise(pairs)
    print(table(rows))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    document = facts | {"summary": rows, "pairs": pairs}
    arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
