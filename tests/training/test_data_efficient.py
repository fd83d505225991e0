"""The Atari-100k protocol: iterations that end at a step, no-op starts, evaluation after each iteration."""

import io
import itertools
import json

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_runs import Tiny, save_now_and_then, tiny_agent

from moerl.agents.value import ValueAgent
from moerl.atari.lanes import AtariLanes, LaneStep
from moerl.study.specs import Evaluation, IterationEnd, Schedule, TrainSpec
from moerl.training import evaluation, loop, online
from moerl.training.base_lane import DivergedError
from moerl.training.evaluation import Evaluator, Played, evaluation_seed
from moerl.training.lane import Lane
from moerl.training.loop import LeftEarlyError
from moerl.training.statefile import load

STEPS, CAP, NOOPS, EPISODES = 120, 150, 9, 3


def with_schedule(cell: Tiny, **schedule) -> Tiny:
    changed = {
        "schedule": cell.spec.schedule.model_copy(update=schedule),
        "network": cell.spec.network.model_copy(update={"hidden_units": 16}),
    }
    return Tiny(cell.spec.model_copy(update=changed), cell.rom, 3)


# The protocol in small: three iterations of exactly 120 steps on Breakout, episodes cut after 150.
CELL = with_schedule(
    tiny_agent("der", epsilon_train=0.5, max_episode_steps=CAP),
    iteration_steps=STEPS,
    iteration_end=IterationEnd.STEP,
    max_noops=NOOPS,
    evaluation=Evaluation(episodes=EPISODES, epsilon=0.5),
)


