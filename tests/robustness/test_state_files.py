"""Checkpoints that are torn, altered, of something else or of other versions: named, never trained on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from small_runs import FIRST, SECOND

import moerl
from moerl.analysis import snapshot
from moerl.study import heartbeat
from moerl.study.errors import FailureError, UserError
from moerl.study.standing import read_divergence
from moerl.training import attempts, checkpoint_meta, run_lock
from moerl.training.checkpoint import restored
from moerl.training.checkpoint_meta import OtherVersionError
from moerl.training.statefile import StateError, dump, load, read_meta, store


def edit(path: Path, change) -> None:
    """Change a checkpoint, with a checksum that fits."""
    tensors, meta = load(path)
    change(tensors, meta)
    store(path, tensors, meta)


def test_every_flipped_bit_of_a_small_file_is_detected(tmp_path):
    data = dump({"a": np.arange(3, dtype=np.uint8)}, {"k": [1, "x"]})
    path = tmp_path / "s"
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(StateError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_both_generations_are_there_and_the_newer_one_is_taken(saved):
    lane = saved.find()
    assert lane.agent_steps == SECOND
    edit_free = load(saved.previous)[1]
    assert edit_free["agent_steps"] == FIRST
    assert edit_free["moerl"] == moerl.__version__
    assert edit_free["ale_py"] == checkpoint_meta.ale_version()


def damages(data: bytes):
    """Kinds of damage → the file then; `None`: a folder in its place."""
    half = len(data) // 2
    yield "empty", b""
    yield "torn in the header", data[:100]
    yield "torn in the middle", data[:half]
    yield "a byte less", data[:-1]
    yield "a byte more", data + b"\0"
    yield "zeros", bytes(len(data))
    yield "a lost block", data[:half] + b"\xff" * 4096 + data[half + 4096 :]
    yield "something else", b"PAR1" + data[4:]
    rng = np.random.default_rng(0)
    for place in [0, 7, 8, 9, 2000, len(data) - 1, *rng.integers(len(data), size=10)]:
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        yield f"a flipped bit of byte {place}", bytes(flipped)


def test_a_damaged_checkpoint_is_never_restored(saved, tmp_path):
    mine = saved.copy(tmp_path)
    for what, damaged in damages(mine.current.read_bytes()):
        mine.current.write_bytes(damaged)
        refuses(mine, what)


def refuses(mine, what):
    """A state error in one line that begins with the file."""
    cell, said = mine.cell, None
    try:
        restored(mine.current, cell.spec, 0, mine.agent, cell.iterations, -1)
    except StateError as error:
        said = error
    assert said is not None, what
    assert not isinstance(said, OtherVersionError), what
    assert str(said).startswith(f"{mine.current}: "), what
    assert str(said).isprintable(), what


@pytest.mark.parametrize("what", ["empty", "torn in the middle", "a flipped bit of byte 2000"])
def test_a_damaged_checkpoint_is_named_and_the_previous_one_taken(saved, tmp_path, caplog, what):
    mine = saved.copy(tmp_path)
    mine.current.write_bytes(dict(damages(mine.current.read_bytes()))[what])
    assert mine.find().agent_steps == FIRST
    assert f"passed over: {mine.current}: " in caplog.text


def test_if_both_are_damaged_both_are_named_and_the_run_begins_anew(saved, tmp_path, caplog):
    mine = saved.copy(tmp_path)
    for path in (mine.current, mine.previous):
        path.write_bytes(path.read_bytes()[:5000])
    assert mine.find().agent_steps == 0
    assert f"passed over: {mine.current}: " in caplog.text
    assert f"passed over: {mine.previous}: " in caplog.text


def without(name):
    return lambda tensors, meta: (tensors if name in tensors else meta).pop(name)


def putting(name, value):
    def change(tensors, meta):
        (tensors if isinstance(value, np.ndarray) else meta).__setitem__(name, value)

    return change


def first_row(**changed):
    return lambda tensors, meta: meta["rows"][0].update(changed)


def grown(name, value):
    """One more value at the end of a tensor."""
    return lambda tensors, meta: tensors.update(
        {name: np.append(tensors[name], tensors[name].dtype.type(value))}
    )


def as_type(name, dtype):
    return lambda tensors, meta: tensors.update({name: tensors[name].astype(dtype)})


def last(name, value):
    return lambda tensors, meta: tensors[name].__setitem__(-1, value)


BIAS = "params/encoder/conv0/bias"
META = (
    *("agent_steps", "gradient_steps", "rows", "iteration_start", "moerl", "iteration_returns"),
    *("episode_return", "add_count"),
)
TENSORS = ("pending_losses", "episode_adds", "priorities/leaves", "priorities/max", "log/actions")
MALFORMED = {
    **{f"no {name}": without(name) for name in (*META, *TENSORS, "log/episode_lengths", BIAS)},
    **{f"{name} is a text": putting(name, "many") for name in META if name != "moerl"},
    **{f"{name} is null": putting(name, None) for name in META},
    "negative steps": putting("agent_steps", -1),
    "steps that are not whole": putting("agent_steps", 90.5),
    "more steps than actions": putting("agent_steps", SECOND + 1),
    "an iteration that begins later": putting("iteration_start", SECOND + 1),
    "more than it has": putting("more", 1),
    "rows are numbers": putting("rows", [1, 2]),
    "an iteration twice": first_row(iteration=1),
    "an iteration of text": first_row(frame="x"),
    "episodes that were not": first_row(episodes=40),
    "fewer transitions than the episodes": putting("add_count", 3),
    "losses of another type": putting("pending_losses", np.zeros(2, np.float32)),
    "losses in a table": putting("pending_losses", np.zeros((2, 2))),
    "a parameter of another shape": putting(BIAS, np.zeros(3, np.float32)),
    "a parameter of another type": as_type(BIAS, np.float64),
    "priorities in a table": putting("priorities/leaves", np.zeros((20, 30), np.float32)),
    "no slots": putting("priorities/leaves", np.zeros(0, np.float32)),
    "fewer slots": putting("priorities/leaves", np.zeros(10, np.float32)),
    "two largest priorities": putting("priorities/max", np.ones(2, np.float32)),
    "priorities of another type": as_type("priorities/leaves", np.int32),
    "a priority that is not finite": last("priorities/leaves", np.nan),
    "actions of another type": as_type("log/actions", np.int32),
    "actions in a table": lambda tensors, meta: tensors.update({"log/actions": tensors["log/actions"][None]}),
    "an action that the game does not have": last("log/actions", 250),
    "one action more": grown("log/actions", 0),
    "one episode more": grown("log/episode_lengths", 1),
    "an episode without steps": last("log/episode_lengths", 0),
    "an episode longer than the log": last("log/episode_lengths", 2**32 - 1),
    "lengths of another type": as_type("log/episode_lengths", np.int64),
    "one place in the replay more": grown("episode_adds", 1),
    "places that go back": last("episode_adds", 1),
}


def test_malformed_content_with_a_sound_checksum_is_never_restored(saved, tmp_path):
    mine = saved.copy(tmp_path)
    data = mine.current.read_bytes()
    for what, change in MALFORMED.items():
        mine.current.write_bytes(data)
        edit(mine.current, change)
        refuses(mine, what)


@pytest.mark.parametrize("what", ["no rows", "an action that the game does not have"])
def test_malformed_content_is_named_and_the_previous_checkpoint_taken(saved, tmp_path, caplog, what):
    mine = saved.copy(tmp_path)
    edit(mine.current, MALFORMED[what])
    assert mine.find().agent_steps == FIRST
    assert f"passed over: {mine.current}: " in caplog.text


def test_another_spec_or_seed_is_never_gone_on_from(saved, tmp_path, caplog):
    mine = saved.copy(tmp_path)
    spec = mine.cell.spec
    other = spec.model_copy(update={"hyper": spec.hyper.model_copy(update={"gamma": 0.9})})
    assert mine.find(spec=other).agent_steps == 0
    assert caplog.text.count("written under another spec or seed") == 2
    assert mine.find(seed=1).agent_steps == 0


def test_another_ale_py_is_refused_by_name_and_nothing_is_lost(saved, tmp_path, monkeypatch):
    mine = saved.copy(tmp_path)
    here = checkpoint_meta.ale_version()
    monkeypatch.setattr(checkpoint_meta, "ale_version", lambda: "99.0")
    before = {path: path.read_bytes() for path in mine.root.rglob("*") if path.is_file()}
    with pytest.raises(OtherVersionError) as caught:
        mine.find()
    said = str(caught.value)
    assert said == (
        f"{mine.current}: was played with ale-py {here}, here is 99.0, whose games may play differently: "
        f"install ale-py=={here}; or delete {mine.folders.state} if it may be trained again from the start"
    )
    assert isinstance(caught.value, FailureError)
    with pytest.raises(OtherVersionError):
        mine.cell.train(mine.root)
    assert {path: path.read_bytes() for path in before} == before
    monkeypatch.undo()
    assert mine.find().agent_steps == SECOND


def test_a_checkpoint_that_does_not_say_which_ale_py_is_gone_on_from(saved, tmp_path):
    mine = saved.copy(tmp_path)
    edit(mine.current, without("ale_py"))
    assert mine.find().agent_steps == SECOND


def test_the_log_of_a_finished_run_says_which_ale_py_where_its_checkpoint_does_not(saved, tmp_path):
    mine = saved.copy(tmp_path)
    tensors, meta = load(mine.current)
    log = {name.removeprefix("log/"): value for name, value in tensors.items() if name.startswith("log/")}
    del meta["ale_py"]
    for path in (mine.current, mine.previous):
        path.unlink()
    store(mine.folders.state / "resume.safetensors", tensors, meta)
    store(mine.folders.state / "actions.safetensors", log, {"ale_py": checkpoint_meta.ale_version()})
    assert mine.find().agent_steps == SECOND
    store(mine.folders.state / "actions.safetensors", log, {"ale_py": "0.1"})
    with pytest.raises(OtherVersionError, match=r"was played with ale-py 0\.1, here is"):
        mine.find()


@pytest.mark.parametrize("found", [1, 3, "2", None, [2]])
def test_another_format_is_refused(saved, tmp_path, found):
    mine = saved.copy(tmp_path)
    edit(mine.current, lambda tensors, meta: meta.update(format=found, moerl="9.9"))
    with pytest.raises(
        OtherVersionError, match=r"has checkpoint format .* \(moerl 9.9\); this moerl, .*, reads 2"
    ):
        mine.find()


def test_another_moerl_of_the_same_format_goes_on(saved, tmp_path):
    mine = saved.copy(tmp_path)
    edit(mine.current, putting("moerl", "0.0.9"))
    assert mine.find().agent_steps == SECOND


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"seconds": -1, "rows": []}',
        b'{"seconds": 1, "rows": [[1]]}',
        b"[" * 9999,
    ],
)
def test_damaged_times_cost_no_training(saved, tmp_path, caplog, content):
    mine = saved.copy(tmp_path)
    (mine.folders.state / "timing.json").write_bytes(content)
    folders = mine.folders
    lane = folders.find(mine.cell.spec, 0, mine.cell.iterations, mine.agent)
    assert lane.agent_steps == SECOND
    assert [(row.iteration, row.wall_seconds) for row in folders.timing] == [(0, 0.0), (1, 0.0)][
        : len(lane.rows)
    ]
    assert "timing.json: cannot be read" in caplog.text


DEEP = (b"[" * 100_000, b'{"a":' * 100_000)
BAD_JSON = [b"", b"\xff", b"{", b"[]", b"[1]", b"null", b"1e999", b"NaN", b'"\\ud800"', *DEEP]


@pytest.mark.parametrize("content", BAD_JSON, ids=lambda content: repr(content[:6]))
def test_small_records_that_are_no_such_are_named_or_none(tmp_path, content):
    for name in (attempts.NAME, heartbeat.NAME, run_lock.NAME, "diverged.json"):
        (tmp_path / name).write_bytes(content)
    attempts.begin_attempt(tmp_path, "run", 0, 100, "frames", 60.0)
    assert json.loads((tmp_path / attempts.NAME).read_bytes()) == [[0, 60.0]]
    assert heartbeat.read(tmp_path) is None
    with run_lock.hold(tmp_path, lambda held: pytest.fail(held)):
        assert json.loads((tmp_path / run_lock.NAME).read_bytes())["pid"] == os.getpid()
    with pytest.raises(
        UserError, match=r"diverged.json: not a record of a divergence .*; delete it"
    ) as caught:
        read_divergence(tmp_path / "diverged.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("meta", ["[]", "null", "1", "[" * 100_000, "{"])
def test_metadata_that_is_no_mapping_is_a_state_error(tmp_path, meta):
    from safetensors.numpy import save

    path = tmp_path / "s"
    header = json.dumps({"digest": "0", "meta": meta})
    path.write_bytes(save({"a": np.zeros(1)}, {"moerl": header}))
    for read in (load, read_meta):
        with pytest.raises(StateError, match="not a readable state file"):
            read(path)


SNAPSHOTS = {
    "no actions": without("batch/action"),
    "no terminals": without("batch/terminal"),
    "no iteration": without("iteration"),
    "an iteration of text": putting("iteration", "x"),
    "a frame before the first": putting("frame", -4),
    "no parameter": without("params/encoder/conv0/bias"),
    "no target parameter": without("target_params/encoder/conv0/bias"),
    "a parameter of another shape": putting("params/encoder/conv0/bias", np.zeros(2, np.float32)),
    "a parameter more": putting("params/encoder/conv9/bias", np.zeros(2, np.float32)),
    "fewer actions": putting("batch/action", np.zeros(3, np.int32)),
    "an action alone": putting("batch/action", np.array(1, np.int32)),
    "half a batch": lambda tensors, meta: tensors.update(
        {name: value[:-1] for name, value in tensors.items() if name[:6] == "batch/"}
    ),
    "no transitions": lambda tensors, meta: tensors.update(
        {name: value[:0] for name, value in tensors.items() if name[:6] == "batch/"}
    ),
}


def test_a_snapshot_that_lacks_something_is_named(saved, tmp_path):
    spec, path = saved.cell.spec, tmp_path / "iteration0001.safetensors"
    tensors = {name: value for name, value in load(saved.current)[0].items() if "params/" in name}
    count = spec.hyper.batch_size
    tensors |= {f"batch/{name}": np.zeros(count, kind) for name, kind in (("action", "i4"), ("reward", "f4"))}
    tensors |= {f"batch/{name}": np.zeros((count, 4, 84, 84), "u1") for name in ("state", "next_state")}
    tensors["batch/terminal"] = np.zeros(count, bool)
    meta = {"iteration": 0, "frame": 160, "spec": spec.digest(), "seed": 0}
    store(path, tensors, meta)
    assert snapshot.read(path, spec).iteration == 0
    for what, change in SNAPSHOTS.items():
        store(path, tensors, meta)
        edit(path, change)
        with pytest.raises(StateError) as caught:
            snapshot.read(path, spec)
        assert str(caught.value).startswith(f"{path}: not a snapshot ("), what
