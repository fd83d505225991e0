"""The paper-era buffer loads what we write, and we read what it saves."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from oracle_process import run_oracle

from moerl.offline.layout import FILES, Layout, file_of
from moerl.offline.subset import load_subset

pytestmark = [pytest.mark.oracle, pytest.mark.long]

GAMMA = 0.99


@pytest.fixture(scope="module")
def oracle(cases, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the oracle makes of Breakout's files."""
    out = tmp_path_factory.mktemp("oracle")
    run_oracle("oracle_dataset.py", cases["Breakout"].files.folder, out)
    return out


def crcs(stacks: np.ndarray) -> np.ndarray:
    return np.array([zlib.crc32(stack.tobytes()) for stack in stacks], np.uint32)


@pytest.mark.parametrize("n_step", [1, 3])
def test_its_loader_gives_the_same_transitions(cases, oracle, tmp_path, n_step) -> None:
    theirs = np.load(oracle / "loaded.npz")
    files = cases["Breakout"].files
    compared = after_cuts = 0
    for number, episodes in enumerate(files.episodes()):
        alone = tmp_path / str(number)
        alone.mkdir()
        for name in FILES:
            shutil.copy(file_of(files.folder, name, number), file_of(alone, name, 0))
        subset = load_subset(alone, 100, 0, n_step, GAMMA)
        found = {
            name: theirs[f"{number}-{n_step}-{name}"] for name in ("valid", "index", "state", "next_state")
        }
        found |= {name: theirs[f"{number}-{n_step}-{name}"] for name in ("action", "reward", "terminal")}
        ours, valid = set(subset.states.tolist()), set(found["index"].tolist())
        length = subset.ring.capacity
        # Beside the cursor, which is at slot 0, theirs leaves out slots that have all that is needed.
        assert ours - valid <= {3, length - 1}
        # The files do not say where an episode was cut: there theirs goes on into the padding.
        cut = [e.stop for e in episodes if not subset.ring.terminals[e.stop - 1]]
        allowed = {slot for stop in cut for slot in range(stop - n_step, stop + 3)}
        assert valid - ours <= allowed
        after_cuts += len(valid - ours)
        rows = np.flatnonzero(np.isin(found["index"], subset.states))
        sample = subset.gather(found["index"][rows])
        assert np.array_equal(crcs(sample.state), found["state"][rows])
        assert np.array_equal(sample.action, found["action"][rows])
        assert np.array_equal(sample.reward, found["reward"][rows])
        assert np.array_equal(sample.terminal, found["terminal"][rows])
        going_on = ~sample.terminal
        assert np.array_equal(crcs(sample.next_state)[going_on], found["next_state"][rows][going_on])
        compared += len(rows)
    assert compared > 1_300
    assert after_cuts > 0


def test_we_read_its_dump_in_order_of_time(oracle) -> None:
    files = Layout.open(oracle / "dump")
    columns = files.columns(0)
    made = np.arange(18, 58)  # the last 40 of 57
    assert (columns.add_count, columns.length) == (57, 40)
    frames = np.concatenate([frames for _, frames in files.frames(0)])[columns.order]
    assert frames[:, 0, 0].tolist() == frames[:, 83, 83].tolist() == made.tolist()
    assert columns.action[columns.order].tolist() == (made % 18).tolist()
    assert columns.reward[columns.order].tolist() == (made % 2).tolist()
    assert columns.terminal[columns.order].tolist() == (made % 9 == 0).tolist()
    subset = load_subset(oracle / "dump", 100, 0, 1, GAMMA)
    assert subset.ring.frames[:, 0, 0].tolist() == made.tolist()
