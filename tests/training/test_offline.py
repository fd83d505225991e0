"""Training on a dataset: what it learns from, how it is evaluated, and that nothing disturbs a run."""

import json
from dataclasses import replace

import jax
import numpy as np
import optax
import pytest
from offline_runs import EPISODE, TinyOffline, collect, offline_cell, without_penalty
from tiny_runs import AGENTS, files

from moerl.agents.value import Batch, ValueAgent
from moerl.atari.lanes import AtariLanes
from moerl.offline.convert import convert
from moerl.offline.recorded import RecordedRun
from moerl.offline.source import DatasetError
from moerl.offline.subset import load_subset
from moerl.study.specs import AgentSpec, DatasetSpec
from moerl.training import evaluation, loop
from moerl.training.base_lane import DivergedError
from moerl.training.evaluation import Evaluator, evaluation_seed
from moerl.training.loop import LeftEarlyError, Options
from moerl.training.offline import OfflinePack
from moerl.training.rng import Purpose, stream
from moerl.training.statefile import StateError, load


@pytest.fixture(scope="session")
def datasets(tmp_path_factory):
    return collect(tmp_path_factory.mktemp("collected"))


@pytest.fixture(scope="session")
def cell(datasets) -> TinyOffline:
    return offline_cell(datasets)


@pytest.fixture(scope="session")
def undisturbed(cell, tmp_path_factory):
    """What two seeds give side by side without interruption, and where."""
    root = tmp_path_factory.mktemp("undisturbed")
    return root, cell.train(root, seeds=(0, 1))


def parameters(root, seed: int) -> dict[str, np.ndarray]:
    tensors, _ = load(root / "results" / f"seed{seed}" / "end" / "resume.safetensors")
    return tensors


# --- What is computed. ---


def test_training_is_the_agents_updates_on_uniform_batches_of_the_seeds_own_subset(cell, undisturbed):
    """Twelve updates by hand: data, batches, noise keys and target copies as documented."""
    root, _ = undisturbed
    hyper = cell.spec.hyper
    agent = ValueAgent(hyper, cell.spec.network, cell.spec.num_actions)
    subset = load_subset(cell.datasets[1], 50, 1, hyper.n_step, hyper.gamma)
    learner = agent.init(jax.random.key(1))
    key = jax.random.fold_in(jax.random.key(1), int(Purpose.UPDATE))
    update = jax.jit(agent.update)
    for step in range(12):
        slots = subset.sample_indices(stream(1, Purpose.REPLAY, step), hyper.batch_size)
        learner, _ = update(learner, Batch(**vars(subset.gather(slots))), jax.random.fold_in(key, step))
        if step in (0, 4, 8):  # every 4 gradient steps
            learner = agent.sync_target(learner)
    expected = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(learner)
    }
    trained = parameters(root, 1)
    for name, leaf in expected.items():
        np.testing.assert_allclose(trained[name], leaf, rtol=1e-4, atol=1e-6, err_msg=name)


def test_every_iteration_is_evaluated_by_the_fewest_whole_games_that_take_the_steps(cell, undisturbed):
    """The action log has their actions; replayed one after the other they give the returns on record."""
    root, _ = undisturbed
    log, _ = load(root / "results/seed0/end/actions.safetensors")
    lengths, actions = log["episode_lengths"].tolist(), log["actions"]
    _, meta = load(root / "results/seed0/end/resume.safetensors")
    assert sum(lengths) == len(actions)
    assert [row["gradient_steps"] for row in meta["rows"]] == [6, 12]
    assert [row["frame"] for row in meta["rows"]] == [0, 0], "training emulates nothing"
    first = 0
    for iteration, row in enumerate(meta["rows"]):
        mine = lengths[first : first + row["episodes"]]
        assert sum(mine) >= 100 > sum(mine[:-1])
        assert max(mine) <= EPISODE
        seed = evaluation_seed(0, iteration)
        env = AtariLanes(cell.rom, [seed], cell.spec.hyper.sticky_actions, EPISODE)
        returns = []
        at = sum(lengths[:first])
        for game, length in enumerate(mine):
            env.begin_episodes({0: game})
            score = 0.0
            for action in actions[at : at + length]:
                score += env.step(np.array([action], dtype=np.int32)).of(0)[0]
            returns.append(score)
            at += length
        env.close()
        assert row["mean_return"] == np.mean(returns)
        first += row["episodes"]


