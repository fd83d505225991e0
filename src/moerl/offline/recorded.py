"""A finished run as a dataset: its action log, replayed (moerl.atari.regenerate), gives every transition.

Episodes are seeded each by itself, so a subset needs its own episodes replayed and no others.
"""

from __future__ import annotations

import hashlib
import heapq
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
from ale_py.roms import get_all_rom_ids
from pydantic import BaseModel

from moerl.atari.action_log import ActionLog
from moerl.atari.lanes import AtariLanes, Frame
from moerl.atari.regenerate import LoggedEpisode, regenerate
from moerl.offline.episodes import PADDING, Episode
from moerl.offline.source import DatasetError, Place
from moerl.replay.ring import FrameRing
from moerl.study.errors import one_line
from moerl.study.games import Game
from moerl.study.json_file import RunManifest, parse_json
from moerl.study.long_step import long_step
from moerl.study.specs import NonNegativeInt, TrainSpec
from moerl.training.statefile import StateError, load, read_meta

MANIFEST, ACTIONS, RESUME = "manifest.json", "actions.safetensors", "resume.safetensors"
_TOGETHER = 4
"""Episodes replayed in every lane between two looks at the progress."""


@dataclass(frozen=True)
class Stretch:
    """Part of an episode of the run: transitions [start, stop) of the run, which go to `at`."""

    episode: int
    start: int
    stop: int
    at: int


Emit = Callable[[int, int, Frame | int, int, int, bool], None]
"""Called with (lane, where it goes, frame or 0, action, unclipped reward, terminal) for each transition."""


class Iteration(BaseModel):
    """What a run's returns are compared with (moerl.training.progress)."""

    iteration: NonNegativeInt
    episodes: NonNegativeInt
    mean_return: float | None


