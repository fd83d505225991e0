"""Inputs and summaries shared by both sides of the network parity check; needs NumPy only.

The paper-era oracle (Dopamine 4.0.9 on an old JAX) and the project never share an environment, so
both sides make the same parameters and batches here, from NumPy's Philox generator and the tensors'
names and shapes, and reduce what they compute to the same summaries.

Tensors go by the project's names, e.g. `encoder/conv0/kernel`.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

NUM_ACTIONS = 6
BATCH_SIZE = 32
GAMMA = 0.99
LEARNING_RATE = 6.25e-5
ADAM_EPS = 1.5e-4
CASES = (
    *(
        f"{encoder}-{module}"
        for encoder in ("cnn", "impala")
        for module in ("baseline", "baseline-x8", "softmoe1", "softmoe8", "top1-1", "top1-8")
    ),
    "cnn-softmoe8-perfeat",
    "cnn-softmoe8-normalised",
    "cnn-softmoe8-randphi",
    "cnn-top1-8-persamp",
    "cnn-top1-8-balanced",
    "impala-softmoe8-persamp",
    "impala-top1-8-perfeat",
)
"""Variants of config/networks.yaml that are compared."""
RUNS = (*((case, "mse") for case in CASES), ("cnn-baseline", "huber"))
"""Compared variants and losses."""
EXPERT_UNITS = {"persamp": 32}
"""Hidden units of the experts where they are not 512: at full width PerSamp has 64M parameters."""
STATES = 4
BATCH_SEEDS = {"cnn": 114, "impala": 79, "impala-softmoe8-persamp": 216, "impala-top1-8-perfeat": 228}
"""Seeds of the batches, by variant or else by encoder; see `batch`."""
SAMPLE = 16
SKETCH = 64


def generator(name: str) -> np.random.Generator:
    """A generator that depends on `name` alone."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key))


def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Value of the parameter `name`: kernels of deviation 1/sqrt(fan in), small biases, float32."""
    if name == "moe/scalar":
        return np.ones(shape, np.float32)
    values = generator(f"{name} {shape}").standard_normal(shape, np.float32)
    if name.endswith("bias"):
        return np.float32(0.1) * values
    if name == "moe/phi":
        # Peaked softmaxes: near-uniform ones leave a gradient that is all cancellation.
        fan_in = shape[0] / 9
    elif name.startswith("moe/experts"):
        fan_in = shape[1]
    else:
        fan_in = math.prod(shape[:-1])
    return np.float32(1.0 / math.sqrt(fan_in)) * values


def adam_gradients() -> np.ndarray:
    """Gradients of three consecutive steps `[3, 1000]`, from far below Adam's epsilon to far above."""
    rng = generator("adam")
    sizes = 10.0 ** rng.uniform(-8, 2, (3, 1000))
    return (sizes * rng.choice([-1.0, 1.0], sizes.shape)).astype(np.float32)


def batch(case: str) -> dict[str, np.ndarray]:
    """One batch of transitions; states are `[B, 4, 84, 84]` uint8, oldest frame first.

    Four states recur with different actions and rewards. A gradient is compared to 1e-5, but jumps
    by more where a ReLU, max-pool or router decides on a difference smaller than rounding, which is
    each machine's own; few states and the seeds keep every decision clear of that.
    """
    encoder = case.split("-", 1)[0]
    rng = generator(f"batch {encoder} {BATCH_SEEDS.get(case, BATCH_SEEDS[encoder])}")
    repeat = np.arange(BATCH_SIZE) % STATES
    return {
        "state": random_states(rng)[repeat],
        "action": rng.integers(0, NUM_ACTIONS, BATCH_SIZE, dtype=np.int32),
        "reward": rng.integers(-1, 2, BATCH_SIZE).astype(np.float32),
        "next_state": random_states(rng)[repeat],
        "terminal": rng.random(BATCH_SIZE) < 0.2,
    }


def random_states(rng: np.random.Generator) -> np.ndarray:
    """Random states `[STATES, 4, 84, 84]` uint8.

    As in Atari, a frame is a flat background with a few flat blocks, so that max-pooling meets
    ties; a block of noise keeps gradients generic.
    """
    frames = np.empty((STATES, 4, 84, 84), np.uint8)
    for frame in frames.reshape(-1, 84, 84):
        frame[:] = rng.integers(0, 256)
        for _ in range(2):
            top, left = rng.integers(0, 76, 2)
            height, width = rng.integers(2, 24, 2)
            frame[top : top + height, left : left + width] = rng.integers(0, 256)
        top, left = rng.integers(0, 72, 2)
        frame[top : top + 12, left : left + 12] = rng.integers(0, 256, (12, 12))
    return frames


