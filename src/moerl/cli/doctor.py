"""`moerl doctor`: is this machine fit to run the pipeline, and if not, how to mend it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.text import Text

from moerl.cli.plan import make_plan, readable_bytes
from moerl.study.errors import UserError
from moerl.study.expansion import Study
from moerl.study.paths import dataset_dir
from moerl.study.standing import Standing
from moerl.study.study_file import read_yaml

CHECKOUT = Path(__file__).parents[3]
MARKS = {"ok": ("✓", "green"), "absent": ("–", "dim"), "problem": ("✗", "bold red")}
TRAIN_MINUTES = 1_440
"""A training job asks a cluster for at most this long."""

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)\s*(;)?", re.MULTILINE)


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    name: str
    verdict: Literal["ok", "problem", "absent"]
    """`absent`: not here, and only needed for some uses."""
    said: str
    mend: str = ""


def examine(study: Study, results: Path) -> list[Finding]:
    """All checks, in the order in which their problems are best mended."""
    checks: Sequence[Callable[[], list[Finding]]] = (
        lambda: [versions(CHECKOUT / "envs")],
        lambda: [device()],
        lambda: [atari(study)],
        lambda: datasets(study, results),
        lambda: slurm(CHECKOUT / "workflow" / "profiles" / "slurm" / "config.yaml"),
        lambda: [disk(study, results), quota(), file_system(results)],
    )
    return [finding for check in checks for finding in check()]


def versions(envs: Path) -> Finding:
    """Whether what is installed is what the lock file of this kind of environment names."""
    lock = envs / f"{_flavour()}.txt"
    if not lock.is_file():
        return Finding("versions", "absent", f"{lock} is not there: nothing to compare with")
    wanted: dict[str, set[str]] = {}
    optional: set[str] = set()
    for name, pin, marker in _PIN.findall(lock.read_text(encoding="utf-8")):
        wanted.setdefault(name, set()).add(pin)
        if marker:  # for some platforms or Pythons only
            optional.add(name)
    wrong = []
    for name, pins in wanted.items():
        found = _installed(name)
        if found is None and name in optional:
            continue
        if found not in pins:
            wrong.append(f"{name} {found or 'missing'} (lock: {' or '.join(sorted(pins))})")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        return Finding(
            "versions",
            "problem",
            f"not as in {lock.name}: {', '.join(wrong[:5])}{more}",
            f"bash envs/install.sh {lock.relative_to(envs.parent)}",
        )
    python = ".".join(map(str, sys.version_info[:3]))
    return Finding("versions", "ok", f"{len(wanted)} packages as in {lock.name}, Python {python}")


def _flavour() -> str:
    """Which lock file the environment was made from: JAX's plugin tells."""
    return next((f"cuda{n}" for n in (12, 13) if _installed(f"jax-cuda{n}-plugin")), "cpu")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def device() -> Finding:
    """What JAX computes on, in a process of its own: a broken driver may end it."""
    code = "import jax, json; print(json.dumps([[d.platform, d.device_kind] for d in jax.devices()]))"
    gpus = _gpus()
    install = "bash envs/install.sh envs/cuda12.txt (or cuda13.txt, as the driver has it)"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return Finding("JAX", "problem", "does not find its devices within 5 minutes", "look at nvidia-smi")
    except (subprocess.CalledProcessError, ValueError, IndexError) as error:
        lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        return Finding("JAX", "problem", f"does not start: {lines[-1] if lines else 'no message'}", install)
    kinds = ", ".join(dict.fromkeys(f"{len(found)} × {kind} ({platform})" for platform, kind in found))
    if gpus and all(platform == "cpu" for platform, _ in found):
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden is not None and hidden.strip() in ("", "-1"):
            return Finding("JAX", "problem", f"{gpus[0]} is hidden by CUDA_VISIBLE_DEVICES", "unset it")
        return Finding("JAX", "problem", f"computes on the CPU although there is {gpus[0]}", install)
    return Finding("JAX", "ok", f"computes on {kinds}{'' if gpus else '; no GPU on this machine'}")