@dataclass(frozen=True)
class RecordedRun:
    """A finished run whose episodes are whole games, cut into checkpoints."""

    folder: Path
    spec: TrainSpec
    seed: int
    log: ActionLog
    rows: tuple[Iteration, ...]
    ale_py: str
    per_checkpoint: int
    """Transitions of a checkpoint; the last has what is left."""

    @classmethod
    def open(cls, folder: Path, per_checkpoint: int) -> RecordedRun:
        """Read a run's log and what is known of it.

        Raises DatasetError if it is not finished, damaged, recorded with another ale-py (which brings the
        ROMs and checks them), or of an agent to which a lost life ends an episode.
        """
        manifest = _manifest(folder / MANIFEST)
        actions = folder / ACTIONS
        if not actions.is_file() or not (folder / RESUME).is_file():
            raise DatasetError(
                f"{folder}: has no {ACTIONS} with its {RESUME}, from which a dataset is made; runs that came "
                "from an archive (`moerl import`) have none"
            )
        try:
            tensors, said = load(actions)
            facts = _LogFacts.model_validate(said)
            resume = _Resume.model_validate(read_meta(folder / RESUME))
            log, spec = ActionLog.from_tensors(tensors), facts.spec
            log.check_actions(spec.num_actions)
            run = cls(folder, spec, facts.seed, log, resume.rows, facts.ale_py, per_checkpoint)
            if not spec.hyper.offline and sum(r.episodes for r in resume.rows) > len(log.episode_lengths):
                raise ValueError("it has fewer episodes than the iterations of the run")
            rom = Game(spec.game, spec.num_actions, None, None, ()).rom
            if rom not in get_all_rom_ids():
                raise ValueError(f"{spec.game!r} is no game")
        except (StateError, ValueError) as error:
            raise DatasetError(
                f"{actions}: not a usable action log ({one_line(error)}); train the run again"
            ) from error
        if spec.hyper.offline:
            raise DatasetError(
                f"{folder}: its agent, {spec.agent}, learnt from a dataset and played evaluation games only; "
                "datasets are made of runs of online agents (dqn, rainbow)"
            )
        with actions.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != (manifest.sha256 or {}).get(ACTIONS) or run.seed != manifest.seed:
            raise DatasetError(f"{actions}: is not the log that {MANIFEST} names; train the run again")
        if len(run) and resume.add_count != run.length:
            raise DatasetError(
                f"{folder / RESUME}: counts {resume.add_count} transitions, the action log {run.length}; "
                "they are not of the same run"
            )
        if spec.hyper.terminal_on_life_loss:
            raise DatasetError(
                f"{folder}: to its agent, {spec.agent}, a lost life ends an episode; datasets are made of "
                "runs whose episodes are whole games (dqn, rainbow)"
            )
        if (installed := version("ale-py")) != run.ale_py:
            raise DatasetError(
                f"{actions}: was recorded with ale-py {run.ale_py} and its ROMs, here is {installed}, which "
                f"may play differently; install ale-py=={run.ale_py}"
            )
        if not run.length:
            raise DatasetError(f"{actions}: has no actions; train the run further")
        return run

    @cached_property
    def bounds(self) -> list[int]:
        """First transition of every episode, and the end of the last; the last may be unfinished."""
        lengths = [*self.log.episode_lengths, *([len(self.log.running)] if self.log.running else [])]
        return list(accumulate((PADDING + steps for steps in lengths), initial=0))

    @property
    def length(self) -> int:
        """Transitions of the run, padding included."""
        return self.bounds[-1]

    def __len__(self) -> int:
        return -(-self.length // self.per_checkpoint)

    def checkpoint_length(self, checkpoint: int) -> int:
        """Transitions of one checkpoint."""
        return min(self.per_checkpoint, self.length - checkpoint * self.per_checkpoint)

    def stretches(self) -> list[list[Stretch]]:
        """The episodes of every checkpoint; they go to where they are in it."""
        cut: list[list[Stretch]] = [[] for _ in range(len(self))]
        for episode, (start, stop) in enumerate(pairwise(self.bounds)):
            while start < stop:
                checkpoint, at = divmod(start, self.per_checkpoint)
                end = min(stop, (checkpoint + 1) * self.per_checkpoint)
                cut[checkpoint].append(Stretch(episode, start, end, at))
                start = end
        return cut

    def episodes(self) -> list[list[Episode]]:
        """See `Source`. From the log alone."""

        def local(stretch: Stretch) -> Episode:
            stop = stretch.at + stretch.stop - stretch.start
            return Episode(stretch.at, stop, min(stretch.at + PADDING, stop))

        return [[local(stretch) for stretch in stretches] for stretches in self.stretches()]

    def fill(self, ring: FrameRing, places: Sequence[Sequence[Place]]) -> None:
        """See `Source`. Replays the chosen episodes in as many lanes as there are cores."""

        def emit(_: int, at: int, frame: Frame | int, action: int, reward: int, terminal: bool) -> None:
            ring.frames[at] = frame
            ring.actions[at] = action
            ring.rewards[at] = np.clip(reward, -1, 1)
            ring.terminals[at] = terminal

        wanted = []
        for checkpoint, there in enumerate(places):
            for place in there:
                start = checkpoint * self.per_checkpoint + place.episode.start
                episode = bisect_right(self.bounds, start) - 1
                wanted.append(Stretch(episode, start, start + len(place.episode), place.at))
        self.replay(_share(wanted, len(os.sched_getaffinity(0))), emit)

    def replay(self, queues: Sequence[Sequence[Stretch]], emit: Emit) -> None:
        """Replay `queues[lane]` in order, all lanes side by side; `emit` gets a lane's transitions in order.

        Raises DatasetError if a game does not end where the log says. If all episodes of an iteration were
        replayed to their ends, their mean return is compared with the one on record, too.
        """
        hyper = self.spec.hyper
        lanes = AtariLanes(
            Game(self.spec.game, self.spec.num_actions, None, None, ()).rom,
            [self.seed] * len(queues),
            hyper.sticky_actions,
            hyper.max_episode_steps,
            self.spec.schedule.max_noops,
        )
        if lanes.num_actions != self.spec.num_actions:
            raise self.differs(f"{lanes.num_actions} actions to choose from, not {self.spec.num_actions}")
        following = _Following(self, emit, [iter(queue) for queue in queues])
        rounds = range(0, max(map(len, queues), default=0), _TOGETHER)
        try:
            for first in long_step(rounds, f"rounds of episodes of {self.spec.game} replayed"):
                due = [queue[first : first + _TOGETHER] for queue in queues]
                logged = [[self._logged(stretch) for stretch in queue] for queue in due]
                regenerate(lanes, logged, following.begin, following.observe)
        finally:
            lanes.close()
        self._check_returns(following.returns)

    def verify(self) -> None:
        """Replay everything: every game's end and every iteration's mean return. Raises DatasetError."""
        whole = [Stretch(i, start, stop, start) for i, (start, stop) in enumerate(pairwise(self.bounds))]
        self.replay(_share(whole, len(os.sched_getaffinity(0))), lambda *_: None)

    def _logged(self, stretch: Stretch) -> LoggedEpisode:
        """The actions to replay: none after the last transition that is wanted, but one at least."""
        first = self.bounds[stretch.episode] - PADDING * stretch.episode  # in agent steps
        steps = max(stretch.stop - self.bounds[stretch.episode] - PADDING, 1)
        return LoggedEpisode(stretch.episode, bytes(self.log.actions[first : first + steps]))

    def _check_returns(self, returns: dict[int, int]) -> None:
        ends = list(accumulate((row.episodes for row in self.rows), initial=0))
        for row, (first, last) in zip(self.rows, pairwise(ends), strict=True):
            if first == last or any(episode not in returns for episode in range(first, last)):
                continue
            mean = float(np.mean([float(returns[episode]) for episode in range(first, last)]))
            if mean != row.mean_return:
                raise self.differs(
                    f"a mean return of {mean} in iteration {row.iteration} instead of {row.mean_return}"
                )

    def differs(self, what: str) -> DatasetError:
        """Says that replaying gave something else than the run."""
        return DatasetError(
            f"{self.folder / ACTIONS}: replaying it gave {what}; was it recorded with another ROM?"
        )


@dataclass
class _Following:
    """Turns the frames of replayed lanes into transitions."""

    run: RecordedRun
    emit: Emit
    queues: list[Iterator[Stretch]]
    returns: dict[int, int] = field(default_factory=dict)
    """Unclipped return of every episode that was replayed to its end."""

    def __post_init__(self) -> None:
        lanes = len(self.queues)
        self._now: list[Stretch] = [Stretch(0, 0, 0, 0)] * lanes
        self._next, self._return = [0] * lanes, [0] * lanes
        self._frame: list[Frame] = [np.zeros(0, np.uint8)] * lanes

    def begin(self, lane: int, frame: Frame) -> None:
        stretch = next(self.queues[lane])
        self._now[lane], self._return[lane] = stretch, 0
        self._next[lane] = self.run.bounds[stretch.episode]
        for _ in range(PADDING):
            self._add(lane, 0, 0, 0, False)
        self._frame[lane] = frame

    def observe(self, lane: int, action: int, reward: int, game_over: bool, _: bool, frame: Frame) -> None:
        self._return[lane] += reward
        self._add(lane, self._frame[lane], action, reward, game_over)
        self._frame[lane] = frame.copy()
        episode = self._now[lane].episode
        finished = self._next[lane] == self.run.bounds[episode + 1] and episode < len(
            self.run.log.episode_lengths
        )
        steps = self._next[lane] - self.run.bounds[episode] - PADDING
        if finished:
            self.returns[episode] = self._return[lane]
        if game_over != finished and not (finished and steps == self.run.spec.hyper.max_episode_steps):
            how = "ends" if game_over else "goes on"
            raise self.run.differs(f"a game that {how} after step {steps} of episode {episode}")

    def _add(self, lane: int, frame: Frame | int, action: int, reward: int, terminal: bool) -> None:
        stretch, transition = self._now[lane], self._next[lane]
        self._next[lane] += 1
        if stretch.start <= transition < stretch.stop:
            at = stretch.at + transition - stretch.start
            self.emit(lane, at, frame, action, reward, terminal)


def _share(stretches: Sequence[Stretch], lanes: int) -> list[list[Stretch]]:
    """Share out work: the longest first, each to the lane that has least."""
    loads = [(0, lane) for lane in range(lanes)]
    queues: list[list[Stretch]] = [[] for _ in range(lanes)]
    for stretch in sorted(stretches, key=lambda s: s.start - s.stop):
        load, lane = heapq.heappop(loads)
        queues[lane].append(stretch)
        heapq.heappush(loads, (load + stretch.stop - stretch.start, lane))
    return [queue for queue in queues if queue]


class _LogFacts(BaseModel):
    """What stands beside an action log."""

    spec: TrainSpec
    seed: NonNegativeInt
    ale_py: str


class _Resume(BaseModel):
    """What a dataset needs of a resume file's metadata."""

    add_count: NonNegativeInt = 0
    """Of offline runs there is none."""
    rows: tuple[Iteration, ...]


def _manifest(path: Path) -> RunManifest:
    try:
        manifest = parse_json(RunManifest, path.read_bytes())
        if manifest.sha256 is None or manifest.seed is None:
            raise ValueError("lacks checksums or the seed")
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: is missing: the run is not finished; train it to a milestone") from error
    except (OSError, ValueError) as error:
        said = one_line(error)
        raise DatasetError(f"{path}: not the manifest of a run ({said}); train it again") from error
    return manifest
