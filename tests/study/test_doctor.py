"""`moerl doctor`: each check on a machine that is fit and on one that is not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from moerl.cli import doctor
from moerl.cli.doctor import Finding, limit_minutes, partition
from moerl.study.config import load_study
from moerl.study.expansion import Study
from moerl.study.games import Game
from moerl.study.study_file import Offline

STUDIES = Path(__file__).parents[2] / "config" / "studies"
PROFILE = Path(__file__).parents[2] / "workflow" / "profiles" / "slurm" / "config.yaml"
SINFO = "debug|up|30:00|(null)\nmain*|up|2-00:00:00|gpu:a100:4\nlong|down|infinite|(null)"


@pytest.fixture(scope="module")
def evidence() -> Study:
    return load_study(STUDIES / "evidence.yaml")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that is all there is on the path, but for the system's shell."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def install(programs: Path, name: str, says: str = "", code: int = 0, error: str = "") -> None:
    lines = ["#!/bin/sh", f"echo '{says}'", f"echo '{error}' >&2", f"exit {code}"]
    (programs / name).write_text("\n".join(lines) + "\n")
    (programs / name).chmod(0o755)


def test_versions_are_compared_with_the_lock(tmp_path: Path) -> None:
    envs = tmp_path / "envs"
    envs.mkdir()
    here = version("click")
    assert doctor.versions(envs).verdict == "absent"
    lock = envs / "cpu.txt"
    lock.write_text(
        f"click=={here} \\\n    --hash=sha256:00\nclick==9999 ; python_full_version >= '99' \\\n"
        "only-on-windows==1.0 ; sys_platform == 'win32' \\\n"
    )
    assert doctor.versions(envs).verdict == "ok"
    lock.write_text("click==9999 \\\nno-such-package==1.0 \\\n")
    found = doctor.versions(envs)
    assert found.verdict == "problem"
    assert f"click {here} (lock: 9999), no-such-package missing (lock: 1.0)" in found.said
    assert found.mend == "bash envs/install.sh envs/cpu.txt"


def test_jax_on_a_cpu_is_fine_without_a_gpu(programs: Path) -> None:
    found = doctor.device()
    assert (found.verdict, "computes on 1 × cpu (cpu)" in found.said) == ("ok", True)


def test_a_gpu_that_jax_does_not_use_is_a_problem(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    install(programs, "nvidia-smi", "GPU 0: NVIDIA H200")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = doctor.device()
    assert (found.verdict, found.said) == (
        "problem",
        "computes on the CPU although there is GPU 0: NVIDIA H200",
    )
    assert "envs/cuda12.txt" in found.mend
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "hidden by CUDA_VISIBLE_DEVICES" in doctor.device().said


def test_a_jax_that_does_not_start_is_a_problem(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "no_such_platform")
    found = doctor.device()
    assert found.verdict == "problem"
    assert found.said.startswith("does not start: ")


def test_ale_plays_and_has_every_rom(evidence: Study) -> None:
    found = doctor.atari(evidence)
    assert (found.verdict, "the ROMs of 60 games" in found.said) == ("ok", True)
    games = dict(evidence.games) | {"Nothing": Game("NoSuchGame", 4, None, None, ())}
    lacking = doctor.atari(_with_games(evidence, games))
    assert lacking.verdict == "problem"
    assert "NoSuchGame" in lacking.said or "no_such_game" in lacking.said


def _with_games(study: Study, games: dict[str, Game]) -> Study:
    return replace(study, games=games)


def test_a_machine_without_slurm_lacks_nothing(programs: Path) -> None:
    assert [f.verdict for f in doctor.slurm(PROFILE)] == ["absent", "absent"]


def test_a_cluster_that_answers(programs: Path) -> None:
    install(programs, "sinfo", SINFO)
    one, two = doctor.slurm(PROFILE)
    assert (one.verdict, one.said) == ("ok", "answers, 3 partitions")
    assert (two.verdict, two.said) == ("ok", "main, jobs may run 2-00:00:00")


def test_a_cluster_that_does_not_answer(programs: Path) -> None:
    install(programs, "sinfo", code=1, error="slurm_load_partitions: Unable to contact slurm controller")
    one, two = doctor.slurm(PROFILE)
    assert (one.verdict, two.verdict) == ("problem", "absent")
    assert "Unable to contact" in one.said
    assert one.mend


PARTITIONS = [line.split("|") for line in SINFO.splitlines()]
WRONG = {
    "no such partition": ("default-resources: {slurm_partition: mian}", "there is no partition mian"),
    "down": ("default-resources: {slurm_partition: long}", "long is down"),
    "too short": ("default-resources: {slurm_partition: debug}", "training asks for up to 24 hours"),
    "no gpu": ("default-resources: {slurm_partition: debug}\nconfig: [gpu=1]", "debug has no GPUs"),
}


@pytest.mark.parametrize(("profile", "said"), WRONG.values(), ids=WRONG)
def test_a_partition_that_will_not_do(tmp_path: Path, profile: str, said: str) -> None:
    (tmp_path / "config.yaml").write_text(profile)
    found = partition(PARTITIONS, tmp_path / "config.yaml")
    assert found.verdict == "problem"
    assert said in found.said
    assert found.mend


def test_a_cluster_without_a_default_partition(tmp_path: Path) -> None:
    found = partition([["main", "up", "infinite", "(null)"]], tmp_path / "none.yaml")
    assert (found.verdict, found.said) == ("problem", "the cluster has no default partition")
    assert "there are: main" in found.mend


def test_time_limits() -> None:
    forms = ("2-01:30:00", "12:00:00", "30:00", "infinite")
    assert [limit_minutes(f) for f in forms] == [2970, 720, 30, None]


def test_disk(evidence: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor.disk(evidence, tmp_path / "results" / "evidence")
    assert found.verdict == "ok"
    assert "the study evidence still needs 130 MB" in found.said
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage())
    found = doctor.disk(evidence, tmp_path)
    assert (found.verdict, found.said.startswith("1.0 MB free")) == ("problem", True)


def test_datasets(evidence: Study, tmp_path: Path) -> None:
    assert doctor.datasets(evidence, tmp_path) == []
    here = Offline(folder=str(tmp_path / "{game}" / "{run}"), name="DQN Replay Dataset")
    paper = load_study(STUDIES / "paper.yaml")
    pong = {"games": {"games20": ["Pong"], "offline17": ["Pong"]}, "seeds": [0, 1]}
    settings = yaml.safe_load((STUDIES / "paper.yaml").read_text())
    (tmp_path / "pong.yaml").write_text(yaml.safe_dump(settings | pong))
    study = replace(load_study(tmp_path / "pong.yaml"), offline=here)
    (tmp_path / "Pong" / "1").mkdir(parents=True)
    (found,) = doctor.datasets(study, tmp_path)
    assert found.verdict == "absent"
    assert found.said == (
        f"1 of 2 folders of DQN Replay Dataset are here, the first missing one is {tmp_path}/Pong/2"
    )
    (tmp_path / "Pong" / "2").mkdir()
    assert doctor.datasets(study, tmp_path)[0].verdict == "ok"
    assert doctor.datasets(paper, tmp_path)[0].said.startswith("0 of 85 folders")


class Usage:
    """A full disk."""

    free = 10**6


def test_quota(programs: Path) -> None:
    assert doctor.quota().verdict == "absent"
    install(programs, "quota", "Disk quotas for user x")
    assert doctor.quota().verdict == "ok"
    install(programs, "quota", "home 51G* 50G", code=1)
    found = doctor.quota()
    assert (found.verdict, found.said) == ("problem", "home 51G* 50G")


def test_a_file_system_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results" / "x"
    assert doctor.file_system(results).verdict == "ok"
    assert not list(tmp_path.iterdir())

    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(doctor.fcntl, "flock", refuse)
    found = doctor.file_system(results)
    assert (found.verdict, "Function not implemented" in found.said) == ("problem", True)
    monkeypatch.undo()
    monkeypatch.setattr(doctor.os, "link", refuse)
    assert "no hard links" in doctor.file_system(results).said


def test_what_is_printed() -> None:
    console = Console(width=100)
    with console.capture() as said:
        doctor.print_findings(
            [Finding("JAX", "ok", "fine"), Finding("disk", "problem", "full", "rm")], console
        )
    assert said.get() == "✓ JAX   fine\n✗ disk  full\n        mend: rm\n1 problem.\n"


def test_the_command_names_every_check_and_fails_on_a_problem(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "moerl", "doctor", "--json", "--study", str(STUDIES / "evidence.yaml")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    findings = json.loads(done.stdout)
    names = ["versions", "JAX", "ALE", "SLURM", "partition", "disk", "quota", "file system"]
    assert [f["name"] for f in findings] == names
    assert done.returncode == any(f["verdict"] == "problem" for f in findings)
    assert not list(tmp_path.iterdir())
