"""Rainbow, DER and DrQ(ε) in the training loop: priorities, life-loss terminals, noise, resuming."""

import jax
import numpy as np
import pytest
from tiny_runs import save_now_and_then, tiny, tiny_agent

from moerl.agents.value import ValueAgent
from moerl.atari.lanes import AtariLanes
from moerl.study.errors import FailureError
from moerl.training import online
from moerl.training.base_lane import DivergedError, initial_learner
from moerl.training.lane import Lane
from moerl.training.online import epsilon
from moerl.training.statefile import load, store

# Half of the actions at random, so that balls are served and lost whatever the network thinks.
CELLS = {
    "rainbow": tiny_agent("rainbow", "cnn-top1-1"),
    "der": tiny_agent("der", epsilon_train=0.5),
    "drq_eps": tiny_agent("drq_eps", target_update_period=16),
}


class PulledPlugError(BaseException):
    """Stands for SIGKILL: not an Exception, so nothing may handle it."""


@pytest.mark.parametrize("agent", CELLS)
def test_packed_and_killed_equals_alone_and_undisturbed(agent, tmp_path, monkeypatch):
    cell = CELLS[agent]
    alone = cell.train(tmp_path / "alone", seeds=(1,))[1]
    rng = np.random.default_rng(0)
    original, fuse = online.Pack.round, {"rounds": 0}

    def fused_round(pack, active):
        fuse["rounds"] -= 1
        if fuse["rounds"] < 0:
            raise PulledPlugError
        return original(pack, active)

    monkeypatch.setattr(online.Pack, "round", fused_round)
    save_now_and_then(monkeypatch, rng, rounds=60)
    kills = 0
    while True:
        fuse["rounds"] = int(rng.integers(100, 250))
        try:
            got = cell.train(tmp_path / "packed", seeds=(0, 1))
        except PulledPlugError:
            kills += 1
            continue
        break
    assert kills >= 1
    assert got[1] == alone
    assert got[0]["actions.safetensors"] != alone["actions.safetensors"]
    tensors, meta = load(tmp_path / "packed" / "results" / "seed1" / "end" / "resume.safetensors")
    lengths, _ = load(tmp_path / "packed" / "results" / "seed1" / "end" / "actions.safetensors")
    padding = meta["add_count"] - meta["agent_steps"]
    if cell.spec.hyper.terminal_on_life_loss:
        assert padding > 3 * len(lengths["episode_lengths"])  # lives were lost
    else:
        assert padding == 3 * len(lengths["episode_lengths"])
    if agent != "drq_eps":
        leaves = tensors["priorities/leaves"]
        learnt = leaves[(leaves > 0) & (leaves != tensors["priorities/max"])]
        assert len(learnt) > 20
        assert (leaves == 0).sum() >= 3  # padding


def fresh(agent: str) -> Lane:
    spec = CELLS[agent].spec
    return Lane.fresh(spec, 0, ValueAgent(spec.hyper, spec.network, spec.num_actions))


def frame(value: int):
    return np.full((84, 84), value, dtype=np.uint8)


@pytest.mark.parametrize(("agent", "terminal"), [("der", True), ("rainbow", False)])
def test_lost_life_ends_the_stack_and_not_the_episode(agent, terminal):
    lane = fresh(agent)
    lane.begin_episode(frame(1))
    assert not lane.observe(2, 1, False, False, frame(2))
    assert not lane.observe(3, 5, False, True, frame(3))
    assert lane.ring.terminals[:5].tolist() == [False] * 4 + [terminal]
    assert [int(f[0, 0]) for f in lane.stack] == ([0, 0, 0, 3] if terminal else [0, 1, 2, 3])
    assert not lane.observe(4, 2, False, False, frame(4))
    assert lane.ring.add_count == (9 if terminal else 6)  # the new life starts with padding
    assert not lane.between_episodes
    assert lane.observe(5, 0, True, True, frame(5))
    assert lane.episode_return == 8
    assert lane.episode_adds == [lane.ring.add_count]


def test_lives_of_the_real_game():
    env = AtariLanes("breakout", [3, 4], sticky_actions=0.0, max_episode_steps=27_000)
    rng = np.random.default_rng(0)
    lost, over = np.zeros(2, int), np.zeros(2, bool)
    for _ in range(2_000):
        step = env.step(rng.integers(0, 4, 2).astype(np.int32))
        lost += step.life_lost & ~over
        over |= step.game_over
        if over.all():
            break
    assert over.all()
    assert lost.tolist() == [5, 5]
    env.begin_episodes({0: 1, 1: 1})
    assert not env.step(np.zeros(2, np.int32)).life_lost.any()