def summary(name: str, tensor: np.ndarray) -> np.ndarray:
    """What golden files keep of a tensor, float32: its norm, 16 evenly spaced elements, a sketch.

    The sketch adds the elements, with random signs, into 64 bins (Charikar et al. 2002). It is
    linear, and the squared norm of the sketch of a difference estimates the squared norm of the
    difference without bias, with a relative deviation of sqrt(2/64) = 18 %.
    """
    flat = np.asarray(tensor, np.float64).ravel()
    bits = generator(f"sketch {name} {flat.size}").bytes(-(-flat.size // 8))
    signs = np.unpackbits(np.frombuffer(bits, np.uint8), count=flat.size).astype(np.float64)
    bins = np.bincount(np.arange(flat.size) % SKETCH, flat * (2 * signs - 1), SKETCH)
    places = np.linspace(0, flat.size - 1, SAMPLE).astype(np.int64)
    return np.concatenate([[np.linalg.norm(flat)], flat[places], bins]).astype(np.float32)


def options(case: str) -> dict[str, object]:
    """The official networks' options for the variant `case`, which is named as in config/networks.yaml."""
    module, *suffixes = case.split("-", 1)[1].removeprefix("top1-").split("-")
    if module == "baseline":
        width = int(suffixes[0].removeprefix("x")) if suffixes else 1
        return {"moe_type": "BASELINE", "num_experts": width, "scale_hidden_layer": True}
    tokens = next((suffix for suffix in suffixes if suffix in ("perfeat", "persamp")), "perconv")
    routing = {"perconv": "PER_PIXEL", "perfeat": "PER_FEATUREMAP", "persamp": "PER_SAMPLE"}
    return {
        "moe_type": "SOFTMOE" if module.startswith("softmoe") else "MOE",
        "num_experts": int(module.removeprefix("softmoe")),
        "routing_type": routing[tokens],
        "expert_hidden_units": EXPERT_UNITS.get(tokens, 512),
    }


def oracle_name(name: str, case: str) -> str:
    """The oracle's name of the parameter `name` (both `/`-joined) in the network of `case`."""
    parts = name.split("/")
    baseline = "baseline" in case
    match parts:
        case ["encoder", conv, leaf]:
            return f"params/Conv_{conv.removeprefix('conv')}/{leaf}"
        case ["encoder", stack, "conv", leaf]:
            return f"params/encoder/_stacks_{stack.removeprefix('stack')}/Conv_0/{leaf}"
        case ["encoder", stack, block, conv, leaf]:
            index = 1 + 2 * int(block.removeprefix("block")) + int(conv.removeprefix("conv"))
            return f"params/encoder/_stacks_{stack.removeprefix('stack')}/Conv_{index}/{leaf}"
        case ["hidden", leaf]:
            return f"params/Dense_0/{leaf}"
        case ["head", "q", leaf]:
            return f"params/Dense_{int(baseline)}/{leaf}"
        case ["moe", "experts", layer, leaf]:
            module = {"hidden": "net", "output": "Dense_0"}[layer]
            return f"params/ExpertModel_0/{module}/{leaf}"
        case ["moe", "phi"]:
            return "params/SoftMoE_0/phi_weights"
        case ["moe", "scalar"]:
            return "params/SoftMoE_0/scalar"
        case ["moe", "router", "kernel"]:
            return "params/MoE_0/router/Dense_0/kernel"
    raise ValueError(f"no oracle name for parameter {name!r}")


def parameter_names(case: str) -> list[str]:
    """Names of all parameters of the network of `case`."""
    encoder, module = case.split("-", 1)
    if encoder == "cnn":
        layers = [f"encoder/conv{i}" for i in range(3)]
    else:
        inner = ["conv", *(f"block{b}/conv{c}" for b in range(2) for c in range(2))]
        layers = [f"encoder/stack{s}/{layer}" for s in range(3) for layer in inner]
    layers.append("head/q")
    single = []
    if module.startswith("baseline"):
        layers.append("hidden")
    else:
        layers += ["moe/experts/hidden", "moe/experts/output"]
        single = ["moe/phi", "moe/scalar"] if "softmoe" in module else ["moe/router/kernel"]
        if module.endswith("randphi"):
            single.remove("moe/phi")
    return [f"{layer}/{leaf}" for layer in layers for leaf in ("kernel", "bias")] + single
