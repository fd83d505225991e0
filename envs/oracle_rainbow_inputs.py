"""Inputs of the parity check of Rainbow, DER and DrQ(eps), for both sides; needs NumPy only.

As in oracle_inputs, tensors go by the project's names and depend on name and shape alone.
"""

from __future__ import annotations

import math

import numpy as np
import oracle_inputs

NUM_ACTIONS = 6
BATCH_SIZE = 4
GAMMA = 0.99
KEY = 17
"""Seed of the JAX key that the update consumes."""
AGENTS = {
    "rainbow": {"learning_rate": 6.25e-5, "n_step": 3, "num_atoms": 51, "noisy": True},
    "der": {"learning_rate": 1e-4, "n_step": 10, "num_atoms": 51, "noisy": True},
    "drq_eps": {"learning_rate": 1e-4, "n_step": 10, "num_atoms": 1, "noisy": False},
}
ADAM_EPS = 1.5e-4
RUNS = (
    *(
        (agent, f"{encoder}-{module}")
        for agent in ("rainbow", "der")
        for encoder in ("cnn", "impala")
        for module in ("baseline", "softmoe8", "top1-8")
    ),
    ("rainbow", "cnn-softmoe8-randphi"),
    ("rainbow", "cnn-top1-8-balanced"),
    ("rainbow", "cnn-softmoe8-persamp"),
    ("rainbow", "cnn-top1-8-perfeat"),
    ("drq_eps", "cnn-baseline"),
    ("drq_eps", "impala-softmoe8"),
)
"""Compared agents and variants of config/networks.yaml."""
BATCH_SEEDS = {
    "der-impala-baseline": 33,
    "der-impala-softmoe8": 9,
    "der-impala-top1-8": 1,
    "drq_eps-cnn-baseline": 2,
    "drq_eps-impala-softmoe8": 10,
    "rainbow-impala-baseline": 16,
    "rainbow-impala-softmoe8": 25,
}
"""Seeds of the batches, by `<agent>-<variant>`; 0 where none is named.

A gradient jumps where a ReLU, max-pool or router decides on a difference smaller than rounding. Each is
the first seed at which the project's own gradients stay within 1.2e-5 when every parameter is changed by
5e-7 of itself at random, ten times (thirty for rainbow-impala-softmoe8, where ten overlooked a decision that
made seed 19 disagree in one channel).
"""


def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Value of the parameter `name`, float32; noise about as strong as the mean weights."""
    leaf = name.rsplit("/", 1)[1]
    if not leaf.endswith(("_mu", "_sigma")):
        return oracle_inputs.parameter(name, shape)
    values = oracle_inputs.generator(f"{name} {shape}").standard_normal(shape, np.float32)
    if leaf.startswith("bias"):
        return np.float32(0.1) * values
    return np.float32(0.7 / math.sqrt(shape[-2])) * values


def batch(agent: str, case: str) -> dict[str, np.ndarray]:
    """One batch of transitions; states are `[B, 4, 84, 84]` uint8, oldest frame first."""
    rng = oracle_inputs.generator(f"batch {agent} {case} {BATCH_SEEDS.get(f'{agent}-{case}', 0)}")
    weight = rng.uniform(0.1, 1, BATCH_SIZE).astype(np.float32)
    return {
        "state": oracle_inputs.random_states(rng),
        "action": rng.integers(0, NUM_ACTIONS, BATCH_SIZE, dtype=np.int32),
        "reward": rng.normal(0, 2, BATCH_SIZE).astype(np.float32),
        "next_state": oracle_inputs.random_states(rng),
        "terminal": np.arange(BATCH_SIZE) == 1,
        "weight": weight / weight.max(),
    }


def oracle_name(name: str, case: str) -> str:
    """The oracle's name of the parameter `name` (both `/`-joined) in the network of `case`."""
    first = int("baseline" in case)
    noisy = name.endswith(("_mu", "_sigma"))
    dense = "NoisyNetwork" if noisy else "Dense"
    match name.split("/"):
        case ["encoder", conv, leaf]:
            return f"params/encoder/Conv_{conv.removeprefix('conv')}/{leaf}"
        case ["hidden", leaf]:
            return f"params/{dense}_0/{leaf}"
        case ["head", layer, leaf]:
            return f"params/{dense}_{first + ['advantage', 'value'].index(layer)}/{leaf}"
    return oracle_inputs.oracle_name(name, case)


def parameter_names(agent: str, case: str) -> list[str]:
    """Sorted names of all parameters of the agent's network of `case`."""
    plain = [name for name in oracle_inputs.parameter_names(case) if not name.startswith("head/")]
    plain += [f"head/{layer}/{leaf}" for layer in ("advantage", "value") for leaf in ("kernel", "bias")]
    if not AGENTS[agent]["noisy"]:
        return sorted(plain)
    names = []
    for name in plain:
        if name.startswith(("head/", "hidden/", "moe/experts/hidden/")):
            names += [f"{name}_mu", f"{name}_sigma"]
        else:
            names.append(name)
    return sorted(names)
