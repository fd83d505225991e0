"""`moerl import`: verify an archive of results as a whole, then restore it; nothing is ever overwritten.

An archive is somebody else's file. It is read entry by entry, never extracted: names must be those that the
study's own results have, sizes and checksums those of the archive's manifest, tables readable.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import struct
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from moerl.archive.contents import (
    MANIFEST,
    NOT_IN_RUN_MANIFEST,
    RUN_MANIFEST,
    Manifest,
    analysed,
    check_origin,
    entry,
    is_restored,
    known_files,
    run_files,
)
from moerl.archive.dictionary import Kind, check_table
from moerl.study.errors import FailureError, UserError, one_line
from moerl.study.expansion import Run, Study
from moerl.study.json_file import RunManifest, parse_json
from moerl.study.origin import Origin
from moerl.study.paths import imported_dir, run_dir
from moerl.study.standing import differences

_NO_ZIP = (OSError, zipfile.BadZipFile, RuntimeError, ValueError, LookupError, EOFError, struct.error)
"""What `zipfile` raises on damaged archives."""
_MANIFEST_BYTES = 256 * 2**20  # more than the paper's whole study needs


@dataclass(frozen=True)
class _Expected:
    """What an archive of a study may hold."""

    runs: dict[str, Run]
    """Folder of each run that some figure shows → the run."""
    files: dict[str, Kind | None]
    analysed: dict[str, tuple[str, Run]]
    """Every file of the analysis stage → folder of its run, and the run."""

    @classmethod
    def of(cls, study: Study) -> _Expected:
        return cls(
            {_folder(run): run for run in study.runs_of(study.figures)},
            known_files(study),
            {name: (_folder(run), run) for name, run in analysed(study).items()},
        )


def restore(study: Study, results: Path, archive: Path) -> tuple[Manifest, int]:
    """Put an archive's runs and analyses into `results`; returns its manifest and the number of new files.

    Files that are there already with the same bytes are left alone: an archive can be imported again.

    Raises:
        UserError: The archive is damaged, unsafe, of another study or of other specs, or a file with other
            content is in its place. Nothing was written then.
        FailureError: The disk is full, or the folder cannot be written.
    """
    manifest, files = verified(study, archive)
    files = {name: data for name, data in files.items() if is_restored(name)}
    record = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True).encode()
    files[f"{imported_dir(Path())}/{hashlib.sha256(record).hexdigest()[:16]}.json"] = record
    new = {name: data for name, data in files.items() if not _there(results, name, data)}
    try:
        _write(results, new)
    except OSError as error:
        raise FailureError(f"{results}: cannot be written ({error.strerror}); import again") from error
    return manifest, len(new)


def _write(results: Path, new: dict[str, bytes]) -> None:
    """Write files below a folder: first beside their places, then into them, what a run needs before it."""
    results.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".import-", dir=results))
    try:
        stamp = staged.stat().st_mtime_ns  # one time for all: to Snakemake, none is newer than another
        for name, data in new.items():
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(data)
            os.utime(staged / name, ns=(stamp, stamp))
        # A run is finished where its manifest is, so that comes after the rest of it.
        for name in sorted(new, key=lambda name: (PurePosixPath(name).name == RUN_MANIFEST, name)):
            (results / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).rename(results / name)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def verified(study: Study, archive: Path) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and every file of an archive, all of it checked. Raises UserError."""
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _entries(archive, opened)
            if MANIFEST not in entries:
                raise UserError(f"{archive}: has no {MANIFEST}; not an archive of `moerl export`")
            manifest = _manifest(archive, _bounded(archive, opened, entries[MANIFEST], _MANIFEST_BYTES))
            if manifest.study != study.name:
                raise UserError(
                    f"{archive}: holds the study {manifest.study!r}; {study.path} is the study {study.name!r}"
                )
            expected = _Expected.of(study)
            if (size := sum(listed.bytes for listed in manifest.files.values())) > archive.stat().st_size:
                raise UserError(
                    f"{archive}: is smaller than the {size} bytes that {MANIFEST} says its files have"
                )
            _check_names(archive, study, expected, manifest, set(entries) - {MANIFEST})
            files = {}
            for name, listed in manifest.files.items():
                data = files[name] = _bounded(archive, opened, entries[name], listed.bytes)
                if entry(data) != listed:
                    raise UserError(
                        f"{archive}: {name}: checksum differs from {MANIFEST}; the file is damaged"
                    )
    except _NO_ZIP as error:
        raise UserError(f"{archive}: not a readable zip archive ({one_line(error)})") from error
    for folder, digest in manifest.runs.items():
        _check_run(archive, study, expected.runs[folder], digest, files)
    for name, data in files.items():
        if (kind := expected.files[name]) is not None:
            check_table(f"{archive}: {name}", data, kind)
        if name in expected.analysed:
            _, run = expected.analysed[name]
            check_origin(f"{archive}: {name}", data, Origin.of(study, run))
    return manifest, files


