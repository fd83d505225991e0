"""What a user meets first: the default study, the cluster profile, and one line for a mistake."""

from __future__ import annotations

import csv
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_project import CHECKOUT, Project

from moerl.study.config import load_study
from moerl.study.paths import NOT_ARCHIVED, files_of_run, run_dir

DEMO = yaml.safe_load((CHECKOUT / "config/studies/demo.yaml").read_text())


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.create(tmp_path_factory.mktemp("clone") / "moerl", DEMO)


def dry_run(project: Project, *arguments: str) -> dict[str, int]:
    """Jobs per rule that a dry run plans."""
    done = project.run("snakemake", *arguments, "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    table = re.search(
        r"^Job stats:\n.*?\n-+ .*?\n(.*?)\n\n", done.stdout + done.stderr, re.MULTILINE | re.DOTALL
    )
    assert table is not None, done.stdout + done.stderr
    return {name: int(count) for name, count in (line.split() for line in table[1].splitlines())}


def test_snakemake_alone_plans_the_demo_study(clone: Project) -> None:
    planned = dry_run(clone)
    assert planned["all"] == 1
    usual = [name for name, override in DEMO["figures"].items() if not override.get("on_request")]
    assert planned["figure"] == len(usual) < len(DEMO["figures"])
    said = clone.run("snakemake", "--dry-run").stdout
    assert "results/demo/figures/fig01.pdf" in said


def test_the_slurm_profile_plans_the_paper_study_in_a_clean_clone(clone: Project) -> None:
    started = time.monotonic()
    planned = dry_run(clone, "fig01", "--profile", "slurm")
    assert time.monotonic() - started < 60
    # 12 variants of two agents on 20 games, to 50M and from there to 200M frames.
    assert planned["train_0_1_2_3_4"] == 2 * 12 * 20 * 2
    assert planned["figure"] == 1
    assert "analyse" not in planned