def _gpus() -> list[str]:
    """GPUs that the driver shows."""
    said = _ask("nvidia-smi", "-L")
    return said.stdout.strip().splitlines() if said is not None and said.returncode == 0 else []


def atari(study: Study) -> Finding:
    """Whether ale-py steps a game and has the ROM of every game, with the actions the table says."""
    mend = "bash envs/install.sh: ale-py brings the ROMs"
    try:
        from ale_py import roms

        from moerl.atari.lanes import AtariLanes

        lacking = [game.name for game in study.games.values() if roms.get_rom_path(game.rom) is None]
        if lacking:
            return Finding("ALE", "problem", f"no ROM of {', '.join(lacking)}", mend)
        pong = study.games["Pong"]
        lanes = AtariLanes(pong.rom, [0], 0.25, 100)
        lanes.begin_episodes({0: 0})
    except Exception as error:
        return Finding("ALE", "problem", f"{type(error).__name__}: {error}", mend)
    if lanes.num_actions != pong.num_actions:
        said = f"Pong has {lanes.num_actions} actions, config/games.tsv says {pong.num_actions}"
        return Finding("ALE", "problem", said, mend)
    return Finding(
        "ALE", "ok", f"ale-py {version('ale-py')} plays Pong and has the ROMs of {len(study.games)} games"
    )


def slurm(profile: Path) -> list[Finding]:
    """Whether SLURM answers, and whether jobs as the profile asks for them find a partition."""
    said = _ask("sinfo", "--noheader", "--format=%P|%a|%l|%G")
    if said is None:
        why = "no SLURM here; only `--profile slurm` needs it"
        return [Finding("SLURM", "absent", why), Finding("partition", "absent", "no SLURM here")]
    if said.returncode != 0:
        why = " ".join((said.stderr or said.stdout).split()) or "sinfo failed without a word"
        mend = "run on a login node of the cluster, or ask its administrators"
        return [
            Finding("SLURM", "problem", why, mend),
            Finding("partition", "absent", "SLURM does not answer"),
        ]
    parts = [line.split("|") for line in said.stdout.splitlines() if line.count("|") == 3]
    return [
        Finding("SLURM", "ok", f"answers, {len({p[0] for p in parts})} partitions"),
        partition(parts, profile),
    ]


def partition(parts: Sequence[Sequence[str]], profile: Path) -> Finding:
    """Whether the partition that jobs go to is up, has GPUs if they ask for them, and lets them run a day.

    Args:
        parts: Name (with * for the default), availability, time limit and generic resources of each.
        profile: The SLURM profile, whose partition counts before the cluster's default.
    """
    settings = read_yaml(profile) if profile.is_file() else {}
    named = (settings.get("default-resources") or {}).get("slurm_partition")
    known = {p[0].rstrip("*"): p for p in parts}
    chosen = named or next((p[0].rstrip("*") for p in parts if p[0].endswith("*")), None)
    mend = f"name one as slurm_partition in {profile} (there are: {', '.join(known)})"
    if chosen is None:
        return Finding("partition", "problem", "the cluster has no default partition", mend)
    if chosen not in known:
        return Finding("partition", "problem", f"there is no partition {chosen}", mend)
    rows = [p for p in parts if p[0].rstrip("*") == chosen]
    if all(p[1] != "up" for p in rows):
        return Finding("partition", "problem", f"{chosen} is {rows[0][1]}", mend)
    if "gpu=1" in (settings.get("config") or []) and not any("gpu" in p[3] for p in rows):
        return Finding("partition", "problem", f"{chosen} has no GPUs, the profile asks for them", mend)
    minutes = limit_minutes(rows[0][2])
    if minutes is not None and minutes < TRAIN_MINUTES:
        shorter = f"jobs may run {rows[0][2]}, training asks for up to 24 hours"
        hint = f"another partition, or --set-resources 'train_…:runtime={minutes}': a job goes on in the next"
        return Finding("partition", "problem", f"{chosen}: {shorter}", hint)
    return Finding("partition", "ok", f"{chosen}, jobs may run {rows[0][2]}")


