"""Mixtures of experts that are none of the paper's: import the class a variant names, check what it returns.

What such a class is given and returns is that of `SoftMoE` and `Top1MoE` in `moe` (docs/extending.md).

Axes: M tokens, D token width, E experts, P slots per expert, H hidden units of an expert; leading axes
(`...`) are batch axes.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from moerl.networks.moe import MoEOutput, sizes_of
from moerl.networks.routing import Routing
from moerl.study.errors import UserError
from moerl.study.specs import NetworkSpec


def load_class(path: str) -> type[nn.Module]:
    """The class at `path`, "package.module:ClassName".

    Raises UserError if it cannot be imported, is no flax module, or cannot be called as a mixture is.
    """
    module, _, name = path.partition(":")
    try:
        found: Any = getattr(import_module(module), name)
    except Exception as error:  # whatever the user's file does
        raise UserError(f"module {path}: cannot be imported ({_told(error)})") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(f"module {path}: is not a class derived from flax.linen.Module")
    try:
        inspect.signature(found.__call__).bind("self", "tokens", "keys", "router_keys")
    except (AttributeError, TypeError) as error:
        wanted = "__call__(self, tokens, keys, router_keys)"
        raise UserError(f"module {path}: needs {wanted} ({error})") from error
    return found


def _told(error: Exception) -> str:
    """An error of an import in one line: its type, what it says, and the user's line that led to it."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    # The first frame is ours, then come Python's own of importing.
    _, *frames = (f for f in extract_tb(error.__traceback__) if "importlib" not in f.filename)
    if not frames or isinstance(error, SyntaxError):  # which says its line itself
        return said
    folder = Path(frames[0].filename).parent
    last = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)][-1]
    return f"{said}; line {last.lineno} of {last.filename}"


def build_moe(spec: NetworkSpec, noisy: bool = False) -> nn.Module:
    """The mixture of a custom `spec`, to be bound under the parameter name `moe`. Raises UserError."""
    fields = sizes_of(spec, noisy) | dict(spec.options)
    return load_class(str(spec.module))(**fields, name="moe")


def check_output(spec: NetworkSpec, tokens: jax.Array, mixed: Any) -> None:
    """Refuse what is not the mixture of `tokens` `[..., M, D]` that the rest of the code relies on.

    Raises UserError with the first array that is missing or of another shape. Costs nothing once compiled.
    """
    place = f"module {spec.module}"
    if not isinstance(mixed, MoEOutput) or not isinstance(mixed.routing, Routing):
        raise UserError(f"{place}: returns {type(mixed).__name__}, not MoEOutput(tokens, hidden, Routing(…))")
    fields = mixed._asdict() | {f"routing.{name}": one for name, one in mixed.routing._asdict().items()}
    for name, one in fields.items():
        if name != "routing" and not isinstance(one, jax.Array | np.ndarray):
            raise UserError(f"{place}: {name} is no array but {type(one).__name__}")
    *batch, num_tokens, _ = tokens.shape
    slots = mixed.hidden.shape[-2] if mixed.hidden.ndim > 1 else 0
    per_expert = (*batch, num_tokens, spec.num_experts)
    logits = mixed.routing.logits.shape
    expected = {
        "tokens [..., M, D]": (mixed.tokens, tokens.shape),
        "hidden [..., E, P, H]": (mixed.hidden, (*batch, spec.num_experts, slots, spec.hidden_units)),
        "routing.dispatch [..., M, E, P]": (mixed.routing.dispatch, (*per_expert, slots)),
        "routing.combine [..., M, E, P]": (mixed.routing.combine, (*per_expert, slots)),
        "routing.gates [..., M, E]": (mixed.routing.gates, per_expert),
        # Load is balanced by a router's logits, one for each expert.
        "routing.logits [..., M, E]": (
            mixed.routing.logits,
            per_expert if spec.balanced or logits != (*per_expert, slots) else logits,
        ),
    }
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise UserError(f"{place}: {name} has shape {array.shape}, not {shape}")
