"""The online training loop: several runs (lanes) of one spec in one process, each strictly as alone.

Per agent step and lane, in this order (method 4.2): train step, choose an action, step the game,
store the transition. Checkpoints are taken between two such rounds.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from types import FrameType

import jax
import numpy as np

from moerl.agents.value import Batch, Learner, Params, UpdateResult, ValueAgent
from moerl.atari.lanes import AtariLanes, Frame
from moerl.atari.regenerate import regenerate
from moerl.study.specs import FRAMES_PER_STEP, TrainSpec
from moerl.training.checkpoint import RunFolders
from moerl.training.evaluation import Evaluator
from moerl.training.lane import DivergedError, Lane
from moerl.training.rng import Purpose, stream
from moerl.training.statefile import StateError

log = logging.getLogger(__name__)


class LeftEarlyError(Exception):
    """Training was saved and left before its end (deadline or signal); run it again to go on."""


@dataclass(frozen=True)
class Options:
    """How training is executed; nothing here changes its numbers."""

    save_every_seconds: float = 1800.0
    deadline_seconds: float | None = None
    """Leave in time if training takes longer than this."""


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


def train(
    spec: TrainSpec,
    rom: str,
    runs: dict[int, RunFolders],
    iterations: int,
    options: Options,
    report: Callable[[Sequence[Lane], float], None] | None = None,
) -> None:
    """Train the runs `seed → folders` of one spec until each has `iterations` iterations, and publish them.

    `report` is called now and then with the lanes still in training and the frames per second that
    this process trains of them.

    A run whose divergence is on record is not trained again, and one that is finished is only published.

    Raises LeftEarlyError (saved, run again), StateError, UserError, FailureError, or DivergedError once the
    lanes that did not diverge are done.
    """
    started = time.monotonic()
    agent = ValueAgent(spec.hyper, spec.network, spec.num_actions)
    with ExitStack() as locks, _Signals() as signals:
        for folder in runs.values():
            locks.enter_context(folder.lock())
        diverged: list[DivergedError] = []
        folders, lanes = _lanes_to_train(spec, runs, iterations, agent, diverged)
        if not lanes:
            _raise_first(diverged)
            return
        pack = Pack.create(spec, rom, lanes, agent)
        clock = _Clock(started, options, lanes, [folder.seconds for folder in folders])
        evaluator = Evaluator(spec, rom, agent)
        active = list(range(len(lanes)))

        def leaving() -> str | None:
            return signals.caught or ("its deadline is near" if clock.deadline_passed() else None)

        def attempt(i: int, work: Callable[[], None]) -> None:
            """Do something that a diverged lane refuses; such a lane is out, the others go on."""
            try:
                work()
            except DivergedError as error:
                diverged.append(folders[i].record_divergence(lanes[i], error))
                log.error("%s", diverged[-1])
                active.remove(i)

        def end_iteration(i: int) -> None:
            """Evaluate and account for an iteration that is over; left for later if there is no time."""
            lane, folder = lanes[i], folders[i]
            lane.tensors()  # refuses an iteration that ends in parameters that are not finite
            evaluated: list[float] | None = []
            if spec.schedule.evaluation:
                evaluated = evaluator.evaluate(lane.learner.params, lane.seed, len(lane.rows), leaving)
            if evaluated is None:
                return
            lane.finish_iteration(evaluated)
            folder.stamp(lane, clock.seconds(i))
            every = spec.schedule.snapshot_every
            if every and len(lane.rows) % every == 0:
                folder.save_snapshot(lane)
            publish_if_done(i)

        def publish_if_done(i: int) -> None:
            if len(lanes[i].rows) == iterations:
                folders[i].publish(lanes[i])
                active.remove(i)

        for i in list(active):
            publish_if_done(i)
        while active:
            # A lane can come with an iteration that is over: its evaluation was interrupted.
            if not any(lanes[i].iteration_over for i in active):
                pack.round(active)
            for i in [i for i in active if lanes[i].iteration_over]:
                attempt(i, partial(end_iteration, i))
            reason = leaving()
            if reason or clock.save_due():
                for i in list(active):
                    attempt(i, partial(folders[i].save, lanes[i], clock.seconds(i)))
                clock.saved()
            if reason and active:
                raise LeftEarlyError(f"saved and left because {reason}; run it again to go on")
            if report is not None and active and clock.report_due():
                report([lanes[i] for i in active], clock.frames_per_second(active))
        _raise_first(diverged)


def _lanes_to_train(
    spec: TrainSpec,
    runs: dict[int, RunFolders],
    iterations: int,
    agent: ValueAgent,
    diverged: list[DivergedError],
) -> tuple[list[RunFolders], list[Lane]]:
    """Find the lanes that there is work for; publishes finished ones, and adds to `diverged` known ones."""
    folders, lanes = [], []
    for seed, folder in runs.items():
        if (known := folder.recorded_divergence(spec, iterations)) is not None:
            log.error("%s", known)
            diverged.append(known)
            continue
        lane = folder.find(spec, seed, iterations, agent)
        if len(lane.rows) == iterations and folder.published_before:
            folder.publish(lane)
            continue
        folders.append(folder)
        lanes.append(lane)
    return folders, lanes


def _raise_first(diverged: Sequence[DivergedError]) -> None:
    """Raise the error of the first run that diverged, if one did; the log names all of them."""
    if diverged:
        raise diverged[0]


class _Clock:
    """When to save, to report and to leave, and how long lanes have trained."""

    def __init__(self, started: float, options: Options, lanes: list[Lane], before: list[float]) -> None:
        self._options, self._lanes, self._before = options, lanes, before
        self._deadline = started + options.deadline_seconds if options.deadline_seconds is not None else None
        self._start = self._saved = self._reported = time.monotonic()
        self._first_steps = [lane.agent_steps for lane in lanes]

    def seconds(self, lane: int) -> float:
        """Training seconds of a lane so far, those before this process included."""
        return round(self._before[lane] + time.monotonic() - self._start, 3)

    def deadline_passed(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def save_due(self) -> bool:
        return time.monotonic() - self._saved >= self._options.save_every_seconds

    def saved(self) -> None:
        self._saved = time.monotonic()

    def report_due(self) -> bool:
        due = time.monotonic() - self._reported >= 10.0
        if due:
            self._reported = time.monotonic()
        return due

    def frames_per_second(self, active: Sequence[int]) -> float:
        """Of some lanes together, since this process began to train them."""
        steps = sum(self._lanes[i].agent_steps - self._first_steps[i] for i in active)
        return steps * FRAMES_PER_STEP / (time.monotonic() - self._start)


class _Signals:
    """Turns SIGTERM and SIGUSR1 into a flag that the loop looks at between two rounds."""

    def __init__(self) -> None:
        self.caught: str | None = None

    def __enter__(self) -> _Signals:
        self._old = {s: signal.signal(s, self._catch) for s in (signal.SIGTERM, signal.SIGUSR1)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _catch(self, number: int, _: FrameType | None) -> None:
        self.caught = f"of {signal.Signals(number).name}"
