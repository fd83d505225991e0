"""The fault campaign: a tiny study is disturbed in every way we could think of, then asked for once more.

After each fault, one plain `snakemake` must complete the study, and every file of it must have the bytes of
the undisturbed study's. The study is real: real games, real training, every stage to the figures. By hand:
``python tests/chaos/campaign.py --faults 100 --seed 0 --report chaos.json`` (`make chaos`).

Faults, drawn at random:

* *operation*: in one of the commands, at one of its operations that change a file: killed, terminated,
  or refused by the file system (full, read-only, broken);
* *instant*: a signal after a random time, to the whole pipeline, to Snakemake alone (its jobs go on as
  orphans) or to one job;
* *stopped*: a job is stopped and its Snakemake killed; it wakes up beside the next pipeline, or never;
* *rivals*: two pipelines at once on one results folder;
* *clock*: the pipeline is killed, and half of all files get times up to a day in the future or the past;
* *disk*: a real file system of its own becomes full or read-only, and is mended (needs root).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_project import STUDY, TINY_AGENT, Project

SABOTAGE = Path(__file__).parent / "sabotage"
KINDS = {"operation": 8, "instant": 6, "stopped": 2, "rivals": 1, "clock": 1, "disk": 2}
"""Kind of fault → how often it is drawn, relative to the others."""

TINY_STUDY = {
    "name": "tiny",
    "agents": {"dqn": TINY_AGENT},
    "figures": {"fig01": {}, "fig10": {"agent": "dqn"}},
    "games": {"games20": ["Pong"]},
    "seeds": [0, 1],
    "seeds_per_job": 2,
    "iteration_frames": 800,
    "milestones": {"short": 800, "full": 1600},
    "snapshot_every": 1,
}
STAGES = ("train", "analyse", "scores", "table", "figure", "manifest")
LATE = ("scores", "table", "figure", "manifest")
"""Stages whose faults begin with a study that is trained and analysed."""


@dataclass
class Fault:
    """One fault: what was done, and what came of it."""

    number: int
    kind: str
    what: str
    files: int = 0
    """Compared with the undisturbed study's."""
    problem: str = ""
    """Why it did not survive."""
    seconds: float = 0.0


class NotInjectedError(Exception):
    """The fault found nothing to disturb; another one is drawn."""


@dataclass
class Pipeline:
    """A `snakemake` at work on a project."""

    process: subprocess.Popen[str]
    output: Path

    def jobs(self) -> list[psutil.Process]:
        """The `moerl` processes below it."""
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [process for process in family if _is_moerl(process)]

    def wait(self, timeout: float = 900.0) -> int:
        """Its exit code; kills it, and all of its jobs, if it takes too long."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """End it and its jobs, however they are."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _is_moerl(process: psutil.Process) -> bool:
    try:
        return any(Path(word).name == "moerl" for word in process.cmdline()[:3])
    except psutil.Error:
        return False


