"""Inputs of the parity check of the MoE modules by themselves, for both sides; needs NumPy only.

Small arrays, compared whole. As in oracle_inputs, parameters go by the project's names.
"""

from __future__ import annotations

import numpy as np
import oracle_inputs

BATCH_SIZE = 3
TOKENS = 11
WIDTH = 6
HIDDEN = 5
EXPERT_KEY, ROUTER_KEY, BALANCE_KEY = 17, 18, 19
"""Seeds of the keys that the states' own keys are split from, and of the load loss's noise."""
SCALAR = 1.7
"""Of the normalised variant."""

CASES = {
    "softmoe": {"module": "softmoe"},
    "softmoe-one-expert": {"module": "softmoe", "num_experts": 1},
    "softmoe-one-token": {"module": "softmoe", "tokens": 1},
    "softmoe-capacity": {"module": "softmoe", "capacity_factor": 2.5},
    "softmoe-noisy": {"module": "softmoe", "noisy": True},
    "softmoe-normalised": {"module": "softmoe", "normalised": True},
    "softmoe-normalised-zeros": {"module": "softmoe", "normalised": True, "zeros": True},
    "softmoe-random": {"module": "softmoe", "random": True},
    "softmoe-random-normalised": {"module": "softmoe", "random": True, "normalised": True},
    "softmoe-zeros": {"module": "softmoe", "zeros": True},
    "top1": {"module": "top1"},
    "top1-one-expert": {"module": "top1", "num_experts": 1},
    "top1-one-token": {"module": "top1", "tokens": 1},
    "top1-capacity": {"module": "top1", "capacity_factor": 0.5},
    "top1-noisy": {"module": "top1", "noisy": True},
    "top1-router-noise": {"module": "top1", "router_noise": 1.0},
    "top1-ties": {"module": "top1", "ties": True},
    "top1-zeros": {"module": "top1", "zeros": True},
}
"""Modules that are compared. `zeros`: some tokens are all zero, so that all experts tie for them;
`ties`: so do experts 1 and 2 for every token."""
DEFAULTS = {
    "num_experts": 4,
    "tokens": TOKENS,
    "capacity_factor": 1.0,
    "router_noise": 0.0,
    "noisy": False,
    "normalised": False,
    "random": False,
    "zeros": False,
    "ties": False,
}


def options(case: str) -> dict:
    """All options of a case."""
    return DEFAULTS | CASES[case]


def tokens(case: str) -> np.ndarray:
    """Tokens `[B, M, D]` of a case."""
    chosen = options(case)
    shape = (BATCH_SIZE, chosen["tokens"], WIDTH)
    found = oracle_inputs.generator(f"tokens {shape}").standard_normal(shape, np.float32)
    if chosen["zeros"]:
        found[:, 1::3] = 0.0
    return found


def cotangent(case: str) -> np.ndarray:
    """What the outputs are multiplied with before they are summed and differentiated, `[B, M, D]`."""
    return oracle_inputs.generator("cotangent").standard_normal(tokens(case).shape, np.float32)


def parameter(case: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Value of the parameter `name`, float32."""
    if name == "scalar":
        return np.full(shape, SCALAR, np.float32)
    values = oracle_inputs.generator(f"moe {name} {shape}").standard_normal(shape, np.float32)
    if name == "router/kernel" and options(case)["ties"]:
        values[:, 2] = values[:, 1]
    return np.float32(0.5) * values


def balance_logits() -> np.ndarray:
    """Router logits `[B, M, E]` of which the load-balancing losses are compared."""
    shape = (BATCH_SIZE, TOKENS, DEFAULTS["num_experts"])
    return oracle_inputs.generator("balance logits").standard_normal(shape, np.float32)
