"""`moerl train`: one training job, as the pipeline runs it and as anybody can run it by hand."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moerl.cli.heartbeat import Heartbeat
from moerl.study.errors import FailureError, UserError
from moerl.study.expansion import Cell, Run, Study
from moerl.study.paths import dataset_dir, run_dir, state_dir
from moerl.study.standing import Standing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainJob:
    """What one job trains, where its files go, and how it is executed."""

    cell: Cell
    seeds: tuple[int, ...]
    milestone: str
    results: Path
    state: Path
    deadline_seconds: float | None
    save_every_seconds: float
    frames_folder: Path | None = None


def keep_freed_memory() -> None:
    """Tell glibc to reuse large freed blocks instead of returning them to the system.

    XLA's CPU executables allocate their scratch memory (tens of MB) anew at every call. By default
    each call would map fresh pages and fault them in: a SoftMoE-8 update takes 41 ms so, 28 ms
    with this (two cores, batch 32; benchmarks/bench_update.py). Numbers do not change.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, mmap_max, arena_max = -1, -4, -8  # M_… in malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(arena_max, 1)


XLA_FLAGS = {
    # A GPU's fastest kernels add in an order that differs between runs.
    "xla_gpu_deterministic_ops": "true",
    # On a CPU, XLA hands products and convolutions to YNNPACK, whose convolutions use one thread
    # whatever the pool holds. Eigen's use all: two threads do a DQN update in 0.7 of the time.
    "xla_cpu_experimental_ynn_fusion_type": "-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION",
}
"""Flag → value that training needs of XLA, where the user's own XLA_FLAGS do not name the flag."""


def configure_jax(threads: int) -> None:
    """Set how JAX computes; must come before JAX is first used in the process.

    Sizes XLA's CPU thread pool; on a GPU, asks for full float32 products (no TF32) and for
    deterministic kernels; turns on the compilation cache, shared by all jobs of a user
    (`JAX_COMPILATION_CACHE_DIR` moves it). Variables and XLA flags that are set already are left alone.
    """
    keep_freed_memory()
    os.environ["PJRT_NPROC"] = str(threads)
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "float32")
    users = os.environ.get("XLA_FLAGS", "").split()
    named = {flag.lstrip("-").partition("=")[0] for flag in users}
    ours = [f"--{flag}={value}" for flag, value in XLA_FLAGS.items() if flag not in named]
    os.environ["XLA_FLAGS"] = " ".join([*users, *ours])
    # Machine code is cached: one folder per kind of CPU, so that a mixed cluster can share a home.
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.exists() else []
    flags = next((line for line in lines if line.startswith("flags")), "")
    kind = hashlib.sha256(f"{platform.machine()} {flags}".encode()).hexdigest()[:12]
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(home / "moerl" / f"jax-{kind}"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")


def _datasets(study: Study, job: TrainJob, runs: Sequence[Run]) -> dict[int, Path]:
    """Seed → the folder it learns from; of collected data only where that is finished.

    Snakemake deletes the results of a job that fails: runs beside one that diverged are found in the state.
    Raises UserError if there is none.
    """
    standing = Standing(study, job.results, job.state)
    found = {}
    for run in runs:
        sources = study.collected([run])
        folder = standing.finished(sources[0]) if sources else dataset_dir(study, job.results, run)
        if folder is not None:
            found[run.seed] = folder
    if not found:
        source = study.collected(runs)[0]
        raise UserError(
            f"{run_dir(job.results, source)}: {source.name} is not finished: nothing to learn from"
        )
    return found


def train_job(study: Study, job: TrainJob, expect_spec: str | None) -> None:
    """Run a training job. Exits with 75 if it saved and left early.

    Raises UserError if the spec is not the expected one, or the milestone or cell is unknown.
    """
    spec = study.train_spec(job.cell)
    iterations = study.iterations(job.milestone)
    if spec.hyper.offline != (job.milestone == study.offline_milestone):
        right = study.offline_milestone if spec.hyper.offline else ", ".join(study.milestones)
        raise UserError(f"{study.path}: {spec.agent} is not trained to {job.milestone}; milestones: {right}")
    if expect_spec is not None and expect_spec != spec.digest():
        raise UserError(
            f"{study.path}: {job.cell.agent} {job.cell.variant} {job.cell.game} now resolves to spec "
            f"{spec.digest()}, the job was planned for {expect_spec}: the study was edited; plan again"
        )
    configure_jax(spec.cpu_threads)
    from moerl.cli.main import EXIT_LEFT_EARLY
    from moerl.training.base_lane import DivergedError
    from moerl.training.checkpoint import RunFolders
    from moerl.training.loop import LeftEarlyError, Options, train

    runs = [Run(spec.agent, spec.variant, spec.game, seed, job.milestone) for seed in job.seeds]
    folders = {
        run.seed: RunFolders(state_dir(job.state, run) / run.milestone, run_dir(job.results, run))
        for run in runs
    }
    options = Options(job.save_every_seconds, job.deadline_seconds, job.frames_folder)
    datasets = _datasets(study, job, runs) if spec.hyper.offline else {}
    without = [run for run in runs if spec.hyper.offline and run.seed not in datasets]
    for run in without:
        del folders[run.seed]
    states = {seed: folder.state for seed, folder in folders.items()}
    unit = "gradient steps" if spec.hyper.offline else "frames"
    heartbeat = Heartbeat(states, study.lengths[job.milestone], spec.digest(), unit)
    heartbeat.starting()
    try:
        train(spec, study.games[job.cell.game].rom, folders, iterations, options, heartbeat, datasets)
    except LeftEarlyError as left:
        heartbeat.left(str(left))
        log.info("%s", left)
        sys.exit(EXIT_LEFT_EARLY)
    except DivergedError:
        heartbeat.done()  # the other seeds are published, and why this one is not is on record
        raise
    except BaseException as error:
        known = isinstance(error, UserError | FailureError)
        heartbeat.failed(str(error) if known else f"{type(error).__name__}: {error}")
        raise
    heartbeat.done()
    if without:
        named = ", ".join(run.name for run in without)
        raise FailureError(
            f"{named}: not trained: the run to learn from is not finished, perhaps it diverged"
        )