def test_games_side_by_side_are_those_of_one_after_the_other(cell, monkeypatch):
    """The games that more lanes begin beyond the phase's steps do not count."""
    agent = ValueAgent(cell.spec.hyper, cell.spec.network, cell.spec.num_actions)
    params = agent.init(jax.random.key(3)).params
    played = []
    monkeypatch.setattr(evaluation, "STEPS_OF_A_GAME", 1)
    for lanes in (1, 2, 5):
        monkeypatch.setattr(evaluation, "LANES", lanes)
        played.append(Evaluator(cell.spec, cell.rom, agent).evaluate(params, 0, 0, lambda: False))
    assert played[0] == played[1] == played[2]
    assert 100 <= sum(len(game.actions) for game in played[0]) < 100 + EPISODE


# --- Nothing disturbs a run. ---


def test_a_run_alone_is_byte_identical_to_one_in_a_pack(cell, undisturbed, tmp_path):
    _, packed = undisturbed
    assert cell.train(tmp_path, seeds=(1,))[1] == packed[1]


@pytest.mark.long
def test_runs_killed_between_steps_and_in_an_evaluation_resume_to_the_same_bytes(
    cell, undisturbed, tmp_path, monkeypatch
):
    _, expected = undisturbed
    rounds, play = OfflinePack.round, Evaluator._play
    fuse = {"rounds": 4, "evaluations": 9}

    def killed_later(pack, active):
        if not fuse["rounds"]:
            raise KeyboardInterrupt
        fuse["rounds"] -= 1
        return rounds(pack, active)

    def killed_in_play(self, env, params, seed, phase, interrupted):
        fuse["evaluations"] -= 1

        def dies() -> bool:
            if not fuse["evaluations"]:
                raise KeyboardInterrupt
            return bool(interrupted())

        return play(self, env, params, seed, phase, dies)

    monkeypatch.setattr(OfflinePack, "round", killed_later)
    monkeypatch.setattr(Evaluator, "_play", killed_in_play)
    monkeypatch.setattr(loop._Clock, "save_due", lambda _: fuse["rounds"] % 2 == 1)
    for then in ({"rounds": 99, "evaluations": 2}, {"evaluations": 99}):
        with pytest.raises(KeyboardInterrupt):
            cell.train(tmp_path, seeds=(0, 1))
        fuse |= then
    assert cell.train(tmp_path, seeds=(0, 1)) == expected


@pytest.mark.long
def test_a_run_that_leaves_in_an_evaluation_plays_it_again(cell, undisturbed, tmp_path, monkeypatch):
    _, expected = undisturbed
    original = Evaluator.evaluate
    monkeypatch.setattr(Evaluator, "evaluate", lambda self, *a: original(self, *a[:-1], lambda: True))
    monkeypatch.setattr(loop._Clock, "deadline_passed", lambda self: self._lanes[0].iteration_over)
    with pytest.raises(LeftEarlyError):
        cell.train(tmp_path)
    monkeypatch.undo()
    assert cell.train(tmp_path)[0] == expected[0]


@pytest.mark.long
def test_a_longer_run_goes_on_from_a_finished_one(cell, undisturbed, tmp_path):
    _, expected = undisturbed
    cell.train(tmp_path, seeds=(0, 1), iterations=1, milestone="first")
    assert cell.train(tmp_path, seeds=(0, 1)) == expected


def test_a_finished_run_is_published_again_without_its_data(cell, undisturbed, tmp_path):
    _, expected = undisturbed
    found = cell.train(tmp_path)
    assert found[0] == expected[0]
    folder = tmp_path / "results/seed0/end/returns.parquet"
    folder.unlink()
    gone = replace(cell, datasets={0: tmp_path / "gone"})
    assert gone.train(tmp_path) == found


