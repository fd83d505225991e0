"""What an archive of a study's results holds: which files, of which kind, and what its manifest says.

An archive is one zip file of data: tables, JSON and text. It holds what figures are made from, not the
networks' parameters, replay or action logs.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from moerl.archive.dictionary import Kind
from moerl.study.config import config_dir
from moerl.study.expansion import Run, Study
from moerl.study.modules import module_files
from moerl.study.origin import Origin
from moerl.study.paths import (
    NOT_ARCHIVED,
    analysis_file,
    files_of_run,
    left_out_file,
    run_dir,
    scores_file,
    spec_table_files,
    table_files,
    tokens_file,
)
from moerl.study.specs import Frozen, NonNegativeInt
from moerl.study.study_file import read_yaml
from moerl.study.tables import made_tables

MANIFEST, DICTIONARY, README = "manifest.json", "data_dictionary.csv", "README.md"
MODULES = "modules"
"""Folder of the source of modules that are none of the paper's. It is text: no import runs it."""
RESTORED = ("runs", "analysis")
"""Folders that are restored. Scores, tables and figures are made from them again, so that Snakemake has its
records of them and notices later edits."""
RUN_MANIFEST = "manifest.json"
_SHARED = ("agents.yaml", "networks.yaml", "figures.yaml", "tables.yaml", "games.tsv")
_RUN_TABLES: dict[str, Kind] = {
    "returns.parquet": "returns",
    "evaluations.parquet": "evaluations",
    "losses.parquet": "losses",
    "timing.parquet": "timing",
}
NOT_IN_RUN_MANIFEST = ("timing.parquet",)
"""Tables of a run whose checksums its own manifest does not have, because they differ between repeats."""
_FIGURE_TABLES: dict[str, Kind] = {
    "bars": "bars",
    "curves": "curves",
    "analysis": "analysis grid",
    "routing": "routing",
}


class Entry(Frozen):
    """One file of an archive."""

    bytes: NonNegativeInt
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Manifest(Frozen):
    """`manifest.json` of an archive."""

    format: Literal[1]
    study: str
    moerl: str
    """Version that wrote the archive."""
    deviations_from_the_paper: dict[str, Any]
    runs: dict[str, str]
    """Folder of each run → digest of the spec it was trained under."""
    left_out: tuple[str, ...]
    """What a complete archive of the study would have too, and why it is not there."""
    files: dict[str, Entry]
    """Every other file of the archive."""


def entry(data: bytes) -> Entry:
    """Size and checksum of a file's bytes."""
    return Entry(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def run_files(study: Study, run: Run) -> dict[str, Kind | None]:
    """The archived files of a run, below the results folder; None: not a table."""
    folder = run_dir(Path(), run)
    names = [name for name in files_of_run(study) if name not in NOT_ARCHIVED]
    return {(folder / name).as_posix(): _RUN_TABLES.get(name) for name in names}


def figure_data(study: Study, name: str) -> dict[str, Kind | None]:
    """The archived files of a figure besides its runs', below the results folder; of a schematic, none."""
    here, figure = Path(), study.figures[name]
    if figure.kind == "schematic":
        return {}
    csv, tex = table_files(here, name)
    found: dict[Path, Kind | None] = {
        scores_file(here, name): "scores",
        left_out_file(here, name): "left out",
        csv: _FIGURE_TABLES[figure.kind],
        tex: None,
    }
    return {path.as_posix(): kind for path, kind in found.items()}


def analyses(study: Study, name: str) -> dict[Run, dict[str, Kind | None]]:
    """What the analysis stage writes of the runs of a figure that shows it, below the results folder."""
    figure = study.figures[name]
    return {
        run: {
            analysis_file(Path(), run).as_posix(): "analysis",
            tokens_file(Path(), run).as_posix(): "tokens",
        }
        for run in (study.figure_runs(figure) if figure.analysed else [])
    }


def analysed(study: Study) -> dict[str, Run]:
    """Every file that the analysis stage writes for a figure of the study → the run that it is of."""
    return {
        path: run for name in study.figures for run, paths in analyses(study, name).items() for path in paths
    }


def paper_tables(study: Study) -> dict[str, Kind | None]:
    """The paper's tables that the study makes, below the results folder."""
    paths = [path for name in made_tables(study) for path in spec_table_files(Path(), name)]
    return {path.as_posix(): "hyper-parameters" if path.suffix == ".csv" else None for path in paths}


def configuration(study: Study) -> dict[str, Path]:
    """Names in the archive of the files that define the study → where they are."""
    shared = config_dir(study.path)
    files = {f"config/{name}": shared / name for name in _SHARED}
    shown = {cell.variant for figure in study.figures.values() for cell in study.figure_cells(figure)}
    own_variants = read_yaml(study.path).get("variants", {})
    for variant in map(study.variants.__getitem__, sorted(shown.union(own_variants))):
        if variant.custom:
            own = module_files(str(variant.module))
            files |= {f"{MODULES}/{name}": path for name, path in own.items()}
    return files | {f"config/studies/{study.name}.yaml": study.path}


def known_files(study: Study) -> dict[str, Kind | None]:
    """Every file that an archive of the study may hold besides its manifest, and its kind of table.

    Figures made on request are counted in: whether they were made is known where the archive is written.
    """
    known: dict[str, Kind | None] = {DICTIONARY: None, README: None}
    known |= dict.fromkeys(configuration(study), None)
    known |= paper_tables(study)
    for run in study.runs_of(study.figures):
        known |= run_files(study, run)
    for name in study.figures:
        known |= figure_data(study, name)
        for files in analyses(study, name).values():
            known |= files
    return known


def is_restored(name: str) -> bool:
    """Whether a file goes back into the results folder."""
    return PurePosixPath(name).parts[0] in RESTORED


def check_origin(where: str, data: bytes, origin: Origin) -> None:
    """Refuse an analysis (a whole Parquet file) of other training than `origin`. Raises UserError."""
    origin.check(where, pq.read_schema(pa.BufferReader(data)).metadata)


def to_json(value: Any) -> bytes:
    """`value` as indented JSON: equal values give equal bytes."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def write_zip(path: Path, files: Iterator[tuple[str, bytes]]) -> None:
    """Write files in the order given, stored: equal files give equal bytes, whatever the zlib."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files:
            info = zipfile.ZipInfo(name)  # dated 1980
            info.create_system, info.external_attr = 3, 0o100644 << 16
            archive.writestr(info, data)
