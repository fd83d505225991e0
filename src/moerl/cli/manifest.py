"""`moerl manifest`: what a study produced, file by file, so that two machines can compare results.

Runs that a figure had to do without are listed by name, and why, and figures of runs that were not all
made alike with what these differ in.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import moerl
from moerl.statistics.readers import read_left_out
from moerl.study.expansion import Run, Study
from moerl.study.paths import (
    TIMING,
    analysis_file,
    figure_files,
    files_of_run,
    left_out_file,
    parameters_file,
    run_dir,
    scores_file,
    spec_table_files,
    table_files,
    tokens_file,
)
from moerl.study.tables import made_tables

_NOT_REPRODUCIBLE = (TIMING, "manifest.json")  # wall-clock and host facts


def products(study: Study, results: Path) -> Iterator[Path]:
    """Every byte-reproducible file of a study, there or not; other studies' leftovers are not among them."""
    for run in study.runs():
        for milestone in study.course(run.milestone):
            folder = run_dir(results, replace(run, milestone=milestone))
            yield from (folder / name for name in files_of_run(study) if name not in _NOT_REPRODUCIBLE)
            yield from sorted((folder / "snapshots").glob("*.safetensors"))
    for name in made_tables(study):
        yield from spec_table_files(results, name)
    yield parameters_file(results)
    for name in study.usual_figures:
        figure = study.figures[name]
        if figure.over == "hours":
            continue  # it shows the wall-clock of the machine that trained
        if figure.kind == "schematic":
            yield from figure_files(results, name)
            continue
        yield scores_file(results, name)
        yield left_out_file(results, name)
        yield from table_files(results, name)
        yield from figure_files(results, name)
        if figure.analysed:
            for run in study.figure_runs(figure):
                yield analysis_file(results, run)
                yield tokens_file(results, run)


def left_out(study: Study, results: Path) -> list[dict[str, str | int]]:
    """The runs that figures of the study were made without, each once, and why.

    Raises UserError if a list of them cannot be read.
    """
    found: dict[tuple[Run, str], None] = {}
    for name in study.usual_figures:
        path = left_out_file(results, name)
        if path.is_file():
            found |= dict.fromkeys(read_left_out(path).items())
    return [{**asdict(run), "why": why} for run, why in found]


def mixed(study: Study, results: Path) -> dict[str, str]:
    """The study's figures of runs that were not all made alike, and what these differ in."""
    found = {}
    for name in study.usual_figures:
        path = table_files(results, name)[0]
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                first = next(csv.DictReader(file), {})
            if first.get("mix"):
                found[name] = first["mix"]
    return found


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
        "left_out": left_out(study, results),
        "mixed": mixed(study, results),
        "sha256": digests,
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / "manifest.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
