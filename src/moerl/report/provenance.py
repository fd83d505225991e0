"""`moerl provenance`: which source, software and hardware made the runs of a study, and what that cost.

Everything is read from the runs' own manifests and wall-clock records. Host names are left out: nobody
else's business.
"""

from __future__ import annotations

import csv
import io
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import moerl
from moerl.statistics.readers import read_timing
from moerl.study.checkout import GitState, git_state
from moerl.study.errors import UserError, one_line
from moerl.study.expansion import Run, Study
from moerl.study.json_file import parse_json
from moerl.study.paths import TIMING, provenance_files
from moerl.study.specs import FRAMES_PER_STEP, NonNegativeInt, PositiveInt
from moerl.study.standing import Standing, unfinished
from moerl.study.status import study_runs

UNKNOWN = "not recorded"
"""What a manifest of an earlier version of moerl does not say."""


@dataclass(frozen=True)
class Origin:
    """Where one run comes from."""

    run: Run
    digest: str
    """Of the spec it was trained under."""
    frames: int
    """Emulated frames."""
    gradient_steps: int
    seconds: float
    """Wall-clock of its training from the start, interruptions left out: of the job, which seeds share."""
    threads: int
    device: str
    """As JAX calls it: "cpu", or a model of GPU."""
    processor: str
    commit: str
    """Of the source; says so if files had been changed since."""
    software: Mapping[str, str]
    """Package → version, Python among them."""

    @property
    def on_cpu(self) -> bool:
        """Whether the network was trained on the processor."""
        return self.device.lower() == "cpu"

    @property
    def hardware(self) -> str:
        """What computed, in words."""
        return self.processor if self.on_cpu else f"{self.device} (host: {self.processor})"


def run(
    study: Study, results: Path, state: Path | None = None, allow_partial: bool = False
) -> tuple[Path, Path]:
    """Write the provenance of a study: a document about all runs, and a table of them. Returns both paths.

    Raises:
        UserError: A run is not finished, unless `allow_partial`: then it is named; or its records are
            not those of a run.
    """
    standing = Standing(study, results, state)
    origins, left_out = [], {}
    runs = study_runs(study)
    for one in runs:
        folder = standing.finished(one)
        if folder is None:
            left_out[one] = standing.why_not(one)
        else:
            origins.append(read_origin(study, one, folder))
    if left_out and not allow_partial:
        raise UserError(unfinished(f"study {study.name}", len(runs), left_out))
    document, table = provenance_files(results)
    document.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(as_csv(origins), encoding="utf-8")
    document.write_text(as_markdown(study, origins, left_out), encoding="utf-8")
    return document, table


def read_origin(study: Study, one: Run, folder: Path) -> Origin:
    """The origin of the finished run in `folder`. Raises UserError if its records are not those of a run."""
    path = folder / "manifest.json"
    try:
        manifest = parse_json(_Manifest, path.read_bytes())
    except (OSError, ValueError) as error:
        said = one_line(error)
        raise UserError(f"{path}: not the manifest of a run ({said}); train this run again") from error
    git = None if manifest.git is None else manifest.git.state()
    return Origin(
        run=one,
        digest=manifest.spec_digest,
        frames=FRAMES_PER_STEP * manifest.agent_steps,
        gradient_steps=manifest.gradient_steps,
        seconds=float(read_timing(folder / TIMING, study.iterations(one.milestone))[-1]),
        threads=manifest.spec.cpu_threads,
        device=manifest.device,
        processor=manifest.processor,
        commit=described(git) if "git" in manifest.model_fields_set else UNKNOWN,
        software={**manifest.versions, "python": manifest.python},
    )


class _Spec(BaseModel):
    cpu_threads: PositiveInt


class _Git(BaseModel):
    commit: str
    changed: bool

    def state(self) -> GitState:
        return {"commit": self.commit, "changed": self.changed}


class _Manifest(BaseModel):
    """What provenance is told from, of a run's `manifest.json`."""

    spec_digest: str
    spec: _Spec
    agent_steps: NonNegativeInt
    gradient_steps: NonNegativeInt
    device: str
    processor: str = UNKNOWN
    git: _Git | None = None
    versions: dict[str, str]
    python: str


def described(git: GitState | None) -> str:
    """The state of a checkout in words."""
    if git is None:
        return "no git checkout"
    return f"{git['commit']}{', with uncommitted changes' if git['changed'] else ''}"


@dataclass(frozen=True)
class Cost:
    """What some runs cost."""

    runs: int
    jobs: int
    """Packs of seeds, each of them trained in one process."""
    frames: int
    hours: float
    """Wall-clock of the jobs, one after the other."""
    cpu_hours: float
    """The same times the threads of each, where the processor trained."""
    gpu_hours: float


