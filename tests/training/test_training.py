"""A run's files are the same bytes alone or packed, in one go or killed anywhere and resumed."""

import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from tiny_runs import STUDY, TINY, files, save_now_and_then, tiny

from moerl.agents.value import ValueAgent
from moerl.study.config import load_study
from moerl.study.expansion import Cell
from moerl.training import checkpoint, loop, online
from moerl.training.attempts import NoProgressError
from moerl.training.base_lane import DivergedError
from moerl.training.checkpoint import RunFolders
from moerl.training.lane import Lane
from moerl.training.loop import LeftEarlyError, Options
from moerl.training.online import epsilon
from moerl.training.run_lock import LockLostError
from moerl.training.statefile import StateError, load, store


def test_alone_equals_packed(undisturbed, tmp_path):
    cell, packed = undisturbed
    for seed in (0, 1):
        assert cell.train(tmp_path / str(seed), seeds=(seed,))[seed] == packed[seed]
    assert packed[0]["actions.safetensors"] != packed[1]["actions.safetensors"]


class PulledPlugError(BaseException):
    """Stands for SIGKILL: not an Exception, so nothing may handle it."""


@pytest.mark.parametrize("attempt_seed", [0, 1])
def test_killed_anywhere_and_resumed_equals_undisturbed(undisturbed, tmp_path, monkeypatch, attempt_seed):
    cell, expected = undisturbed
    rng = np.random.default_rng(attempt_seed)
    original = online.Pack.round
    fuse = {"rounds": 0}

    def fused_round(pack, active):
        fuse["rounds"] -= 1
        if fuse["rounds"] < 0:
            raise PulledPlugError
        return original(pack, active)

    monkeypatch.setattr(online.Pack, "round", fused_round)
    save_now_and_then(monkeypatch, rng, rounds=40)
    kills = 0
    while True:
        fuse["rounds"] = int(rng.integers(30, 400))
        try:
            got = cell.train(tmp_path, seeds=(0, 1))
        except PulledPlugError:
            kills += 1
            continue
        break
    assert kills >= 1
    assert got == expected


@pytest.mark.long
def test_real_sigkill_and_sigterm(undisturbed_command, tmp_path):
    command, expected = undisturbed_command
    state = tmp_path / "state"
    outcomes = []
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, None):
        process = subprocess.Popen(
            [*command, "--results", str(tmp_path / "results"), "--state", str(state)],
            stderr=subprocess.PIPE,
            text=True,
        )
        if number is not None:
            before = checkpoints(state)
            give_up = time.monotonic() + 120
            while process.poll() is None and checkpoints(state) <= before and time.monotonic() < give_up:
                time.sleep(0.02)
            process.send_signal(number)
        _, log = process.communicate()
        outcomes.append(process.returncode)
        assert "Traceback" not in log
    assert outcomes == [-signal.SIGKILL, 75, -signal.SIGKILL, 0], log
    assert reproducible(tmp_path / "results") == expected


def checkpoints(state: Path) -> float:
    """Time of the newest checkpoint below `state`."""
    return max((p.stat().st_mtime for p in state.rglob("current.safetensors")), default=0.0)


def reproducible(results: Path) -> dict[str, dict[str, bytes]]:
    return {str(p.parent.relative_to(results)): files(p.parent) for p in results.rglob("manifest.json")}


