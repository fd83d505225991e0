"""Fetching published returns: downloaded or taken from a folder, always checked against what was seen first.

Their checksums were never published, so the first file seen is trusted; its SHA-256 is recorded, and another
file of that name is refused from then on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from moerl.statistics.published import COLUMNS, read_published, require
from moerl.study.errors import FailureError, UserError, one_line
from moerl.study.expansion import Study
from moerl.study.json_file import parse_json
from moerl.study.long_step import long_step
from moerl.study.reference import AGENTS, URL, checksums_file, file_name, returns_file, wanted_games
from moerl.training.statefile import write_atomic

log = logging.getLogger(__name__)

_BYTES = 32 * 2**20  # much more than any of these files
_SECONDS = 60.0


def fetch(study: Study, results: Path, folder: Path | None = None, url: str = URL) -> None:
    """Write `reference/returns.parquet`: the published returns of the study's figures (columns `COLUMNS`).

    Args:
        study: The study; the games and encoders of its figures decide what is fetched.
        results: Its results folder; downloaded files are kept in `reference/files`.
        folder: Take the files from here (see `read_published`); nothing is downloaded.
        url: Where they are downloaded from, ending in a slash.

    Raises:
        UserError: A file is not there, is something else, or differs from what was seen first.
        FailureError: A download failed.
    """
    wanted = wanted_games(study)
    kept = folder or returns_file(results).parent / "files"
    seen = _checksums(checksums_file(results))

    def verify(path: Path, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        if seen.setdefault(path.name, digest) != digest:
            raise UserError(
                f"{path}: SHA-256 {digest[:16]}… differs from {seen[path.name][:16]}…, seen first; "
                f"if this file is the right one, delete {checksums_file(results)}"
            )

    parts = []
    for encoder, games in wanted.items():
        if folder is None:
            names = [file_name(game, encoder) for game in games]
            for name in long_step([n for n in names if not (kept / n).is_file()], "files downloaded"):
                write_atomic(kept / name, _download(url + name))
        table = read_published(kept, encoder, games, verify)
        shown = table[table["agent"].isin(list(AGENTS.values()))]
        parts.append(require(shown, kept, encoder, games))
    returns = pd.concat(parts, ignore_index=True)
    record = {"url": URL, "sha256": dict(sorted(seen.items()))}
    write_atomic(checksums_file(results), f"{json.dumps(record, indent=1)}\n".encode())
    path = returns_file(results)
    returns.sort_values(list(COLUMNS[:5])).to_parquet(path, index=False)


@dataclass(frozen=True)
class _Record:
    """What is read again of `manifest.json`."""

    sha256: dict[str, str]


def _checksums(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        return parse_json(_Record, path.read_bytes()).sha256
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a record of checksums ({one_line(error)})") from error


def _download(url: str) -> bytes:
    log.info("downloading %s", url)
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as response:
            data: bytes = response.read(_BYTES + 1)
    except (OSError, urllib.error.URLError) as error:
        raise FailureError(
            f"{url}: cannot be downloaded ({error}); try again, or take the files from a folder: "
            "--from FOLDER (snakemake: --config reference=FOLDER)"
        ) from error
    if len(data) > _BYTES:
        raise FailureError(f"{url}: larger than {_BYTES} bytes; not the file it should be")
    return data