def rows(data: bytes) -> list[dict]:
    return pq.read_table(io.BytesIO(data)).to_pylist()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one seed of the cell gives, and where."""
    root = tmp_path_factory.mktemp("alone")
    return CELL.train(root, seeds=(1,))[1], root / "results" / "seed1" / "end"


def test_iterations_have_exactly_their_steps_and_episodes_go_on(alone):
    published, folder = alone
    returns = rows(published["returns.parquet"])
    assert [row["frame"] for row in returns] == [4 * STEPS, 8 * STEPS, 12 * STEPS]
    log, _ = load(folder / "actions.safetensors")
    assert len(log["actions"]) == 3 * STEPS
    ends = np.cumsum(log["episode_lengths"])
    assert log["episode_lengths"].max() == CAP > STEPS  # an episode was cut at its cap, in a later iteration
    for k, row in enumerate(returns):
        assert row["episodes"] == ((ends > k * STEPS) & (ends <= (k + 1) * STEPS)).sum()
        assert (row["mean_return"] is None) == (row["episodes"] == 0)
    assert returns[0]["episodes"] == 0
    assert sum(row["episodes"] for row in returns) >= 1
    losses = rows(published["losses.parquet"])
    assert all(row["mean_loss"] is not None for row in losses[1:])


def test_evaluations_have_a_file_of_their_own(alone):
    published, _ = alone
    evaluations = rows(published["evaluations.parquet"])
    assert [set(row) for row in evaluations] == [{"iteration", "frame", "episodes", "mean_return"}] * 3
    assert [row["iteration"] for row in evaluations] == [0, 1, 2]
    assert [row["frame"] for row in evaluations] == [4 * STEPS, 8 * STEPS, 12 * STEPS]
    assert {row["episodes"] for row in evaluations} == {EPISODES}
    assert all(row["mean_return"] >= 0 for row in evaluations)
    assert len({row["mean_return"] for row in evaluations}) > 1


class PulledPlugError(BaseException):
    """Stands for SIGKILL: not an Exception, so nothing may handle it."""


def test_packed_and_killed_in_training_and_evaluation_equals_alone(alone, tmp_path, monkeypatch):
    expected, _ = alone
    fuse = {"train": 10**9, "evaluate": 10**9}

    def fused(name, original):
        def call(*arguments):
            fuse[name] -= 1
            if fuse[name] < 0:
                raise PulledPlugError
            return original(*arguments)

        return call

    monkeypatch.setattr(online.Pack, "round", fused("train", online.Pack.round))
    monkeypatch.setattr(Evaluator, "_observe", fused("evaluate", Evaluator._observe))
    save_now_and_then(monkeypatch, np.random.default_rng(0), rounds=40)
    for name, steps in [("evaluate", 40), ("train", 90), ("evaluate", 600)]:
        fuse |= {"train": 10**9, "evaluate": 10**9} | {name: steps}
        with pytest.raises(PulledPlugError):
            CELL.train(tmp_path, seeds=(0, 1))
    fuse |= {"train": 10**9, "evaluate": 10**9}
    got = CELL.train(tmp_path, seeds=(0, 1))
    assert got[1] == expected
    assert got[0]["evaluations.parquet"] != expected["evaluations.parquet"]


def test_a_deadline_in_an_evaluation_leaves_and_evaluates_first_next_time(alone, tmp_path, monkeypatch):
    expected, _ = alone
    happened: list[str] = []

    def told(name, original):
        def call(*arguments):
            happened.append(name)
            return original(*arguments)

        return call

    monkeypatch.setattr(online.Pack, "round", told("train", online.Pack.round))
    monkeypatch.setattr(Evaluator, "_observe", told("evaluate", Evaluator._observe))
    monkeypatch.setattr(loop._Clock, "deadline_passed", lambda _: happened.count("evaluate") > 30)
    with pytest.raises(LeftEarlyError, match="deadline"):
        CELL.train(tmp_path, seeds=(1,))
    _, meta = load(tmp_path / "state" / "seed1" / "end" / "current.safetensors")
    assert (meta["agent_steps"], meta["rows"], meta["evaluations"]) == (STEPS, [], [])
    assert len(happened) < 200  # the evaluation was left at once
    monkeypatch.setattr(loop._Clock, "deadline_passed", lambda _: False)
    happened.clear()
    assert CELL.train(tmp_path, seeds=(1,))[1] == expected
    assert happened[0] == "evaluate"
    assert happened.count("train") <= 2 * STEPS + 2 * NOOPS


def test_extending_goes_on_inside_the_episode(alone, tmp_path):
    expected, _ = alone
    short = CELL.train(tmp_path, seeds=(1,), iterations=1, milestone="short")[1]
    assert rows(short["returns.parquet"])[0]["episodes"] == 0
    for path in sorted((tmp_path / "state").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    assert CELL.train(tmp_path, seeds=(1,), milestone="end")[1] == expected


def lane_of(spec: TrainSpec) -> Lane:
    return Lane.fresh(spec, 1, ValueAgent(spec.hyper, spec.network, spec.num_actions))


def test_when_an_iteration_is_over():
    lane = lane_of(CELL.spec)
    frame = np.zeros((84, 84), dtype=np.uint8)
    lane.begin_episode(frame)
    lane.agent_steps = STEPS - 1
    assert not lane.iteration_over
    lane.agent_steps = STEPS
    assert lane.iteration_over
    lane.episode_return = 7.0
    lane.finish_iteration([Played(3.0, (0,)), Played(8.0, (1, 2))])
    assert not lane.iteration_over
    assert lane.iteration_start == STEPS
    assert lane.rows[0].mean_return is None
    assert lane.evaluations[0].mean_return == 5.5
    assert not lane.between_episodes  # and with its return so far
    assert lane.episode_return == 7.0
    online_lane = lane_of(with_schedule(CELL, iteration_end=IterationEnd.EPISODE).spec)
    online_lane.begin_episode(frame)
    online_lane.agent_steps = STEPS
    assert not online_lane.iteration_over
    assert not online_lane.observe(0, 0, False, True, frame)  # a lost life does not end it
    assert not online_lane.iteration_over
    assert online_lane.observe(0, 0, True, True, frame)
    assert online_lane.iteration_over


def test_training_skips_its_noops_before_every_episode(monkeypatch):
    spec = CELL.spec
    lane = lane_of(spec)
    pack = online.Pack.create(spec, CELL.rom, [lane], ValueAgent(spec.hyper, spec.network, spec.num_actions))
    stepped: list[int] = []
    original = AtariLanes.step
    monkeypatch.setattr(
        AtariLanes, "step", lambda env, actions: stepped.append(env.waiting(0)) or original(env, actions)
    )
    monkeypatch.setattr(online.Pack, "_choose", lambda *_: 3)
    while lane.agent_steps < 2 * CAP + 5:
        pack.round([0])
    runs = [(waited, len(list(group))) for waited, group in itertools.groupby(stepped)]
    noops = [pack.env.noops(0, episode) for episode in range(3)]
    assert all(noops)
    lengths = [*lane.log.episode_lengths, len(lane.log.running)]
    assert runs == [
        pair for n, length in zip(noops, lengths, strict=True) for pair in ((True, n), (False, length))
    ]
    assert set(lane.log.actions) == {3}
    assert len(lane.log.actions) == lane.agent_steps == sum(lengths)


class ScriptedLanes:
    """Stands for `AtariLanes`: two lanes whose games are written down.

    The frames of a game are filled with 1, 2, 3, …; the no-ops before it are those of `NOOPS`.
    """

    NOOPS = (0, 2, 0)
    # Reward, game over, life lost of each step; an episode that is cut has no end.
    GAMES = (
        [(1, False, False), (50, False, True), (-2, False, False), (4, True, True)],
        [(10, False, False)] * 9,
        [(0, True, True)],
    )

    def __init__(self, rom, run_seeds, sticky_actions, max_episode_steps, max_noops):
        self.opened = (rom, run_seeds, sticky_actions, max_episode_steps, max_noops)
        self.episodes: dict[int, int] = {}
        self.left: dict[int, int] = {}
        self.at = [0, 0]
        self.closed = False
        self.log: list[tuple[int, int, int]] = []
        ScriptedLanes.last = self

    def __len__(self):
        return 2

    def waiting(self, lane):
        return self.left.get(lane, 0) > 0

    def frame(self, lane):
        return np.full((84, 84), self.at[lane] + 1, dtype=np.uint8)

    def begin_episodes(self, episodes):
        for lane, episode in episodes.items():
            self.episodes[lane], self.left[lane], self.at[lane] = episode, self.NOOPS[episode], 0
        return {lane: self.frame(lane) for lane in episodes if not self.waiting(lane)}

    def step(self, actions):
        rewards, over, lost, first = np.zeros(2, int), np.zeros(2, bool), np.zeros(2, bool), {}
        for lane, episode in self.episodes.items():
            if self.waiting(lane):
                self.left[lane] -= 1
                if not self.left[lane]:
                    first[lane] = self.frame(lane)
            elif self.at[lane] < len(self.GAMES[episode]):
                self.log.append((episode, self.at[lane], int(actions[lane])))
                rewards[lane], over[lane], lost[lane] = self.GAMES[episode][self.at[lane]]
                self.at[lane] += 1
        frames = np.stack([self.frame(lane) for lane in range(2)])
        return LaneStep(frames, rewards, over, lost, first)

    def close(self):
        self.closed = True


class Reader:
    """An agent whose action spells its frame stack: 1, 2, 3, 4 (oldest first) is 1234."""

    def greedy_action(self, params, states):
        return states[..., 0, 0].astype(np.int32) @ np.array([1000, 100, 10, 1], np.int32)


def scripted(monkeypatch, **hyper) -> tuple[list[Played], ScriptedLanes]:
    """Play the written games with the reading agent, without exploration."""
    monkeypatch.setattr(evaluation, "AtariLanes", ScriptedLanes)
    monkeypatch.setattr(evaluation, "LANES", 2)
    spec = with_schedule(CELL, evaluation=Evaluation(episodes=3, epsilon=0.0)).spec
    spec = spec.model_copy(update={"hyper": spec.hyper.model_copy(update={"max_episode_steps": 6, **hyper})})
    played = Evaluator(spec, "rom", Reader()).evaluate({}, 1, 4, lambda: False)
    return played, ScriptedLanes.last


def test_evaluation_by_hand(monkeypatch):
    played, env = scripted(monkeypatch)
    # Unclipped, over lost lives to the game's end, or cut at the cap of 6 steps.
    assert [game.score for game in played] == [1 + 50 - 2 + 4, 60, 0]
    assert env.opened == ("rom", [evaluation_seed(1, 4)] * 2, 0.0, 6, NOOPS)
    assert env.closed
    actions = {episode: [a for e, _, a in env.log if e == episode] for episode in range(3)}
    # The life is lost in the second step: a new stack on the frame after it, as in training.
    assert actions[0] == [1, 12, 3, 34]
    assert actions[1] == [1, 12, 123, 1234, 2345, 3456]  # from the frame after its no-ops
    assert actions[2] == [1]  # in the lane that was free first
    assert env.episodes == {0: 2, 1: 1}
    assert [list(game.actions) for game in played] == list(actions.values())


def test_without_life_loss_terminals_the_stack_goes_on(monkeypatch):
    _, env = scripted(monkeypatch, terminal_on_life_loss=False)
    assert [a for e, _, a in env.log if e == 0] == [1, 12, 123, 1234]


def evaluated(monkeypatch, params, iteration=0, run_seed=1, **settings) -> tuple[list[float], list[bytes]]:
    """Returns and all actions of a real evaluation."""
    acted: list[bytes] = []
    original = AtariLanes.step

    def step(env, actions):
        acted.append(actions.tobytes())
        return original(env, actions)

    monkeypatch.setattr(AtariLanes, "step", step)
    spec = with_schedule(CELL, evaluation=Evaluation(**({"episodes": 2, "epsilon": 0.0} | settings))).spec
    spec = spec.model_copy(update={"hyper": spec.hyper.model_copy(update={"max_episode_steps": 30})})
    agent = ValueAgent(spec.hyper, spec.network, spec.num_actions)
    returns = Evaluator(spec, CELL.rom, agent).evaluate(params, run_seed, iteration, lambda: False)
    monkeypatch.setattr(AtariLanes, "step", original)
    return returns, acted


@pytest.fixture(scope="module")
def params():
    """Parameters whose σ are as large as their μ; experts and heads are noisy."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: 20 * x if "sigma" in path[-1].key else x, lane_of(CELL.spec).learner.params
    )


