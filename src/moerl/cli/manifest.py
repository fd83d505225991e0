"""`moerl manifest`: what a study produced, file by file, so that two machines can compare results."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import moerl
from moerl.study.expansion import Study

_NOT_REPRODUCIBLE = ("timing.parquet", "manifest.json")  # wall-clock and host facts


def write_manifest(study: Study, results: Path) -> None:
    """Write `manifest.json` in `results`: SHA-256 of every byte-reproducible file below it, sorted."""
    digests = {}
    for path in sorted(results.rglob("*")):
        if path.is_file() and path.name not in _NOT_REPRODUCIBLE and not path.name.startswith("."):
            digests[path.relative_to(results).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    content = {
        "study": study.name,
        "moerl": moerl.__version__,
        "deviations_from_the_paper": asdict(study.deviations),
        "runs": len(study.runs()),
        "sha256": digests,
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / "manifest.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
