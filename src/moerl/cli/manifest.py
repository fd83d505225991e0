"""`moerl manifest`: what a study produced, file by file, so that two machines can compare results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import moerl
from moerl.study.expansion import Study
from moerl.study.paths import analysis_file, figure_files, files_of_run, run_dir, scores_file, table_files

_NOT_REPRODUCIBLE = ("timing.parquet", "manifest.json")  # wall-clock and host facts


def products(study: Study, results: Path) -> Iterator[Path]:
    """Every byte-reproducible file of a study, there or not; other studies' leftovers are not among them."""
    for run in study.runs():
        for milestone, frames in study.milestones.items():
            if frames <= study.milestones[run.milestone]:
                folder = run_dir(results, replace(run, milestone=milestone))
                yield from (folder / name for name in files_of_run(study) if name not in _NOT_REPRODUCIBLE)
                yield from sorted((folder / "snapshots").glob("*.safetensors"))
    for name, figure in study.figures.items():
        yield scores_file(results, name)
        yield from table_files(results, name)
        yield from figure_files(results, name)
        if figure.kind == "analysis":
            yield from (analysis_file(results, run) for run in study.figure_runs(figure))


def write_manifest(study: Study, results: Path) -> None:
    """Write `manifest.json` in `results`: SHA-256 of the study's byte-reproducible files, sorted."""
    digests = {}
    for path in sorted(set(products(study, results))):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(results).as_posix()] = digest
    content = {
        "study": study.name,
        "moerl": moerl.__version__,
        "deviations_from_the_paper": asdict(study.deviations),
        "runs": len(study.runs()),
        "sha256": digests,
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / "manifest.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