@dataclass
class Campaign:
    """A folder with the undisturbed study, and how to disturb copies of it."""

    folder: Path
    random: random.Random
    expected: dict[str, str] = field(default_factory=dict)
    operations: dict[str, int] = field(default_factory=dict)
    """Command → how many operations that change files an undisturbed one has."""
    seconds: float = 0.0
    """That the undisturbed pipeline takes."""
    started: list[Pipeline] = field(default_factory=list)
    """Whose jobs may still be alive."""

    @property
    def fresh(self) -> Project:
        """The study with nothing trained."""
        return Project(self.folder / "fresh")

    @property
    def analysed(self) -> Project:
        """The study with its training and analyses done."""
        return Project(self.folder / "analysed")

    @classmethod
    def prepared(cls, folder: Path, seed: int) -> Campaign:
        """A campaign in an empty folder, with the undisturbed study made."""
        here = cls(folder, random.Random(seed))
        here.prepare()
        return here

    def prepare(self) -> None:
        """Make the undisturbed study, and count what its commands do to files."""
        fresh = Project.create(self.folder / "fresh", TINY_STUDY)
        figures = fresh.read("config/figures.yaml")
        figures["fig01"] |= {"x": figures["fig01"]["x"] | {"values": [1]}}
        figures["fig01"]["series"] = [{"name": "Baseline", "variants": ["cnn-baseline"]}]
        figures["fig10"] |= {
            "games": ["Pong"],
            "series": [{"name": "Baseline", "variants": ["cnn-baseline"]}],
        }
        fresh.write("config/figures.yaml", {name: figures[name] for name in ("fig01", "fig10")})
        # Checkpoints all the time, and a lease that a campaign can wait for.
        fresh.edit(
            "src/moerl/cli/main.py",
            '"--save-every-seconds", default=1800.0',
            '"--save-every-seconds", default=0.2',
        )
        fresh.edit("src/moerl/training/run_lock.py", "LEASE_SECONDS = 300.0", "LEASE_SECONDS = 5.0")
        self._count(fresh.copy(self.folder / "counted"))
        undisturbed = fresh.copy(self.folder / "undisturbed")
        runs = [str(p) for p in self._analyses(self.folder / "counted")]
        code = self.start(undisturbed, *runs).wait()
        assert code == 0, undisturbed.logs()
        undisturbed.copy(self.folder / "analysed")
        began = time.monotonic()
        code = self.start(fresh.copy(self.folder / "timed")).wait()
        self.seconds = time.monotonic() - began
        assert code == 0, fresh.logs()
        self.expected = digests(self.folder / "timed")
        assert self.expected, "the manifest of the undisturbed study names no files"
        assert self.expected == digests(self.folder / "counted"), "two undisturbed studies differ"

    def _count(self, project: Project) -> None:
        record = self.folder / "operations"
        assert self.start(project, sabotage=self._plan("*", 0, "count", record)).wait() == 0, project.logs()
        for line in record.read_text().splitlines():
            command, number = line.split()
            self.operations[command] = max(self.operations.get(command, 0), int(number))
        assert set(STAGES) <= set(self.operations), self.operations

    @staticmethod
    def _analyses(project: Path) -> list[Path]:
        found = sorted((project / "results" / "tiny" / "analysis").rglob("*.parquet"))
        assert found
        return [path.relative_to(project) for path in found]

    @staticmethod
    def _plan(command: str, operation: int, fault: str, record: Path) -> str:
        plan = {"command": command, "operation": operation, "fault": fault, "record": str(record)}
        return json.dumps(plan)

    def start(self, project: Project, *targets: str, sabotage: str = "") -> Pipeline:
        """Ask for the study, as a user would, in a session of its own."""
        environment = project.environment()
        if sabotage:
            path = os.pathsep.join([str(SABOTAGE), environment["PYTHONPATH"]])
            environment |= {"MOERL_SABOTAGE": sabotage, "PYTHONPATH": path}
        output = project.root / "said.log"
        with output.open("a") as file:
            process = subprocess.Popen(
                ["snakemake", *targets, "--cores", "2", "--configfile", STUDY],
                cwd=project.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.started.append(Pipeline(process, output))
        return self.started[-1]

    def instant(self, beginning: float = 0.0) -> float:
        """A random time within what an undisturbed pipeline takes, seconds."""
        return self.random.uniform(beginning, self.seconds)

    def run(self, number: int, kind: str) -> Fault:
        """Inject one fault into a copy of the study, ask for the study again, and compare.

        Raises NotInjectedError.
        """
        began = time.monotonic()
        place = self.folder / f"fault{number:03d}"
        fault = Fault(number, kind, "")
        with self._project(place, kind) as (project, mend):
            try:
                fault.what = INJECT[kind](self, project)
                mend()
                fault.problem = self._verdict(project, fault)
            finally:
                while self.started:
                    self.started.pop().kill()
        fault.seconds = round(time.monotonic() - began, 1)
        return fault

    def _verdict(self, project: Project, fault: Fault) -> str:
        """Ask once more, plainly; why the study is not what it should be, or nothing."""
        again = self.start(project)
        try:
            code = again.wait()
        except subprocess.TimeoutExpired:
            return f"the next invocation hangs\n{project.logs()}"
        if code != 0:
            return f"the next invocation fails ({code})\n{again.output.read_text()[-3000:]}{project.logs()}"
        found = digests(project.root)
        fault.files = len(found)
        if found != self.expected:
            names = sorted(
                k for k in found.keys() | self.expected.keys() if found.get(k) != self.expected.get(k)
            )
            return f"differs from the undisturbed study: {', '.join(names)}"
        return ""

    @contextmanager
    def _project(self, place: Path, kind: str) -> Iterator[tuple[Project, Callable[[], None]]]:
        """A fresh copy of the study in `place`, and what mends it after the fault."""
        if kind != "disk":
            try:
                yield self.fresh.copy(place), lambda: None
            finally:
                shutil.rmtree(place)
            return
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512m", "moerl-chaos", str(place)], check=True)
        try:
            project = self.fresh.copy(place / "project")
            yield project, lambda: self._mend_disk(project)
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
            place.rmdir()

    @staticmethod
    def _mend_disk(project: Project) -> None:
        subprocess.run(["mount", "-o", "remount,rw", str(project.root.parent)], check=True)
        (project.root.parent / "ballast").unlink(missing_ok=True)

    # --- The faults; each returns what it did, in words. ---

    def operation(self, project: Project) -> str:
        command = self.random.choice(STAGES)
        if command in LATE:
            shutil.rmtree(project.root)
            self.analysed.copy(project.root)
        operation = self.random.randint(1, self.operations[command])
        fault = self.random.choice(("SIGKILL", "SIGKILL", "SIGTERM", "ENOSPC", "EROFS", "EIO"))
        record = project.root / "faults"
        self.start(project, sabotage=self._plan(command, operation, fault, record)).wait()
        said = record.read_text().splitlines() if record.exists() else []
        if not said:
            raise NotInjectedError
        return said[0].replace(str(project.root) + "/", "")

    def instant_signal(self, project: Project) -> str:
        pipeline = self.start(project)
        number = self.random.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
        target = self.random.choice(("the pipeline", "Snakemake alone", "a job"))
        after = self.instant(3.0)
        time.sleep(after)
        jobs = pipeline.jobs()
        if pipeline.process.poll() is not None or (target == "a job" and not jobs):
            pipeline.kill()
            raise NotInjectedError
        what = f"{number.name} to {target} after {after:.1f} s"
        match target:
            case "the pipeline":
                os.killpg(pipeline.process.pid, number)
            case "Snakemake alone":
                os.kill(pipeline.process.pid, number)
            case "a job":
                job = self.random.choice(jobs)
                what += f" (moerl {job.cmdline()[2]})"
                job.send_signal(number)
        pipeline.wait()
        return what

    def stopped(self, project: Project) -> str:
        pipeline = self.start(project)
        deadline, after = time.monotonic() + 120, self.random.uniform(0.0, 6.0)
        while not (jobs := [job for job in pipeline.jobs() if "train" in job.cmdline()]):
            if time.monotonic() > deadline or pipeline.process.poll() is not None:
                pipeline.kill()
                raise NotInjectedError
            time.sleep(0.05)
        time.sleep(after)
        try:
            jobs[0].suspend()
        except psutil.NoSuchProcess as error:
            pipeline.kill()
            raise NotInjectedError from error
        os.kill(pipeline.process.pid, signal.SIGKILL)
        pipeline.process.wait()
        wakes = self.random.random() < 0.5
        if wakes:  # while the next pipeline is at work
            subprocess.Popen(["bash", "-c", f"sleep {self.instant(5.0):.1f}; kill -CONT {jobs[0].pid}"])
        return f"SIGSTOP to moerl train after {after:.1f} s, its Snakemake killed; " + (
            "it wakes up later" if wakes else "it never wakes up"
        )

    def rivals(self, project: Project) -> str:
        first = self.start(project)
        after = self.instant()
        time.sleep(after)
        second = self.start(project)
        codes = first.wait(), second.wait()
        if 0 not in codes:
            return f"two pipelines, {after:.1f} s apart: neither completed, {codes}"
        return f"two pipelines, {after:.1f} s apart: exit codes {codes}"

    def clock(self, project: Project) -> str:
        pipeline = self.start(project)
        after = self.instant(5.0)
        time.sleep(after)
        if pipeline.process.poll() is not None:
            raise NotInjectedError
        os.killpg(pipeline.process.pid, signal.SIGKILL)
        pipeline.process.wait()
        files = [p for top in ("results", "state") for p in (project.root / top).rglob("*") if p.is_file()]
        moved = [path for path in sorted(files) if self.random.random() < 0.5]
        if not moved:
            raise NotInjectedError
        for path in moved:
            jump = self.random.uniform(-86_400, 86_400)
            os.utime(path, (time.time() + jump, time.time() + jump))
        return f"killed after {after:.1f} s, then {len(moved)} files with times up to a day off"

    def disk(self, project: Project) -> str:
        pipeline = self.start(project)
        after = self.instant(3.0)
        time.sleep(after)
        if pipeline.process.poll() is not None:
            raise NotInjectedError
        mount = project.root.parent
        if self.random.random() < 0.7:
            free = self.random.choice((0, 4096, 65_536, 1_000_000))
            with (mount / "ballast").open("wb") as ballast:
                os.posix_fallocate(ballast.fileno(), 0, max(1, shutil.disk_usage(mount).free - free))
            what = f"disk full but for {free} bytes after {after:.1f} s"
        else:
            # What is open for writing would keep the file system from becoming read-only.
            for process in [*pipeline.jobs(), psutil.Process(pipeline.process.pid)]:
                process.suspend()
            done = subprocess.run(
                ["mount", "-o", "remount,ro,force", str(mount)], capture_output=True, check=False
            )
            for process in [*pipeline.jobs(), psutil.Process(pipeline.process.pid)]:
                process.resume()
            if done.returncode != 0:
                pipeline.kill()
                raise NotInjectedError
            what = f"disk read-only after {after:.1f} s"
        pipeline.wait()
        return what


INJECT: dict[str, Callable[[Campaign, Project], str]] = {
    "operation": Campaign.operation,
    "instant": Campaign.instant_signal,
    "stopped": Campaign.stopped,
    "rivals": Campaign.rivals,
    "clock": Campaign.clock,
    "disk": Campaign.disk,
}


def digests(project: Path) -> dict[str, str]:
    """SHA-256 of every file that the study's manifest names, as the file is now."""
    results = project / "results" / "tiny"
    manifest = results / "manifest.json"
    named = json.loads(manifest.read_text())["sha256"] if manifest.exists() else {}
    return {
        name: hashlib.sha256((results / name).read_bytes()).hexdigest()
        if (results / name).exists()
        else "missing"
        for name in named
    }


def can_mount() -> bool:
    """Whether this process may have a file system of its own to fill."""
    with tempfile.TemporaryDirectory() as place:
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "moerl-chaos", place]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return False
        subprocess.run(["umount", place], check=True)
    return True


