"""`moerl status`: every state a run can be in, from the files that decide it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from moerl.cli import status as stage
from moerl.cli.heartbeat import Heartbeat
from moerl.study import heartbeat
from moerl.study.config import load_study
from moerl.study.errors import UserError
from moerl.study.expansion import Run, Study
from moerl.study.heartbeat import Beat
from moerl.study.paths import RUN_FILES, divergence_file, run_dir, state_dir, train_log
from moerl.study.standing import Divergence
from moerl.study.status import KEPT, Folders, RunStatus, run_statuses, study_runs

STUDIES = Path(__file__).parents[2] / "config" / "studies"
NOW = 1_000_000.0
RUN = Run("dqn", "impala-baseline", "Pong", 0, "200M")


@pytest.fixture(scope="module")
def paper() -> Study:
    return load_study(STUDIES / "paper.yaml")


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "results", tmp_path / "state", tmp_path / "logs")


@contextmanager
def idling(word: str) -> Iterator[subprocess.Popen[str]]:
    """A process with a word on its command line that is there and does nothing."""
    code = "import sys; print(1, flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code, word], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.communicate()


@pytest.fixture
def trainer() -> Iterator[int]:
    """The id of a process that looks like training."""
    with idling("train") as process:
        yield process.pid


def publish(study: Study, folders: Folders, run: Run) -> Path:
    folder = run_dir(folders.results, run)
    folder.mkdir(parents=True)
    for name in RUN_FILES:
        (folder / name).touch()
    spec = study.train_spec(run.cell)
    manifest = {"spec": json.loads(spec.canonical_json()), "spec_digest": spec.digest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def beat(study: Study, folders: Folders, run: Run, **changes: object) -> Path:
    """Leave a heartbeat of a run, a running one of a process that is gone if nothing else is said."""
    folder = state_dir(folders.state, run) / run.milestone
    folder.mkdir(parents=True, exist_ok=True)
    fields: dict[str, object] = {
        "phase": "running",
        "spec": study.train_spec(run.cell).digest(),
        "frames": 20_000_000,
        "target_frames": study.milestones[run.milestone],
        "frames_per_second": 1000.0,
        "time": NOW - 30,
        "pid": 2**22 + 1,  # larger than any process id
        "host": os.uname().nodename,
    }
    (folder / heartbeat.NAME).write_text(json.dumps(fields | changes))
    return folder


def of(study: Study, folders: Folders, run: Run = RUN) -> RunStatus:
    found = {s.run: s for s in run_statuses(study, folders, NOW, ["fig01", "fig10"])}
    assert len(found) == 2400
    return found[run]


def test_a_run_is_listed_once_as_far_as_some_figure_needs_it(paper: Study) -> None:
    assert len(study_runs(paper)) == 5_600 + 1_400 + 1_300 + 1_020  # continuous control cannot be trained yet
    assert len(study_runs(paper, ["fig10"])) == 45
    assert {run.milestone for run in study_runs(paper, ["fig10"])} == {"50M"}
    assert {run.milestone for run in study_runs(paper, ["fig10", "fig01"])} == {"200M"}
    with pytest.raises(UserError, match="unknown figure 'fig1'"):
        study_runs(paper, ["fig1"])
    with pytest.raises(
        UserError, match=r"^fig20: SAC and PPO cannot be trained yet, so there is nothing to draw$"
    ):
        study_runs(paper, ["fig20"])


def test_nothing_there_is_missing(paper: Study, folders: Folders) -> None:
    assert of(paper, folders) == RunStatus(RUN, "missing", 0, 200_000_000)


def test_published_under_the_present_spec_is_done(paper: Study, folders: Folders) -> None:
    publish(paper, folders, RUN)
    found = of(paper, folders)
    assert (found.state, found.share, found.reason) == ("done", 1.0, "")


def test_half_way_is_missing_with_what_is_trained(paper: Study, folders: Folders) -> None:
    publish(paper, folders, replace(RUN, milestone="50M"))
    found = of(paper, folders)
    assert (found.state, found.share) == ("missing", 0.25)


def test_stale_says_what_would_make_snakemake_train_again(
    paper: Study, folders: Folders, tmp_path: Path
) -> None:
    folder = publish(paper, folders, RUN)
    (folder / "timing.parquet").unlink()
    found = of(paper, folders)
    assert (found.state, found.reason) == ("stale", "missing output files: timing.parquet")
    (folder / "timing.parquet").touch()
    changed = paper.agents | {"dqn": paper.agents["dqn"].model_copy(update={"gamma": 0.9})}
    found = of(replace(paper, agents=changed), folders)
    assert (found.state, found.reason) == ("stale", "params have changed: hyper.gamma 0.99 → 0.9")


def test_running_has_rate_and_eta(paper: Study, folders: Folders, trainer: int) -> None:
    beat(paper, folders, RUN, pid=trainer)
    found = of(paper, folders)
    assert (found.state, found.share, found.frames_per_second) == ("running", 0.1, 1000.0)
    assert found.eta_seconds == 180_000


def test_running_to_an_earlier_milestone_counts_towards_the_last(
    paper: Study, folders: Folders, trainer: int
) -> None:
    beat(paper, folders, replace(RUN, milestone="50M"), pid=trainer)
    found = of(paper, folders)
    assert (found.state, found.share, found.eta_seconds) == ("running", 0.1, 180_000)


def test_starting_is_running_without_a_rate(paper: Study, folders: Folders, trainer: int) -> None:
    beat(paper, folders, RUN, pid=trainer, phase="starting", frames=None, frames_per_second=None)
    found = of(paper, folders)
    assert (found.state, found.eta_seconds) == ("running", None)
    assert found.reason.startswith("starting")


def test_a_killed_run_is_failed_and_names_its_log(paper: Study, folders: Folders) -> None:
    beat(paper, folders, RUN, time=NOW - 600)
    log = train_log(folders.logs, RUN, paper.packs[0])
    log.parent.mkdir(parents=True)
    log.touch()
    found = of(paper, folders)
    assert (found.state, found.log, found.share) == ("failed", log, 0.1)
    assert found.reason.startswith("killed: process 4194305 on ")
    assert "10 min ago" in found.reason


def test_another_process_under_the_same_number_is_not_the_trainer(paper: Study, folders: Folders) -> None:
    with idling("tram") as process:
        beat(paper, folders, RUN, pid=process.pid)
        assert of(paper, folders).state == "failed"


@pytest.mark.parametrize(
    ("phase", "silent", "state"),
    [
        ("running", 60, "running"),
        ("running", 600, "failed"),
        ("starting", 600, "running"),
        ("starting", 7200, "failed"),
    ],
)
def test_on_another_host_silence_is_the_end(
    paper: Study, folders: Folders, phase: str, silent: float, state: str
) -> None:
    beat(paper, folders, RUN, phase=phase, host="node17", time=NOW - silent)
    assert of(paper, folders).state == state


def diverge(study: Study, folders: Folders, run: Run, iteration: int = 0) -> Path:
    """Leave the record of a run that diverged."""
    record = Divergence(
        run=run.name,
        spec=study.train_spec(run.cell).digest(),
        problem="loss nan at gradient step 37",
        gradient_step=37,
        agent_step=148,
        frame=592,
        iteration=iteration,
        checkpoint=None,
        checkpoint_agent_step=None,
        versions={},
    )
    path = divergence_file(folders.state, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record.model_dump_json())
    return path


def test_a_diverged_run_says_where_whatever_its_heartbeat(
    paper: Study, folders: Folders, trainer: int
) -> None:
    record = diverge(paper, folders, RUN)
    log = train_log(folders.logs, replace(RUN, milestone="50M"), paper.packs[0])
    log.parent.mkdir(parents=True)
    log.touch()
    beat(paper, folders, replace(RUN, milestone="50M"), pid=trainer)  # of the other seeds' job
    found = of(paper, folders)
    assert (found.state, found.frames, found.log) == ("failed", 592, log)
    assert found.reason.startswith("dqn impala-baseline Pong seed 0: diverged, loss nan at gradient step 37")
    assert f"delete {record} to try again" in found.reason
    publish(paper, folders, RUN)
    assert of(paper, folders).state == "done"


def test_a_divergence_beyond_what_is_asked_for_is_none(paper: Study, folders: Folders) -> None:
    run = Run("rainbow", "impala-baseline", "Pong", 0, "50M")
    diverge(paper, folders, run, iteration=60)
    (found,) = (s for s in run_statuses(paper, folders, NOW, ["fig10"]) if s.run == run)
    assert found.state == "missing"
    publish(paper, folders, run)
    found = of(paper, folders, replace(run, milestone="200M"))
    assert (found.state, found.frames) == ("failed", 592)


def test_the_divergence_of_another_spec_is_forgotten(paper: Study, folders: Folders) -> None:
    diverge(paper, folders, RUN)
    changed = paper.agents | {"dqn": paper.agents["dqn"].model_copy(update={"gamma": 0.9})}
    assert of(replace(paper, agents=changed), folders).state == "missing"


def test_a_torn_record_is_named(paper: Study, folders: Folders) -> None:
    diverge(paper, folders, RUN).write_text("{")
    with pytest.raises(UserError, match=r"diverged\.json: not a record of a divergence"):
        of(paper, folders)


def test_left_early_is_paused(paper: Study, folders: Folders) -> None:
    beat(paper, folders, RUN, phase="saved", reason="saved and left because its deadline is near")
    assert of(paper, folders).state == "paused"


def test_results_that_are_lost_but_kept_in_the_state_are_paused(paper: Study, folders: Folders) -> None:
    folder = state_dir(folders.state, RUN) / "200M"
    folder.mkdir(parents=True)
    (folder / "current.safetensors").touch()
    assert of(paper, folders).reason == "stopped after a checkpoint"
    (folder / "resume.safetensors").touch()
    found = of(paper, folders)
    assert (found.state, found.share, found.reason) == ("paused", 1.0, KEPT)


def test_the_failure_of_another_spec_is_forgotten(paper: Study, folders: Folders) -> None:
    beat(paper, folders, RUN, phase="failed", reason="diverged", spec="another")
    assert of(paper, folders).state == "missing"


def test_a_torn_heartbeat_is_none(paper: Study, folders: Folders) -> None:
    folder = beat(paper, folders, RUN)
    (folder / heartbeat.NAME).write_text('{"phase": "run')
    assert heartbeat.read(folder) is None
    assert of(paper, folders).state == "missing"


# --- What training writes. ---


class Lane:
    """As much of a lane as a heartbeat reads."""

    def __init__(self, seed: int, agent_steps: int) -> None:
        self.seed, self.progress = seed, 4 * agent_steps


def states(tmp_path: Path) -> dict[int, Path]:
    return {seed: tmp_path / f"seed{seed}" / "2M" for seed in (0, 1)}


def read(state: Path) -> Beat:
    found = heartbeat.read(state)
    assert found is not None
    return found


def finish(state: Path, digest: str = "digest") -> None:
    """Leave what training keeps of a run that it has published."""
    (state / "returns.parquet").touch()
    (state / "manifest.json").write_text(json.dumps({"spec_digest": digest}))


def test_heartbeats_from_start_to_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    zero, one = states(tmp_path).values()
    beats = Heartbeat(states(tmp_path), 2_000_000, "digest")
    beats.starting()
    assert [read(s).phase for s in (zero, one)] == ["starting"] * 2
    caplog.set_level("INFO")
    beats([Lane(0, 100), Lane(1, 200)], 500.0)  # type: ignore[list-item]
    assert [(read(s).frames, read(s).frames_per_second) for s in (zero, one)] == [(400, 250), (800, 250)]
    assert "seed 0: 400, seed 1: 800; 500 frames/s in all" in caplog.text
    assert read(zero).pid == os.getpid()
    finish(zero)
    beats.failed("dqn x Pong seed 1: the disk is full")
    assert heartbeat.read(zero) is None
    last = read(one)
    assert (last.phase, last.frames, last.spec) == ("failed", 800, "digest")
    assert last.reason == "dqn x Pong seed 1: the disk is full"
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_run_that_is_no_longer_in_training_has_no_heartbeat(tmp_path: Path) -> None:
    zero, one = states(tmp_path).values()
    beats = Heartbeat(states(tmp_path), 2_000_000, "digest")
    beats.starting()
    beats([Lane(1, 200)], 500.0)  # type: ignore[list-item]  # seed 0 is published, or diverged
    assert heartbeat.read(zero) is None
    assert read(one).frames_per_second == 500
    beats.left("saved and left")
    assert heartbeat.read(zero) is None
    assert read(one).phase == "saved"


def test_a_bar_counts_what_is_no_longer_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    beats = Heartbeat(states(tmp_path), 2_000, "digest")
    beats([Lane(0, 400), Lane(1, 200)], 500.0)  # type: ignore[list-item]
    assert (beats._bar.total, beats._bar.n) == (4_000, 2_400)
    beats([Lane(1, 300)], 500.0)  # type: ignore[list-item]
    assert beats._bar.n == 3_200
    beats.done()
    assert not list(tmp_path.rglob("progress.json"))


def test_the_other_seeds_of_a_failed_job_say_whose_fault_it_was(tmp_path: Path) -> None:
    zero, one = states(tmp_path).values()
    beats = Heartbeat(states(tmp_path), 2_000_000, "digest")
    beats.starting()
    beats.failed("dqn x Pong seed 1: damaged")
    assert read(zero).reason == "its job ended: dqn x Pong seed 1: damaged"
    assert read(one).reason == "dqn x Pong seed 1: damaged"
    finish(zero, "of another spec")
    beats.left("saved and left")
    assert [read(s).phase for s in (zero, one)] == ["saved", "saved"]
    beats.done()
    assert not list(tmp_path.rglob("progress.json"))


def test_a_second_trainer_leaves_the_first_ones_heartbeat_alone(tmp_path: Path, trainer: int) -> None:
    zero = states(tmp_path)[0]
    Heartbeat(states(tmp_path), 2_000_000, "digest").starting()
    file = zero / heartbeat.NAME
    file.write_text(file.read_text().replace(f'"pid":{os.getpid()}', f'"pid":{trainer}'))
    second = Heartbeat(states(tmp_path), 2_000_000, "digest")
    second.starting()
    second.failed("another process is training this run")
    assert (read(zero).pid, read(zero).phase) == (trainer, "starting")


# --- What the user sees. ---


def said(study: Study, statuses: list[RunStatus]) -> str:
    console = Console(width=160, file=io.StringIO())
    for part in stage.render(study, statuses):
        console.print(part)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_the_table_shows_each_state_and_every_reason(paper: Study, folders: Folders, trainer: int) -> None:
    publish(paper, folders, RUN)
    beat(paper, folders, replace(RUN, seed=1), pid=trainer)
    beat(paper, folders, replace(RUN, seed=2), phase="failed", reason="loss [nan]")
    beat(paper, folders, replace(RUN, seed=3), phase="saved", reason="its deadline is near")
    text = said(paper, run_statuses(paper, folders, NOW, ["fig01"]))
    assert "0✓ 1▶ 2✗ 3‖ 4·" in text
    assert "✗ failed: dqn impala-baseline Pong seed 2: loss [nan]" in text
    assert "2 d 2 h" in text
    assert "19 games" in text  # the others of this variant share a line
    assert "2,400 runs: 1 done, 1 running, 1 failed, 1 paused, 2,396 missing." in text


def test_many_troubles_are_counted(paper: Study, folders: Folders) -> None:
    for run in study_runs(paper, ["fig10"])[:25]:
        beat(paper, folders, replace(run, milestone="50M"), phase="failed", reason="disk full")
    text = said(paper, run_statuses(paper, folders, NOW, ["fig10"]))
    assert text.count("disk full") == 20
    assert "and 5 more" in text


def test_watching_ends_when_everything_is_done(paper: Study) -> None:
    looks = [
        [RunStatus(RUN, "running", 100, 200, 50.0)],
        [RunStatus(RUN, "done", 200, 200)],
    ]
    console = Console(width=120, file=io.StringIO(), force_terminal=True)
    stage.watch(lambda: looks.pop(0), paper, console, seconds=0.0)
    assert looks == []
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "▶" in text
    assert "1 run: 1 done." in text


def test_the_command_gives_json(tmp_path: Path) -> None:
    where = ["--study", str(STUDIES / "evidence.yaml")]
    for options, code in ((["--json"], 0), (["--json", "--watch"], 2)):
        command = [sys.executable, "-m", "moerl", "status", *where, *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        if code == 0:
            found = json.loads(done.stdout)
            assert found["counts"]["missing"] == 2
            assert found["runs"][0] == {
                "agent": "dqn",
                "variant": "cnn-baseline",
                "game": "Pong",
                "seed": 0,
                "milestone": "2M",
                "state": "missing",
                "frames": 0,
                "target_frames": 2_000_000,
                "frames_per_second": None,
                "eta_seconds": None,
                "reason": "",
                "log": None,
            }
        else:
            assert done.stderr == "moerl: --watch and --json: choose one\n"
    assert not list(tmp_path.iterdir())  # looking leaves nothing


def test_durations_are_readable() -> None:
    assert [stage.readable_seconds(s) for s in (3, 61, 3600 * 5 + 120, 3600 * 76)] == [
        *("3 s", "1 min", "5 h 2 min", "3 d 4 h")
    ]