def _entries(archive: Path, opened: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's files by name; refuses what no archive of ours has."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in opened.infolist():
        name = info.orig_filename
        problem = None
        if not name.isprintable():
            problem = "is no name of a file"
        elif ".." in PurePosixPath(name).parts or name.startswith("/") or "\\" in name or "\0" in name:
            problem = "leads out of the results folder"
        elif name in found:
            problem = "is there twice"
        elif info.is_dir() or stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            problem = "is a folder or a link; only files are read"
        elif info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            problem = "is compressed or encrypted; `moerl export` does neither"
        if problem is not None:
            raise UserError(one_line(f"{archive}: {name!r} {problem}"))
        found[name] = info
    return found


def _bounded(archive: Path, opened: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """A file's bytes, at most `limit` of them."""
    with opened.open(info) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UserError(f"{archive}: {info.filename}: more than the {limit} bytes it may have")
    return data


def _manifest(archive: Path, data: bytes) -> Manifest:
    try:
        manifest = parse_json(Manifest, data)
        for name in (*manifest.files, *manifest.runs, *manifest.left_out):
            if not name.isprintable():
                raise ValueError(f"{name!r} is no name of a file or run")
    except ValueError as error:
        raise UserError(f"{archive}: {MANIFEST}: {one_line(error)}") from error
    return manifest


def _check_names(
    archive: Path, study: Study, expected: _Expected, manifest: Manifest, there: set[str]
) -> None:
    """Refuse an archive whose files are not those of its manifest, or not those of the study."""
    listed = set(manifest.files)
    if absent := sorted(listed - there):
        raise UserError(f"{archive}: {absent[0]} is in {MANIFEST} but not in the archive")
    if extra := sorted(there - listed):
        raise UserError(f"{archive}: {extra[0]} is not in {MANIFEST}")
    for folder in manifest.runs:
        if folder not in expected.runs:
            raise UserError(f"{archive}: {folder} is no run of {study.path}; was the study another one?")
    allowed = set(expected.files)
    for folder, run in expected.runs.items():
        names = set(run_files(study, run))
        if folder not in manifest.runs:
            allowed -= names
        elif lacking := sorted(names - listed):
            raise UserError(f"{archive}: lacks {lacking[0]}")
    for name, (folder, _) in expected.analysed.items():
        if name in listed and folder not in manifest.runs:
            raise UserError(f"{archive}: {name}: is of {folder}, which the archive does not have")
    if foreign := sorted(listed - allowed):
        raise UserError(f"{archive}: {foreign[0]} is no file of {study.path}'s results")


def _check_run(archive: Path, study: Study, run: Run, digest: str, files: dict[str, bytes]) -> None:
    """Refuse a run that was trained under another spec, or whose manifest is not that of its tables."""
    where = f"{run_dir(Path(), run).as_posix()}/{RUN_MANIFEST}"
    try:
        manifest = parse_json(RunManifest, files[where])
        if manifest.spec is None or manifest.sha256 is None:
            raise ValueError("lacks the spec or checksums")
    except ValueError as error:
        raise UserError(f"{archive}: {where}: not the manifest of a run ({one_line(error)})") from error
    digests = manifest.sha256
    now = study.train_spec(run.cell)
    if not manifest.spec_digest == digest == now.digest():
        then = differences(manifest.spec, json.loads(now.canonical_json()))
        changed = one_line("; ".join(then) or "the form of the spec")
        raise UserError(
            f"{archive}: {run.name} was trained under another spec than {study.path} has now: {changed}"
        )
    if not manifest.archived or manifest.seed != run.seed:
        raise UserError(f"{archive}: {where}: not the manifest of an archived run of seed {run.seed}")
    for name, kind in run_files(study, run).items():
        own = PurePosixPath(name).name
        if kind is None or own in NOT_IN_RUN_MANIFEST:
            continue
        if entry(files[name]).sha256 != digests.get(own):
            raise UserError(f"{archive}: {name}: checksum differs from the one in {where}")


def _folder(run: Run) -> str:
    return run_dir(Path(), run).as_posix()


def _there(results: Path, name: str, data: bytes) -> bool:
    """Whether a file with these bytes is there already.

    Raises UserError if it is another one, or a link on the way leads out of the results folder.
    """
    path = results / name
    for folder in path.relative_to(results).parents:
        place = results / folder
        if folder != Path() and (place.is_symlink() or (place.exists() and not place.is_dir())):
            raise UserError(f"{place}: is a link or a file; results are restored into plain folders")
    if not path.exists() and not path.is_symlink():
        return False
    if path.is_file() and path.read_bytes() == data:
        return True
    raise UserError(f"{path}: is there already and differs; import into an empty results folder (--results)")