def disturb(here: Campaign, faults: int, kinds: dict[str, int]) -> Iterator[Fault]:
    """Inject so many faults, one after the other."""
    done = tries = 0
    while done < faults:
        tries += 1
        assert tries < 10 * faults + 10, "hardly any fault finds something to disturb"
        kind = here.random.choices(list(kinds), list(kinds.values()))[0]
        try:
            fault = here.run(tries, kind)
        except NotInjectedError:
            continue
        done += 1
        yield fault


def main() -> None:
    """Run a campaign; exit code 1 if a fault was not survived."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help="Comma-separated.")
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()
    kinds = {kind: KINDS[kind] for kind in arguments.kinds.split(",")}
    if "disk" in kinds and not can_mount():
        print("no `disk` faults: mounting a file system needs root", flush=True)
        del kinds["disk"]
    with tempfile.TemporaryDirectory(prefix="moerl-chaos-") as folder:
        here = Campaign.prepared(Path(folder), arguments.seed)
        print(
            f"undisturbed: {here.seconds:.0f} s, {len(here.expected)} files; operations {here.operations}",
            flush=True,
        )
        faults = []
        for fault in disturb(here, arguments.faults, kinds):
            faults.append(fault)
            verdict = f"NOT SURVIVED: {fault.problem}" if fault.problem else "survived"
            print(
                f"{len(faults):3d} {fault.kind}: {fault.what} — {verdict} ({fault.seconds:.0f} s)", flush=True
            )
    survived = sum(not fault.problem for fault in faults)
    counts = Counter(fault.kind for fault in faults)
    compared = sum(fault.files for fault in faults)
    print(f"faults injected: {len(faults)} ({', '.join(f'{n} {k}' for k, n in sorted(counts.items()))})")
    print(f"survived: {survived}; files compared with the undisturbed study's: {compared}")
    if arguments.report:
        facts = {"seed": arguments.seed, "survived": survived, "compared": compared}
        arguments.report.write_text(
            json.dumps(facts | {"faults": [asdict(f) for f in faults]}, indent=1) + "\n"
        )
    sys.exit(0 if survived == len(faults) else 1)


if __name__ == "__main__":
    main()
