"""`moerl plan`: what figures take before anything runs, from what is there and from benchmark records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from moerl.cli.sizes import Sizes
from moerl.study.config import config_dir, shared_agents
from moerl.study.costs import Cost, Device, cost, read_records
from moerl.study.expansion import Cell, Study
from moerl.study.plan import Work, group, work
from moerl.study.sizes import KNOWN
from moerl.study.specs import FRAMES_PER_STEP, STACK_SIZE, Replay
from moerl.study.standing import Standing
from moerl.study.status import study_runs

RECORDS = KNOWN.with_name("throughput.json")
"""What was measured (benchmarks/bench_throughput.py)."""
DEVICES: tuple[Device, ...] = ("gpu", "cpu")
_BYTES_PER_PARAMETER = 16  # of a checkpoint: network, target network and Adam's two moments, float32
_FRAME_BYTES = 84 * 84
_PRIORITY_BYTES = 4


@dataclass
class Hours:
    """Hours on one kind of device."""

    measured: float = 0.0
    """Of runs whose cell was measured."""
    extrapolated: float = 0.0
    """Of runs whose cost is that of the most similar cell measured."""

    @property
    def total(self) -> float:
        """Both."""
        return self.measured + self.extrapolated


@dataclass
class Estimate:
    """What the work left for a figure takes."""

    hours: dict[Device, Hours | None] = field(default_factory=dict)
    """None: nothing of that kind was ever measured."""
    disk_bytes: int = 0


class Estimator:
    """Turns work into hours and bytes, and remembers on which records they rest."""

    def __init__(self, study: Study, records_file: Path, sizes_file: Path) -> None:
        self._study, self._agents = study, shared_agents(config_dir(study.path)) | study.agents
        self._records = read_records(records_file)
        self._sizes = Sizes(sizes_file)
        self._costs: dict[tuple[str, str, Device], Cost | None] = {}
        self.basis: dict[str, dict[str, set[str]]] = {}
        """Record in words → cells it was measured on or stands for."""

    def estimate(self, left: Work) -> Estimate:
        """Hours and bytes of what is left for a figure."""
        found = Estimate({device: self._hours(left, device) for device in DEVICES})
        for cell, milestones in left.published.items():
            found.disk_bytes += sum(
                runs * self._run_bytes(cell, milestone) for milestone, runs in milestones.items()
            )
        return found

    def _hours(self, left: Work, device: Device) -> Hours | None:
        if not self._cost_known(device):
            return None
        hours = Hours()
        for cell, steps in left.steps.items():
            known = self._cost(cell, device)
            if known is None or not steps:
                continue
            kind = "measured" if known.measured else "extrapolated"
            setattr(hours, kind, getattr(hours, kind) + steps * known.seconds / 3600)
            rests = self.basis.setdefault(known.record.describe(), {})
            rests.setdefault(kind, set()).add(f"{cell.agent} {cell.variant}")
        return hours

    def _cost_known(self, device: Device) -> bool:
        return any(
            r.device == device and r.agent in self._agents and r.variant in self._study.variants
            for r in self._records
        )

    def _cost(self, cell: Cell, device: Device) -> Cost | None:
        key = cell.agent, cell.variant, device
        if key not in self._costs:
            self._costs[key] = cost(*key, self._records, self._agents, self._study.variants)
        return self._costs[key]

    def _run_bytes(self, cell: Cell, milestone: str) -> int:
        """Bytes that one run publishes at a milestone; checkpoints in progress take more for a while."""
        study, hyper = self._study, self._study.agents[cell.agent]
        size = self._sizes.of(hyper, study.variants[cell.variant])
        parameters = size.parameters(study.games[cell.game].num_actions)
        priorities = _PRIORITY_BYTES * hyper.replay_capacity if hyper.replay is Replay.PRIORITISED else 0
        actions = study.lengths[milestone] // FRAMES_PER_STEP
        if study.offline is not None and hyper.offline:
            actions = study.offline.iterations * study.offline.evaluation.agent_steps
        snapshots = 0
        schedule = study.train_spec(cell).schedule
        if schedule.snapshot_every:
            batch = 2 * STACK_SIZE * _FRAME_BYTES * hyper.batch_size * schedule.snapshot_batches
            snapshots = study.iterations(milestone) // schedule.snapshot_every * (8 * parameters + batch)
        return _BYTES_PER_PARAMETER * parameters + priorities + actions + snapshots


def make_plan(standing: Standing, figures: Sequence[str], records_file: Path = RECORDS) -> dict[str, Any]:
    """The plan as plain data, for `--json` and for the table.

    Raises UserError on an unknown figure, or a record of a divergence that cannot be read.
    """
    study = standing.study
    names = list(figures) or [name for name in study.listed if name not in study.on_request]
    left = work(standing, names)
    estimator = Estimator(study, records_file, KNOWN)
    rows = [_row(name, left[name], estimator.estimate(left[name])) for name in names]
    runs = {name: study.listed_runs(name) for name in names}
    total: dict[str, Any] = {
        key: sum(row[key] for row in rows)
        for key in ("new_runs", "train_jobs", "analyse_jobs", "jobs", "agent_steps", "disk_bytes")
    }
    for device in DEVICES:
        parts = [row[f"{device}_hours"] for row in rows]
        known = [part for part in parts if part is not None]
        total[f"{device}_hours"] = (
            {kind: sum(part[kind] for part in known) for kind in ("measured", "extrapolated", "total")}
            if len(known) == len(parts)
            else None
        )
    drawn = [name for name in names if name in study.figures]
    longest = study_runs(study, drawn) if drawn else []
    total["done"] = sum(standing.published(run) for run in longest)
    total["diverged"] = sum(
        standing.divergence(run) is not None for run in longest if not standing.published(run)
    )
    return {
        "study": study.name,
        "figures": rows,
        "total": total,
        "evaluation": study.evaluation is not None or any(a.offline for a in study.agents.values()),
        "runs_by_kind": group(runs, study.lengths),
        "basis": [
            {"record": record, **{kind: sorted(cells) for kind, cells in rests.items()}}
            for record, rests in estimator.basis.items()
        ],
        "records": str(records_file),
    }


def _row(name: str, left: Work, estimate: Estimate) -> dict[str, Any]:
    hours = {
        f"{device}_hours": None
        if (known := estimate.hours[device]) is None
        else {"measured": known.measured, "extrapolated": known.extrapolated, "total": known.total}
        for device in DEVICES
    }
    return {
        "figure": name,
        "runs": left.counted.runs,
        "new_runs": left.counted.new,
        "done": left.done,
        "diverged": left.diverged,
        "train_jobs": left.train_jobs,
        "analyse_jobs": left.analyse_jobs,
        "jobs": left.jobs,
        "trainable": left.trainable,
        "agent_steps": sum(left.steps.values()),
        **hours,
        "disk_bytes": estimate.disk_bytes,
    }


def print_plan(plan: dict[str, Any], console: Console) -> None:
    """The plan as a table for people, and what its hours rest on."""
    table = Table(title=f"Study {plan['study']}: what is left to do", title_justify="left")
    table.add_column("figure")
    for title in ("runs", "new", "done", "jobs", "GPU-hours", "CPU-hours", "disk"):
        table.add_column(title, justify="right")
    for row in plan["figures"]:
        table.add_row(row["figure"], *(f"{row[key]:,}" for key in ("runs", "new_runs", "done")), *_costs(row))
    total = plan["total"]
    table.add_section()
    table.add_row("in all", "", f"{total['new_runs']:,}", f"{total['done']:,}", *_costs(total), style="bold")
    console.print(table)
    kinds = "; ".join(f"{runs:,} {kind}" for kind, runs in plan["runs_by_kind"].items())
    console.print(f"Distinct runs: {kinds}.", highlight=False)
    console.print("A figure counts only what the figures above it do not do already.", highlight=False)
    if absent := [row["figure"] for row in plan["figures"] if not row["trainable"]]:
        said = f"Of {', '.join(absent)} only the runs are counted: their agents cannot be trained yet."
        console.print(said, highlight=False)
    if total["diverged"]:
        said = f"Diverged: {total['diverged']:,} (moerl status names them). Their jobs fail at once"
        console.print(f"{said}; `--config allow_partial=1` makes the figures without them.", highlight=False)
    if plan["evaluation"]:
        console.print("Hours are those of training: evaluation games come on top.", highlight=False)
    for device in DEVICES:
        if total[f"{device}_hours"] is None:
            unit = device.upper()
            said = f"{unit}-hours are unknown: no {unit} record in {plan['records']}"
            console.print(f"{said} (benchmarks/bench_throughput.py makes one).", highlight=False)
    for basis in plan["basis"]:
        console.print(f"Record: {basis['record']}", highlight=False)
        for kind, verb in (("measured", "measured for"), ("extrapolated", "extrapolated to")):
            if kind in basis:
                console.print(f"  {verb} {', '.join(basis[kind])}", highlight=False)
    if any("extrapolated" in basis for basis in plan["basis"]):
        console.print(
            "~ marks hours that are at least partly extrapolated: expect them to be off by a factor."
        )


def _costs(row: dict[str, Any]) -> list[str]:
    if not row.get("trainable", True):
        return ["–"] * (2 + len(DEVICES))
    hours = [_hours(row[f"{device}_hours"]) for device in DEVICES]
    return [f"{row['jobs']:,}", *hours, readable_bytes(row["disk_bytes"])]


def _hours(hours: dict[str, float] | None) -> str:
    if hours is None:
        return "?"
    total = hours["total"]
    text = f"{float(f'{total:.3g}'):,.0f}" if total >= 10 or total == 0 else f"{total:.2g}"
    return f"~{text}" if hours["extrapolated"] else text


def readable_bytes(count: float) -> str:
    """Bytes in the unit that suits them: "4.2 GB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if count >= 100 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def to_json(plan: dict[str, Any]) -> str:
    """The plan as JSON."""
    return json.dumps(plan, indent=1, ensure_ascii=False)
