"""What one benchmark cell trains and for how long: one JSON object that both sides read.

Plain data and the standard library only, because the oracle's environment imports it too.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from typing import Any

# Table 2 (config/agents.yaml) with a replay that fits a benchmark. DQN's ε falls to its floor at once, so
# that nearly every action comes from the network, as all of Rainbow's do.
DQN: dict[str, Any] = {
    "learning_rate": 6.25e-5,
    "adam_eps": 1.5e-4,
    "gamma": 0.99,
    "n_step": 1,
    "batch_size": 32,
    "replay_capacity": 20_000,
    "min_replay_history": 500,
    "update_period": 4,
    "updates_per_period": 1,
    "target_update_period": 8_000,
    "epsilon_train": 0.01,
    "epsilon_decay_period": 1,
    "loss": "mse",
    "sticky_actions": 0.25,
    "max_episode_steps": 27_000,
}
RAINBOW = DQN | {
    "n_step": 3,
    "epsilon_train": 0.0,
    "epsilon_decay_period": None,
    "noisy": True,
    "dueling": True,
    "double": True,
    "num_atoms": 51,
    "v_max": 10.0,
    "loss": "c51",
    "replay": "prioritised",
    # The oracle takes up to 0.3 s per step: cut the games, so that iterations may be short.
    "max_episode_steps": 300,
}
HYPER = {"dqn": DQN, "rainbow": RAINBOW}


@dataclass(frozen=True)
class Cell:
    """One timed training run: Nature CNN, one seed, one environment."""

    agent: str
    """`dqn` or `rainbow`."""
    module: str
    """`baseline` or `softmoe`."""
    num_experts: int
    game: str
    num_actions: int
    seed: int
    iteration_steps: int
    """Agent steps after which an iteration ends with its episode."""
    iterations: int
    """The first one, which compiles everything, is not timed."""

    @property
    def hyper(self) -> dict[str, Any]:
        """The agent's hyper-parameters, named as in config/agents.yaml."""
        return HYPER[self.agent]

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Cell:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Mark:
    """Where a run was at the end of an iteration."""

    agent_steps: int
    gradient_steps: int
    seconds: float


def report(side: str, marks: list[Mark], mean_return: float, versions: dict[str, str]) -> None:
    """Print the measurement as one JSON line: rates between the first and the last mark."""
    first, last = marks[0], marks[-1]
    steps, seconds = last.agent_steps - first.agent_steps, last.seconds - first.seconds
    result = {
        "side": side,
        "agent_steps_per_second": steps / seconds,
        "timed_agent_steps": steps,
        "timed_gradient_steps": last.gradient_steps - first.gradient_steps,
        "timed_seconds": seconds,
        "warm_up_agent_steps": first.agent_steps,
        "mean_return_of_last_iteration": mean_return,
        "cores": len(os.sched_getaffinity(0)),
        "versions": {"python": platform.python_version()} | versions,
    }
    print(json.dumps(result), flush=True)
