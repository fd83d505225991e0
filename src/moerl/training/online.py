"""Online training, round by round: an agent step of every lane, each strictly as if it were alone.

Per agent step and lane, in this order (method 4.2): train step, choose an action, step the game,
store the transition. Checkpoints are taken between two such rounds (`moerl.training.loop`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from moerl.agents.value import Batch, Learner, Params, UpdateResult, ValueAgent
from moerl.atari.lanes import AtariLanes, Frame
from moerl.atari.regenerate import regenerate
from moerl.study.specs import TrainSpec
from moerl.training.lane import Lane
from moerl.training.rng import Purpose, stream
from moerl.training.statefile import StateError


def epsilon(spec: TrainSpec, agent_steps: int) -> float:
    """Exploration rate: 1 until `min_replay_history` agent steps, then linear down to `epsilon_train`.

    Without `epsilon_decay_period` it is `epsilon_train` throughout: 0 for agents that explore by noise.
    """
    hyper = spec.hyper
    if hyper.epsilon_decay_period is None:
        return hyper.epsilon_train
    left = hyper.epsilon_decay_period + hyper.min_replay_history - agent_steps
    bonus = (1.0 - hyper.epsilon_train) * left / hyper.epsilon_decay_period
    return hyper.epsilon_train + min(max(bonus, 0.0), 1.0 - hyper.epsilon_train)


@dataclass
class Pack:
    """Lanes of one spec in training, in the order of their seeds."""

    spec: TrainSpec
    env: AtariLanes
    lanes: list[Lane]
    agent: ValueAgent
    actions: np.ndarray[tuple[int], np.dtype[np.int32]] = field(init=False)

    def __post_init__(self) -> None:
        self.actions = np.zeros(len(self.lanes), dtype=np.int32)
        self._update = jax.jit(self._update_at, donate_argnums=0)
        self._greedy = jax.jit(self._greedy_at)

    def _update_at(
        self, learner: Learner, batch: Batch, key: jax.Array, step: int
    ) -> tuple[Learner, UpdateResult]:
        return self.agent.update(learner, batch, jax.random.fold_in(key, step))

    def _greedy_at(self, params: Params, state: jax.Array, key: jax.Array, step: int) -> jax.Array:
        noise = jax.random.fold_in(key, step) if self.agent.draws else None
        return self.agent.greedy_action(params, state, noise)

    @classmethod
    def create(cls, spec: TrainSpec, rom: str, lanes: list[Lane], agent: ValueAgent) -> Pack:
        """Open the emulators and bring every lane's replay and game to where its log ends."""
        hyper = spec.hyper
        seeds, noops = [lane.seed for lane in lanes], spec.schedule.max_noops
        env = AtariLanes(rom, seeds, hyper.sticky_actions, hyper.max_episode_steps, noops)
        if env.num_actions != spec.num_actions:
            raise StateError(
                f"{spec.game} has {env.num_actions} actions here; the games table says {spec.num_actions}"
            )
        pack = cls(spec, env, lanes, agent)
        pack._regenerate()
        return pack

    def _regenerate(self) -> None:
        ends: list[int] = [0] * len(self.lanes)

        def begin(lane: int, frame: Frame) -> None:
            self.lanes[lane].begin_episode(frame)

        def observe(
            lane: int, action: int, reward: int, game_over: bool, life_lost: bool, frame: Frame
        ) -> None:
            ends[lane] += self.lanes[lane].observe(action, reward, game_over, life_lost, frame)

        episodes = [lane.episodes_to_regenerate() for lane in self.lanes]
        regenerate(self.env, episodes, begin, observe)
        for lane, replayed, ended in zip(self.lanes, episodes, ends, strict=True):
            finished = len(replayed) - bool(lane.log.running)
            if ended != finished or lane.between_episodes == bool(lane.log.running):
                raise StateError(
                    f"{self.spec.game}, seed {lane.seed}: replaying the action log gave {ended} episode ends "
                    f"instead of {finished}; was it recorded with another ale-py or ROM version?"
                )
            lane.check_regenerated()

    def round(self, active: Sequence[int]) -> None:
        """One agent step of every active lane, or a skipped no-op step where an episode begins with some."""
        between = [i for i in active if self.lanes[i].between_episodes]
        fresh = {i: len(self.lanes[i].log.episode_lengths) for i in between if not self.env.waiting(i)}
        if fresh:
            for i, frame in self.env.begin_episodes(fresh).items():
                self.lanes[i].begin_episode(frame)
        playing = [i for i in active if not self.env.waiting(i)]
        for i in playing:
            self._train(self.lanes[i])
        for i in playing:
            self.actions[i] = self._choose(self.lanes[i])
        step = self.env.step(self.actions)
        for i in playing:
            lane, action = self.lanes[i], int(self.actions[i])
            lane.log.append(action)
            before = lane.ring.add_count
            end = lane.observe(action, *step.of(i))
            if lane.priorities is not None:
                lane.priorities.insert(before, lane.ring.add_count)
            if end:
                lane.finish_episode()
        for i, frame in step.first.items():
            self.lanes[i].begin_episode(frame)

    def _train(self, lane: Lane) -> None:
        hyper = self.spec.hyper
        if lane.ring.add_count > hyper.min_replay_history:
            if lane.agent_steps % hyper.update_period == 0:
                for _ in range(hyper.updates_per_period):
                    self._gradient_step(lane)
            if lane.agent_steps % hyper.target_update_period == 0:
                lane.learner = self.agent.sync_target(lane.learner)
        lane.agent_steps += 1

    def _gradient_step(self, lane: Lane) -> None:
        slots, batch = lane.sample_batch()
        lane.learner, result = self._update(lane.learner, batch, lane.update_key, lane.gradient_steps)
        lane.pending_losses.append(result.loss)
        lane.gradient_steps += 1
        lane.set_priorities(slots, result.priorities)

    def _choose(self, lane: Lane) -> int:
        """ε-greedy action; the network is evaluated only if its answer is used."""
        rng = stream(lane.seed, Purpose.EXPLORE, lane.agent_steps)
        if rng.random() <= epsilon(self.spec, lane.agent_steps):
            return int(rng.integers(self.spec.num_actions))
        return int(self._greedy(lane.learner.params, lane.stack, lane.act_key, lane.agent_steps))
