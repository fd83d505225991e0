"""What an agent step costs, from benchmark records: measured, or extrapolated from the most similar one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moerl.study.errors import UserError, one_line
from moerl.study.figures import base_agent
from moerl.study.json_file import parse_json
from moerl.study.specs import AgentSpec, NetworkSpec, PositiveFloat, PositiveInt

Device = Literal["cpu", "gpu"]


@dataclass(frozen=True)
class Record:
    """One measurement of `benchmarks/bench_throughput.py`: training Pong on one device."""

    agent: str
    variant: str
    seeds: int
    device: Device
    device_kind: str
    threads: int
    date: str
    agent_steps: PositiveInt
    gradient_steps: PositiveInt
    cpu_seconds: PositiveFloat
    wall_seconds: PositiveFloat

    @property
    def seconds(self) -> float:
        """Seconds of the device per agent step of one run: CPU time on a CPU, wall-clock on a GPU."""
        return (self.cpu_seconds if self.device == "cpu" else self.wall_seconds) / self.agent_steps

    @property
    def replay_ratio(self) -> float:
        """Gradient steps per agent step."""
        return self.gradient_steps / self.agent_steps

    def describe(self) -> str:
        """The record in one line."""
        kind = f"{self.device_kind}, {self.threads} thread" if self.device == "cpu" else self.device_kind
        unit = "CPU" if self.device == "cpu" else "GPU"
        rate = f"{1e3 * self.seconds:.1f} {unit} ms per agent step"
        return f"{self.agent} {self.variant} on {kind}: {rate} ({self.date})"


@dataclass(frozen=True)
class Cost:
    """Seconds of a device per agent step of one run, and what that rests on."""

    seconds: float
    record: Record
    measured: bool
    """Whether the record is of this very agent and variant; else it is an extrapolation."""


def read_records(file: Path) -> list[Record]:
    """The records of a file; none if there is no file. Raises UserError if it cannot be read."""
    if not file.is_file():
        return []
    try:
        return parse_json(list[Record], file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not benchmark records ({one_line(error)}); measure again") from error


def cost(
    agent: str,
    variant: str,
    device: Device,
    records: Sequence[Record],
    agents: Mapping[str, AgentSpec],
    variants: Mapping[str, NetworkSpec],
) -> Cost | None:
    """The cost of a cell's agent step from the most similar record of a device; None without a record.

    Similar is, in this order: same encoder, same agent, noisy or not, same module, same tokens and kind
    of expert, same size. Where
    the replay ratio is higher than the record's, all of its time is scaled up, acting
    included: an upper bound in that respect.
    """
    hyper, network = agents[agent], variants[variant]

    def similarity(record: Record) -> tuple[bool | int, ...]:
        other, trained = variants[record.variant], agents[record.agent]
        return (
            other.encoder is network.encoder,
            record.agent == base_agent(agent),
            trained.noisy == hyper.noisy,
            other.module == network.module,
            other.expert_type is network.expert_type,
            other.tokens is network.tokens,
            record.variant == variant,
            -abs(other.num_experts - network.num_experts) - abs(other.width - network.width),
        )

    known = [r for r in records if r.device == device and r.variant in variants and r.agent in agents]
    if not known:
        return None
    record = max(known, key=similarity)
    ratio = hyper.updates_per_period / hyper.update_period
    seconds = record.seconds * max(1.0, ratio / record.replay_ratio)
    same_ratio = abs(ratio / record.replay_ratio - 1) < 0.05
    return Cost(seconds, record, (record.agent, record.variant) == (agent, variant) and same_ratio)