@pytest.fixture(scope="module")
def undisturbed_command(tmp_path_factory):
    """A `moerl train` command line for a tiny study, and the files it gives undisturbed."""
    root = tmp_path_factory.mktemp("command")
    study = yaml.safe_load(STUDY.read_text())
    study |= {"iteration_frames": 1600, "milestones": {"short": 1600, "full": 1600}, "early_readout": None}
    study["snapshot_every"] = 1
    study["figures"] = {"fig01": {}}
    study["agents"] = {
        "dqn": {"min_replay_history": 100, "epsilon_decay_period": 200, "replay_capacity": 600}
    }
    (root / "study.yaml").write_text(yaml.safe_dump(study))
    cell = ["--agent", "dqn", "--variant", "cnn-top1-1", "--game", "Asterix", "--seeds", "0,1"]
    command = [sys.executable, "-m", "moerl", "train", "--study", str(root / "study.yaml"), *cell]
    command += ["--milestone", "1600"]
    command += ["--save-every-seconds", "0.3"]
    subprocess.run([*command, "--results", root / "results", "--state", root / "state"], check=True)
    return command, reproducible(root / "results")


def test_deadline_leaves_early_and_goes_on(undisturbed, tmp_path):
    cell, expected = undisturbed
    with pytest.raises(LeftEarlyError, match="deadline"):
        cell.train(tmp_path, seeds=(0, 1), options=Options(deadline_seconds=1e-3))
    assert cell.train(tmp_path, seeds=(0, 1)) == expected


def test_extending_a_milestone_continues_and_equals_training_in_one_go(tmp_path):
    cell = TINY["Breakout"]
    short = cell.train(tmp_path / "a", iterations=1, milestone="short")
    extended = cell.train(tmp_path / "a", iterations=2, milestone="long")
    assert extended == cell.train(tmp_path / "b", iterations=2, milestone="long")
    assert short[0]["returns.parquet"] != extended[0]["returns.parquet"]
    first = "snapshots/iteration0001.safetensors"
    assert short[0][first] == extended[0][first]


