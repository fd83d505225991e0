"""Time the paper-era code (dopamine-rl 4.0.9) on one cell. Runs in the oracle's environment only.

Called by bench_train.py with the cell as its one argument; prints one JSON line. Logging of MoE and
dormancy statistics is off, and no summary writer or checkpointer runs: only acting, stepping,
storing and learning are timed, which favours this side.
"""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from typing import Any, ClassVar

import ale_py
import gin
import gymnasium
import jax
import numpy as np
from absl import logging
from dopamine.discrete_domains.atari_lib import AtariPreprocessing
from dopamine.labs.moes.agents.dqn_moe_agent import DQNMoEAgent
from dopamine.labs.moes.agents.full_rainbow_moe_agent import JaxFullRainbowMoEAgent
from dopamine.labs.moes.architectures import networks
from settings import Cell, Mark, report


class GymApi:
    """The gym interface Dopamine expects, around a bare gymnasium Atari environment."""

    reward_range = (-float("inf"), float("inf"))
    metadata: ClassVar[dict[str, Any]] = {}

    def __init__(self, environment: gymnasium.Env, seed: int) -> None:
        self._environment, self._seed = environment, seed
        self.ale = environment.ale
        self.observation_space = environment.observation_space
        self.action_space = environment.action_space

    def reset(self) -> np.ndarray:
        observation, _ = self._environment.reset(seed=self._seed)
        self._seed = None  # only the first episode is seeded; the game's stream goes on from it
        return observation

    def step(self, action: int) -> tuple[np.ndarray, float, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self._environment.step(action)
        return observation, reward, terminated or truncated, info


def make_environment(cell: Cell) -> AtariPreprocessing:
    gymnasium.register_envs(ale_py)
    hyper = cell.hyper
    made = gymnasium.make(
        f"ALE/{cell.game}-v5",
        frameskip=1,
        repeat_action_probability=hyper["sticky_actions"],
        obs_type="grayscale",
        max_num_frames_per_episode=4 * hyper["max_episode_steps"],
    )
    return AtariPreprocessing(GymApi(made.unwrapped, cell.seed))


Agent = DQNMoEAgent | JaxFullRainbowMoEAgent


def make_agent(cell: Cell, num_actions: int) -> Agent:
    hyper = cell.hyper
    same_name = ("gamma", "min_replay_history", "update_period", "target_update_period", "epsilon_train")
    bindings = {f"JaxDQNAgent.{name}": hyper[name] for name in same_name}
    bindings |= {
        "JaxDQNAgent.update_horizon": hyper["n_step"],
        "JaxDQNAgent.optimizer": "adam",
        "JaxDQNAgent.seed": cell.seed,
        "create_optimizer.learning_rate": hyper["learning_rate"],
        "create_optimizer.eps": hyper["adam_eps"],
    }
    for name, value in (bindings | (dqn if cell.agent == "dqn" else rainbow)(cell)).items():
        gin.bind_parameter(name, value)
    return (DQNMoEAgent if cell.agent == "dqn" else JaxFullRainbowMoEAgent)(num_actions=num_actions)


def dqn(cell: Cell) -> dict[str, Any]:
    """What only DQN is told."""
    hyper = cell.hyper
    return {
        "JaxDQNAgent.network": networks.NatureDQNMoE,
        "JaxDQNAgent.loss_type": hyper["loss"],
        "JaxDQNAgent.epsilon_decay_period": hyper["epsilon_decay_period"],
        "OutOfGraphReplayBuffer.replay_capacity": hyper["replay_capacity"],
        "OutOfGraphReplayBuffer.batch_size": hyper["batch_size"],
        "NatureDQNMoE.moe_type": cell.module.upper(),
        "NatureDQNMoE.num_experts": cell.num_experts,
        "DQNMoEAgent.num_updates_per_train_step": hyper["updates_per_period"],
        "DQNMoEAgent.log_moe_statistics": False,
        "DQNMoEAgent.log_dormant_statistics": False,
    }


def rainbow(cell: Cell) -> dict[str, Any]:
    """What only Rainbow is told; a noisy agent ignores ε."""
    hyper = cell.hyper
    return {
        "JaxFullRainbowAgent.network": networks.FullRainbowMoENetwork,
        "JaxFullRainbowAgent.noisy": hyper["noisy"],
        "JaxFullRainbowAgent.dueling": hyper["dueling"],
        "JaxFullRainbowAgent.double_dqn": hyper["double"],
        "JaxFullRainbowAgent.num_atoms": hyper["num_atoms"],
        "JaxFullRainbowAgent.vmax": hyper["v_max"],
        "JaxFullRainbowAgent.replay_scheme": "prioritized",
        "JaxFullRainbowAgent.num_updates_per_train_step": hyper["updates_per_period"],
        "OutOfGraphPrioritizedReplayBuffer.replay_capacity": hyper["replay_capacity"],
        "OutOfGraphPrioritizedReplayBuffer.batch_size": hyper["batch_size"],
        "FullRainbowMoENetwork.encoder_type": "CNN",
        "FullRainbowMoENetwork.moe_type": cell.module.upper(),
        "FullRainbowMoENetwork.num_experts": cell.num_experts,
        "FullRainbowMoENetwork.nn_scale": 1,
    }


def run_episode(agent: Agent, environment: AtariPreprocessing, cap: int) -> tuple[int, float]:
    """Play and learn for one episode; returns its agent steps and its unclipped return."""
    action = agent.begin_episode(environment.reset())
    steps, total = 0, 0.0
    while True:
        observation, reward, game_over, _ = environment.step(action)
        steps += 1
        total += reward
        clipped = float(np.clip(reward, -1, 1))
        if game_over or steps == cap:
            agent.end_episode(clipped, game_over)
            return steps, total
        action = agent.step(clipped, observation)


def main() -> None:
    logging.set_verbosity(logging.ERROR)
    cell = Cell.from_json(sys.argv[1])
    environment = make_environment(cell)
    num_actions = int(environment.action_space.n)
    if num_actions != cell.num_actions:
        raise SystemExit(f"{cell.game} has {num_actions} actions, not {cell.num_actions}")
    agent = make_agent(cell, num_actions)
    marks: list[Mark] = []
    agent_steps, started = 0, time.perf_counter()
    for _ in range(cell.iterations):
        begin, returns = agent_steps, []
        while agent_steps - begin < cell.iteration_steps:
            steps, total = run_episode(agent, environment, cell.hyper["max_episode_steps"])
            agent_steps += steps
            returns.append(total)
        jax.block_until_ready(agent.online_params)
        gradient_steps = int(agent.optimizer_state[0].count)
        marks.append(Mark(agent_steps, gradient_steps, time.perf_counter() - started))
    packages = ("dopamine-rl", "jax", "jaxlib", "flax", "tensorflow", "ale-py", "numpy")
    report("oracle", marks, float(np.mean(returns)), {name: version(name) for name in packages})


if __name__ == "__main__":
    main()
