"""Subsets in memory: what is in them, what may be sampled, and what that takes."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from small_datasets import everything

from moerl.cli.main import cli
from moerl.offline import layout
from moerl.offline.episodes import Episode, choose_episodes
from moerl.offline.layout import Layout
from moerl.offline.recorded import RecordedRun
from moerl.offline.source import DatasetError
from moerl.offline.subset import Subset, load_subset, open_source
from moerl.offline.writer import CheckpointWriter
from moerl.replay.ring import FrameRing

GAMMA = 0.5


def equal(one: Subset, other: Subset) -> bool:
    rings = [vars(subset.ring) for subset in (one, other)]
    names = ("frames", "actions", "rewards", "terminals")
    return np.array_equal(one.states, other.states) and all(
        np.array_equal(rings[0][name], rings[1][name]) for name in names
    )


@pytest.mark.parametrize(("game", "percent", "n_step"), [("Breakout", 50, 3), ("Pong", 10, 1)])
def test_files_and_the_run_itself_give_the_same_subset(cases, game, percent, n_step) -> None:
    case = cases[game]
    subset = load_subset(case.files, percent, 4, n_step, GAMMA)
    assert equal(subset, load_subset(case.run, percent, 4, n_step, GAMMA))
    chosen = sum(map(len, (e for there in choose_episodes(case.run.episodes(), percent, 4) for e in there)))
    assert subset.ring.capacity == chosen
    assert percent / 100 <= chosen / case.run.length < 1


def test_a_subset_depends_on_its_seed(cases) -> None:
    files = cases["Breakout"].files
    first, again, other = (load_subset(files, 50, seed, 1, GAMMA) for seed in (0, 0, 1))
    assert equal(first, again)
    assert not np.array_equal(first.ring.frames, other.ring.frames)


@pytest.mark.parametrize("n_step", [1, 3, 10])
def test_all_of_the_data_gives_what_the_replay_of_training_would(cases, tmp_path, n_step) -> None:
    """One checkpoint, everything chosen: the frame ring that was filled step by step is the reference."""
    run = cases["Breakout"].run
    found = everything(cases["Breakout"].files)
    ring = FrameRing(run.length + 1, n_step, GAMMA)
    steps = np.setdiff1d(np.arange(run.length), [b + k for b in run.bounds[:-1] for k in range(3)])
    ends = {b - 1 for b in run.bounds[1:-1]}
    for i in steps.tolist():
        row = [found[name][i] for name in ("frame", "action", "reward", "terminal")]
        ring.add(*row, end=i in ends)
    with CheckpointWriter(tmp_path, 0, run.length) as writer:
        for row in zip(*(found[name] for name in ("frame", "action", "reward", "terminal")), strict=True):
            writer.add(*row)
    subset = load_subset(tmp_path, 100, 0, n_step, GAMMA)
    slots = np.arange(ring.capacity)
    theirs = set(slots[ring.valid(slots)].tolist())
    # The ring also gives padding after a cut; and leaves out what is beside its write cursor.
    padding = set(range(run.length)) - set(steps.tolist())
    assert len(theirs & padding) > 3 or n_step > 3
    ours = set(subset.states.tolist())
    assert ours - theirs <= set(range(run.length - n_step - 1, run.length))
    assert theirs - ours == theirs & padding
    both = np.array(sorted(ours & theirs))
    for one, other in zip(vars(subset.gather(both)).values(), vars(ring.gather(both)).values(), strict=True):
        going_on = ~ring.gather(both).terminal if one.ndim > 1 else slice(None)
        assert np.array_equal(one[going_on], other[going_on])


STEPS = st.lists(st.tuples(st.integers(1, 8), st.booleans()), min_size=3, max_size=14)


def drawing(games: list[tuple[int, bool]]) -> list[tuple[int, int, bool]]:
    """(identity, episode, terminal) of every transition; identity 0 is padding."""
    made, identity = [], 0
    for episode, (steps, over) in enumerate(games):
        made += [(0, episode, False)] * 3
        for step in range(steps):
            identity += 1
            made.append((identity, episode, over and step == steps - 1))
    return made


def reward_of(identity: int) -> float:
    return float(identity % 3 - 1) if identity else 0.0


@settings(max_examples=25, deadline=None)
@given(
    games=STEPS,
    per_checkpoint=st.integers(7, 60),
    percent=st.sampled_from([5, 10, 50, 100]),
    n_step=st.sampled_from([1, 3, 10]),
    seed=st.integers(0, 9),
)
def test_no_stack_and_no_window_leaves_its_episode(
    tmp_path_factory, games, per_checkpoint, percent, n_step, seed
) -> None:
    made = drawing(games)
    folder = tmp_path_factory.mktemp("drawn")
    for number, first in enumerate(range(0, len(made), per_checkpoint)):
        part = made[first : first + per_checkpoint]
        with CheckpointWriter(folder, number, len(part)) as writer:
            for identity, _, terminal in part:
                writer.add(identity, identity % 18, reward_of(identity), terminal)
    try:
        subset = load_subset(folder, percent, seed, n_step, GAMMA)
    except DatasetError as error:
        assert "too few to sample" in str(error) or "no episode is long enough" in str(error)  # noqa: PT017
        return
    place = {identity: i for i, (identity, _, _) in enumerate(made) if identity}
    sample = subset.gather(subset.states)
    for k in range(len(subset.states)):
        identity = int(sample.state[k, -1, 0, 0])
        i = place[identity]  # a real transition, so no padding
        episode = made[i][1]
        assert [made[j][0] for j in range(i - 3, i + 1)] == sample.state[k, :, 0, 0].tolist()
        assert all(made[j][1] == episode for j in range(i - 3, i + 1))
        window = [made[j] for j in range(i, min(i + n_step, len(made))) if made[j][1] == episode]
        ended = window[-1][2]
        assert bool(sample.terminal[k]) == ended
        assert int(sample.action[k]) == identity % 18
        assert sample.reward[k] == sum(GAMMA**j * reward_of(w[0]) for j, w in enumerate(window))
        if not ended:
            assert [made[j][0] for j in range(i + n_step - 3, i + n_step + 1)] == sample.next_state[
                k, :, 0, 0
            ].tolist()
            assert made[i + n_step][1] == episode


def test_every_state_is_drawn_and_nothing_else(cases) -> None:
    subset = load_subset(cases["Breakout"].files, 10, 0, 3, GAMMA)
    counts = np.bincount(
        subset.sample_indices(np.random.default_rng(0), 40_000), minlength=subset.ring.capacity
    )
    assert np.flatnonzero(counts).tolist() == subset.states.tolist()
    expected = 40_000 / len(subset.states)
    assert np.abs(counts[subset.states] - expected).max() < 5 * np.sqrt(expected)
    batch = subset.sample(np.random.default_rng(1), 4)
    again = subset.gather(subset.sample_indices(np.random.default_rng(1), 4))
    assert all(np.array_equal(a, b) for a, b in zip(vars(batch).values(), vars(again).values(), strict=True))
    assert batch.state.shape == (4, 4, 84, 84)


def test_rewards_are_clipped(tmp_path) -> None:
    with CheckpointWriter(tmp_path, 0, 12) as writer:
        for reward in range(-6, 6):
            writer.add(1, 0, reward, False)
    ring = load_subset(tmp_path, 100, 0, 1, GAMMA).ring
    assert ring.rewards.tolist() == [-1] * 6 + [0] + [1] * 5


def test_a_dump_whose_cursor_is_in_the_middle(tmp_path) -> None:
    """The published dumps are rings: time wraps around their end."""
    with CheckpointWriter(tmp_path, 0, 12) as writer:
        for identity in range(1, 13):
            writer.add(identity, 0, 0.0, False)
    name = layout.file_of(tmp_path, layout.ADD_COUNT, 0)
    with layout.gzip.open(name, "wb") as file:
        np.save(file, np.array(12 + 5))
    subset = load_subset(tmp_path, 100, 0, 1, GAMMA)
    assert subset.ring.frames[:, 0, 0].tolist() == [6, 7, 8, 9, 10, 11, 12, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("percent", "n_step", "message"), [(0, 1, "from 1 to 100"), (101, 1, "from 1 to"), (1, 299, "too few")]
)
def test_subsets_that_cannot_be(cases, percent, n_step, message) -> None:
    with pytest.raises(DatasetError, match=message):
        load_subset(cases["Pong"].files, percent, 0, n_step, GAMMA)


def test_the_papers_subset_fits_in_20_gigabytes() -> None:
    """5 % of 50 checkpoints of 1M transitions: 2.5M (Table 3), and less than one episode more."""
    ring = FrameRing(100, 3, 0.99)
    held = [v for v in vars(ring).values() if isinstance(v, np.ndarray) and len(v) == ring.capacity]
    each = sum(v.nbytes for v in held) / ring.capacity + np.dtype(np.int64).itemsize  # and a state's number
    longest = 27_000 + 3
    assert each <= 7_072
    assert (2_500_000 + longest) * each < 17.9e9
    # The largest that the size rule gives, with episodes that are as long as they can be:
    checkpoints = [[Episode(i * longest, (i + 1) * longest, i * longest + 3) for i in range(37)]] * 50
    chosen = choose_episodes(checkpoints, 5, 0)
    total = 50 * 37 * longest
    assert 0 <= sum(len(e) for there in chosen for e in there) - 0.05 * total < longest


def test_frames_are_in_memory_once(tmp_path, monkeypatch) -> None:
    """Loading takes the subset's own size and a few chunks, whatever the size of the data."""
    monkeypatch.setattr(layout, "ROWS", 64)
    monkeypatch.setattr(layout, "_WORKERS", 2)
    rng = np.random.default_rng(0)
    for number in range(3):
        with CheckpointWriter(tmp_path, number, 2_000) as writer:
            for i in range(2_000):
                writer.add(int(rng.integers(1, 255)), 1, 0.0, i % 50 == 49)
    tracemalloc.start()
    subset = load_subset(tmp_path, 10, 0, 1, GAMMA)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 600 <= subset.ring.capacity < 650
    held = subset.ring.frames.nbytes
    assert held < 4.6e6
    chunk = 64 * 84 * 84
    assert peak < held + 2 * 5 * chunk < 10e6  # all of the data is 42 MB


