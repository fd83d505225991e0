"""Evaluation: whole games under the greedy policy of an iteration's parameters (Atari-100k; method 4.7).

No noise, hardly any exploration, nothing learnt or stored; a random Φ (B9) is one fixed draw. The
agent sees a game as it does in training, so a lost life restarts the frame stack where it does so
there; returns are of the whole game, unclipped.

An evaluation is a function of parameters, run seed and iteration. Nothing of it is saved before it is
over: one that is interrupted is played again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

import jax
import numpy as np
import numpy.typing as npt

from moerl.agents.value import Params, ValueAgent
from moerl.atari.lanes import FRAME_SHAPE, AtariLanes, Frame
from moerl.study.specs import STACK_SIZE, Evaluation, EvaluationPhase, TrainSpec
from moerl.training.rng import Purpose, stream

LANES = 32
"""Games side by side: a lane whose game is over takes the next one.

Part of what is computed: how many states a network sees at once can change the rounding of its sums.
"""

STEPS_OF_A_GAME = 1000
"""Agent steps: games are rarely much shorter."""


def evaluation_seed(run_seed: int, iteration: int) -> int:
    """The run seed that an evaluation's games are seeded from; they count as its episodes from 0."""
    return int(stream(run_seed, Purpose.EVALUATION, iteration).integers(2**63))


@dataclass(frozen=True)
class Played:
    """A game of an evaluation."""

    score: float
    """Undiscounted return, unclipped."""
    actions: tuple[int, ...]
    """The action of every agent step."""


@dataclass
class _Game:
    """A game in play; `stack` `[4, 84, 84]` is what the agent sees of it."""

    episode: int
    rng: np.random.Generator
    stack: npt.NDArray[np.uint8]
    score: float = 0.0
    actions: list[int] = field(default_factory=list)

    def show(self, frame: Frame, afresh: bool) -> None:
        """Push a frame, onto zeros if the agent sees it as the start of an episode."""
        self.stack[:-1] = 0 if afresh else self.stack[1:]
        self.stack[-1] = frame


class Evaluator:
    """Plays the evaluations of the runs of one spec."""

    def __init__(self, spec: TrainSpec, rom: str, agent: ValueAgent) -> None:
        self._spec, self._rom = spec, rom
        self._greedy = jax.jit(lambda params, states: agent.greedy_action(params, states))

    def evaluate(
        self, params: Params, run_seed: int, iteration: int, interrupted: Callable[[], object]
    ) -> list[Played] | None:
        """The games of the evaluation, in their order; None if `interrupted` said yes.

        With an evaluation phase these are the fewest games, played one after the other, that take
        `agent_steps`: games are played side by side, and those beyond are not counted.

        Raises ValueError if the spec has no evaluation.
        """
        schedule = self._spec.schedule
        evaluation = schedule.evaluation_phase or schedule.evaluation
        if evaluation is None:
            raise ValueError("this spec has no evaluation")
        seed, hyper = evaluation_seed(run_seed, iteration), self._spec.hyper
        games = evaluation.episodes if isinstance(evaluation, Evaluation) else _likely_games(evaluation)
        lanes = min(LANES, games)
        noops = schedule.max_noops
        env = AtariLanes(self._rom, [seed] * lanes, hyper.sticky_actions, hyper.max_episode_steps, noops)
        try:
            return self._play(env, params, seed, evaluation, interrupted)
        finally:
            env.close()

    def _play(
        self,
        env: AtariLanes,
        params: Params,
        seed: int,
        evaluation: Evaluation | EvaluationPhase,
        interrupted: Callable[[], object],
    ) -> list[Played] | None:
        states = np.zeros((len(env), STACK_SIZE, *FRAME_SHAPE), dtype=np.uint8)
        actions = np.zeros(len(env), dtype=np.int32)
        played: dict[int, Played] = {}
        games: dict[int, _Game] = {}
        begun = 0
        idle = list(range(len(env)))
        while True:
            starting = {}
            for lane in idle:
                if not _another(evaluation, begun, played, games):
                    break
                rng = stream(seed, Purpose.EVALUATION_EXPLORE, begun)
                games[lane] = _Game(begun, rng, states[lane])
                starting[lane] = begun
                begun += 1
            if starting:
                for lane, frame in env.begin_episodes(starting).items():
                    games[lane].show(frame, afresh=True)
            if not games:
                return _counted(evaluation, [played[episode] for episode in range(begun)])
            if interrupted():
                return None
            best = np.asarray(self._greedy(params, states))
            playing = [lane for lane in games if not env.waiting(lane)]
            for lane in playing:
                actions[lane] = self._explore(games[lane].rng, evaluation.epsilon, int(best[lane]))
            step = env.step(actions)
            idle = []
            for lane in playing:
                game = games[lane]
                game.actions.append(int(actions[lane]))
                if self._observe(game, *step.of(lane)):
                    played[game.episode] = Played(game.score, tuple(game.actions))
                    del games[lane]
                    idle.append(lane)
            for lane, frame in step.first.items():
                games[lane].show(frame, afresh=True)

    def _explore(self, rng: np.random.Generator, epsilon: float, best: int) -> int:
        return int(rng.integers(self._spec.num_actions)) if rng.random() <= epsilon else best

    def _observe(self, game: _Game, reward: int, game_over: bool, life_lost: bool, frame: Frame) -> bool:
        """Account for a step; returns whether the game ended with it."""
        game.score += reward
        game.show(frame, afresh=life_lost and self._spec.hyper.terminal_on_life_loss)
        return game_over or len(game.actions) == self._spec.hyper.max_episode_steps


def _likely_games(phase: EvaluationPhase) -> int:
    """Games that a phase may have room for: more lanes than that would play games that do not count."""
    return max(1, phase.agent_steps // STEPS_OF_A_GAME)


def _another(
    evaluation: Evaluation | EvaluationPhase,
    begun: int,
    played: Mapping[int, Played],
    games: Mapping[int, _Game],
) -> bool:
    """Whether an evaluation needs another game, `begun` of them being over or in play."""
    if isinstance(evaluation, Evaluation):
        return begun < evaluation.episodes
    steps = sum(len(game.actions) for game in played.values())
    return steps + sum(len(game.actions) for game in games.values()) < evaluation.agent_steps


def _counted(evaluation: Evaluation | EvaluationPhase, games: list[Played]) -> list[Played]:
    """The games that an evaluation counts."""
    if isinstance(evaluation, Evaluation):
        return games
    steps = list(accumulate(len(game.actions) for game in games))
    return games[: bisect_left(steps, evaluation.agent_steps) + 1]