def test_imported_runs_are_not_deleted_to_train_one_beside_them(clone: Project) -> None:
    """One job makes all seeds of a pack, and Snakemake deletes what a job makes before it."""
    study = DEMO | {"name": "beside", "seeds": [0, 1], "seeds_per_job": 2, "figures": {"fig10": {}}}
    file = "config/studies/beside.yaml"
    clone.write(file, study)
    results = clone.root / "results" / "beside"
    (results / "imported").mkdir(parents=True)
    loaded = load_study(clone.root / file)
    here, missing = loaded.runs()[:2]
    folder = run_dir(results, here)
    folder.mkdir(parents=True)
    for name in files_of_run(loaded):
        if name not in NOT_ARCHIVED:
            (folder / name).touch()
    spec = loaded.train_spec(here.cell)
    manifest = {"archived": True, "spec": json.loads(spec.canonical_json()), "spec_digest": spec.digest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    done = clone.run("snakemake", "fig10", "--dry-run", "--configfile", file)
    said = [line for line in done.stderr.splitlines() if line.startswith("moerl: ")]
    assert done.returncode == 2, done.stderr
    assert len(said) == 1
    place = run_dir(results, missing).relative_to(clone.root)
    assert said[0].startswith(f"moerl: {place}: is missing, and would be trained in one job with the seeds 0, ")
    assert "allow_partial=1" in said[0]
    assert f"`seeds_per_job` in {file}" in said[0]
    clone.write(file, study | {"seeds_per_job": 1})
    planned = dry_run(clone, "fig10", "--configfile", file)
    assert planned["train_1"] == planned["train_0"] + 1
    shutil.rmtree(clone.root / "results")


def test_a_study_given_replaces_the_profiles(clone: Project) -> None:
    planned = dry_run(clone, "fig10", "--profile", "slurm", "--configfile", "config/studies/demo.yaml")
    assert set(planned) == {"train_0_1", "analyse", "scores", "table", "figure", "fig10", "total"}


def test_a_figure_on_request_is_a_target(clone: Project) -> None:
    planned = dry_run(clone, "routing")
    stages = {"train_0_1": 2, "analyse": 2, "scores": 1, "table": 1, "figure": 1, "routing": 1}
    assert planned == stages | {"total": 8}


def test_a_study_with_evaluation_collects_it(clone: Project) -> None:
    study = yaml.safe_load((CHECKOUT / "config/studies/atari100k.yaml").read_text())
    study["games"] = {"games26": ["Pong"]}
    clone.write("config/studies/low-data.yaml", study)
    command = ("atari100k_cnn", "--configfile", "config/studies/low-data.yaml")
    planned = dry_run(clone, *command)
    trained = {rule: count for rule, count in planned.items() if rule.startswith("train_")}
    assert trained == {f"train_{seed}": 4 for seed in range(5)}  # a run per job: 2 agents, 2 variants
    files = clone.run("snakemake", *command, "--detailed-summary").stdout.splitlines()
    assert sum("/400k/evaluations.parquet\t" in line for line in files) == 20


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"sedes": [0]}, "seeds"),
    "unknown game": ({"games": {"games20": ["Pog"]}}, "Pong"),
    "wrong type": ({"seeds_per_job": "two"}, "seeds_per_job"),
    "negative budget": ({"milestones": {"short": -4000, "full": 4000}}, "milestones.short"),
    "duplicate seed": ({"seeds": [1, 1]}, "duplicate seed 1"),
    "unknown agent": ({"agents": {"dqm": {}}}, "dqn"),
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_a_mistake_is_one_line_before_any_job(clone: Project, mistake: str) -> None:
    change, hint = BROKEN[mistake]
    file = Path("config/studies") / f"{mistake.replace(' ', '-')}.yaml"
    clone.write(str(file), DEMO | change)
    done = clone.run("snakemake", "--configfile", str(file))
    lines = [line for line in done.stderr.splitlines() if not line.startswith("Using ")]
    assert done.returncode == 2
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f"moerl: {file}: ")
    assert hint in lines[0]
    assert "Traceback" not in done.stdout + done.stderr
    assert not (clone.root / "results").exists()


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("allow_partial=perhaps", "allow_partial: bad value 'perhaps' (allowed: 1, 0, true, false)"),
        ("allow_partial=2", "allow_partial: bad value 2"),
        ("alow_partial=1", "unknown setting 'alow_partial'"),
        ("allow_partial=1", "fig01: 48 of 48 runs are not finished: dqn cnn-baseline Alien seed 0 (missing), "),
    ],
)
def test_a_bad_setting_is_one_line_before_any_job(clone: Project, setting: str, hint: str) -> None:
    done = clone.run("snakemake", "fig01", "--config", setting)
    lines = [line for line in done.stderr.splitlines() if line.startswith("moerl: ")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert hint in lines[0]
    assert "Traceback" not in done.stdout + done.stderr
    assert not (clone.root / "results").exists()


def test_a_target_of_a_combination_that_does_not_exist_is_one_line(clone: Project) -> None:
    for cell, hint in (("sac/cnn-baseline", "unknown agent 'sac'"), ("dqn/vit-baseline", "unknown variant")):
        done = clone.run("snakemake", f"results/demo/runs/{cell}/Pong/seed0/2k/returns.parquet")
        lines = [line for line in done.stderr.splitlines() if line.startswith("moerl: ")]
        assert done.returncode == 2, done.stderr
        assert len(lines) == 1, done.stderr
        assert hint in lines[0]
        assert "Traceback" not in done.stdout + done.stderr


def cpu_seconds(clone: Project, *arguments: str) -> float:
    """CPU time of a command that ends on a user's mistake (2) or well (0); the best of three, since others slow it."""
    script = "import resource, subprocess, sys; r = subprocess.run(sys.argv[1:]).returncode; " + (
        "u = resource.getrusage(resource.RUSAGE_CHILDREN); print('cpu', u.ru_utime + u.ru_stime); sys.exit(r)"
    )
    found = []
    for _ in range(3):
        done = clone.run("python", "-c", script, *arguments)
        assert done.returncode in (0, 2)
        seconds = re.search(r"cpu ([\d.]+)", done.stdout)
        assert seconds is not None
        found.append(float(seconds[1]))
    return min(found)


def test_a_mistake_is_reported_in_little_more_than_snakemake_needs_to_start(clone: Project) -> None:
    """The bar is three seconds in all; a machine on which Snakemake alone takes longer is held to the ratio."""
    file = clone.root / "config/studies/slow.yaml"
    file.write_text("name: slow\n")
    ours = cpu_seconds(clone, "snakemake", "--configfile", "config/studies/slow.yaml")
    assert ours < max(3.0, 2.0 * cpu_seconds(clone, "snakemake", "--version"))


def test_two_studies_at_once_are_refused(clone: Project) -> None:
    studies = ["config/studies/demo.yaml", "config/studies/paper.yaml"]
    done = clone.run("snakemake", "--configfile", *studies)
    assert done.returncode == 2
    assert "one study at a time" in done.stderr


def test_the_workflow_imports_neither_jax_nor_pandas(clone: Project) -> None:
    modules = re.findall(
        r"^(?:from|import) ([\w.]+)", (clone.root / "workflow/rules/common.smk").read_text(), re.M
    )
    ours = [m for m in modules if m.startswith("moerl")]
    assert ours
    assert all(m.startswith("moerl.study") for m in ours)
    code = f"import sys, {', '.join(ours)}; print(sorted({{'jax', 'pandas', 'numpy'}} & set(sys.modules)))"
    assert clone.run("python", "-c", code).stdout.strip() == "[]"


def test_jobs_import_the_source_that_planned_them(clone: Project, tmp_path: Path) -> None:
    """Also where something else comes first: an environment installed from another checkout."""
    program = tmp_path / "moerl"
    program.write_text(f'#!/bin/bash\necho "$PYTHONPATH" > {tmp_path}/said\nexit 1\n')
    program.chmod(0o755)
    project = clone.copy(tmp_path / "project")
    source, path = project.environment()["PYTHONPATH"], project.environment()["PATH"]
    settings = (f"PYTHONPATH={tmp_path}:{source}", f"PATH={tmp_path}:{path}")
    done = project.run("env", *settings, "snakemake", "fig10", "--cores", "1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert (tmp_path / "said").read_text().strip() == f"{source}:{tmp_path}:{source}"


def test_tables_of_the_paper_are_targets(clone: Project) -> None:
    assert dry_run(clone, "table2", "table4") == {"hyperparameters": 2, "table2": 1, "table4": 1, "total": 4}


def test_a_table_that_cannot_be_filled_says_so_in_one_line(clone: Project) -> None:
    done = clone.run("snakemake", "table3")
    said = [line for line in done.stderr.splitlines() if line.startswith("moerl: ")]
    assert done.returncode == 2
    assert len(said) == 1
    assert said[0].startswith("moerl: config/studies/demo.yaml: table3 shows CQL and CQL + C51, none of which is among")
    assert "Traceback" not in done.stderr


def test_published_runs_are_fetched_aggregated_and_shown_where_asked_for(
    clone: Project, tmp_path: Path
) -> None:
    study = {
        "name": "long",
        "agents": {"dqn": {}},
        "figures": {"fig07": {}, "fig01": {}, "learning": {"games": ["Pong"], "encoder": "impala"}},
        "games": {"games20": ["Pong"]},
        "seeds": [0],
        "seeds_per_job": 1,
        "iteration_frames": "1M",
        "milestones": {"short": "1M", "full": "2M"},
        "snapshot_every": 0,
    }
    clone.write("config/studies/long.yaml", study)
    command = ("--configfile", "config/studies/long.yaml")
    assert "reference_table" not in dry_run(clone, "fig07", *command)
    asked = dry_run(clone, "fig07", "fig01", *command, "--config", f"reference={tmp_path}")
    assert (asked["fetch_reference"], asked["reference_table"], asked["figure"]) == (1, 1, 2)
    published = [
        {"Agent": "DQN", "Iteration": iteration, "Value": 10.0 * iteration - 20.0} for iteration in (0, 1, 2)
    ]
    for encoder in ("CNN", "Impala"):
        (tmp_path / f"pong_{encoder}.json").write_text(json.dumps(published))
    done = clone.run("snakemake", "reference", "--cores", "1", *command, "--config", f"reference={tmp_path}")
    assert done.returncode == 0, done.stderr + clone.logs()
    with (clone.root / "results/long/reference/fig07.csv").open(newline="") as file:
        points = [(row["panel"], row["frame"], float(row["value"])) for row in csv.DictReader(file)]
    low, high = -20.7, 14.6  # random and human score of Pong
    assert points == [
        ("DQN", "1000000", pytest.approx((-20.0 - low) / (high - low))),
        ("DQN", "2000000", pytest.approx((-10.0 - low) / (high - low))),
    ]
    # The same names and files, but each figure now shows networks of the other encoder.
    networks = clone.read("config/networks.yaml")
    swap = {name: name.replace("cnn-", "impala-") for name in networks if name.startswith("cnn-")}
    swap = {name: other for name, other in swap.items() if other in networks}
    swap |= {other: name for name, other in swap.items()}
    other = clone.copy(tmp_path / "project")
    other.write("config/networks.yaml", networks | {name: networks[swap[name]] for name in swap})
    planned = dry_run(other, "reference", *command, "--config", f"reference={tmp_path}")
    assert planned == {"reference_table": 2, "reference": 1, "total": 3}
    done = clone.run("snakemake", "reference", "--dry-run")
    assert done.returncode == 2
    assert "demo.yaml: no figure that published runs can be drawn in" in done.stderr


def test_figures_that_cannot_be_trained_yet_say_so_and_all_leaves_them_out(clone: Project) -> None:
    study = DEMO | {"name": "later", "figures": {"fig02": {}, "fig20": {}}, "agents": {"dqn": {}}}
    clone.write("config/studies/later.yaml", study)
    given = ("--configfile", "config/studies/later.yaml")
    assert dry_run(clone, *given) == {
        "hyperparameters": 2,
        "figure": 1,
        "page": 3,  # two tables, fidelity
        "manifest": 1,
        "all": 1,
        "total": 8,
    }
    done = clone.run("snakemake", *given, "--dry-run")
    assert "Study later is complete: results/later, but for fig20: their agents" in done.stdout
    done = clone.run("snakemake", "fig20", *given)
    said = [line for line in done.stderr.splitlines() if line.startswith("moerl: ")]
    assert done.returncode == 2
    assert said == ["moerl: fig20: SAC and PPO cannot be trained yet, so there is nothing to draw"]
    assert "Traceback" not in done.stderr


def test_rules_files_are_the_stages_of_the_table_of_contents() -> None:
    listed = re.findall(r'^include: "(.*)"$', (CHECKOUT / "workflow/Snakefile").read_text(), re.MULTILINE)
    present = sorted(f"rules/{p.name}" for p in (CHECKOUT / "workflow/rules").glob("*.smk"))
    assert sorted(listed) == present
