"""The frame ring: replay memory that stores each 84×84 frame once and stacks at sample time.

Semantics are the legacy (paper-era) Dopamine buffer's (method 4.6): three all-zero padding
transitions before each episode, windows that cross an episode end or the write cursor never
sampled, n-step rewards cut at the first terminal. Checked against that buffer in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moerl.study.specs import STACK_SIZE

Indices = npt.NDArray[np.int64]

_MAX_DRAWS = 1000


class SamplingError(RuntimeError):
    """The replay memory cannot give a batch; one line that says why."""


@dataclass(frozen=True)
class Sample:
    """A batch of B transitions; stacks hold the oldest frame first."""

    state: npt.NDArray[np.uint8]
    """`[B, 4, 84, 84]`"""
    action: npt.NDArray[np.int32]
    """`[B]`"""
    reward: npt.NDArray[np.float32]
    """`[B]`, discounted n-step sum of clipped rewards."""
    next_state: npt.NDArray[np.uint8]
    """`[B, 4, 84, 84]`, n steps later; meaningless where `terminal`."""
    terminal: npt.NDArray[np.bool_]
    """`[B]`, whether the episode ended inside the n steps."""


class FrameRing:
    """A ring of transitions of one run. `capacity` counts padding transitions."""

    def __init__(
        self,
        capacity: int,
        n_step: int,
        gamma: float,
        frame_shape: tuple[int, int] = (84, 84),
        frames: npt.NDArray[np.uint8] | None = None,
    ) -> None:
        """An empty ring; `frames` `[capacity, *frame_shape]`, zeros, are where it keeps its frames."""
        if capacity < n_step + STACK_SIZE:
            raise ValueError(f"capacity {capacity} cannot hold a {n_step}-step window and a stack")
        self.capacity, self.n_step = capacity, n_step
        self.frames = np.zeros((capacity, *frame_shape), dtype=np.uint8) if frames is None else frames
        self.actions = np.zeros(capacity, dtype=np.uint8)
        self.rewards = np.zeros(capacity, dtype=np.float32)
        self.terminals = np.zeros(capacity, dtype=np.bool_)
        self._cut = np.zeros(capacity, dtype=np.bool_)  # the episode ends here without a terminal
        self.add_count = 0
        self._episode_start = True
        self._discounts = np.array([gamma**k for k in range(n_step)], dtype=np.float32)
        self._behind = np.arange(-STACK_SIZE + 1, 1)
        self._ahead = np.arange(n_step)

    def start_at(self, add_count: int) -> None:
        """Pretend that `add_count` transitions were added: the next one goes where it would have gone."""
        self.add_count = add_count

    def add(
        self, frame: npt.NDArray[np.uint8], action: int, reward: float, terminal: bool, end: bool
    ) -> None:
        """Add one transition; `end` marks the last one of an episode, cut or terminal.

        The first transition of an episode is preceded by three padding transitions of zeros.
        """
        if self._episode_start:
            for _ in range(STACK_SIZE - 1):
                self._write(0, 0, 0.0, False, False)
        self._episode_start = end or terminal
        self._write(frame, action, reward, terminal, end and not terminal)

    def _write(
        self, frame: npt.NDArray[np.uint8] | int, action: int, reward: float, terminal: bool, cut: bool
    ) -> None:
        i = self.add_count % self.capacity
        self.frames[i] = frame
        self.actions[i] = action
        self.rewards[i] = reward
        self.terminals[i] = terminal
        self._cut[i] = cut
        self.add_count += 1

    def valid(self, indices: Indices) -> npt.NDArray[np.bool_]:
        """Which slots may be sampled. `indices`: `[B]` in [0, capacity)."""
        cursor = self.add_count % self.capacity
        if self.add_count < self.capacity:
            ok = (indices >= STACK_SIZE - 1) & (indices < cursor - self.n_step)
        else:
            ok = np.ones(len(indices), dtype=np.bool_)
        # Neither the window nor the stack may straddle the cursor.
        ok &= (indices - (cursor - self.n_step)) % self.capacity >= self.n_step + STACK_SIZE
        earlier = (indices[:, None] + self._behind[:-1]) % self.capacity
        ok &= ~self.terminals[earlier].any(axis=1)
        window = (indices[:, None] + self._ahead) % self.capacity
        ok &= ~self._cut[window].any(axis=1)
        return ok

    def sample_indices(self, rng: np.random.Generator, batch_size: int) -> Indices:
        """Draw `batch_size` valid slots uniformly, with replacement, by rejection.

        Raises SamplingError if the ring holds too few transitions, or (almost) no valid one.
        """
        low = STACK_SIZE - 1 + max(self.add_count - self.capacity, 0)
        high = self.add_count - self.n_step
        if high <= low:
            raise SamplingError(
                f"replay holds {self.add_count} transitions: too few for a {self.n_step}-step window"
            )
        chosen: list[Indices] = []
        missing = batch_size
        for _ in range(_MAX_DRAWS):
            drawn = rng.integers(low, high, size=missing) % self.capacity
            accepted = drawn[self.valid(drawn)]
            chosen.append(accepted)
            missing -= len(accepted)
            if not missing:
                return np.concatenate(chosen)
        raise SamplingError(
            f"no valid transition among {_MAX_DRAWS} × {batch_size} drawn; episodes too short?"
        )

    def gather(self, indices: Indices) -> Sample:
        """The transitions at `indices` (`[B]`, valid slots)."""
        window = (indices[:, None] + self._ahead) % self.capacity
        ended = np.cumsum(self.terminals[window], axis=1)
        before_end = np.hstack((np.zeros((len(indices), 1), dtype=np.bool_), ended[:, :-1] > 0))
        rewards = np.where(before_end, np.float32(0), self.rewards[window])
        stack = indices[:, None] + self._behind
        return Sample(
            state=self.frames[stack % self.capacity],
            action=self.actions[indices].astype(np.int32),
            reward=(self._discounts * rewards).sum(axis=1, dtype=np.float32),
            next_state=self.frames[(stack + self.n_step) % self.capacity],
            terminal=ended[:, -1] > 0,
        )