def test_a_run_that_diverges_is_on_record_with_its_gradient_step(cell, tmp_path, monkeypatch):
    original = OfflinePack.round

    def poisoned(pack, active):
        original(pack, active)
        lane = pack.lanes[0]
        if lane.gradient_steps == 8:
            lane.pending_losses[-1] = float("nan")

    monkeypatch.setattr(OfflinePack, "round", poisoned)
    with pytest.raises(
        DivergedError, match=r"diverged, loss nan at gradient step 7; there was no checkpoint"
    ):
        cell.train(tmp_path)
    record = json.loads((tmp_path / "state/seed0/diverged.json").read_text())
    assert (record["agent_step"], record["frame"], record["iteration"]) == (None, None, 1)


def test_a_seed_that_diverges_leaves_the_other_as_it_was(cell, undisturbed, tmp_path, monkeypatch):
    _, expected = undisturbed
    original = OfflinePack.round

    def poisoned(pack, active):
        original(pack, active)
        if pack.lanes[1].gradient_steps == 8:
            pack.lanes[1].pending_losses[-1] = float("nan")

    monkeypatch.setattr(OfflinePack, "round", poisoned)
    with pytest.raises(DivergedError, match="seed 1: diverged, loss nan at gradient step 7"):
        cell.train(tmp_path, seeds=(0, 1))
    assert files(tmp_path / "results/seed0/end") == expected[0]
    assert not (tmp_path / "results/seed1").exists()


# --- The data. ---


def test_an_offline_run_is_no_dataset(undisturbed):
    root, _ = undisturbed
    with pytest.raises(DatasetError, match="learnt from a dataset and played evaluation games only"):
        RecordedRun.open(root / "results/seed0/end", 1_000_000)


def test_files_of_a_run_train_as_the_run_itself(cell, tmp_path, undisturbed):
    _, expected = undisturbed
    convert(RecordedRun.open(cell.datasets[0], 1_000_000), tmp_path / "data")
    assert replace(cell, datasets={0: tmp_path / "data"}).train(tmp_path)[0] == expected[0]


@pytest.mark.long
def test_frames_on_disk_train_as_frames_in_memory_and_leave_nothing(cell, tmp_path, undisturbed):
    _, expected = undisturbed
    (tmp_path / "fast").mkdir()
    options = Options(frames_folder=tmp_path / "fast")
    assert cell.train(tmp_path, options=options)[0] == expected[0]
    assert not list((tmp_path / "fast").iterdir())
    with pytest.raises(DatasetError, match=r"nowhere: cannot hold 0\.0 GB of frames \(No such file"):
        cell.train(tmp_path / "other", options=Options(frames_folder=tmp_path / "nowhere"))


def test_data_that_changed_under_a_run_is_refused(cell, tmp_path, monkeypatch):
    monkeypatch.setattr(loop._Clock, "deadline_passed", lambda _: True)
    with pytest.raises(LeftEarlyError):
        cell.train(tmp_path)
    other = replace(cell, datasets={0: cell.datasets[1]})
    with pytest.raises(StateError, match="its dataset has changed since it was begun"):
        other.train(tmp_path)


def test_data_of_another_game_is_refused_before_training(cell, tmp_path):
    pong = collect(tmp_path / "pong", "Pong", 30)
    with pytest.raises(DatasetError, match="is of the game Pong, not Breakout"):
        replace(cell, datasets=pong).train(tmp_path)
    convert(RecordedRun.open(pong[0], 1_000_000), tmp_path / "files")
    (tmp_path / "files" / "source.json").unlink()  # as if somebody else had made them
    with pytest.raises(DatasetError, match=r"has action \d, but Breakout has 4 actions"):
        replace(cell, datasets={0: tmp_path / "files"}).train(tmp_path)
    assert not (tmp_path / "results").exists()


def test_a_torn_file_is_refused_before_training(cell, tmp_path):
    convert(RecordedRun.open(cell.datasets[0], 1_000_000), tmp_path / "data")
    (path,) = (tmp_path / "data").glob("*observation*")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=r"observation_ckpt\.0\.gz"):
        replace(cell, datasets={0: tmp_path / "data"}).train(tmp_path)


# --- The agents. ---