def test_noisy_agents_have_no_epsilon_and_noise_of_their_own_at_each_step(tmp_path):
    cell = CELLS["rainbow"]
    assert {epsilon(cell.spec, step) for step in (0, 50, 10_000)} == {0.0}
    pack = online.Pack.create(
        cell.spec,
        cell.rom,
        [fresh("rainbow")],
        ValueAgent(cell.spec.hyper, cell.spec.network, cell.spec.num_actions),
    )
    lane = pack.lanes[0]
    lane.stack[:] = np.random.default_rng(0).integers(0, 256, lane.stack.shape)
    # A σ as large as μ makes noise decide.
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: 20 * x if "sigma" in path[-1].key else x, lane.learner.params
    )
    lane.learner = lane.learner.replace(params=params)
    chosen = []
    for step in (*range(20), *range(20)):
        lane.agent_steps = step
        chosen.append(pack._choose(lane))
    assert chosen[:20] == chosen[20:]
    assert len(set(chosen)) > 1


@pytest.mark.parametrize(("updates", "ratio"), [(1, 0.25), (2, 0.5), (4, 1.0), (8, 2.0)])
def test_replay_ratio_is_updates_per_period_over_update_period(updates, ratio, monkeypatch):
    cell = tiny("Breakout", 200, 2, update_period=4, updates_per_period=updates, target_update_period=20)
    agent = ValueAgent(cell.spec.hyper, cell.spec.network, cell.spec.num_actions)
    lane = Lane.fresh(cell.spec, 0, agent)
    pack = online.Pack(cell.spec, None, [lane], agent)
    done = []

    def note(kind):
        return lambda *_: done.append((kind, lane.agent_steps))

    monkeypatch.setattr(pack, "_gradient_step", note("update"))
    monkeypatch.setattr(type(agent), "sync_target", note("sync"))
    lane.ring.start_at(cell.spec.hyper.min_replay_history)
    pack._train(lane)
    assert not done  # training starts once more than that many transitions were added
    lane.ring.start_at(cell.spec.hyper.min_replay_history + 1)
    lane.agent_steps = 0
    for _ in range(40):
        pack._train(lane)
    steps = [step for kind, step in done if kind == "update"]
    assert steps == [step for step in range(0, 40, 4) for _ in range(updates)]
    assert len(steps) / 40 == ratio
    # The target follows agent steps, whatever the ratio, and after the step's updates.
    assert [step for kind, step in done if kind == "sync"] == [0, 20]
    assert done.index(("sync", 20)) == len([s for s in steps if s <= 20]) + 1


def test_diverged_priorities_are_named_and_kept_out_of_the_table(tmp_path):
    lane = fresh("der")
    lane.begin_episode(frame(1))
    lane.gradient_steps = 7
    lane.set_priorities(np.array([3]), np.array([np.nan], dtype=np.float32))
    assert np.isfinite(lane.priorities.leaves).all()
    with pytest.raises(DivergedError, match=r"der .* seed 0: diverged, priority nan .* at gradient step 6"):
        lane.flush_losses()


def test_replay_in_which_every_priority_is_zero_is_an_error_that_names_the_run():
    lane = fresh("der")
    lane.gradient_steps = 7
    with pytest.raises(FailureError, match=r"der .* seed 0: gradient step 7: cannot sample: the priority of"):
        lane.sample_batch()


@pytest.mark.parametrize("damage", [None, "shape", "negative"])
def test_checkpoint_without_usable_priorities_is_passed_over_by_name(tmp_path, damage, caplog):
    cell = CELLS["der"]
    cell.train(tmp_path, iterations=1, milestone="short")
    path = next((tmp_path / "results").rglob("resume.safetensors"))
    tensors, meta = load(path)
    leaves = tensors.pop("priorities/leaves")
    if damage == "shape":
        tensors["priorities/leaves"] = leaves[:-1]
    elif damage == "negative":
        tensors["priorities/leaves"] = -leaves
    store(path, tensors, meta)
    for state in (tmp_path / "state").rglob("*.safetensors"):
        if "snapshots" not in state.parts:
            state.unlink()
    cell.train(tmp_path, iterations=2, milestone="long")
    assert f"passed over: {path}: " in caplog.text
    assert "priorities" in caplog.text
    assert "continues at" not in caplog.text


@pytest.mark.parametrize(("name", "variant"), [("rainbow", "cnn-softmoe8"), ("dqn", "impala-top1-2")])
def test_the_quickly_compiled_initialisation_gives_the_usual_bits(name, variant):
    spec = tiny("Breakout", 1, 1, variant=variant, agent=name).spec
    agent = ValueAgent(spec.hyper, spec.network, spec.num_actions)
    key = jax.random.key(7)
    usual = jax.jit(agent.init)(key)
    jax.tree.map(np.testing.assert_array_equal, initial_learner(agent, key), usual)
