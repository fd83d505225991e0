"""Event files hold the returns and losses of finished and running runs, and nothing twice."""

from __future__ import annotations

import json
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from synthetic_study import load, write_returns
from tensorboardX.proto.event_pb2 import Event

from moerl.cli import tensorboard
from moerl.cli.main import cli
from moerl.study.errors import UserError
from moerl.study.expansion import Run, Study
from moerl.study.paths import run_dir, state_dir
from moerl.study.standing import Standing
from moerl.training.checkpoint_meta import FORMAT
from moerl.training.progress import IterationRow, losses_parquet, returns_parquet
from moerl.training.statefile import store

RUN = Run("dqn", "cnn-baseline", "Pong", 0, "3M")
SETTINGS = {"figures": "{learning: {games: [Pong]}}", "seeds": "0, 1", "short": "3M", "full": "3M"}
ROWS = [
    IterationRow(0, 1_000_020, 0, 3, -20.5, None),  # no update yet
    IterationRow(1, 2_000_040, 9, 0, None, 0.25),  # no episode ended
    IterationRow(2, 3_000_000, 19, 2, -19.0, 0.125),
]
WRITTEN = [
    (1_000_020, "return/training", -20.5),
    (2_000_040, "loss/mean", 0.25),
    (3_000_000, "loss/mean", 0.125),
    (3_000_000, "return/training", -19.0),
]


@pytest.fixture
def standing(tmp_path: Path) -> Standing:
    return Standing(load(tmp_path, **SETTINGS), tmp_path / "results", tmp_path / "state")


def checkpoint(standing: Standing, rows: int, name: str = "current.safetensors") -> Path:
    """A checkpoint of a run that has finished some iterations."""
    assert standing.state is not None
    spec = json.loads(standing.study.train_spec(RUN.cell).canonical_json())
    path = state_dir(standing.state, RUN) / RUN.milestone / name
    done = [vars(row) for row in ROWS[:rows]]
    counts = dict.fromkeys(("seed", "agent_steps", "gradient_steps", "iteration_start", "add_count"), 0)
    playing = {"iteration_returns": [], "episode_return": 0.0}
    meta = {"format": FORMAT, "moerl": "1", "spec": spec, "rows": done} | counts | playing
    store(path, {"w": np.zeros(2)}, meta)
    return path


def publish(study: Study, results: Path) -> None:
    write_returns(study, RUN, results)  # and the manifest
    folder = run_dir(results, RUN)
    (folder / "returns.parquet").write_bytes(returns_parquet(ROWS))
    (folder / "losses.parquet").write_bytes(losses_parquet(ROWS))


def event_files(logdir: Path) -> list[Path]:
    return sorted(path for path in logdir.rglob("*") if path.is_file())


def points(file: Path) -> list[tuple[int, str, float]]:
    """What an event file says: step, tag and value of each event after the first."""
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack_from("<Q", data)
        event = Event.FromString(data[12 : 12 + length])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        data = data[16 + length :]
    return found


def test_a_run_is_mirrored_while_it_goes_on_and_when_it_is_finished(
    standing: Standing, tmp_path: Path
) -> None:
    logdir = tmp_path / "events"
    assert not tensorboard.mirror(standing, RUN, logdir)
    assert event_files(logdir) == []
    checkpoint(standing, 2)
    assert tensorboard.mirror(standing, RUN, logdir)
    (file,) = event_files(logdir)
    assert file.parent == logdir / "dqn/cnn-baseline/Pong/seed0"
    assert points(file) == WRITTEN[:2]
    inode = file.stat().st_ino
    assert not tensorboard.mirror(standing, RUN, logdir)
    publish(standing.study, standing.results)
    file.write_bytes(file.read_bytes()[:-7])  # killed while it was written
    assert tensorboard.mirror(standing, RUN, logdir)
    assert (points(file), file.stat().st_ino) == (WRITTEN, inode)  # whoever has it open sees it grow
    checkpoint(standing, 1)  # behind what is published
    assert not tensorboard.mirror(standing, RUN, logdir)
    assert points(file) == WRITTEN


def test_what_another_spec_trained_is_taken_away(standing: Standing, tmp_path: Path) -> None:
    checkpoint(standing, 3)
    publish(standing.study, standing.results)
    tensorboard.mirror(standing, RUN, tmp_path / "events")
    agents = {"dqn": standing.study.agents["dqn"].model_copy(update={"gamma": 0.9})}
    changed = replace(standing, study=replace(standing.study, agents=agents))
    others = "events.out.tfevents.1763735400.node7.42.0"  # as TensorBoard's own writers name theirs
    (tmp_path / "events/dqn/cnn-baseline/Pong/seed0" / others).write_bytes(b"not ours")
    assert not tensorboard.mirror(changed, RUN, tmp_path / "events")
    assert [path.name for path in event_files(tmp_path / "events")] == [others]


def test_a_torn_checkpoint_is_passed_over(standing: Standing, tmp_path: Path) -> None:
    checkpoint(standing, 1, "previous.safetensors")
    checkpoint(standing, 2).write_bytes(b"torn")
    tensorboard.mirror(standing, RUN, tmp_path / "events")
    assert points(event_files(tmp_path / "events")[0]) == WRITTEN[:1]


def test_watching_ends_when_every_run_is_finished(standing: Standing, tmp_path: Path) -> None:
    publish(standing.study, standing.results)
    for run in standing.study.runs():
        if run != RUN:
            write_returns(standing.study, run, standing.results)
    arguments = [
        "--study",
        standing.study.path,
        "--results",
        standing.results,
        "--logdir",
        tmp_path / "events",
    ]
    done = CliRunner().invoke(cli, ["tensorboard", *map(str, arguments), "--watch"], catch_exceptions=False)
    assert done.output == f"{tmp_path / 'events/synthetic'}: 2 runs are new or went on, 2 of 2 are finished\n"
    assert len(event_files(tmp_path / "events/synthetic")) == 2


def test_without_the_library_one_line_says_how_to_get_it(
    standing: Standing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX.proto.event_pb2", None)
    with pytest.raises(UserError, match=r"need tensorboardX, which is not installed: python -m pip install"):
        tensorboard.run(standing, [], tmp_path / "events")
