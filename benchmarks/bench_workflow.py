"""Time and memory of planning: Snakemake's dry run and `moerl plan`, against the number of jobs.

    python benchmarks/bench_workflow.py [--jobs 1000 3000 10000 30000]

First the paper study as it is (`all`, one figure, `moerl plan`), then its Figure 1 with one job per
seed and as many seeds as it takes to reach each number of jobs. Every command plans from an empty
results folder, in a process of its own, one at a time; wall-clock seconds and the process's greatest
resident memory. Writes benchmarks/results/workflow.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from bench_train import hardware

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "config" / "studies" / "paper.yaml"
FIGURE = "fig06"
SCALED = "fig01"
BARS = {"snakemake -n all": 30.0, f"snakemake -n {FIGURE}": 10.0, "moerl plan": 5.0}
"""Seconds that planning the paper study may take on two cores."""
MEMORY_BAR = 2.0  # GB
Result = dict[str, Any]


def timed(arguments: list[str]) -> Result:
    """Run a command of this environment from the project's root: seconds, GB and the jobs it planned."""
    tools = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(tools / arguments[0]), *arguments[1:]],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if status:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{text[-2000:]}")
    total = re.search(r"^total\s+(\d+)$", text, re.MULTILINE)
    jobs = int(total.group(1)) if total else None
    return {"seconds": round(seconds, 2), "gigabytes": round(usage.ru_maxrss / 1e6, 3), "jobs": jobs}


def dry_run(study: Path, target: str) -> Result:
    """A dry run of `target` as if nothing had been trained."""
    return timed(["snakemake", "-n", "--quiet", "rules", "--forceall", target, "--configfile", str(study)])


def paper() -> dict[str, Result]:
    """The paper study as it is."""
    return {
        "snakemake -n all": dry_run(PAPER, "all"),
        f"snakemake -n {FIGURE}": dry_run(PAPER, FIGURE),
        "moerl plan": timed(["moerl", "plan", "--study", str(PAPER)]),
    }


def scaled(jobs: int, folder: Path) -> Result:
    """Figure 1 of the paper study with about this many jobs, one per seed."""
    study = yaml.safe_load(PAPER.read_text(encoding="utf-8"))
    study |= {"name": f"scale{jobs}", "figures": {SCALED: {}}, "seeds_per_job": 1}
    per_seed = dry_run(_written(study | {"seeds": [0]}, folder), SCALED)["jobs"]
    study["seeds"] = list(range(max(1, round(jobs / per_seed))))
    return dry_run(_written(study, folder), SCALED)


def _written(study: Result, folder: Path) -> Path:
    path = folder / f"{study['name']}.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1000, 3000, 10_000, 30_000])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "workflow.json")
    arguments = parser.parse_args()
    record: Result = {"date": datetime.now(UTC).date().isoformat(), "hardware": hardware()}
    record["paper"] = paper()
    for name, row in record["paper"].items():
        kept = row["seconds"] <= BARS[name] and row["gigabytes"] <= MEMORY_BAR
        verdict = "within" if kept else "BEYOND"
        print(f"{name}: {row['seconds']} s, {row['gigabytes']} GB, {verdict} its bar")
    with tempfile.TemporaryDirectory() as folder:
        record["scaled"] = [scaled(jobs, Path(folder)) for jobs in arguments.jobs]
    for row in record["scaled"]:
        print(f"{row['jobs']} jobs: {row['seconds']} s, {row['gigabytes']} GB")
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if not all(r["seconds"] <= BARS[n] and r["gigabytes"] <= MEMORY_BAR for n, r in record["paper"].items()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
