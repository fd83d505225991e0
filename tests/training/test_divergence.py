"""A diverged run is on record: where, since which checkpoint, and running its job again says so at once."""

import json
import logging

import jax
import numpy as np
import pytest
from tiny_runs import STUDY, TINY, files, tiny

from moerl.agents.value import ValueAgent
from moerl.cli import main as command_line
from moerl.study.config import load_study
from moerl.study.errors import FailureError, UserError
from moerl.study.expansion import Cell
from moerl.training import online
from moerl.training.base_lane import DivergedError
from moerl.training.lane import Lane
from moerl.training.loop import Options
from moerl.training.statefile import load

DEMO = STUDY.with_name("demo.yaml")
CELL = TINY["Breakout"]
POISONED_STEP = 3
"""The gradient step of seed 1 that is made to diverge; in the first of two iterations."""


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """Seeds 0 and 1 of which the second diverged: the folder, what was raised, and the step it came at."""
    root = tmp_path_factory.mktemp("poisoned")
    original, came_at = online.Pack._gradient_step, {}

    def poison(pack, lane):
        original(pack, lane)
        if (lane.seed, lane.gradient_steps) == (1, POISONED_STEP + 1):
            lane.pending_losses[-1] = float("nan")
            came_at["agent_step"] = lane.agent_steps

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(online.Pack, "_gradient_step", poison)
        with pytest.raises(DivergedError) as caught:
            CELL.train(root, seeds=(1, 0))
    return root, str(caught.value), came_at["agent_step"]


@pytest.fixture
def nothing_runs(monkeypatch):
    monkeypatch.setattr(online.Pack, "create", lambda *_: pytest.fail("opened the emulators"))


def test_the_record_says_what_happened_where(poisoned):
    root, said, agent_step = poisoned
    record = json.loads((root / "state" / "seed1" / "diverged.json").read_text())
    assert record | {"versions": None} == {
        "run": "dqn cnn-softmoe1 Breakout seed 1",
        "spec": CELL.spec.digest(),
        "problem": f"loss nan at gradient step {POISONED_STEP}",
        "gradient_step": POISONED_STEP,
        "agent_step": agent_step,
        "frame": 4 * agent_step,
        "iteration": 0,
        "checkpoint": None,
        "checkpoint_agent_step": None,
        "checkpoint_gradient_step": None,
        "versions": None,
    }
    assert set(record["versions"]) >= {"moerl", "jax", "ale-py"}
    assert "\n" not in said
    for part in (
        "dqn cnn-softmoe1 Breakout seed 1: diverged, loss nan at gradient step 3",
        f"agent step {agent_step}, frame {4 * agent_step}",
        "no checkpoint yet",
        f"delete {root / 'state' / 'seed1' / 'diverged.json'} to try again",
    ):
        assert part in said


def test_running_it_again_says_the_same_at_once(poisoned, nothing_runs, caplog):
    root, said, _ = poisoned
    results = root / "results" / "seed0" / "end"
    before = files(results)
    for path in results.rglob("*"):  # as Snakemake does when a job fails
        if path.is_file():
            path.unlink()
    with caplog.at_level(logging.ERROR), pytest.raises(DivergedError) as caught:
        CELL.train(root, seeds=(0, 1))
    assert str(caught.value) == said
    assert said in caplog.text
    assert files(results) == before  # the seed that finished is published again, without its replay
    with pytest.raises(DivergedError):
        CELL.train(root, seeds=(1,), iterations=5, milestone="longer")


def test_a_finished_seed_stays_complete_in_the_state(poisoned):
    root, _, _ = poisoned
    state, results = root / "state" / "seed0" / "end", root / "results" / "seed0" / "end"
    for name in ("returns.parquet", "losses.parquet", "timing.parquet", "manifest.json"):
        assert (state / name).samefile(results / name)
    assert json.loads((state / "manifest.json").read_text())["spec_digest"] == CELL.spec.digest()
    assert not (root / "state" / "seed1" / "end" / "manifest.json").exists()