def test_evaluation_has_no_noise(params, monkeypatch):
    keys: list[object] = []
    original = ValueAgent.evaluate

    def spy(agent, params, state, key=None):
        keys.append(key)
        return original(agent, params, state, key)

    monkeypatch.setattr(ValueAgent, "evaluate", spy)
    noisy = evaluated(monkeypatch, params)
    assert keys == [None]  # traced once
    silent = jax.tree_util.tree_map_with_path(lambda path, x: 0 * x if "sigma" in path[-1].key else x, params)
    assert evaluated(monkeypatch, silent) == noisy  # B11: the experts' noise is off, too


def test_evaluation_is_a_function_of_parameters_seed_and_iteration(params, monkeypatch):
    base = evaluated(monkeypatch, params, epsilon=0.5)
    assert evaluated(monkeypatch, params, epsilon=0.5) == base
    for other in ({"iteration": 1}, {"run_seed": 2}):
        assert evaluated(monkeypatch, params, epsilon=0.5, **other)[1] != base[1]
    seeds = {evaluation_seed(run, iteration) for run in range(20) for iteration in range(20)}
    assert len(seeds) == 400


def test_evaluation_explores_with_its_epsilon(params, monkeypatch):
    _, acted = evaluated(monkeypatch, params, epsilon=1.0, episodes=8)
    drawn = np.concatenate([np.frombuffer(a, np.int32) for a in acted[NOOPS:]])
    assert np.bincount(drawn, minlength=4).min() > 30  # of 8 lanes × 30 steps / 4 actions


