"""`moerl export`: a study's results as one archive, checked file by file; equal results give equal bytes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import moerl
from moerl.archive.contents import (
    DICTIONARY,
    MANIFEST,
    MODULES,
    NOT_IN_RUN_MANIFEST,
    README,
    RUN_MANIFEST,
    Manifest,
    analysed,
    analyses,
    check_origin,
    configuration,
    entry,
    figure_data,
    known_files,
    paper_tables,
    run_files,
    to_json,
    write_zip,
)
from moerl.archive.dictionary import check_table, dictionary_csv
from moerl.study.errors import UserError, one_line
from moerl.study.expansion import Run, Study
from moerl.study.json_file import RunManifest, parse_json
from moerl.study.origin import Origin
from moerl.study.paths import run_dir
from moerl.study.standing import ARCHIVED, Standing, unfinished

_KEPT = (
    "spec",
    "spec_digest",
    "seed",
    "agent_steps",
    "gradient_steps",
    "sha256",
    "versions",
    "python",
    "device",
)
"""Of a run's manifest: all but the host, which is nobody's business, and what `timing.parquet` has anyway."""
_KEPT_IF_THERE = ("processor", "git")
"""These, too: runs of the first versions of moerl have none."""


def export(standing: Standing, archive: Path, allow_partial: bool = False) -> Manifest:
    """Write a study's results to `archive`, a zip file; returns its manifest.

    Args:
        standing: The study, its results and, for runs that stand there, its state.
        archive: The file; must not exist.
        allow_partial: Leave out, by name, runs that are not finished and figures that are not made.

    Raises:
        UserError: Something is not there (unless `allow_partial`), damaged, or `archive` exists.
    """
    if archive.exists():
        raise UserError(f"{archive}: exists already; choose another name or delete it")
    study = standing.study
    figures = _made(standing)
    files, left_out = _collect(standing, figures, allow_partial)
    runs = {
        run_dir(Path(), run).as_posix(): standing.digest(run.cell)
        for run in study.runs_of(figures)
        if (run_dir(Path(), run) / RUN_MANIFEST).as_posix() in files
    }
    files |= {name: _read(path) for name, path in configuration(study).items()}
    files |= {
        DICTIONARY: dictionary_csv().encode(),
        README: _readme(study, figures, len(runs), left_out).encode(),
    }
    manifest = Manifest(
        format=1,
        study=study.name,
        moerl=moerl.__version__,
        deviations_from_the_paper=json.loads(json.dumps(asdict(study.deviations))),
        runs=runs,
        left_out=tuple(left_out),
        files={name: entry(data) for name, data in files.items()},
    )
    files[MANIFEST] = to_json(manifest.model_dump(mode="json"))
    archive.parent.mkdir(parents=True, exist_ok=True)
    temporary = archive.with_name(f".{archive.name}.{os.getpid()}.tmp")
    try:
        write_zip(temporary, iter(sorted(files.items())))
        temporary.replace(archive)
    finally:
        temporary.unlink(missing_ok=True)
    return manifest


def _made(standing: Standing) -> list[str]:
    """The figures whose data are archived: all but those on request of which nothing was made."""
    study = standing.study
    return [
        name
        for name in study.figures
        if name not in study.on_request
        or any((standing.results / path).is_file() for path in figure_data(study, name))
    ]


def _collect(
    standing: Standing, figures: Sequence[str], allow_partial: bool
) -> tuple[dict[str, bytes], list[str]]:
    """Everything of the results that goes into the archive, checked, and what is not there."""
    study, results = standing.study, standing.results
    files: dict[str, bytes] = {}
    absent: dict[Run, str] = {}
    runs = study.runs_of(figures)
    for run in runs:
        folder = standing.finished(run)
        if folder is None:
            absent[run] = standing.why_not(run)
        else:
            files |= _run(study, run, folder)
    if absent and not allow_partial:
        problem = unfinished(f"study {study.name}", len(runs), absent)
        raise UserError(f"{problem}; --allow-partial goes on without them")
    left_out = [f"{run.name}, to {run.milestone}: {why}" for run, why in absent.items()]
    known, wanted = known_files(study), list(paper_tables(study))
    for name in figures:
        wanted += figure_data(study, name)
        for run, paths in analyses(study, name).items():
            wanted += [] if run in absent else paths
    analysed_runs = analysed(study)
    for name in dict.fromkeys(wanted):
        path = results / name
        if path.is_file():
            files[name] = _read(path)
            if (kind := known[name]) is not None:
                check_table(str(path), files[name], kind)
            if (one := analysed_runs.get(name)) is not None:
                check_origin(str(path), files[name], Origin(standing.digest(one.cell), one.milestone))
        elif allow_partial:
            left_out.append(f"{name}: not made")
        else:
            raise UserError(
                f"{path}: is not there; make the figures and tables first (snakemake --configfile "
                f"{study.path}), or --allow-partial goes on without"
            )
    return files, left_out


def _run(study: Study, run: Run, folder: Path) -> dict[str, bytes]:
    """The files of one finished run by their names in the archive.

    Raises UserError if one is not what the run's manifest says, or no table.
    """
    found = {}
    path = folder / RUN_MANIFEST
    try:
        manifest = parse_json(dict[str, Any], path.read_bytes())
        digests = parse_json(RunManifest, path.read_bytes()).sha256 or {}
        manifest = {ARCHIVED: True} | {
            key: manifest[key] for key in (*_KEPT, *(key for key in _KEPT_IF_THERE if key in manifest))
        }
    except (OSError, ValueError, KeyError) as error:
        said = one_line(error)
        raise UserError(f"{path}: not the manifest of a run ({said}); train this run again") from error
    for name, kind in run_files(study, run).items():
        if kind is None:
            found[name] = to_json(manifest)
            continue
        path = folder / Path(name).name
        data = found[name] = _read(path)
        digest = hashlib.sha256(data).hexdigest()
        if path.name not in NOT_IN_RUN_MANIFEST and digest != digests.get(path.name):
            raise UserError(f"{path}: checksum differs from the run's {RUN_MANIFEST}; the file was changed")
        check_table(str(path), data, kind)
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _readme(study: Study, figures: Sequence[str], runs: int, left_out: Sequence[str]) -> str:
    """What a person who opens the archive has to know."""
    differs = {name: study.deviations.of(name) for name in figures}
    deviations = [f"- {name}: {'; '.join(texts)}" for name, texts in differs.items() if texts]
    modules = any(name.startswith(f"{MODULES}/") for name in configuration(study))
    file = f"FOLDER/config/studies/{study.name}.yaml"
    lines = [
        f"# Results of the study “{study.name}”",
        "",
        f"The data behind the figures {', '.join(figures)}: returns, losses, scores, analyses and",
        f"tables of {runs} runs. Written by moerl {moerl.__version__}, a reproduction of “Mixtures of",
        "Experts Unlock Parameter Scaling for Deep RL” (Obando-Ceron et al., ICML 2024, arXiv 2402.08609).",
        "",
        f"`{DICTIONARY}` says what every column of every table is, `{MANIFEST}` the SHA-256 of every file",
        "and the spec of every run. `config/` is the configuration that defines the study.",
        "",
    ]
    if modules:
        lines += [
            f"`{MODULES}/` is the source of mixtures of experts that are none of the paper's. Nothing runs",
            "it before it is on the Python path, as below: read it first. Libraries that it imports are",
            "not in here.",
            "",
        ]
    lines += [
        "To draw the figures without training, unpack the archive to a folder of its own, and in a checkout",
        "of moerl:",
        "",
        "    python -m zipfile -e ARCHIVE.zip FOLDER",
        *([f"    export PYTHONPATH=FOLDER/{MODULES}"] if modules else []),
        f"    moerl import ARCHIVE.zip --study {file}",
        f"    snakemake --configfile {file}",
        "",
        "Networks' parameters, replay and action logs are not in here.",
    ]
    if deviations:
        lines += ["", "## Not the paper's setting", "", *deviations]
    if left_out:
        lines += ["", "## Left out", "", *(f"- {text}" for text in left_out)]
    return "\n".join(lines) + "\n"
