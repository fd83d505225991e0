"""Archives of results: what goes in comes out, and what is wrong is refused before anything is written."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic_study import load, publish, write_returns, write_runs
from tiny_project import CHECKOUT

from moerl.analysis.stage import parquet
from moerl.archive.export import export
from moerl.archive.restore import restore
from moerl.cli.hyperparameters import write_table
from moerl.statistics import scores_stage, table_stage
from moerl.study.config import load_study
from moerl.study.errors import UserError
from moerl.study.expansion import Study
from moerl.study.origin import Origin
from moerl.study.paths import run_dir
from moerl.study.standing import Standing
from moerl.study.tables import made_tables

PONG = "{encoder: cnn, agent: dqn, games: [Pong]}"
SETTINGS = {"figures": f"{{fig10: {PONG}, routing: {PONG}}}", "seeds": "0, 1", "short": "2M"}
RETURNS = "runs/dqn/cnn-baseline/Pong/seed0/2M/returns.parquet"
RUN_MANIFEST = RETURNS.replace("returns.parquet", "manifest.json")
ANALYSIS = "analysis/dqn/cnn-baseline/Pong/seed0.parquet"
Files = dict[str, bytes]


def make(study: Study, results: Path) -> None:
    """The tables of the figures, from their runs."""
    for name in study.figures:
        scores_stage.run(study, name, results)
        table_stage.run(study, name, results)
    for name in made_tables(study):
        write_table(study, name, results)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path, Path]:
    """A study, its results, and the archive of them."""
    folder = tmp_path_factory.mktemp("exported")
    study, results = load(folder, **SETTINGS), folder / "results"
    for run in write_runs(study, "fig10", results):
        publish(study, run, results)
    make(study, results)
    export(Standing(study, results), folder / "results.zip")
    return study, results, folder / "results.zip"


def contents(archive: Path) -> Files:
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def rezip(archive: Path, files: Files, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(archive, "w", compression) as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return archive


def tree(folder: Path) -> Files:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def change_manifest(files: Files, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads(files["manifest.json"])
    change(manifest)
    files["manifest.json"] = json.dumps(manifest).encode()


def put(files: Files, name: str, data: bytes) -> None:
    """Put a file into an archive, with a manifest that fits."""
    files[name] = data
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change_manifest(files, lambda manifest: manifest["files"].update({name: entry}))


def test_what_is_restored_gives_the_same_tables_and_the_same_archive(
    exported: tuple[Study, Path, Path], tmp_path: Path
) -> None:
    study, results, archive = exported
    mine = tmp_path / "results"
    manifest, written = restore(study, mine, archive)
    assert len(manifest.runs) == 6
    assert written == 6 * (4 + 2) + 1  # returns, losses, timing, manifest, analysis; the record of the import
    assert len({path.stat().st_mtime_ns for path in mine.rglob("*") if path.is_file()}) == 1
    make(study, mine)
    before, after = tree(results), tree(mine)
    tables = [name for name in before if not name.startswith("runs/")]
    assert len(tables) > 4
    assert {name: after[name] for name in tables} == {name: before[name] for name in tables}
    export(Standing(study, mine), tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()
    assert restore(study, mine, archive)[1] == 0
    assert tree(mine) == after


def test_an_archive_holds_no_host_and_what_defines_the_study(
    exported: tuple[Study, Path, Path],
) -> None:
    study, _, archive = exported
    files = contents(archive)
    assert not {"host", "wall_seconds"} & json.loads(files[RUN_MANIFEST]).keys()
    assert files["config/studies/synthetic.yaml"] == study.path.read_bytes()
    assert {"README.md", "data_dictionary.csv", "config/agents.yaml", "scores/fig10.parquet"} <= files.keys()
    listed = json.loads(files["manifest.json"])["files"]
    assert listed.keys() == files.keys() - {"manifest.json"}
    with zipfile.ZipFile(archive) as opened:
        assert {info.date_time[0] for info in opened.infolist()} == {1980}


def test_an_imported_run_is_done_until_the_study_is_another(
    exported: tuple[Study, Path, Path], tmp_path: Path
) -> None:
    study, _, archive = exported
    restore(study, tmp_path, archive)
    run = study.runs()[0]
    assert Standing(study, tmp_path).published(run)
    agents = {"dqn": study.agents["dqn"].model_copy(update={"gamma": 0.9})}
    outdated = Standing(replace(study, agents=agents), tmp_path).outdated(run)
    assert outdated == "params have changed: hyper.gamma 0.99 → 0.9"
    (run_dir(tmp_path, run) / "losses.parquet").unlink()
    assert Standing(study, tmp_path).outdated(run) == "missing output files: losses.parquet"


def flip(files: Files) -> None:
    files[RETURNS] = files[RETURNS][:-9] + b"x" + files[RETURNS][-8:]


def other_analysis(files: Files) -> None:
    table = pd.read_parquet(io.BytesIO(files[ANALYSIS]))
    put(files, ANALYSIS, parquet(table, Origin("0" * 16, "2M")))


def without_its_run(files: Files) -> None:
    folder = RETURNS.rpartition("/")[0]
    for name in [name for name in files if name.startswith(f"{folder}/")]:
        del files[name]
        change_manifest(files, lambda manifest, name=name: manifest["files"].pop(name))  # type: ignore[misc]
    change_manifest(files, lambda manifest: manifest["runs"].pop(folder))


def torn(files: Files) -> None:
    put(files, "scores/fig10.parquet", files["scores/fig10.parquet"][:200])


def other_returns(files: Files) -> None:
    put(files, RETURNS, files[RETURNS.replace("seed0", "seed1")])


def other_spec(files: Files) -> None:
    manifest = json.loads(files[RUN_MANIFEST])
    manifest["spec"]["hyper"]["gamma"], manifest["spec_digest"] = 0.9, "0" * 16
    put(files, RUN_MANIFEST, json.dumps(manifest).encode())
    folder = RUN_MANIFEST.removesuffix("/manifest.json")
    change_manifest(files, lambda manifest: manifest["runs"].update({folder: "0" * 16}))


def another_column(files: Files) -> None:
    put(files, "tables/fig10.csv", files["tables/fig10.csv"].replace(b"se_low", b"sd_low"))


BAD: dict[str, tuple[Callable[[Files], object], str]] = {
    "a flipped byte": (flip, f"{RETURNS}: checksum differs from manifest.json"),
    "a torn Parquet file": (torn, "scores/fig10.parquet: not a readable table"),
    "returns of another run": (other_returns, f"{RETURNS}: checksum differs from the one in {RUN_MANIFEST}"),
    "another spec": (
        other_spec,
        "dqn cnn-baseline Pong seed 0 was trained under another spec than .* 0.9 → 0.99",
    ),
    "an analysis of other training": (
        other_analysis,
        f"{ANALYSIS}: is of other training .its spec is 0000000000000000, the study's",
    ),
    "an analysis without its run": (
        without_its_run,
        f"{ANALYSIS}: is of runs/dqn/cnn-baseline/Pong/seed0/2M, which the archive does not have",
    ),
    "an undocumented column": (
        another_column,
        "tables/fig10.csv: column 'sd_low' is not in the data dictionary",
    ),
    "another study": (
        lambda files: change_manifest(files, lambda m: m.update(study="other")),
        "holds the study 'other'",
    ),
    "a later format": (
        lambda files: change_manifest(files, lambda m: m.update(format=2)),
        "manifest.json: format: Input should be 1",
    ),
    "no manifest": (lambda files: files.pop("manifest.json"), "has no manifest.json"),
    "a file less": (
        lambda files: files.pop(RETURNS),
        f"{RETURNS} is in manifest.json but not in the archive",
    ),
    "a file more": (lambda files: files.update({"x.py": b""}), "x.py is not in manifest.json"),
    "a foreign file": (lambda files: put(files, "runs/x.py", b""), "runs/x.py is no file of"),
    "another run": (
        lambda files: change_manifest(files, lambda m: m["runs"].update({"runs/x": "0"})),
        "runs/x is no run of",
    ),
    "a way out": (
        lambda files: put(files, "runs/../../x", b""),
        "'runs/../../x' leads out of the results folder",
    ),
    "an absolute path": (lambda files: put(files, "/tmp/x", b""), "'/tmp/x' leads out of the results folder"),
    "a folder": (lambda files: files.update({"runs/": b""}), "'runs/' is a folder or a link"),
    "more bytes than told": (
        lambda files: change_manifest(files, lambda m: m["files"][RETURNS].update(bytes=10)),
        f"{RETURNS}: more than the 10 bytes it may have",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_archive_is_named_and_writes_nothing(
    exported: tuple[Study, Path, Path], tmp_path: Path, what: str
) -> None:
    study, _, archive = exported
    change, problem = BAD[what]
    files = contents(archive)
    change(files)
    bad = rezip(tmp_path / "bad.zip", files)
    with pytest.raises(UserError, match=problem) as caught:
        restore(study, tmp_path / "results", bad)
    assert str(caught.value).startswith(f"{bad}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "results").exists()


def test_links_compression_duplicates_and_what_is_no_zip_are_refused(
    exported: tuple[Study, Path, Path], tmp_path: Path
) -> None:
    study, _, archive = exported
    files = contents(archive)
    with pytest.raises(UserError, match="is compressed"):
        restore(study, tmp_path / "results", rezip(tmp_path / "a.zip", files, zipfile.ZIP_DEFLATED))
    link = zipfile.ZipInfo("runs/link")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    shutil.copy(archive, tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "a") as opened:
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="'runs/link' is a folder or a link"):
        restore(study, tmp_path / "results", tmp_path / "b.zip")
    shutil.copy(archive, tmp_path / "c.zip")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "c.zip", "a") as opened:
        opened.writestr(RETURNS, b"")
    with pytest.raises(UserError, match=f"'{RETURNS}' is there twice"):
        restore(study, tmp_path / "results", tmp_path / "c.zip")
    (tmp_path / "d.zip").write_bytes(archive.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a readable zip archive"):
        restore(study, tmp_path / "results", tmp_path / "d.zip")
    assert not (tmp_path / "results").exists()


def test_nothing_is_overwritten(exported: tuple[Study, Path, Path], tmp_path: Path) -> None:
    study, _, archive = exported
    mine = tmp_path / RETURNS
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(UserError, match="is there already and differs") as caught:
        restore(study, tmp_path, archive)
    assert str(caught.value).startswith(str(mine))
    assert tree(tmp_path) == {RETURNS: b"mine"}


def test_what_was_trained_anew_is_not_exported_with_its_old_analysis(
    exported: tuple[Study, Path, Path], tmp_path: Path
) -> None:
    before, results, _ = exported
    study = replace(before, agents={"dqn": before.agents["dqn"].model_copy(update={"gamma": 0.9})})
    shutil.copytree(results, tmp_path / "results")
    for run in study.runs():
        write_returns(study, run, tmp_path / "results")
        publish(study, run, tmp_path / "results")
    with pytest.raises(UserError, match=r"is of other training .its spec is .* analyse this run again"):
        export(Standing(study, tmp_path / "results"), tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_a_figure_on_request_is_archived_with_its_runs_if_it_was_made(tmp_path: Path) -> None:
    routing = PONG.replace("}", ", on_request: true}")
    study = load(tmp_path, **SETTINGS | {"figures": f"{{learning: {PONG}, routing: {routing}}}"})
    results = tmp_path / "results"
    for run in write_runs(study, "learning", results):
        publish(study, run, results)
    for name in made_tables(study):
        write_table(study, name, results)
    scores_stage.run(study, "learning", results)
    table_stage.run(study, "learning", results)
    usual = export(Standing(study, results), tmp_path / "usual.zip")
    assert len(usual.runs) == len(study.runs()) == 2
    assert "routing" not in str(sorted(usual.files))

    for run in write_runs(study, "routing", results):
        publish(study, run, results)
    make(study, results)
    manifest = export(Standing(study, results), tmp_path / "all.zip")
    wanted = {run_dir(Path(), run).as_posix() for run in study.figure_runs(study.figures["routing"])}
    assert manifest.runs.keys() - usual.runs.keys() == wanted
    for archive in ("usual", "all"):
        restore(study, tmp_path / archive, tmp_path / f"{archive}.zip")
    make(study, tmp_path / "all")
    assert (tmp_path / "all/tables/routing.csv").read_bytes() == (results / "tables/routing.csv").read_bytes()

    shutil.rmtree(run_dir(results, study.figure_runs(study.figures["routing"])[0]))
    with pytest.raises(UserError, match="1 of 4 runs are not finished: dqn cnn-softmoe8 Pong seed 0"):
        export(Standing(study, results), tmp_path / "b.zip")


def test_the_source_of_a_module_of_ones_own_is_archived_as_text_and_found_where_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = CHECKOUT / "docs" / "examples" / "topk.py"
    there = tmp_path / "mine" / "pack" / "topk.py"
    there.parent.mkdir(parents=True)
    there.write_text(f"{source.read_text()}\nfrom .near import K\nraise RuntimeError('this was run')\n")
    for name in ("__init__.py", "near.py", "unused.py"):
        (there.parent / name).write_text("K = 2\n")
    shutil.copy2(source, there.with_name("spare.py"))  # of a variant that no figure shows
    variant = "{encoder: cnn, module: 'pack.topk:TopKMoE', num_experts: 8, tokens: perconv, options: {k: 2}}"
    series = "add_series: [{name: Top2, variants: [cnn-top2]}]"
    settings = {
        "figures": f"{{learning: {PONG.replace('}', f', {series}}}')}}}",
        "extra": f"variants: {{cnn-top2: {variant}, spare: {variant.replace('topk', 'spare')}}}",
    }
    with monkeypatch.context() as patched:
        patched.syspath_prepend(tmp_path / "mine")
        study, results = load(tmp_path, **SETTINGS | settings), tmp_path / "results"
        for run in write_runs(study, "learning", results):
            publish(study, run, results)
        make(study, results)
        export(Standing(study, results), tmp_path / "results.zip")
    held = contents(tmp_path / "results.zip")
    assert "export PYTHONPATH=FOLDER/modules" in held["README.md"].decode()
    modules = {name for name in held if name.startswith("modules/")}
    assert modules == {f"modules/pack/{name}.py" for name in ("topk", "spare", "__init__", "near")}
    shutil.rmtree(there.parent)
    with zipfile.ZipFile(tmp_path / "results.zip") as opened:
        opened.extractall(tmp_path / "unpacked")
    monkeypatch.syspath_prepend(tmp_path / "unpacked" / "modules")
    theirs = load_study(tmp_path / "unpacked/config/studies/synthetic.yaml")
    manifest, _ = restore(theirs, tmp_path / "restored", tmp_path / "results.zip")
    assert len(manifest.runs) == 4
    assert {path.name for path in (tmp_path / "restored").iterdir()} == {"runs", "imported"}


def test_only_sound_and_complete_results_are_exported(
    exported: tuple[Study, Path, Path], tmp_path: Path
) -> None:
    study, results, _ = exported
    mine, archive = tmp_path / "results", tmp_path / "a.zip"
    shutil.copytree(results, mine)
    (mine / "tables/fig10.tex").unlink()
    with pytest.raises(UserError, match=r"fig10.tex: is not there; make the figures"):
        export(Standing(study, mine), archive)
    shutil.rmtree((mine / RETURNS).parent)
    with pytest.raises(UserError, match="1 of 6 runs are not finished: dqn cnn-baseline Pong seed 0"):
        export(Standing(study, mine), archive)
    manifest = export(Standing(study, mine), archive, allow_partial=True)
    missing = "dqn cnn-baseline Pong seed 0, to 2M: missing"
    assert manifest.left_out == (missing, "tables/fig10.tex: not made")
    assert len(restore(study, tmp_path / "other", archive)[0].runs) == 5
    with pytest.raises(UserError, match="exists already"):
        export(Standing(study, mine), archive, allow_partial=True)
    changed = mine / RETURNS.replace("seed0", "seed1")
    pd.read_parquet(changed).assign(mean_return=9.0).to_parquet(changed, index=False)
    with pytest.raises(UserError, match=r"checksum differs from the run's manifest\.json") as caught:
        export(Standing(study, mine), tmp_path / "b.zip", allow_partial=True)
    assert str(caught.value).startswith(str(changed))
    assert not (tmp_path / "b.zip").exists()
