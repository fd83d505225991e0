"""`moerl plan`: the paper's counts, what is left to do, and what the hours rest on."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from moerl.cli.plan import RECORDS, make_plan, print_plan, readable_bytes
from moerl.cli.sizes import ACTIONS, Sizes, counted
from moerl.study.config import load_study
from moerl.study.costs import Record, cost, read_records
from moerl.study.errors import UserError
from moerl.study.expansion import Run, Study
from moerl.study.paths import (
    RUN_FILES,
    divergence_file,
    figure_files,
    run_dir,
    scores_file,
    state_dir,
    table_files,
)
from moerl.study.plan import count, group, work
from moerl.study.sizes import KNOWN, size_dependencies
from moerl.study.standing import Divergence, Standing, differences
from moerl.study.tables import made_tables

STUDIES = Path(__file__).parents[2] / "config" / "studies"


@pytest.fixture(scope="module")
def paper() -> Study:
    return load_study(STUDIES / "paper.yaml")


PAPERS_COUNTS = {
    "fig01": (2400, 2400),
    "fig02": (0, 0),
    "fig03": (0, 0),
    "fig04": (1600, 1200),
    "fig05": (1100, 300),
    "fig06": (600, 400),
    "fig07": (600, 600),
    "fig08": (700, 500),
    "fig09": (600, 200),
    "fig10": (45, 0),
    "fig11": (510, 510),
    "fig12": (780, 780),
    "fig13": (1200, 1000),
    "fig14": (600, 0),
    "fig15": (600, 0),
    "fig16": (780, 520),
    "fig17": (510, 510),
    "fig18": (400, 400),
    "fig19": (360, 0),
    "fig20": (555, 555),
    "routing": (2, 0),
}
"""Runs of each figure, and those that no figure before it has (method 1.1)."""
PAPERS_TOTALS = {
    "online, 200M frames": 5_600,
    "online, 50M frames": 1_400,
    "low-data, 50M frames": 1_300,
    "offline": 1_020,
    "continuous control": 555,
}


def test_the_papers_counts(paper: Study) -> None:
    figures = {name: paper.listed_runs(name) for name in paper.listed}
    counted_runs = count(figures)
    assert {name: (c.runs, c.new) for name, c in counted_runs.items()} == PAPERS_COUNTS
    assert sum(c.new for c in counted_runs.values()) == 9_875
    assert group(figures, paper.lengths) == PAPERS_TOTALS


def test_the_papers_study_plans_its_counts(paper: Study, tmp_path: Path) -> None:
    plan = make_plan(Standing(paper, tmp_path), [])
    figures = {row["figure"]: row for row in plan["figures"]}
    assert {n: (row["runs"], row["new_runs"]) for n, row in figures.items()} == PAPERS_COUNTS
    assert (plan["total"]["new_runs"], plan["runs_by_kind"]) == (9_875, PAPERS_TOTALS)
    # Packs of five seeds, to 50M and on to 200M frames; scores, table and figure.
    assert figures["fig01"]["train_jobs"] == 24 * 20 * 2
    assert figures["fig01"]["jobs"] == 24 * 20 * 2 + 3
    assert (figures["fig10"]["train_jobs"], figures["fig10"]["jobs"]) == (0, 45 + 3)
    assert figures["fig16"]["train_jobs"] == 2 * 2 * 26
    assert figures["fig01"]["agent_steps"] == 2400 * 50_000_000
    assert figures["fig03"]["jobs"] == 1  # the drawing
    assert figures["fig19"]["train_jobs"] == 0  # they are those of Figs 1 and 7
    assert not figures["fig20"]["trainable"]
    # Gradient steps: 200 iterations of 62,500 each.
    assert figures["fig11"]["train_jobs"] == 2 * 3 * 17
    assert figures["fig11"]["agent_steps"] == 510 * 12_500_000
    console = Console(width=200)
    with console.capture() as said:
        print_plan(plan, console)
    assert "Of fig20 only the runs are counted" in said.get()
    assert "Distinct runs: 5,600 online, 200M frames; " in said.get()


def test_three_seeds_train_the_jobs_they_are_in(paper: Study, tmp_path: Path) -> None:
    alone = replace(paper, seeds_per_job=2)
    left = work(Standing(alone, tmp_path), ["fig19"])["fig19"]
    assert left.counted.runs == 6 * 20 * 3
    assert left.train_jobs == 6 * 20 * 2 * 2  # seeds 0 and 1, 2 and 3; not 4
    assert sum(left.steps.values()) == 6 * 20 * 4 * 50_000_000


def test_higher_replay_ratios_are_runs_of_their_own(paper: Study, tmp_path: Path) -> None:
    cells = paper.figure_cells(paper.figure("fig04"))
    ratios = {}
    for cell in cells:
        hyper = paper.train_spec(cell).hyper
        ratios.setdefault(cell.agent, hyper.updates_per_period / hyper.update_period)
    assert ratios == {
        **{"dqn": 0.25, "dqn_rr05": 0.5, "dqn_rr1": 1, "dqn_rr2": 2},
        **{"rainbow": 0.25, "rainbow_rr05": 0.5, "rainbow_rr1": 1, "rainbow_rr2": 2},
    }
    records = [record("dqn", "impala-baseline", 3.0)]
    scaled = cost("dqn_rr2", "impala-baseline", "cpu", records, paper.agents, paper.variants)
    assert scaled is not None
    assert (scaled.seconds, scaled.measured) == (24.0, False)


def publish(study: Study, results: Path, run: Run, digest: str | None = None) -> Path:
    """Leave the files of a finished run; they hold nothing but a manifest."""
    folder = run_dir(results, run)
    folder.mkdir(parents=True, exist_ok=True)
    for name in RUN_FILES:
        (folder / name).touch()
    spec = study.train_spec(run.cell)
    manifest = {"spec": json.loads(spec.canonical_json()), "spec_digest": digest or spec.digest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_what_is_done_is_not_planned_again(paper: Study, tmp_path: Path) -> None:
    names = ["fig01", "fig10"]
    before = work(Standing(paper, tmp_path), names)
    cell = [("dqn", "impala-baseline", "Pong", seed) for seed in paper.seeds]
    for key in cell:
        publish(paper, tmp_path, Run(*key, "50M"))
    after = work(Standing(paper, tmp_path), names)["fig01"]
    assert after.train_jobs == before["fig01"].train_jobs - 1
    assert sum(after.steps.values()) == sum(before["fig01"].steps.values()) - 5 * 12_500_000
    assert after.done == 0  # Fig 1 wants 200M
    for key in cell[1:]:
        publish(paper, tmp_path, Run(*key, "200M"))
    after = work(Standing(paper, tmp_path), names)["fig01"]
    assert after.done == 4
    assert after.train_jobs == before["fig01"].train_jobs - 1  # one seed of the pack is left
    assert sum(after.steps.values()) == sum(before["fig01"].steps.values()) - 5 * 50_000_000 + 37_500_000
    for path in (scores_file(tmp_path, "fig01"), table_files(tmp_path, "fig01")[0]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert work(Standing(paper, tmp_path), ["fig01"])["fig01"].other_jobs == 1
    assert figure_files(tmp_path, "fig01")


def test_what_was_trained_under_another_spec_is_not_done(paper: Study, tmp_path: Path) -> None:
    run = Run("dqn", "impala-baseline", "Pong", 0, "200M")
    folder = publish(paper, tmp_path, run)
    assert Standing(paper, tmp_path).published(run)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["spec"]["hyper"]["learning_rate"] = 0.1
    manifest["spec_digest"] = "0" * 16
    (folder / "manifest.json").write_text(json.dumps(manifest))
    standing = Standing(paper, tmp_path)
    assert not standing.published(run)
    assert standing.outdated(run) == "params have changed: hyper.learning_rate 0.1 → 6.25e-05"
    assert work(Standing(paper, tmp_path), ["fig01"])["fig01"].done == 0
    (folder / "losses.parquet").unlink()
    assert standing.outdated(run) == "missing output files: losses.parquet"
    (folder / "losses.parquet").touch()
    (folder / "manifest.json").write_text("{torn")
    assert "cannot be read" in str(standing.outdated(run))


def diverge(study: Study, state: Path, run: Run, iteration: int) -> None:
    """Leave the record of a run that diverged."""
    record = Divergence(
        run=run.name,
        spec=study.train_spec(run.cell).digest(),
        problem="loss nan at gradient step 7",
        gradient_step=7,
        agent_step=28,
        frame=112,
        iteration=iteration,
        checkpoint=None,
        checkpoint_agent_step=None,
        versions={},
    )
    path = divergence_file(state, run)
    path.parent.mkdir(parents=True)
    path.write_text(record.model_dump_json())


def test_what_diverged_is_not_planned_to_be_trained(paper: Study, tmp_path: Path) -> None:
    standing = Standing(paper, tmp_path / "results", tmp_path / "state")
    early, late = (Run("dqn", "impala-baseline", "Pong", seed, "200M") for seed in (0, 1))
    before = work(standing, ["fig01"])["fig01"]
    diverge(paper, tmp_path / "state", early, iteration=0)
    diverge(paper, tmp_path / "state", late, iteration=60)  # after 50M frames
    after = work(standing, ["fig01"])["fig01"]
    assert (after.done, after.diverged) == (0, 2)
    assert after.train_jobs == before.train_jobs  # they are tried all the same, with the other seeds
    assert sum(before.steps.values()) - sum(after.steps.values()) == 50_000_000 + 37_500_000
    assert after.published[early.cell] == {"50M": 20 * 5 - 1 - 19 * 5, "200M": 20 * 5 - 2 - 19 * 5}
    plan = make_plan(standing, ["fig01"])
    assert (plan["figures"][0]["diverged"], plan["total"]["diverged"]) == (2, 2)
    console = Console(width=200)
    with console.capture() as said:
        print_plan(plan, console)
    assert "Diverged: 2 (moerl status names them)" in said.get()
    assert work(Standing(paper, tmp_path / "results"), ["fig01"])["fig01"].diverged == 0


def test_what_the_state_keeps_is_published_again_without_training(paper: Study, tmp_path: Path) -> None:
    standing = Standing(paper, tmp_path / "results", tmp_path / "state")
    before = work(standing, ["fig10"])["fig10"]
    run = Run("rainbow", "impala-baseline", "Pong", 0, "50M")
    publish(paper, tmp_path / "other", run).rename(make_parent(state_dir(tmp_path / "state", run) / "50M"))
    after = work(standing, ["fig10"])["fig10"]
    assert (after.done, after.train_jobs) == (0, before.train_jobs)
    assert sum(before.steps.values()) - sum(after.steps.values()) == 12_500_000


def make_parent(path: Path) -> Path:
    """`path`, in a folder that is there."""
    path.parent.mkdir(parents=True)
    return path


def test_evaluations_are_said_to_come_on_top(tmp_path: Path) -> None:
    study = load_study(STUDIES / "atari100k.yaml")
    console = Console(width=200)
    with console.capture() as said:
        print_plan(make_plan(Standing(study, tmp_path), ["atari100k_cnn"]), console)
    assert "evaluation games come on top" in said.get()


def test_differences_name_every_value() -> None:
    assert differences({"a": {"b": 1, "c": 2}, "d": None}, {"a": {"b": 1, "c": 3}, "e": "x"}) == [
        "a.c 2 → 3",
        "e none → x",
    ]


def record(agent: str, variant: str, seconds: float, device: str = "cpu", ratio: float = 0.25) -> Record:
    return Record(
        agent, variant, 1, device, "a chip", 1, "2026-01-01", 100, int(100 * ratio), 100 * seconds, 0.0
    )


def test_costs_are_measured_or_those_of_the_most_similar_record(paper: Study) -> None:
    records = [
        record("dqn", "cnn-baseline", 1.0),
        record("dqn", "impala-baseline", 5.0),
        record("rainbow", "impala-softmoe8", 7.0),
        record("rainbow", "cnn-baseline", 2.0),
    ]

    def of(agent: str, variant: str) -> tuple[float, bool]:
        found = cost(agent, variant, "cpu", records, paper.agents, paper.variants)
        assert found is not None
        return found.seconds, found.measured

    assert of("dqn", "cnn-baseline") == (1.0, True)
    assert of("dqn", "cnn-softmoe8") == (1.0, False)
    assert of("rainbow", "impala-baseline") == (7.0, False)  # same encoder and agent before same module
    assert of("der", "impala-top1-8") == (28.0, False)  # noisy, as Rainbow; four times the gradient steps
    assert of("drq_eps", "impala-baseline") == (20.0, False)
    assert cost("dqn", "cnn-baseline", "gpu", records, paper.agents, paper.variants) is None


def test_hours_add_up_and_say_what_they_rest_on(paper: Study, tmp_path: Path) -> None:
    fields = {"seeds": 1, "threads": 1, "date": "2026-01-01", "agent_steps": 100, "gradient_steps": 25}
    gpu = {"device": "gpu", "device_kind": "H200", "cpu_seconds": 9.0, "wall_seconds": 0.036}
    (tmp_path / "throughput.json").write_text(
        json.dumps([{"agent": "dqn", "variant": "cnn-baseline", **fields, **gpu}])
    )
    plan = make_plan(Standing(paper, tmp_path), ["fig07"], tmp_path / "throughput.json")
    row = plan["figures"][0]
    # 0.36 ms per agent step: 5 hours per 50M agent steps, 100 runs of each of six cells.
    assert row["gpu_hours"]["measured"] == pytest.approx(500)
    assert row["gpu_hours"]["extrapolated"] == pytest.approx(2500)
    assert row["cpu_hours"] is None
    (basis,) = plan["basis"]
    assert basis["measured"] == ["dqn cnn-baseline"]
    assert "rainbow cnn-softmoe8" in basis["extrapolated"]
    console = Console(width=200, record=True, quiet=True)
    console.quiet = False
    with console.capture() as said:
        print_plan(plan, console)
    assert "~3,000" in said.get()
    assert "CPU-hours are unknown" in said.get()
    assert "dqn cnn-baseline on H200: 0.4 GPU ms per agent step (2026-01-01)" in said.get()


def test_disk_is_checkpoints_actions_and_snapshots(paper: Study, tmp_path: Path) -> None:
    plan = make_plan(Standing(paper, tmp_path), ["fig12"])["figures"][0]
    known = Sizes(KNOWN)
    expected = 0
    for run in paper.figure_runs(paper.figure("fig12")):
        hyper = paper.agents[run.agent]
        size = known.of(hyper, paper.variants[run.variant])
        expected += 16 * size.parameters(paper.games[run.game].num_actions) + 12_500_000
        expected += 4_000_000 if run.agent == "der" else 0  # priorities
    assert plan["disk_bytes"] == expected
    analysed = make_plan(Standing(paper, tmp_path), ["fig10"])["figures"][0]["disk_bytes"]
    assert analysed > 45 * 10 * 4 * 32 * 2 * 4 * 84 * 84  # ten snapshots of four batches each


def test_known_sizes_are_those_of_the_networks(paper: Study) -> None:
    known = Sizes(KNOWN)
    for agent, variant, actions, parameters in (
        ("dqn", "impala-softmoe8", 6, 391_575),
        ("rainbow", "impala-baseline-x4", 18, 19_932_514),
        ("drq_eps", "impala-top1-8", 18, 438_083),
        ("cql_c51", "impala-baseline", 6, 2_263_861),  # method 2.5
        ("cql_c51", "impala-baseline", 18, 2_577_817),
    ):
        size = known.of(paper.agents[agent], paper.variants[variant])
        assert size.parameters(actions) == parameters
    assert counted(paper.agents["rainbow"], paper.variants["cnn-top1-2"]) == known.of(
        paper.agents["rainbow"], paper.variants["cnn-top1-2"]
    )
    assert (min(g.num_actions for g in paper.games.values()), 18) == ACTIONS


def test_a_table_depends_on_the_known_sizes_that_it_tells(paper: Study, tmp_path: Path) -> None:
    """And on no other: an edit of the file makes again what it changes."""
    figure, entries = paper.figure("fig05"), json.loads(KNOWN.read_text())
    before = size_dependencies(paper, figure, Sizes(KNOWN))
    assert before is not None
    assert all(before["known"])
    used = [key for key, size in entries.items() if size in before["known"]]
    strange = next(key for key in entries if key not in used)

    def after(key: str, **changes: int) -> object:
        edited = entries | {key: entries[key] | changes}
        (tmp_path / "parameters.json").write_text(json.dumps(edited))
        return size_dependencies(paper, figure, Sizes(tmp_path / "parameters.json"))

    assert after(used[0], fixed=7) != before
    assert after(strange, fixed=7) == before
    assert size_dependencies(paper, paper.figure("fig04"), Sizes(KNOWN)) is None


def test_damaged_records_are_named(tmp_path: Path) -> None:
    file = tmp_path / "throughput.json"
    assert read_records(file) == []
    file.write_text('[{"agent": "dqn"}]')
    with pytest.raises(UserError, match=r"throughput\.json: not benchmark records"):
        read_records(file)
    (tmp_path / "parameters.json").write_text("{")
    with pytest.raises(UserError, match=r"parameters\.json: does not hold sizes"):
        Sizes(tmp_path / "parameters.json")


def test_every_committed_record_is_of_a_known_cell(paper: Study) -> None:
    records = read_records(RECORDS)
    assert records
    for known in records:
        found = cost(known.agent, known.variant, known.device, records, paper.agents, paper.variants)
        assert found is not None
        assert found.measured


def test_bytes_are_readable() -> None:
    assert [readable_bytes(n) for n in (0, 999, 1000, 45_600_000, 1.2e11, 5e15)] == [
        *("0 B", "999 B", "1.0 kB", "45.6 MB", "120 GB", "5000 TB")
    ]


def test_the_command_takes_less_than_five_seconds_and_imports_no_jax(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    script = "import sys; from moerl.cli.main import main; main()"
    where = ["--study", str(STUDIES / "paper.yaml"), "--results", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", script, "plan", "--json", *where],
        capture_output=True,
        text=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5
    assert json.loads(done.stdout)["runs_by_kind"] == PAPERS_TOTALS
    imported = {line.rsplit("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not {"jax", "pandas", "flax"} & imported


def test_an_unknown_figure_is_refused_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "moerl", "plan", "fig1", "--study", str(STUDIES / "paper.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "unknown figure 'fig1'" in done.stderr


def test_the_smoke_study_makes_every_figure_and_table_that_the_paper_study_makes() -> None:
    smoke, paper = (load_study(STUDIES / f"{name}.yaml") for name in ("smoke", "paper"))
    assert set(smoke.figures) == set(paper.figures)
    assert made_tables(smoke) == made_tables(paper)
    assert len(smoke.runs()) == 73 + 12