def test_what_was_finished_no_longer_is_when_it_is_trained_anew(poisoned, tmp_path, monkeypatch):
    root, _, _ = poisoned
    state = tmp_path / "state" / "seed0" / "end"
    state.mkdir(parents=True)
    (state / "manifest.json").write_bytes((root / "state/seed0/end/manifest.json").read_bytes())
    monkeypatch.setattr(online.Pack, "create", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        CELL.train(tmp_path)
    assert not (state / "manifest.json").exists()


def test_the_record_concerns_only_what_comes_after_it(poisoned, tmp_path, monkeypatch):
    root, _, _ = poisoned
    folder = tmp_path / "state" / "seed1"
    folder.mkdir(parents=True)
    record = json.loads((root / "state" / "seed1" / "diverged.json").read_text())
    monkeypatch.setattr(online.Pack, "create", lambda *_: 1 / 0)  # stands for training it

    def attempt(iterations, **changed):
        (folder / "diverged.json").write_text(json.dumps(record | changed))
        CELL.train(tmp_path, seeds=(1,), iterations=iterations)

    with pytest.raises(ZeroDivisionError):
        attempt(1, iteration=1)
    assert (folder / "diverged.json").exists()
    with pytest.raises(DivergedError):
        attempt(2, iteration=1)
    with pytest.raises(ZeroDivisionError):
        attempt(2, spec="another")
    assert not (folder / "diverged.json").exists()
    with pytest.raises(DivergedError, match=r"recorded under jax 0\.1, now"):
        attempt(2, versions=record["versions"] | {"jax": "0.1"})
    (folder / "diverged.json").write_text("{}")
    with pytest.raises(UserError, match=r"diverged\.json: not a record of a divergence"):
        CELL.train(tmp_path, seeds=(1,))


def test_after_the_record_is_deleted_training_goes_on_from_the_last_good_checkpoint(tmp_path):
    cell = tiny("Breakout", 300, 2, learning_rate=1e30)
    with pytest.raises(DivergedError, match="last good checkpoint"):
        cell.train(tmp_path, options=Options(save_every_seconds=0.02))
    record = tmp_path / "state" / "seed0" / "diverged.json"
    first = json.loads(record.read_text())
    record.unlink()
    with pytest.raises(DivergedError):
        cell.train(tmp_path)
    assert json.loads(record.read_text()) == first
    _, meta = load(tmp_path / "state" / "seed0" / "end" / "current.safetensors")
    assert first["checkpoint_agent_step"] == meta["agent_steps"] > 0


def test_an_iteration_refused_at_its_end_counts_as_the_one_that_diverged(tmp_path, monkeypatch):
    original = online.Pack.round

    def broken(pack, active):
        original(pack, active)
        lane = pack.lanes[0]
        if lane.iteration_over:
            lane.learner = jax.tree.map(lambda x: x * np.nan if x.dtype == np.float32 else x, lane.learner)

    monkeypatch.setattr(online.Pack, "round", broken)
    with pytest.raises(DivergedError, match="is not finite after gradient step"):
        CELL.train(tmp_path)
    record = json.loads((tmp_path / "state" / "seed0" / "diverged.json").read_text())
    assert record["iteration"] == 0
    assert record["agent_step"] < 300 + 190


@pytest.mark.parametrize(("period", "updates", "history"), [(4, 1, 100), (3, 2, 40), (1, 3, 7)])
def test_the_agent_step_of_every_gradient_step(period, updates, history):
    cell = tiny(
        "Breakout", 1, 1, update_period=period, updates_per_period=updates, min_replay_history=history
    )
    agent = ValueAgent(cell.spec.hyper, cell.spec.network, cell.spec.num_actions)
    lane = Lane.fresh(cell.spec, 0, agent)
    pack = online.Pack(cell.spec, None, [lane], agent)
    taken = []

    def step(lane):
        taken.append(lane.agent_steps)
        lane.gradient_steps += 1

    pack._gradient_step = step
    for _ in range(150):
        lane.ring.add_count += 1
        pack._train(lane)
        assert [lane.agent_step_of(i) for i in range(len(taken))] == taken
    assert len(taken) > 5


def test_the_command_exits_with_a_code_of_its_own(poisoned, tmp_path, monkeypatch, capsys):
    root, _, _ = poisoned
    spec = load_study(DEMO).train_spec(Cell("dqn", "cnn-baseline", "Asterix"))
    record = json.loads((root / "state" / "seed1" / "diverged.json").read_text()) | {"spec": spec.digest()}
    path = tmp_path / "state" / "dqn" / "cnn-baseline" / "Asterix" / "seed1" / "diverged.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))
    cell = ["--agent", "dqn", "--variant", "cnn-baseline", "--game", "Asterix", "--seeds", "1"]
    folders = ["--results", str(tmp_path / "results"), "--state", str(tmp_path / "state")]
    arguments = ["moerl", "train", "--study", str(DEMO), *cell, "--milestone", "800", *folders]
    monkeypatch.setattr("sys.argv", arguments)
    monkeypatch.setattr("moerl.cli.train.configure_jax", lambda _: None)
    with pytest.raises(SystemExit) as left:
        command_line.main()
    assert left.value.code == 3
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("moerl: dqn cnn-softmoe1 Breakout seed 1: diverged, loss nan")


def test_a_replay_that_cannot_be_sampled_is_one_line_that_names_the_run():
    lane = Lane.fresh(CELL.spec, 4, ValueAgent(CELL.spec.hyper, CELL.spec.network, 4))
    with pytest.raises(FailureError, match=r"^dqn .* seed 4: gradient step 0: replay holds 0 transitions"):
        lane.sample_batch()