def cost(study: Study, origins: Iterable[Origin]) -> Cost:
    """Sums over runs. Seeds that trained in one job share its wall-clock, which counts once."""
    origins = list(origins)
    jobs: dict[tuple[Any, ...], Origin] = {}
    for origin in origins:
        pack = next((pack for pack in study.packs if origin.run.seed in pack), (origin.run.seed,))
        longest = jobs.setdefault((origin.run.cell, pack), origin)
        if origin.seconds > longest.seconds:
            jobs[origin.run.cell, pack] = origin
    return Cost(
        runs=len(origins),
        jobs=len(jobs),
        frames=sum(origin.frames for origin in origins),
        hours=sum(job.seconds for job in jobs.values()) / 3600,
        cpu_hours=sum(job.seconds * job.threads for job in jobs.values() if job.on_cpu) / 3600,
        gpu_hours=sum(job.seconds for job in jobs.values() if not job.on_cpu) / 3600,
    )


def as_csv(origins: Sequence[Origin]) -> str:
    """A row per run."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    packages = list(dict.fromkeys(name for origin in origins for name in origin.software))
    writer.writerow(
        [
            *("agent", "variant", "game", "seed", "milestone", "spec_digest", "frames", "gradient_steps"),
            *("wall_seconds", "cpu_threads", "device", "processor", "git_commit", *packages),
        ]
    )
    for o in origins:
        where = (o.run.agent, o.run.variant, o.run.game, o.run.seed, o.run.milestone)
        what = (o.digest, o.frames, o.gradient_steps, f"{o.seconds:.3f}", o.threads)
        versions = [o.software.get(name, "") for name in packages]
        writer.writerow([*where, *what, o.device, o.processor, o.commit, *versions])
    return out.getvalue()


def as_markdown(study: Study, origins: Sequence[Origin], left_out: Mapping[Run, str]) -> str:
    """The document: total cost, source, software, hardware, seeds, and what is left out."""
    total = cost(study, origins)
    packages = list(dict.fromkeys(name for origin in origins for name in origin.software))
    versions = Counter(
        (o.commit, *(o.software.get(name, UNKNOWN) for name in packages)) for o in origins
    ).most_common()
    by_agent = [
        (agent, cost(study, [o for o in origins if o.run.agent == agent]))
        for agent in dict.fromkeys(o.run.agent for o in origins)
    ]
    by_hardware = [
        (hardware, cost(study, [o for o in origins if o.hardware == hardware]))
        for hardware in dict.fromkeys(o.hardware for o in origins)
    ]
    seeds = ", ".join(map(str, sorted({o.run.seed for o in origins})))
    here = (
        f"moerl {moerl.__version__} ({described(git_state())}), Python {platform.python_version()} and "
        f"Snakemake {version('snakemake')}"
    )
    parts = [
        f"# Provenance of the runs of the study {study.name}",
        f"{total.runs} runs in {total.jobs} training jobs, seeds {seeds}: {total.frames:,} emulated frames "
        f"in {_hours(total.hours)} hours of wall-clock, had one job run after the other. That is "
        f"**{_hours(total.cpu_hours)} CPU-hours and {_hours(total.gpu_hours)} GPU-hours of training.**",
        "A job trains several seeds side by side and counts once. CPU-hours are wall-clock times the threads "
        "that the study gives to XLA; those of the emulators are not counted. Work that was lost and waiting "
        "in a queue are not in it, nor are analyses and figures.",
        *([_missing(left_out)] if left_out else []),
        "## Cost by agent",
        _cost_table("agent", by_agent),
        "## Hardware",
        _cost_table("hardware", by_hardware),
        "## Source and software that trained",
        _markdown_table(
            ["runs", "git commit", *packages], [[str(n), *made_with] for made_with, n in versions]
        ),
        "A run that was trained in several jobs names the last of them.",
        f"This page was made by {here}.",
    ]
    return "\n\n".join(parts) + "\n"


def _missing(left_out: Mapping[Run, str]) -> str:
    lines = [f"* {run.name}, to {run.milestone}: {why}" for run, why in left_out.items()]
    return "\n".join([f"**Left out ({len(left_out)}):**\n", *lines])


def _cost_table(what: str, rows: Sequence[tuple[str, Cost]]) -> str:
    header = [what, "runs", "jobs", "emulated frames", "wall-clock hours", "CPU-hours", "GPU-hours"]
    body = [
        [name, str(c.runs), str(c.jobs), f"{c.frames:,}", *map(_hours, (c.hours, c.cpu_hours, c.gpu_hours))]
        for name, c in rows
    ]
    return _markdown_table(header, body, "---:")


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], rule: str = "---") -> str:
    """A Markdown table; `rule` aligns all columns but the first."""
    rules = ["---", *[rule] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rules, *rows))