def limit_minutes(limit: str) -> int | None:
    """SLURM's time limit in whole minutes; None if there is none. Forms: D-HH:MM:SS, HH:MM:SS, MM:SS."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if match is None:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + minutes


def disk(study: Study, results: Path) -> Finding:
    """Whether what is left of the study fits on the disk."""
    place = next(p for p in (results, *results.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    try:
        needed = make_plan(Standing(study, results), [])["total"]["disk_bytes"]
    except UserError as error:
        return Finding("disk", "problem", str(error), "mend the benchmark records")
    still = f"the study {study.name} still needs {readable_bytes(needed)}"
    said = f"{readable_bytes(free)} free for {results}, {still}"
    if needed > free:
        return Finding(
            "disk",
            "problem",
            said,
            "run in a folder with more space",
        )
    return Finding("disk", "ok", said)


def datasets(study: Study, results: Path) -> list[Finding]:
    """Whether the data of offline runs lies where the study says; nothing of one that collects its own."""
    if study.offline is None or study.offline.folder is None:
        return []
    runs = [run for run in study.runs() if run.milestone == study.offline_milestone]
    folders = list(dict.fromkeys(dataset_dir(study, results, run) for run in runs))
    missing = [folder for folder in folders if not folder.is_dir()]
    said = f"{len(folders) - len(missing)} of {len(folders)} folders of {study.offline.name} are here"
    if not missing:
        return [Finding("datasets", "ok", said)]
    mend = "docs/offline.md says where to get it; only offline agents need it"
    return [Finding("datasets", "absent", f"{said}, the first missing one is {missing[0]}", mend)]


def quota() -> Finding:
    """Whether the user's disk quota is exceeded."""
    said = _ask("quota", "-w", "-s")
    if said is None:
        return Finding("quota", "absent", "no quota command here")
    if said.returncode != 0:
        return Finding(
            "quota", "problem", " ".join((said.stdout or said.stderr).split())[:300], "delete or move files"
        )
    return Finding("quota", "ok", "not exceeded")


def file_system(results: Path) -> Finding:
    """Whether the file system locks files, renames over them and links them, as training relies on."""
    place = next(p for p in (results, *results.absolute().parents) if p.is_dir())
    mend = "run in a folder of a file system that can; training would not be safe here"
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".moerl-doctor-") as folder:
            one, two = Path(folder) / "one", Path(folder) / "two"
            with one.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            two.write_text("two")
            one.replace(two)
            linked = True
            try:
                os.link(two, one)
            except OSError:
                linked = False
    except OSError as error:
        return Finding("file system", "problem", f"{place}: {error.strerror}", mend)
    copies = "" if linked else "; no hard links, so checkpoints are stored twice"
    return Finding("file system", "ok", f"{place} can be written, locks files{copies}")


def _ask(program: str, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    """What a program says; None if it is not installed. A program that hangs counts as failed."""
    if shutil.which(program) is None:
        return None
    try:
        return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess([program], 1, "", f"{program} gave no answer within 30 seconds")


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """A line per check, and below each problem how to mend it."""
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark, style = MARKS[finding.verdict]
        console.print(Text.assemble((f"{mark} {finding.name:<{width}}", style), f"  {finding.said}"))
        if finding.mend:
            console.print(Text(f"{'':<{width + 4}}mend: {finding.mend}", "yellow"))
    problems = sum(finding.verdict == "problem" for finding in findings)
    console.print(
        Text(f"{problems} problem{'s' if problems > 1 else ''}." if problems else "Everything is fine.")
    )


def to_json(findings: Sequence[Finding]) -> str:
    """The findings, for programs."""
    return json.dumps([asdict(finding) for finding in findings], indent=1, ensure_ascii=False)