def test_an_evaluation_is_not_begun_on_parameters_that_are_not_finite(tmp_path, monkeypatch):
    monkeypatch.setattr(Evaluator, "evaluate", lambda *_: pytest.fail("evaluated a diverged network"))
    original = online.Pack.round

    def poisoned(pack, active):
        original(pack, active)
        lane = pack.lanes[0]
        if lane.iteration_over:
            broken = jax.tree.map(lambda x: x * np.nan, lane.learner.params)
            lane.learner = lane.learner.replace(params=broken)

    monkeypatch.setattr(online.Pack, "round", poisoned)
    with pytest.raises(DivergedError, match="is not finite"):
        CELL.train(tmp_path, iterations=1)


def test_a_spec_without_evaluation_is_not_evaluated():
    spec = with_schedule(CELL, evaluation=None).spec
    agent = ValueAgent(spec.hyper, spec.network, spec.num_actions)
    with pytest.raises(ValueError, match="no evaluation"):
        Evaluator(spec, CELL.rom, agent).evaluate({}, 0, 0, lambda: False)


def test_schedules_of_before_are_written_as_before():
    plain = CELL.spec.model_copy(update={"schedule": Schedule(iteration_steps=5)})
    assert json.loads(plain.canonical_json())["schedule"] == {
        "iteration_steps": 5,
        "snapshot_every": 0,
        "snapshot_batches": 4,
    }
    full = json.loads(CELL.spec.canonical_json())["schedule"]
    assert Schedule.model_validate(full) == CELL.spec.schedule
    assert set(full) == set(Schedule.model_fields) - {"evaluation_phase"}  # that is offline
