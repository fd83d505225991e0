"""Somebody else's results, imported: figures without training, the same bytes, and no silent change of spec."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
from test_invalidation import NEW_RUNS, PARAMETERS, TABLE2, from_scores, pages
from tiny_project import STUDY, Project

pytestmark = pytest.mark.long

ENCODERS = "Writing table4 from the resolved hyper-parameters"


def made(project: Project) -> dict[str, bytes]:
    """Scores, tables, figures and analyses."""
    root = project.root / "results/tiny"
    kinds = ("scores", "tables", "figures", "analysis")
    found = [path for kind in kinds for path in (root / kind).rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def said(archive: str, folder: Path) -> list[list[str]]:
    """The commands that the README of an archive gives, to unpack it to a folder, restore and draw it."""
    with zipfile.ZipFile(archive) as opened:
        readme = opened.read("README.md").decode()
    lines = re.findall(r"^    (.*)$", readme, re.MULTILINE)
    return [line.replace("ARCHIVE.zip", archive).replace("FOLDER", str(folder)).split() for line in lines]


def test_an_imported_study_is_drawn_without_training(finished: Project, tmp_path: Path) -> None:
    archive = str(tmp_path / "results.zip")
    done = finished.run("moerl", "export", archive, "--study", STUDY)
    assert done.returncode == 0, done.stderr
    theirs = Project.create(tmp_path / "theirs", {})
    (theirs.root / STUDY).unlink()  # a checkout that has never heard of this study
    unpack, restore, draw = said(archive, tmp_path / "unpacked")
    done = theirs.run(*unpack)
    assert done.returncode == 0, done.stderr
    done = theirs.run(*restore)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"results/tiny: 8 runs of {archive}, ")
    study = draw[-1]
    expected = from_scores("fig01", "fig10") | {TABLE2, ENCODERS, PARAMETERS} | NEW_RUNS
    assert theirs.planned(study=study) == expected | pages("table2", "table4", "parameters", "fidelity")
    done = theirs.run(*draw)
    assert done.returncode == 0, done.stderr + theirs.logs()
    assert made(theirs) == made(finished)
    assert theirs.planned(study=study) == set()

    changed = theirs.read(study)
    changed["agents"]["dqn"]["gamma"] = 0.9
    theirs.write(study, changed)
    done = theirs.run("snakemake", "fig01", "--dry-run", "--configfile", study)
    assert done.returncode == 2
    assert re.search(r"seed0/320: came from an archive, .* hyper.gamma 0.99 → 0.9; undo the change", done.stderr)