def test_the_command_describes_and_verifies_both(cases, tmp_path) -> None:
    case = cases["Pong"]
    run = CliRunner().invoke
    found = json.loads(run(cli, ["dataset", "info", str(case.files.folder), "--json"]).stdout)
    assert found["run"]["game"] == "Pong"
    assert (found["checkpoints"], found["transitions"], found["episodes"]) == (5, 1206, 1)
    assert found["reward_range"] == [-1.0, 0.0]
    assert found["memory_bytes"]["50"] == 603 * 7071
    assert found["warnings"] == []
    arguments = ["dataset", "info", str(case.run.folder), "--transitions-per-checkpoint", "300"]
    assert "transitions   1,206 (padding included)" in run(cli, arguments).stdout
    assert (
        "1,206 transitions, 6 episodes or parts"
        in run(cli, ["dataset", "verify", str(case.files.folder)]).stdout
    )
    assert "replaying 1,200 actions" in run(cli, ["dataset", "verify", str(case.run.folder)]).stdout
    out = tmp_path / "out"
    done = run(cli, ["dataset", "convert", str(case.run.folder), str(out)])
    assert done.stdout == f"{out}: 1,206 transitions in 1 checkpoints\n"


def test_data_of_others_and_of_another_ale_py_is_warned_about(cases, tmp_path) -> None:
    with CheckpointWriter(tmp_path, 0, 12) as writer:
        for _ in range(12):
            writer.add(1, 0, 0.0, False)
    run = CliRunner().invoke
    assert "warning: not made by moerl" in run(cli, ["dataset", "info", str(tmp_path)]).stdout
    (tmp_path / "source.json").write_text('{"ale_py": "0.1"}')
    assert "warning: made with ale-py 0.1, here is" in run(cli, ["dataset", "info", str(tmp_path)]).stdout


def test_sources_are_told_apart(cases, tmp_path) -> None:
    case = cases["Pong"]
    assert isinstance(open_source(case.files.folder), Layout)
    found = open_source(Path(case.run.folder), 500)
    assert isinstance(found, RecordedRun)
    assert len(found) == 3
    assert replace(case.run, per_checkpoint=500) == found
