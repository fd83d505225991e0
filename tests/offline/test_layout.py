"""Files in the published layout: the order of a ring, and every way in which they can be bad."""

from __future__ import annotations

import gzip
import io
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moerl.cli.main import main
from moerl.offline.layout import (
    ACTION,
    ADD_COUNT,
    INVALID_RANGE,
    OBSERVATION,
    REWARD,
    TERMINAL,
    Layout,
    file_of,
)
from moerl.offline.source import DatasetError
from moerl.offline.subset import open_source


def put(folder: Path, name: str, checkpoint: int, values: np.ndarray, pickled: bool = False) -> None:
    """As the paper-era memory dumps an array."""
    with gzip.open(file_of(folder, name, checkpoint), "wb", 1) as file:
        np.save(file, values, allow_pickle=pickled)


def dump(folder: Path, checkpoint: int, identities: list[int], add_count: int) -> None:
    """A checkpoint whose slot i has frame, action and reward of `identities[i]`; 9 and 0 are terminal."""
    folder.mkdir(exist_ok=True)
    values = np.array(identities)
    put(
        folder,
        OBSERVATION,
        checkpoint,
        np.broadcast_to(values[:, None, None], (len(values), 84, 84)).astype("u1"),
    )
    put(folder, ACTION, checkpoint, (values % 18).astype(np.int32))
    put(folder, REWARD, checkpoint, (values % 2).astype(np.float32))
    put(folder, TERMINAL, checkpoint, (values % 9 == 8).astype(np.uint8))
    put(folder, ADD_COUNT, checkpoint, np.array(add_count))
    put(folder, INVALID_RANGE, checkpoint, np.arange(5))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sound checkpoints."""
    for checkpoint in (0, 1):
        dump(tmp_path / "data", checkpoint, list(range(1, 31)), 30)
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("add_count", "expected"),
    [
        (7, [1, 2, 3, 4, 5, 6, 7]),  # not full: the others were never written
        (9, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (10, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (12, [3, 4, 5, 6, 7, 8, 9, 10, 1, 2]),  # slots 0 and 1 were written last
        (29, [10, 1, 2, 3, 4, 5, 6, 7, 8, 9]),  # dumped one before it is full again
        (30, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_transitions_are_in_order_of_time(tmp_path: Path, add_count: int, expected: list[int]) -> None:
    dump(tmp_path / "data", 0, list(range(1, 11)), add_count)
    columns = Layout.open(tmp_path / "data").columns(0)
    assert columns.action[columns.order].tolist() == expected
    assert columns.length == len(expected)


def test_what_was_never_written_may_be_anything(tmp_path: Path) -> None:
    dump(tmp_path / "data", 0, list(range(1, 11)), 9)
    put(tmp_path / "data", ACTION, 0, np.array([1] * 9 + [-7], np.int32))
    assert Layout.open(tmp_path / "data").columns(0).length == 9


def test_the_folder_above_will_do(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "replay_logs")
    found = open_source(tmp_path)
    assert isinstance(found, Layout)
    assert found.folder == tmp_path / "replay_logs"
    assert (len(found), found.facts) == (2, None)


_sprung: list[str] = []


def _spring() -> None:
    _sprung.append("ran")


class _Trap:
    """What a pickle in a file would run."""

    def __reduce__(self):
        return _spring, ()


def cut_short(path: Path, by: int = 10) -> None:
    path.write_bytes(path.read_bytes()[:-by])


def spoil_data(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # of the checksum
    path.write_bytes(data)


def end_early(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-84]))


def add_more(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"\0"))


def replaced(name: str, values: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: put(folder, name, 1, values)


def on(name: str, spoil: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: spoil(file_of(folder, name, 1))


ACTIONS = np.arange(30, dtype=np.int32) % 18
BAD = {
    "missing": (on(REWARD, Path.unlink), r"reward_ckpt\.1\.gz: is missing; fetch it from gs://"),
    "no counter": (on(ADD_COUNT, Path.unlink), r"add_count_ckpt\.1\.gz: is missing"),
    "gap": (
        lambda folder: [p.rename(str(p).replace("ckpt.1", "ckpt.3")) for p in folder.glob("*ckpt.1.gz")],
        r"data: checkpoint 1 is missing, checkpoint 3 is there; fetch it",
    ),
    "nothing": (
        lambda folder: [p.unlink() for p in folder.iterdir()],
        r"data: has no \$store\$_action_ckpt\.0\.gz; fetch it from gs://.* `moerl dataset convert`",
    ),
    "truncated frames": (on(OBSERVATION, cut_short), r"observation_ckpt\.1\.gz: the gzip file is truncated"),
    "frames without an end": (on(OBSERVATION, lambda p: cut_short(p, 4)), r"the gzip file is truncated"),
    "truncated actions": (on(ACTION, cut_short), r"action_ckpt\.1\.gz: the gzip file is truncated"),
    "empty file": (on(ACTION, lambda p: p.write_bytes(b"")), r"action_ckpt\.1\.gz: .* fetch it again"),
    "checksum": (on(OBSERVATION, spoil_data), r"observation_ckpt\.1\.gz: not a sound gzip file \(CRC"),
    "not gzip": (on(REWARD, lambda p: p.write_bytes(b"hello")), r"reward_ckpt\.1\.gz: not a sound gzip file"),
    "not npy": (
        on(REWARD, lambda p: p.write_bytes(gzip.compress(b"hello" * 9))),
        r"reward_ckpt\.1\.gz: holds no NumPy array as expected \(the magic string",
    ),
    "too few": (on(OBSERVATION, end_early), r"observation_ckpt\.1\.gz: holds fewer values than its header"),
    "too many": (on(OBSERVATION, add_more), r"observation_ckpt\.1\.gz: holds more values than its header"),
    "type": (replaced(ACTION, ACTIONS.astype(np.int64)), r"action_ckpt\.1\.gz: is of type int64, not int32"),
    "byte order": (replaced(ACTION, ACTIONS.astype(">i4")), r"action_ckpt\.1\.gz: is of type >i4, not int32"),
    "type of frames": (
        replaced(OBSERVATION, np.zeros((30, 84, 84), np.float32)),
        r"observation_ckpt\.1\.gz: is of type float32, not uint8",
    ),
    "shape of frames": (
        replaced(OBSERVATION, np.zeros((30, 84, 80), np.uint8)),
        r"observation_ckpt\.1\.gz: has shape \[30, 84, 80\], not \[M, 84, 84\]",
    ),
    "shape": (replaced(REWARD, np.zeros((30, 1), np.float32)), r"has shape \[30, 1\], not \[M\]"),
    "order": (replaced(OBSERVATION, np.zeros((84, 84, 30), np.uint8).T), r"in Fortran's order"),
    "lengths": (
        replaced(TERMINAL, np.zeros(29, np.uint8)),
        r"data: checkpoint 1: its files have different lengths \(.*action 30, .*terminal 29, .*n 30\); fetch",
    ),
    "action": (
        replaced(ACTION, np.where(np.arange(30) == 7, 18, 0).astype(np.int32)),
        r"action_ckpt\.1\.gz: slot 7 is 18; allowed are 0 to 17",
    ),
    "reward": (
        replaced(REWARD, np.where(np.arange(30) == 7, np.nan, 0).astype(np.float32)),
        r"reward_ckpt\.1\.gz: slot 7 is nan; allowed are finite numbers",
    ),
    "terminal": (replaced(TERMINAL, np.full(30, 2, np.uint8)), r"terminal_ckpt\.1\.gz: slot 0 is 2"),
    "counter": (replaced(ADD_COUNT, np.array("many")), r"add_count_ckpt\.1\.gz: is of type <U4"),
    "no transition": (replaced(ADD_COUNT, np.array(0)), r"add_count_ckpt\.1\.gz: no transition was added"),
    "objects": (
        lambda folder: put(folder, ACTION, 1, np.array([_Trap()] * 30), pickled=True),
        r"action_ckpt\.1\.gz: is of type object, not int32",
    ),
    "facts": (
        lambda folder: (folder / "source.json").write_text("{"),
        r"source\.json: not the facts of a run",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(folder, name, monkeypatch, capsys) -> None:
    spoil, message = BAD[name]
    spoil(folder)
    with pytest.raises(DatasetError, match=message) as refused:
        Layout.open(folder).episodes()
    assert "\n" not in str(refused.value)
    monkeypatch.setattr("sys.argv", ["moerl", "dataset", "verify", str(folder)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert capsys.readouterr().err == f"moerl: {refused.value}\n"
    assert not _sprung


def test_the_trap_works() -> None:
    pickle.loads(pickle.dumps(_Trap()))
    assert _sprung.pop() == "ran"


def test_the_sound_files_are_sound(folder: Path) -> None:
    assert [len(episodes) for episodes in Layout.open(folder).episodes()] == [4, 4]


def test_a_file_in_the_newer_version_of_the_format_is_read(folder: Path) -> None:
    content = io.BytesIO()
    np.lib.format.write_array(content, ACTIONS, version=(2, 0))
    file_of(folder, ACTION, 1).write_bytes(gzip.compress(content.getvalue()))
    assert np.array_equal(Layout.open(folder).columns(1).action, ACTIONS)


def test_other_files_beside_it_do_not_matter(folder: Path) -> None:
    (folder / "episode_end_indices_ckpt.0.gz").write_bytes(gzip.compress(pickle.dumps({3})))
    (folder / "$store$_observation_ckpt.0.gz.part").write_bytes(b"")
    shutil.copy(file_of(folder, ACTION, 0), folder / "$store$_legal_ckpt.7.gz")
    assert len(Layout.open(folder)) == 2


@pytest.mark.parametrize("arguments", [["info", "nowhere"], ["convert", "nowhere", "out"], ["info", "."]])
def test_folders_that_are_no_dataset(arguments, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["moerl", "dataset", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Traceback" not in said
