"""Whatever a file holds, its reader reads it or refuses it in one line: it never crashes, hangs or runs it.

`make fuzz` gives 100,000 mutations to all readers together; the long tests some thousands.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import ANY, CANARY, JSON, NPY, STATE, TABLE, YAML, ZIP, Mutator, bomb
from small_runs import Saved
from small_study import FIGURE, make_configuration, make_dataset, make_records, make_study
from synthetic_study import write_tokens

from moerl.archive.dictionary import check_table
from moerl.archive.restore import restore
from moerl.cli.dataset import summary
from moerl.offline.layout import Layout
from moerl.offline.recorded import RecordedRun
from moerl.report.provenance import read_origin
from moerl.statistics.published import parse
from moerl.statistics.readers import (
    check_recorded,
    read_analysis,
    read_left_out,
    read_returns,
    read_scores,
    read_timing,
    read_tokens,
)
from moerl.study import config, games, heartbeat
from moerl.study.config import load_study
from moerl.study.costs import read_records
from moerl.study.errors import FailureError, UserError
from moerl.study.origin import Origin
from moerl.study.paths import analysis_file, left_out_file, run_dir, scores_file, tokens_file
from moerl.study.sizes import KnownSizes
from moerl.study.specs import Encoder
from moerl.study.standing import Standing, finished_spec, read_divergence
from moerl.study.yaml_file import parse_yaml
from moerl.training import attempts, checkpoint, run_lock
from moerl.training.statefile import dump, load, read_meta

USUAL = 3000
MUTATIONS = int(os.environ.get("MOERL_FUZZ_MUTATIONS", str(USUAL)))
SECONDS = 20.0
"""A reader that takes longer hangs; on an idle machine, the slowest takes half a second."""
MEMORY = 6 * 2**30
"""Bytes of address space that a reader may take besides what is there."""


@dataclass(frozen=True)
class Reader:
    """Something that reads files of a folder."""

    folder: Path
    files: dict[str, tuple[Mutator, ...]]
    """File below the folder → how it is damaged."""
    read: Callable[[Path], object]
    """Given the folder; returns, or raises UserError or FailureError."""
    originals: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.originals.update({name: (self.folder / name).read_bytes() for name in self.files})


Make = Callable[[Path, Saved], Reader]
SHARES: dict[str, float] = {}
MAKERS: dict[str, Make] = {}


def reader(share: float) -> Callable[[Make], Make]:
    """Register what makes a reader; it gets this share of the mutations."""

    def register(make: Make) -> Make:
        name = make.__name__
        SHARES[name], MAKERS[name] = share, make
        return make

    return register


@reader(30)
def state_file(root: Path, _: Saved) -> Reader:
    tensors = {"a": np.arange(6, dtype=np.float32), "b/c": np.zeros((2, 2), np.uint8)}
    meta = {"step": 3, "rows": [[1, 2.5]], "spec": {"x": None}}
    (root / "s").write_bytes(dump(tensors, meta))

    def read(folder: Path) -> None:
        read_meta(folder / "s")
        load(folder / "s")

    return Reader(root, {"s": STATE}, read)


@reader(2)
def checkpoints(root: Path, saved: Saved) -> Reader:
    mine = saved.copy(root)
    cell = mine.cell

    def read(folder: Path) -> None:
        checkpoint.restored(mine.current, cell.spec, 0, mine.agent, cell.iterations, -1)

    return Reader(root, {"state/seed0/end/current.safetensors": STATE}, read)


@reader(2)
def action_log(root: Path, _: Saved) -> Reader:
    run, _files = make_dataset(root)
    names = {"actions.safetensors": STATE, "manifest.json": JSON, "resume.safetensors": STATE}
    return Reader(run, names, lambda folder: RecordedRun.open(folder, 100).episodes())


@reader(7)
def dataset(root: Path, _: Saved) -> Reader:
    _run, files = make_dataset(root)

    def read(folder: Path) -> None:
        Layout.open(folder).episodes()
        summary(folder, 100)

    last = sorted(path.name for path in files.glob("*_ckpt.*.gz"))
    return Reader(files, dict.fromkeys(last, (*NPY, bomb)) | {"source.json": JSON}, read)


@reader(18)
def records(root: Path, _: Saved) -> Reader:
    folder = root / "records"
    make_records(folder)
    state = root / "state"

    def read(folder: Path) -> None:
        heartbeat.read(folder)
        attempts._read(folder)
        run_lock._holder(folder / "lock")
        checkpoint._read_timing(folder)
        read_divergence(folder / "diverged.json")
        read_records(folder / "throughput.json")
        KnownSizes(folder / "parameters.json")
        for name in ("pong_CNN.json", "published.csv", "published.csv.gz"):
            parse(str(folder / name), (folder / name).read_bytes(), ["Pong"], Encoder.CNN)
        state.mkdir(exist_ok=True)

    names = {path.name: JSON for path in folder.iterdir() if path.suffix != ".csv" and path.suffix != ".gz"}
    return Reader(folder, names | {"published.csv": TABLE, "published.csv.gz": (*ANY, bomb)}, read)


@reader(14)
def results(root: Path, _: Saved) -> Reader:
    small = make_study(root / "study")
    run = next(run for run in small.study.runs() if small.study.variants[run.variant].tokens)
    origin = Origin.of(small.study, run)
    write_tokens(small.study, run, small.results)
    iterations = small.study.iterations(run.milestone)
    folder = run_dir(small.results, run)

    def read(_: Path) -> None:
        read_returns(folder / "returns.parquet", iterations)
        read_timing(folder / "timing.parquet", iterations)
        read_analysis(analysis_file(small.results, run), ["unplotted"], origin)
        read_tokens(tokens_file(small.results, run), None, 0, origin)
        read_scores(scores_file(small.results, FIGURE), {run.cell: origin})
        read_left_out(left_out_file(small.results, FIGURE))
        for name, kind in (("returns", "returns"), ("losses", "losses"), ("timing", "timing")):
            path = folder / f"{name}.parquet"
            check_table(str(path), path.read_bytes(), kind)
        check_table(f"{root}/fig.csv", (small.results / f"tables/{FIGURE}.csv").read_bytes(), "analysis grid")

    paths = [
        *(folder / f"{name}.parquet" for name in ("returns", "losses", "timing")),
        *(analysis_file(small.results, run), tokens_file(small.results, run)),
        scores_file(small.results, FIGURE),
    ]
    names: dict[str, tuple[Mutator, ...]] = {path.relative_to(root).as_posix(): ANY for path in paths}
    texts = (left_out_file(small.results, FIGURE), small.results / f"tables/{FIGURE}.csv")
    return Reader(root, names | {path.relative_to(root).as_posix(): TABLE for path in texts}, read)


@reader(8)
def run_manifest(root: Path, _: Saved) -> Reader:
    small = make_study(root / "study")
    folder = run_dir(small.results, small.run)

    def read(_: Path) -> None:
        standing = Standing(small.study, small.results)
        finished_spec(folder)
        standing.outdated(small.run)
        standing.archived(small.run)
        check_recorded(folder / "returns.parquet")
        read_origin(small.study, small.run, folder)

    return Reader(folder, {"manifest.json": JSON}, read)


@reader(2)
def archive(root: Path, _: Saved) -> Reader:
    small = make_study(root / "study")
    (root / "outside").write_bytes(b"mine")
    target = root / "restored"

    def read(folder: Path) -> None:
        try:
            restore(small.study, target, folder / "study" / "results.zip")
        finally:
            assert {path.name for path in root.iterdir()} <= {"study", "outside", "restored"}
            assert (root / "outside").read_bytes() == b"mine"
            if target.exists():
                assert {path.name for path in target.iterdir()} <= {"runs", "analysis", "imported"}
                assert not any(path.is_symlink() for path in target.rglob("*"))
                shutil.rmtree(target)

    return Reader(root, {"study/results.zip": ZIP}, read)


@reader(15)
def yaml_text(root: Path, _: Saved) -> Reader:
    (root / "s.yaml").write_text(
        "a: {b: [1, x, 2.5], c: null}\nd: &d\n  - e: [f, g]\n  - {h: i}\nj: *d\nk: true\n"
    )

    def read(folder: Path) -> None:
        try:
            parse_yaml((folder / "s.yaml").read_bytes())
        except ValueError as error:
            raise UserError(f"{folder}: {error}") from error

    return Reader(root, {"s.yaml": YAML}, read)


@reader(2)
def configuration(root: Path, _: Saved) -> Reader:
    study = make_configuration(root / "config")
    names = ("agents.yaml", "networks.yaml", "figures.yaml", "tables.yaml")

    def read(_: Path) -> None:
        games.load_games.cache_clear()
        loaded = load_study(study)
        loaded.runs()
        assert config.config_dir(study) == (root / "config")

    files = {"config/studies/own.yaml": YAML, "config/games.tsv": TABLE}
    return Reader(root, files | {f"config/{name}": YAML for name in names[:3]}, read)


watching: list[Path] = []
"""The folder that may be written to, while a reader is watched."""
FORBIDDEN = (
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "pickle.find_class",
    "socket.connect",
)
broken: list[str] = []


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if not watching:
        return
    if event in FORBIDDEN:
        broken.append(f"{event} {arguments}")
    if event == "open" and isinstance(arguments[0], str) and isinstance(arguments[2], int):
        writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and not Path(arguments[0]).absolute().is_relative_to(watching[0]):
            broken.append(f"{event} {arguments}")


sys.addaudithook(_watch)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Whoever asks for much more memory than there is in use gets a MemoryError."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def attempt(one: Reader, name: str, data: bytes) -> None:
    """Read the folder with a damaged file in it; everything but a result or one line of refusal fails."""
    path = one.folder / name
    path.write_bytes(data)
    started = time.monotonic()
    watching.append(one.folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one.read(one.folder)
    except (UserError, FailureError) as error:
        said = str(error)
        assert said.isprintable(), said
        assert str(one.folder) in said, said
        assert len(said) < 5000
    finally:
        watching.clear()
        path.write_bytes(one.originals[name])
    assert time.monotonic() - started < SECONDS
    assert not broken, broken


@pytest.mark.fuzz
@pytest.mark.long
@pytest.mark.parametrize("name", MAKERS)
def test_a_reader_reads_or_refuses_in_one_line(name, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a program that a file names would leave its canary
    folder = tmp_path / "files"
    folder.mkdir()
    one = MAKERS[name](folder, saved)
    one.read(one.folder)  # sound
    count = max(round(MUTATIONS * SHARES[name] / sum(SHARES.values())), 1)
    damage = st.sampled_from([(file, mutate) for file, ways in one.files.items() for mutate in ways])
    tried = []

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=MUTATIONS == USUAL,
        suppress_health_check=list(HealthCheck),
    )
    @given(damage, st.integers(0, 2**64 - 1))
    def read_damaged(what, seed):
        file, mutate = what
        tried.append(mutate)
        attempt(one, file, mutate(random.Random(seed), one.originals[file]))

    with bounded_memory():
        read_damaged()
    assert len(tried) >= count * 0.9
    assert not list(tmp_path.rglob(CANARY))
    one.read(one.folder)