def test_milestone_published_from_the_previous_ones_results_alone(tmp_path, monkeypatch):
    cell = TINY["Breakout"]
    cell.train(tmp_path, iterations=1, milestone="short")
    for path in sorted((tmp_path / "state").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    rounds = []
    original = online.Pack.round
    monkeypatch.setattr(online.Pack, "round", lambda pack, a: rounds.append(1) or original(pack, a))
    extended = cell.train(tmp_path, iterations=2, milestone="long")
    assert len(rounds) < 600  # the second iteration only
    monkeypatch.undo()
    assert extended == cell.train(tmp_path / "b", iterations=2, milestone="long")


def test_lost_results_are_republished_without_training(undisturbed, tmp_path, monkeypatch):
    cell, expected = undisturbed
    cell.train(tmp_path, seeds=(0,))
    for path in sorted((tmp_path / "results").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    monkeypatch.setattr(online.Pack, "round", lambda *_: pytest.fail("trained again"))
    assert cell.train(tmp_path, seeds=(0,))[0] == expected[0]


def test_damaged_checkpoint_falls_back_and_foreign_one_is_passed_over(tmp_path, caplog):
    cell = TINY["Breakout"]
    expected = cell.train(tmp_path / "a")
    with pytest.raises(LeftEarlyError):
        cell.train(tmp_path / "b", options=Options(deadline_seconds=1e-3, save_every_seconds=0))
    folder = tmp_path / "b" / "state" / "seed0" / "end"
    data = (folder / "current.safetensors").read_bytes()
    (folder / "current.safetensors").write_bytes(data[: len(data) // 2])
    assert cell.train(tmp_path / "b") == expected
    assert "not a readable state file" in caplog.text
    other = tiny("Breakout", 300, 2, max_episode_steps=190, learning_rate=1e-3)
    changed = other.train(tmp_path / "b")
    assert "another spec or seed" in caplog.text
    assert changed == other.train(tmp_path / "c")
    assert changed != expected


def test_log_of_another_emulator_is_refused(tmp_path):
    cell = TINY["Breakout"]
    cell.train(tmp_path, iterations=1)
    path = tmp_path / "results" / "seed0" / "end" / "actions.safetensors"
    for state in (tmp_path / "state").rglob("*.safetensors"):
        state.unlink()
    tensors, meta = load(path)
    lengths = tensors["episode_lengths"].copy()
    lengths[0] -= 1
    lengths[1] += 1
    store(path, tensors | {"episode_lengths": lengths}, meta)
    with pytest.raises(StateError, match="replaying the action log"):
        cell.train(tmp_path, iterations=2)


def test_a_run_in_training_is_waited_for(tmp_path):
    folders = RunFolders(tmp_path / "state" / "seed0" / "end", tmp_path / "results")
    held = f"process {os.getpid()} on {os.uname().nodename} trains this run"
    with folders.lock(pytest.fail), pytest.raises(LeftEarlyError, match=held):
        TINY["Breakout"].train(tmp_path, options=Options(deadline_seconds=0.5))
    TINY["Breakout"].train(tmp_path)


def test_who_lost_a_run_to_another_process_writes_nothing(undisturbed, tmp_path, monkeypatch):
    cell, expected = undisturbed
    state = tmp_path / "state" / "seed0" / "end"
    with pytest.raises(LeftEarlyError):
        cell.train(tmp_path, options=Options(deadline_seconds=1e-3))
    before = (state / "current.safetensors").read_bytes()
    original = online.Pack.round

    def round_after_which_the_lock_is_anothers(pack, active):
        original(pack, active)
        (state / "lock").unlink(missing_ok=True)
        (state / "lock").touch()

    with monkeypatch.context() as patched:
        patched.setattr(online.Pack, "round", round_after_which_the_lock_is_anothers)
        with pytest.raises(LockLostError, match="another process trains"):
            cell.train(tmp_path, options=Options(save_every_seconds=0.0))
    assert (state / "current.safetensors").read_bytes() == before
    assert cell.train(tmp_path) == {0: expected[0]}


def test_a_signal_before_training_begins_is_heeded_at_once(tmp_path, monkeypatch):
    def terminated(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    state = tmp_path / "state" / "seed0" / "end"
    with monkeypatch.context() as patched:
        patched.setattr(loop, "_pack", terminated)
        with pytest.raises(LeftEarlyError, match="SIGTERM before training"):
            TINY["Breakout"].train(tmp_path, options=Options(deadline_seconds=600))
    assert not (state / "attempts.json").exists(), "an attempt that was ended from outside does not count"


def test_attempts_that_get_nowhere_are_reported_instead_of_repeated(tmp_path, monkeypatch):
    def killed(*_):
        raise PulledPlugError

    cell = TINY["Breakout"]
    with monkeypatch.context() as patched:
        patched.setattr(loop, "_pack", killed)
        for _ in range(3):
            with pytest.raises(PulledPlugError):
                cell.train(tmp_path, options=Options(deadline_seconds=600))
        with pytest.raises(NoProgressError, match=r"3 attempts of 10 minutes .* began at 0 frames of \d"):
            cell.train(tmp_path, options=Options(deadline_seconds=600))
        with pytest.raises(PulledPlugError):
            cell.train(tmp_path, options=Options(deadline_seconds=660))
    cell.train(tmp_path, options=Options(deadline_seconds=900))
    assert not (tmp_path / "state" / "seed0" / "end" / "attempts.json").exists()


def test_diverged_run_is_named_and_never_saved(tmp_path):
    cell = tiny("Breakout", 300, 2, learning_rate=1e30)
    with pytest.raises(DivergedError, match=r"seed 0: diverged, loss .* at gradient step \d+"):
        cell.train(tmp_path, options=Options(save_every_seconds=0.02))
    saved = list(tmp_path.rglob("current.safetensors"))
    assert saved
    for path in saved:
        tensors, _ = load(path)
        assert all(np.isfinite(v).all() for v in tensors.values() if v.dtype.kind == "f")
    assert not list(tmp_path.rglob("resume.safetensors"))
    record = json.loads((tmp_path / "state" / "seed0" / "diverged.json").read_text())
    good, meta = load(tmp_path / "state" / "seed0" / "end" / "current.safetensors")
    assert record["checkpoint"] == str(tmp_path / "state" / "seed0" / "end" / "current.safetensors")
    assert record["checkpoint_agent_step"] == meta["agent_steps"] <= record["agent_step"]
    assert record["gradient_step"] >= meta["gradient_steps"] == int(good["opt_state/0/count"])


@pytest.mark.long
def test_killed_at_every_write_and_resumed_equals_undisturbed(tmp_path, monkeypatch):
    """Dies before and after each write and link in turn; one more invocation must finish."""
    cell = TINY["Breakout"]
    options = Options(save_every_seconds=1e9)
    expected = cell.train(tmp_path / "expected", iterations=1, options=options)
    # Trained to the end, with nothing published yet; publishing is then killed at each of its steps.
    monkeypatch.setattr(checkpoint.RunFolders, "publish", pulled)
    with pytest.raises(PulledPlugError):
        cell.train(tmp_path / "trained", iterations=1, options=Options(save_every_seconds=0.2))
    monkeypatch.setattr(checkpoint.RunFolders, "publish", PUBLISH)
    counter = {"left": 0, "seen": 0}

    def tick():
        counter["seen"] += 1
        counter["left"] -= 1
        if counter["left"] == 0:
            raise PulledPlugError

    def fused(original):
        def call(*arguments, **keywords):
            tick()
            result = original(*arguments, **keywords)
            tick()
            return result

        return call

    for name in ("write_atomic", "store", "_link"):
        monkeypatch.setattr(checkpoint, name, fused(getattr(checkpoint, name)))
    for step in range(1, 100):
        root = tmp_path / f"step{step}"
        shutil.copytree(tmp_path / "trained", root)
        counter |= {"left": step, "seen": 0}
        try:
            got = cell.train(root, iterations=1, options=options)
        except PulledPlugError:
            counter["left"] = 10**6
            got = cell.train(root, iterations=1, options=options)
            assert got == expected, f"killed at write step {step}"
        else:
            assert step > counter["seen"] >= 10
            break
    assert got == expected


PUBLISH = checkpoint.RunFolders.publish


def pulled(*_):
    """In place of `publish`: the process dies when training is over and nothing is published yet."""
    raise PulledPlugError


def test_greedy_actions_come_from_the_online_network_and_the_current_state(monkeypatch):
    cell = TINY["Breakout"]
    agent = ValueAgent(cell.spec.hyper, cell.spec.network, cell.spec.num_actions)
    lane = Lane.fresh(cell.spec, 0, agent)
    lane.agent_steps = 123
    pack = online.Pack(cell.spec, None, [lane], agent)
    asked = []
    monkeypatch.setattr(online, "epsilon", lambda spec, steps: asked.append(steps) or 0.0)
    monkeypatch.setattr(pack, "_greedy", lambda *given: asked.append(given) or 2)
    assert pack._choose(lane) == 2
    steps, (params, state, key, step) = asked
    assert steps == step == 123
    assert params is lane.learner.params
    assert state is lane.stack
    assert key is lane.act_key
    monkeypatch.setattr(online, "epsilon", lambda *_: 1.0)
    monkeypatch.setattr(pack, "_greedy", lambda *_: pytest.fail("evaluated the network for a random action"))
    drawn = []
    for lane.agent_steps in range(400):
        drawn.append(pack._choose(lane))
    assert np.bincount(drawn, minlength=4).min() > 60


def test_training_seconds_count_what_was_trained_before_an_interruption(tmp_path):
    cell = TINY["Breakout"]
    with pytest.raises(LeftEarlyError):
        cell.train(tmp_path, options=Options(deadline_seconds=1e-3))
    folder = tmp_path / "state" / "seed0" / "end"
    timing = json.loads((folder / "timing.json").read_text())
    (folder / "timing.json").write_text(json.dumps(timing | {"seconds": 1000.0}))
    cell.train(tmp_path)
    rows = pq.read_table(tmp_path / "results" / "seed0" / "end" / "timing.parquet").to_pylist()
    assert all(1000 < row["wall_seconds"] < 1500 for row in rows)


def test_a_deadline_of_zero_seconds_is_a_deadline(tmp_path):
    with pytest.raises(LeftEarlyError, match="deadline is near"):
        TINY["Breakout"].train(tmp_path, options=Options(deadline_seconds=0.0))


def test_lanes_beside_a_diverged_one_finish(undisturbed, tmp_path, monkeypatch):
    cell, expected = undisturbed
    original = online.Pack._train

    def poisoned(pack, lane):
        original(pack, lane)
        if lane.seed == 1 and lane.gradient_steps == 3:
            lane.pending_losses[-1] = float("nan")

    monkeypatch.setattr(online.Pack, "_train", poisoned)
    with pytest.raises(DivergedError, match="seed 1: diverged, loss nan at gradient step 2"):
        cell.train(tmp_path, seeds=(1, 0))
    assert files(tmp_path / "results" / "seed0" / "end") == expected[0]
    assert not (tmp_path / "results" / "seed1").exists()


def test_regenerated_replay_equals_the_recorded_one(undisturbed, tmp_path, monkeypatch):
    cell, _ = undisturbed
    recorded = []
    original = Lane.observe

    def recording(lane, action, reward, game_over, life_lost, frame):
        recorded.append((lane.stack[-1].tobytes(), action, reward, game_over, life_lost))
        return original(lane, action, reward, game_over, life_lost, frame)

    monkeypatch.setattr(Lane, "observe", recording)
    cell.train(tmp_path)
    lived = recorded.copy()
    recorded.clear()
    # Resuming from the published files replays the log into an empty replay memory. With room for
    # the whole run, it must see every step of it again.
    roomy = cell.spec.model_copy(
        update={"hyper": cell.spec.hyper.model_copy(update={"replay_capacity": 100_000})}
    )
    path = tmp_path / "results" / "seed0" / "end" / "actions.safetensors"
    tensors, _ = load(path)
    lane = Lane.fresh(roomy, 0, ValueAgent(roomy.hyper, roomy.network, roomy.num_actions))
    lane.log = lane.log.from_tensors(tensors)
    online.Pack.create(roomy, cell.rom, [lane], ValueAgent(roomy.hyper, roomy.network, roomy.num_actions))
    assert recorded == lived
    assert sum(game_over for *_, game_over, _ in lived) >= 1
    assert path.stat().st_size <= 1.1 * len(lived) + 2048


def test_epsilon_schedule_of_the_paper():
    spec = load_study(STUDY).train_spec(Cell("dqn", "cnn-baseline", "Pong"))
    assert epsilon(spec, 1) == 1.0
    assert epsilon(spec, 20_000) == 1.0
    assert epsilon(spec, 20_000 + 125_000) == pytest.approx(0.505)
    assert epsilon(spec, 20_000 + 250_000) == pytest.approx(0.01)
    assert epsilon(spec, 10_000_000) == pytest.approx(0.01)


def test_manifest_and_iterations(undisturbed, tmp_path):
    cell, published = undisturbed
    returns = pq.read_table(io.BytesIO(published[0]["returns.parquet"])).to_pylist()
    assert [row["iteration"] for row in returns] == list(range(cell.iterations))
    assert all(row["episodes"] >= 1 for row in returns)
    log = load_bytes(tmp_path, published[0]["actions.safetensors"])
    assert returns[-1]["frame"] == 4 * len(log["actions"])
    assert log["episode_lengths"].sum() == len(log["actions"])
    starts = [0] + [row["frame"] // 4 for row in returns]
    assert all(b - a >= cell.spec.schedule.iteration_steps for a, b in itertools.pairwise(starts))


def load_bytes(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    return load(tmp_path / "x")[0]
