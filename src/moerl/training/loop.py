"""The training loop: several runs (lanes) of one spec in one process, each strictly as alone.

It goes round by round: an agent step of every lane (`moerl.training.online`), or a gradient step
(`moerl.training.offline`). Checkpoints are taken between two rounds.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

from moerl.agents.value import ValueAgent
from moerl.study.specs import TrainSpec
from moerl.training.attempts import begin_attempt, forget_attempt
from moerl.training.base_lane import BaseLane, DivergedError
from moerl.training.checkpoint import RunFolders
from moerl.training.evaluation import Evaluator, Played
from moerl.training.lane import Lane
from moerl.training.offline import OfflinePack
from moerl.training.offline_lane import OfflineLane
from moerl.training.online import Pack
from moerl.training.run_lock import LEASE_SECONDS

log = logging.getLogger(__name__)


class LeftEarlyError(Exception):
    """Training was saved and left before its end (deadline or signal); run it again to go on."""


class LeftBySignalError(LeftEarlyError):
    """It was a signal."""


@dataclass(frozen=True)
class Options:
    """How training is executed; nothing here changes its numbers."""

    save_every_seconds: float = 1800.0
    deadline_seconds: float | None = None
    """Leave in time if training takes longer than this."""
    frames_folder: Path | None = None
    """Where offline agents keep the frames of their data; None: in memory."""
    lease_seconds: float = LEASE_SECONDS
    """A run that another process holds is waited for: until that has shown no sign of life for so long."""


def train(
    spec: TrainSpec,
    rom: str,
    runs: dict[int, RunFolders],
    iterations: int,
    options: Options,
    report: Callable[[Sequence[BaseLane], float], None] | None = None,
    datasets: Mapping[int, Path] | None = None,
) -> None:
    """Train the runs `seed → folders` of one spec until each has `iterations` iterations, and publish them.

    `report` is called now and then with the lanes still in training and how much of their unit (frames;
    offline gradient steps) this process trains of them per second. `datasets` are the folders that the
    seeds of an offline agent learn from.

    A run whose divergence is on record is not trained again, and one that is finished is only published.

    Raises LeftEarlyError (saved, run again), StateError, UserError, FailureError, or DivergedError once the
    lanes that did not diverge are done.
    """
    started = time.monotonic()
    agent = ValueAgent(spec.hyper, spec.network, spec.num_actions)
    with ExitStack() as locks, _Signals() as signals:
        waiting = _Waiting(started, options)
        for _, folder in sorted(runs.items()):  # two packs that overlap must not wait for each other
            locks.enter_context(folder.lock(waiting, options.lease_seconds))
        diverged: list[DivergedError] = []
        folders, lanes = _lanes_to_train(spec, runs, iterations, agent, diverged)
        if not lanes:
            _raise_first(diverged)
            return
        locks.enter_context(_attempt(folders, lanes, iterations, options))
        pack = _pack(spec, rom, lanes, agent, datasets or {}, options.frames_folder)
        signals.at_once = False
        clock = _Clock(started, options, lanes, [folder.seconds for folder in folders])
        evaluator = Evaluator(spec, rom, agent)
        active = list(range(len(lanes)))

        def leaving() -> str | None:
            if report is not None and active and clock.report_due():  # an evaluation can take long
                report([lanes[i] for i in active], clock.rate(active))
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
            played: list[Played] | None = []
            if spec.schedule.evaluation or spec.schedule.evaluation_phase:
                played = evaluator.evaluate(lane.learner.params, lane.seed, len(lane.rows), leaving)
            if played is None:
                return
            lane.finish_iteration(played)
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
                left = LeftBySignalError if signals.caught else LeftEarlyError
                raise left(f"saved and left because {reason}; run it again to go on")
        _raise_first(diverged)


def _pack(
    spec: TrainSpec,
    rom: str,
    lanes: Sequence[BaseLane],
    agent: ValueAgent,
    datasets: Mapping[int, Path],
    frames_folder: Path | None,
) -> Pack | OfflinePack:
    if spec.hyper.offline:
        offline = [lane for lane in lanes if isinstance(lane, OfflineLane)]
        return OfflinePack.create(spec, offline, agent, datasets, frames_folder)
    return Pack.create(spec, rom, [lane for lane in lanes if isinstance(lane, Lane)], agent)


def _lanes_to_train(
    spec: TrainSpec,
    runs: dict[int, RunFolders],
    iterations: int,
    agent: ValueAgent,
    diverged: list[DivergedError],
) -> tuple[list[RunFolders], list[BaseLane]]:
    """Find the lanes that there is work for; publishes finished ones, and adds to `diverged` known ones."""
    folders: list[RunFolders] = []
    lanes: list[BaseLane] = []
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


@contextmanager
def _attempt(
    folders: Sequence[RunFolders], lanes: Sequence[BaseLane], iterations: int, options: Options
) -> Iterator[None]:
    """An attempt with a deadline, on record unless a signal ends it. Raises NoProgressError."""
    if options.deadline_seconds is None:
        yield
        return
    for folder, lane in zip(folders, lanes, strict=True):
        target = iterations * lane.progress_per_iteration
        begin_attempt(folder.state, lane.name(), lane.progress, target, lane.unit, options.deadline_seconds)
    try:
        yield
    except LeftBySignalError:
        for folder in folders:
            forget_attempt(folder.state)
        raise


def _raise_first(diverged: Sequence[DivergedError]) -> None:
    """Raise the error of the first run that diverged, if one did; the log names all of them."""
    if diverged:
        raise diverged[0]


class _Clock:
    """When to save, to report and to leave, and how long lanes have trained."""

    def __init__(
        self, started: float, options: Options, lanes: Sequence[BaseLane], before: list[float]
    ) -> None:
        self._options, self._lanes, self._before = options, lanes, before
        self._deadline = started + options.deadline_seconds if options.deadline_seconds is not None else None
        self._start = self._saved = self._reported = time.monotonic()
        self._first = [lane.progress for lane in lanes]

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

    def rate(self, active: Sequence[int]) -> float:
        """Progress per second of some lanes together, since this process began to train them."""
        done = sum(self._lanes[i].progress - self._first[i] for i in active)
        return done / (time.monotonic() - self._start)


class _Waiting:
    """Waits for the process that holds a run, as long as there is time."""

    def __init__(self, started: float, options: Options) -> None:
        self._deadline = started + options.deadline_seconds if options.deadline_seconds is not None else None
        self._said = -60.0

    def __call__(self, held: str) -> None:
        now = time.monotonic()
        if self._deadline is not None and now >= self._deadline:
            raise LeftEarlyError(f"left because its deadline is near: {held}; run it again to go on")
        if now - self._said >= 60.0:
            log.info("waiting: %s", held)
            self._said = now
        time.sleep(1.0)


class _Signals:
    """Turns SIGTERM and SIGUSR1 into a flag that the loop looks at between two rounds."""

    def __init__(self) -> None:
        self.caught: str | None = None
        self.at_once = True
        """Nothing has been trained yet: there is nothing to save, and replaying can take minutes."""

    def __enter__(self) -> _Signals:
        self._old = {s: signal.signal(s, self._catch) for s in (signal.SIGTERM, signal.SIGUSR1)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _catch(self, number: int, _: FrameType | None) -> None:
        self.caught = f"of {signal.Signals(number).name}"
        if self.at_once:
            raise LeftBySignalError(
                f"left because {self.caught} before training began; run it again to go on"
            )