def test_the_penalty_alone_makes_the_difference_to_the_plain_agent(cell):
    """One update each from the same start: the penalty's gradient step is the whole difference."""
    plain = without_penalty(cell)
    subset = load_subset(cell.datasets[0], 50, 0, 3, 0.99)
    batch = Batch(**vars(subset.sample(np.random.default_rng(0), 4)))
    agents = [ValueAgent(c.spec.hyper, c.spec.network, c.spec.num_actions) for c in (cell, plain)]
    learner = agents[0].init(jax.random.key(0))
    targets = agents[0].targets(learner, batch)
    with_penalty, without = (agent.losses(learner.params, targets, batch) for agent in agents)
    values = agents[0].evaluate(learner.params, batch.state).q_values
    taken = values[np.arange(4), batch.action]
    penalty = jax.nn.logsumexp(values, axis=-1) - taken
    np.testing.assert_allclose(with_penalty - without, 0.1 * penalty, rtol=1e-3)


@pytest.mark.parametrize("agent", ["cql", "cql_c51"])
def test_the_switches_are_the_published_agents(datasets, agent):
    hyper = offline_cell(datasets, agent).spec.hyper
    c51 = agent == "cql_c51"
    assert (hyper.double, hyper.dueling, hyper.noisy) == (c51, c51, False)
    assert (hyper.n_step, hyper.num_atoms, hyper.loss) == ((3, 51, "c51") if c51 else (1, 1, "huber"))
    assert hyper.cql_weight == 0.1


def test_cql_takes_the_largest_value_of_the_target_network_and_hubers_loss(datasets):
    cell = offline_cell(datasets, "cql")
    agent = ValueAgent(cell.spec.hyper, cell.spec.network, cell.spec.num_actions)
    batch = Batch(**vars(load_subset(cell.datasets[0], 50, 0, 1, 0.99).sample(np.random.default_rng(0), 4)))
    learner = agent.init(jax.random.key(0))
    other = agent.init(jax.random.key(1))
    learner = learner.replace(target_params=other.params)
    next_values = np.asarray(agent.evaluate(other.params, batch.next_state).q_values, np.float64)
    target = np.asarray(batch.reward) + 0.99 * (1 - np.asarray(batch.terminal)) * next_values.max(axis=1)
    values = np.asarray(agent.evaluate(learner.params, batch.state).q_values, np.float64)
    taken = values[np.arange(4), batch.action]
    huber = np.asarray(optax.losses.huber_loss(taken, target))
    penalty = np.log(np.exp(values).sum(axis=1)) - taken
    losses = agent.losses(learner.params, agent.targets(learner, batch), batch)
    np.testing.assert_allclose(losses, huber + 0.1 * penalty, rtol=1e-4)


def test_the_head_of_cql_c51_is_initialised_as_the_published_code_leaves_it(datasets):
    """LeCun's normal: a variance of 1 / inputs, not Xavier's 2 / (inputs + outputs)."""
    spreads = {}
    for init in ("lecun", "xavier"):
        spec = offline_cell(datasets, head_init=init).spec
        head = ValueAgent(spec.hyper, spec.network, 4).init(jax.random.key(0)).params["head"]
        spreads[init] = {
            name: (np.std(layer["kernel"]), layer["kernel"].shape) for name, layer in head.items()
        }
    for name, (spread, (inputs, outputs)) in spreads["lecun"].items():
        assert spread == pytest.approx(inputs**-0.5, rel=0.05)
        assert spreads["xavier"][name][0] == pytest.approx((2 / (inputs + outputs)) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"replay": "prioritised"}, "replay must be uniform of an agent that learns from 5 % of a dataset"),
        ({"update_period": 4}, "update_period must be 1"),
        ({"replay_capacity": 1_000_000}, "replay_capacity must be 2500000"),
        ({"data_percent": 10}, "replay_capacity must be 5000000"),
        ({"noisy": True}, "noisy must be False"),
    ],
)
def test_what_an_offline_agent_cannot_be_is_refused(changed, said):
    with pytest.raises(ValueError, match=said):
        AgentSpec.model_validate(AGENTS["cql"] | changed)


def test_a_spec_has_a_dataset_if_and_only_if_its_agent_is_offline(cell):
    facts = cell.spec.model_dump()
    with pytest.raises(ValueError, match="an offline agent, and no other, has a `dataset`"):
        type(cell.spec).model_validate(facts | {"dataset": None})
    assert "dataset" in json.loads(cell.spec.canonical_json())
    other = cell.spec.model_copy(update={"dataset": DatasetSpec(name="other")})
    assert other.digest() != cell.spec.digest()
