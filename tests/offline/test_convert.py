"""A finished run becomes files in the published layout, and nothing is lost or changed on the way."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_datasets import everything

from moerl.agents.value import ValueAgent
from moerl.offline import convert as conversion
from moerl.offline import recorded as recording
from moerl.offline.convert import convert
from moerl.offline.layout import FACTS, FILES, file_of
from moerl.offline.recorded import RecordedRun
from moerl.offline.source import DatasetError
from moerl.study.errors import FailureError
from moerl.training.lane import Lane
from moerl.training.online import Pack
from moerl.training.statefile import load, store


def replayed(trained) -> Lane:
    """The run as training itself brings it back from its checkpoint, with all of its replay memory."""
    spec = trained.cell.spec
    agent = ValueAgent(spec.hyper, spec.network, spec.num_actions)
    lane = trained.folders.find(spec, 0, trained.cell.iterations, agent)
    Pack.create(spec, trained.cell.rom, [lane], agent)
    return lane


def test_files_hold_what_training_had_in_its_replay_memory(case) -> None:
    ring = replayed(case.trained).ring
    assert ring.add_count <= ring.capacity  # it still has all
    found = everything(case.files)
    assert len(found["action"]) == ring.add_count
    for name, expected in (
        ("frame", ring.frames),
        ("action", ring.actions),
        ("reward", ring.rewards),
        ("terminal", ring.terminals),
    ):
        assert np.array_equal(found[name], expected[: ring.add_count]), name


def test_files_are_those_of_np_save_and_name_no_time(case) -> None:
    files = case.files
    for number in range(len(files)):
        for name in FILES:
            raw = file_of(files.folder, name, number).read_bytes()
            assert raw[:4] == b"\x1f\x8b\x08\x00"  # no file name, no comment
            assert raw[4:8] == bytes(4)  # no time
            content = gzip.decompress(raw)
            again = io.BytesIO()
            np.save(again, np.load(io.BytesIO(content), allow_pickle=False), allow_pickle=False)
            assert again.getvalue() == content
    assert str(files.folder) not in (files.folder / FACTS).read_text()


def test_conversion_is_byte_reproducible_however_many_lanes(cases, tmp_path, monkeypatch) -> None:
    case = cases["Breakout"]
    monkeypatch.setattr(conversion.os, "sched_getaffinity", lambda _: range(3))
    (tmp_path / "again").mkdir()
    convert(case.run, tmp_path / "again")
    digests = [
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        for folder in (case.files.folder, tmp_path / "again")
    ]
    assert digests[0] == digests[1]
    assert not list(tmp_path.glob(".*"))


def test_read_back_and_written_again_it_is_the_same(case, tmp_path) -> None:
    files = case.files
    for number in range(len(files)):
        columns = files.columns(number)
        with conversion.CheckpointWriter(tmp_path, number, columns.length) as writer:
            rows = (row for _, frames in files.frames(number) for row in frames)
            for i, frame in enumerate(rows):
                writer.add(frame, int(columns.action[i]), float(columns.reward[i]), bool(columns.terminal[i]))
        for name in FILES:
            again = file_of(tmp_path, name, number).read_bytes()
            assert again == file_of(files.folder, name, number).read_bytes()


def test_episodes_of_files_are_those_of_the_log(cases) -> None:
    for case in cases.values():
        assert case.files.episodes() == case.run.episodes()
    log, found = cases["Breakout"].run.log, everything(cases["Breakout"].files)
    ends = np.cumsum([3 + steps for steps in log.episode_lengths])
    cut = {int(end) for end, steps in zip(ends, log.episode_lengths, strict=True) if steps == 190}
    terminals = {int(i) + 1 for i in np.flatnonzero(found["terminal"])}
    assert len(cut) == 2  # and they leave no terminal
    assert terminals == set(ends.tolist()) - cut
    assert len(np.unique(found["frame"].reshape(len(found["frame"]), -1), axis=0)) > 100
    assert set(found["action"]) == {0, 1, 2, 3}


@pytest.fixture
def copy(breakout, tmp_path) -> Path:
    """A copy of a finished run, to be spoilt."""
    return Path(shutil.copytree(breakout.folder, tmp_path / "run"))


def relog(folder: Path, change) -> None:
    """Rewrite the log through `change(tensors, meta)`, and the manifest to fit."""
    tensors, meta = load(folder / "actions.safetensors")
    change(tensors, meta)
    store(folder / "actions.safetensors", tensors, meta)
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256((folder / "actions.safetensors").read_bytes()).hexdigest()
    manifest["sha256"]["actions.safetensors"] = digest
    (folder / "manifest.json").write_text(json.dumps(manifest))


def spoil_by(name: str):
    def spoil(folder: Path) -> None:
        if name == "unfinished":
            (folder / "manifest.json").unlink()
        elif name == "no log":
            (folder / "actions.safetensors").unlink()
        elif name == "torn manifest":
            (folder / "manifest.json").write_text('{"seed": 0')
        elif name == "damaged log":
            data = bytearray((folder / "actions.safetensors").read_bytes())
            data[-1] ^= 1
            (folder / "actions.safetensors").write_bytes(data)
        elif name == "another log":
            manifest = json.loads((folder / "manifest.json").read_text())
            manifest["sha256"]["actions.safetensors"] = "0" * 64
            (folder / "manifest.json").write_text(json.dumps(manifest))
        elif name == "another ale-py":
            relog(folder, lambda _, meta: meta.update(ale_py="0.11.0"))
        elif name == "lost lives":
            relog(folder, lambda _, meta: meta["spec"]["hyper"].update(terminal_on_life_loss=True))
        elif name == "shorter log":
            relog(folder, lambda tensors, _: tensors.update(actions=tensors["actions"][:-1]))

    return spoil


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unfinished", r"manifest\.json: is missing: the run is not finished; train it"),
        ("no log", r"run: has no actions\.safetensors with .*`moerl import`"),
        ("torn manifest", r"manifest\.json: not the manifest of a run"),
        ("damaged log", r"actions\.safetensors: not a usable action log .*corrupted.*train the run again"),
        ("another log", r"actions\.safetensors: is not the log that manifest\.json names"),
        ("another ale-py", r"recorded with ale-py 0\.11\.0 .*install ale-py==0\.11\.0"),
        ("lost lives", r"a lost life ends an episode"),
        ("shorter log", r"counts 1427 transitions, the action log 1426"),
    ],
)
def test_a_run_that_is_no_dataset_is_refused_before_it_is_replayed(copy, name, message, monkeypatch) -> None:
    monkeypatch.setattr(recording, "regenerate", None)
    spoil_by(name)(copy)
    with pytest.raises(DatasetError, match=message) as refused:
        RecordedRun.open(copy, 300)
    assert "\n" not in str(refused.value)


def test_a_log_that_replays_differently_is_refused_and_leaves_nothing(copy, tmp_path) -> None:
    def swap(tensors, _) -> None:
        tensors["actions"] = tensors["actions"][::-1].copy()

    relog(copy, swap)
    run = RecordedRun.open(copy, 300)
    with pytest.raises(DatasetError, match=r"actions\.safetensors: replaying it gave a game that"):
        convert(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_returns_are_compared_with_those_on_record(copy) -> None:
    tensors, meta = load(copy / "resume.safetensors")
    meta["rows"][1]["mean_return"] += 1.0
    store(copy / "resume.safetensors", tensors, meta)
    with pytest.raises(DatasetError, match=r"a mean return of 0\.25 in iteration 1 instead of 1\.25"):
        RecordedRun.open(copy, 300).verify()


def test_a_full_disk_leaves_nothing(cases, tmp_path, monkeypatch) -> None:
    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(conversion.CheckpointWriter, "_flush", full)
    with pytest.raises(FailureError, match=r"out: cannot be written \(No space left on device\)"):
        convert(cases["Pong"].run, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_it_never_writes_over_something(breakout, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(DatasetError, match="not an empty folder"):
        convert(RecordedRun.open(breakout.folder, 300), tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "mine"
