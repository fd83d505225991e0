"""Somebody else's results, imported: figures without training, the same bytes, and no silent change of spec."""

from __future__ import annotations

import re
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


def test_an_imported_study_is_drawn_without_training(finished: Project, tmp_path: Path) -> None:
    archive = str(tmp_path / "results.zip")
    done = finished.run("moerl", "export", archive, "--study", STUDY)
    assert done.returncode == 0, done.stderr
    theirs = Project.create(tmp_path / "theirs", finished.read(STUDY))
    for name in ("agents", "figures"):
        theirs.write(f"config/{name}.yaml", finished.read(f"config/{name}.yaml"))
    done = theirs.run("moerl", "import", archive, "--study", STUDY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"results/tiny: 8 runs of {archive}, ")
    expected = from_scores("fig01", "fig10") | {TABLE2, ENCODERS, PARAMETERS} | NEW_RUNS
    assert theirs.planned() == expected | pages("table2", "table4", "parameters", "fidelity")
    theirs.snakemake("--cores", "1")
    assert made(theirs) == made(finished)
    assert theirs.planned() == set()

    study = theirs.read(STUDY)
    study["agents"]["dqn"]["gamma"] = 0.9
    theirs.write(STUDY, study)
    done = theirs.run("snakemake", "fig01", "--dry-run", "--configfile", STUDY)
    assert done.returncode == 2
    assert re.search(r"seed0/320: came from an archive, .* hyper.gamma 0.99 → 0.9; undo the change", done.stderr)
