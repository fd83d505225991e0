"""Frozen specifications of what is trained: network variant, agent, schedule, run.

A resolved `TrainSpec` is everything a run's numbers depend on besides its seed; its canonical JSON
is what invalidates a training job. Sources: paper Tables 2 and 4 and the paper-era code (method
dossier sections 2 to 4).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

# Raised by hand when a change alters what training computes (golden traces in tests/ insist on it).
TRAINING_REVISION = {"value": 1}

FRAMES_PER_STEP = 4  # ALE frames per agent step (frame skip, method 4.5)

PositiveInt = Annotated[int, Field(strict=True, ge=1)]
NonNegativeInt = Annotated[int, Field(strict=True, ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]

HIDDEN_UNITS = 512
"""Of the paper's penultimate layer and of its experts (method 2.3, 2.4)."""

IMPALA_FILTER_SIZE = 3
"""Of the paper's default Impala encoder (appendix D)."""


class Frozen(BaseModel):
    """Base of every spec: immutable, hashable where its fields are, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Encoder(StrEnum):
    """Convolutional encoder (method 2.1, 2.2)."""

    CNN = "cnn"
    IMPALA = "impala"


class Module(StrEnum):
    """What stands between the encoder and the head (method 2.3, 2.4)."""

    BASELINE = "baseline"
    SOFTMOE = "softmoe"
    TOP1 = "top1"


_CLASS_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def parse_module(value: Any) -> Module | str:
    """One of the paper's modules, or the importable path of a class that is none of them."""
    if isinstance(value, str):
        if value in tuple(Module):
            return Module(value)
        if _CLASS_PATH.fullmatch(value):
            return value
    allowed = ", ".join(f"'{name}'" for name in (*Module, "package.module:ClassName"))
    raise PydanticCustomError("enum", "must be one of {expected}", {"expected": allowed})


def parse_options(value: Any) -> tuple[tuple[str, Any], ...]:
    """A mapping of names to plain values as sorted pairs, which can be hashed."""
    if not isinstance(value, Mapping):
        raise ValueError("must be a mapping of a module's options to plain values")
    for name, option in value.items():
        if not isinstance(name, str) or not isinstance(option, bool | int | float | str | None):
            raise ValueError(f"option {name!r} must be a name with a number, a text, true, false or null")
    return tuple(sorted(value.items()))


Options = Annotated[tuple[tuple[str, Any], ...], BeforeValidator(parse_options), PlainSerializer(dict)]


class Tokens(StrEnum):
    """How an h×w×d feature map becomes tokens (paper Fig 3)."""

    PERCONV = "perconv"
    """h·w tokens of width d: the channels at each position."""
    PERFEAT = "perfeat"
    """d tokens of width h·w: each channel's map."""
    PERSAMP = "persamp"
    """One token of width h·w·d: the whole map."""


class Phi(StrEnum):
    """Where a SoftMoE's routing matrix Φ comes from (paper Fig 8, right; method 3.1)."""

    LEARNED = "learned"
    REDRAW = "redraw"
    """Drawn from N(0, 1) at every forward pass, anew for each state of a training batch: what the
    published code calls a random Φ (B9). There is no such parameter."""
    FROZEN = "frozen"
    """Drawn once, as a learned one is initialised, and never trained. Not in the paper."""


class ExpertType(StrEnum):
    """What one expert of a SoftMoE is (paper section 5.3, Figs 13 to 15; method 3.5)."""

    REGULAR = "regular"
    """Two dense layers, in place of the penultimate layer."""
    BIG = "big"
    """A whole network, routed by the image."""
    ALL = "all"
    """A copy of one layer; every layer is a SoftMoE of its own, routed by its input."""


class Loss(StrEnum):
    """TD loss of a value agent; C51 is the cross-entropy of return distributions (Bellemare et al. 2017)."""

    MSE = "mse"
    HUBER = "huber"
    C51 = "c51"


class Replay(StrEnum):
    """How training batches are drawn from the replay memory (method 4.3, 4.6)."""

    UNIFORM = "uniform"
    PRIORITISED = "prioritised"


class Augmentation(StrEnum):
    """What is done to the states of a training batch; actions are chosen on unchanged states."""

    NONE = "none"
    DRQ = "drq"
    """Random shift and intensity (Kostrikov et al. 2020; method 4.7)."""


class HeadInit(StrEnum):
    """How the kernels of a head's dense layers are drawn."""

    XAVIER = "xavier"
    LECUN = "lecun"
    """flax's default, which the published offline code leaves to CQL + C51 (method 5)."""


class IterationEnd(StrEnum):
    """When an iteration that has had its agent steps is over."""

    EPISODE = "episode"
    """With its running episode: iterations overrun (the paper's 200M- and 50M-frame runs; method 4.2)."""
    STEP = "step"
    """At once; the episode goes on in the next iteration (Atari-100k; method 4.7)."""


class NetworkSpec(Frozen):
    """A named network variant: encoder, penultimate module and its size, routing."""

    encoder: Encoder
    module: Annotated[Module | str, PlainValidator(parse_module)]
    """One of the paper's, or any other class as "package.module:ClassName" (docs/extending.md)."""
    num_experts: PositiveInt = 1
    width: PositiveInt = 1
    """Baseline ×n: multiplies `hidden_units` of the penultimate layer."""
    hidden_units: PositiveInt = HIDDEN_UNITS
    """Penultimate width of the baseline, or the hidden width of each expert."""
    tokens: Tokens | None = None
    filter_size: PositiveInt = IMPALA_FILTER_SIZE
    """Height and width of the kernels of all Impala convolutions (paper Fig 18)."""
    expert_type: ExpertType = ExpertType.REGULAR
    phi: Phi = Phi.LEARNED
    normalised: bool = False
    """SoftMoE: tokens and Φ are ℓ2-normalised before routing, and a learnt scalar multiplies Φ."""
    capacity_factor: PositiveFloat = 1.0
    """Slots of each expert: tokens × capacity_factor / num_experts, rounded up."""
    slots_per_expert: PositiveInt | None = None
    """Slots of each expert whatever the number of tokens; None: by `capacity_factor`."""
    router_noise: NonNegativeFloat = 0.0
    """Top1: deviation, times num_experts, of the noise on the router's logits (published default: none)."""
    importance_weight: NonNegativeFloat = 0.0
    """Top1, custom: weight of the importance loss in what is minimised (method 3.4; paper Fig 9)."""
    load_weight: NonNegativeFloat = 0.0
    """Top1, custom: weight of the load loss, over first choices, in what is minimised."""
    load_noise: PositiveFloat = 1.0
    """Top1, custom: deviation, times num_experts, of the noise that the load loss supposes."""
    options: Options = ()
    """Custom: what the class is given besides its sizes; in files a mapping."""
    source: str | None = None
    """Custom: digest of the file that defines the class. Computed when a study is loaded, never given."""

    @property
    def custom(self) -> bool:
        """Whether the module is none of the paper's."""
        return not isinstance(self.module, Module)

    @property
    def draws(self) -> bool:
        """Whether a forward pass draws random numbers, whatever the head: a fresh Φ or routing noise.

        A custom module may, and is given a key.
        """
        return self.phi is Phi.REDRAW or self.router_noise > 0 or self.custom

    @property
    def balanced(self) -> bool:
        """Whether a load-balancing loss is added to the agent's."""
        return self.importance_weight > 0 or self.load_weight > 0

    @model_validator(mode="after")
    def _consistent(self) -> NetworkSpec:
        if self.module is Module.BASELINE:
            if self.num_experts != 1:
                raise ValueError("a baseline has no experts; scale it with `width`")
            if self.tokens is not None:
                raise ValueError("a baseline has no tokens")
        else:
            if self.width != 1:
                raise ValueError("`width` scales baselines only; use `num_experts` or `hidden_units`")
            if self.tokens is None:
                raise ValueError("a MoE variant must name its `tokens`")
        if self.encoder is not Encoder.IMPALA:
            self._require_default(("filter_size",), "an encoder whose filters vary, which is only 'impala'")
        return self

    @model_validator(mode="after")
    def _routing_fits_module(self) -> NetworkSpec:
        if self.module is Module.BASELINE:
            self._require_default(("capacity_factor", "slots_per_expert"), "a MoE variant")
        if self.module is not Module.SOFTMOE:
            why = "a SoftMoE (Top1 learns a router, not Φ, and its experts are regular)"
            self._require_default(("expert_type", "phi", "normalised"), why)
        why = "Top1 (a SoftMoE has no router to disturb, and its load is balanced by construction)"
        if self.module is not Module.TOP1:
            self._require_default(("router_noise",), why)
        if self.module in (Module.BASELINE, Module.SOFTMOE):
            self._require_default(("importance_weight", "load_weight", "load_noise"), why)
        if not self.custom:
            self._require_default(("options", "source"), "a module 'package.module:ClassName'")
        if self.slots_per_expert is not None and self.capacity_factor != 1.0:
            raise ValueError("`slots_per_expert` takes the place of `capacity_factor`; give one of them")
        if self.expert_type is not ExpertType.REGULAR:
            if self.tokens is not Tokens.PERSAMP:
                raise ValueError(
                    f"expert_type {self.expert_type.value!r} routes whole inputs: tokens must be 'persamp'"
                )
            why = "expert_type 'regular' (the others have one token and one slot each, and learn Φ)"
            self._require_default(("phi", "capacity_factor", "slots_per_expert"), why)
        return self

    def _require_default(self, names: tuple[str, ...], needs: str) -> None:
        """Raise ValueError for the first of `names` that is set, saying that it `needs` something else."""
        for name in names:
            value = getattr(self, name)
            if value != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` ({value}) needs {needs}")


class HeadSpec(Frozen):
    """What an agent asks of a network besides its variant: the form of its values, and noise."""

    noisy: bool = False
    """Noisy layers (Fortunato et al. 2018) in place of the dense ones: penultimate and head layers of
    a baseline; first layer of each expert and head layers of a MoE."""
    dueling: bool = False
    num_atoms: PositiveInt = 1
    """Atoms of each action's return distribution; 1: the scalar Q-value itself."""
    v_max: PositiveFloat | None = None
    """The atoms lie evenly in [-v_max, v_max]; None with scalar values."""
    head_init: HeadInit = HeadInit.XAVIER
    """Of dense heads; noisy layers have an initialisation of their own."""

    @model_validator(mode="after")
    def _consistent_head(self) -> HeadSpec:
        if self.noisy and self.head_init is not HeadInit.XAVIER:
            raise ValueError(f"head_init {self.head_init.value!r} needs a dense head; this one is noisy")
        if (self.num_atoms > 1) != (self.v_max is not None):
            raise ValueError(
                f"num_atoms {self.num_atoms} with v_max {self.v_max}: v_max is the end of the support of "
                "a distribution (num_atoms > 1) and null with scalar values (num_atoms 1)"
            )
        return self


LATER_OPTIONS: dict[str, tuple[str, ...]] = {
    "hyper": (
        *("noisy", "dueling", "num_atoms", "v_max"),
        *("double", "replay", "augmentation", "terminal_on_life_loss", "cql_weight"),
        *("head_init", "data_percent"),
    ),
    "network": (
        *("filter_size", "expert_type", "phi", "normalised", "capacity_factor", "slots_per_expert"),
        *("router_noise", "importance_weight", "load_weight", "load_noise", "options", "source"),
    ),
    "schedule": ("iteration_end", "max_noops", "evaluation", "evaluation_phase"),
}
"""Fields of a `TrainSpec`'s parts that came when runs existed: left out of its JSON at their default, so that
what was trained before keeps its identity. A new field whose default changes nothing belongs here."""


class AgentSpec(HeadSpec):
    """Hyper-parameters of a value agent (paper Tables 1 and 2 and what they omit; units in names or below).

    The switches, here and in `HeadSpec`, make the agent: all off is DQN.
    """

    learning_rate: PositiveFloat
    adam_eps: PositiveFloat
    gamma: Fraction
    n_step: PositiveInt
    batch_size: PositiveInt
    data_percent: Annotated[int, Field(strict=True, ge=0, le=100)] = 0
    """Offline: learns from this part of a dataset (paper: 5, 10 or 50 %), one gradient step after the
    other, and plays only to be evaluated. 0: online."""
    replay_capacity: PositiveInt
    """Transitions kept, padding transitions included (legacy replay semantics, method 4.6). Offline: what
    `data_percent` of the published data is (the paper's "fixed replay capacity")."""
    min_replay_history: NonNegativeInt
    """Training starts once more transitions than this were added (padding included)."""
    update_period: PositiveInt
    """Agent steps between training calls."""
    updates_per_period: PositiveInt
    """Gradient steps per training call; replay ratio = updates_per_period / update_period."""
    target_update_period: PositiveInt
    """Agent steps, offline gradient steps, between hard target copies."""
    epsilon_train: Fraction
    epsilon_decay_period: PositiveInt | None
    """Agent steps of linear decay from 1 after `min_replay_history`; None: `epsilon_train` throughout."""
    loss: Loss
    double: bool = False
    """The online network chooses the next action that the target network values (van Hasselt et al. 2016)."""
    cql_weight: NonNegativeFloat = 0.0
    """Weight of the conservative penalty on Q-values, added to each transition's loss (Kumar et al. 2020;
    paper Figs 11 and 17: 0.1; method 5)."""
    replay: Replay = Replay.UNIFORM
    augmentation: Augmentation = Augmentation.NONE
    terminal_on_life_loss: bool = False
    """A lost life is a terminal to the learner; the game goes on."""
    sticky_actions: Fraction
    """Probability per frame that ALE repeats the previous action."""
    max_episode_steps: PositiveInt
    """Agent steps after which an episode is cut, non-terminal."""

    @model_validator(mode="after")
    def _consistent(self) -> AgentSpec:
        least = self.batch_size + self.n_step + STACK_SIZE
        if self.replay_capacity < least:
            raise ValueError(
                f"replay_capacity {self.replay_capacity} cannot hold a batch: "
                f"batch_size + n_step + stack size = {least} is the least"
            )
        if not self.offline and self.min_replay_history < self.n_step + STACK_SIZE:
            raise ValueError(
                f"min_replay_history {self.min_replay_history} is too short to sample from: "
                f"n_step + stack size = {self.n_step + STACK_SIZE} is the least"
            )
        if self.n_step >= self.max_episode_steps:
            raise ValueError(
                f"n_step {self.n_step} is not shorter than max_episode_steps {self.max_episode_steps}"
            )
        if (self.loss is Loss.C51) != (self.num_atoms > 1):
            raise ValueError(
                f"loss {self.loss.value!r} with num_atoms {self.num_atoms}: a distribution (num_atoms > 1) "
                "is learnt by loss 'c51', a scalar value (num_atoms 1) by 'mse' or 'huber'"
            )
        return self

    @model_validator(mode="after")
    def _consistent_offline(self) -> AgentSpec:
        if not self.offline:
            return self
        fixed: dict[str, Any] = {
            "replay_capacity": self.data_percent * PUBLISHED_TRANSITIONS // 100,
            "min_replay_history": 0,
            "update_period": 1,
            "updates_per_period": 1,
            "epsilon_train": 0.0,
            "epsilon_decay_period": None,
            "noisy": False,
            "replay": Replay.UNIFORM,
            "augmentation": Augmentation.NONE,
            "terminal_on_life_loss": False,
        }
        for name, value in fixed.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name} must be {value} of an agent that learns from {self.data_percent} % of a dataset"
                )
        return self

    @property
    def offline(self) -> bool:
        """Whether the agent learns from a dataset."""
        return self.data_percent > 0

    @property
    def head(self) -> HeadSpec:
        """The part that the network depends on."""
        return HeadSpec(**{name: getattr(self, name) for name in HeadSpec.model_fields})


STACK_SIZE = 4  # frames stacked into one state (method 4.5)
PUBLISHED_TRANSITIONS = 50_000_000  # of a run of the DQN Replay Dataset (method 5)


class Evaluation(Frozen):
    """Games played after each iteration by its parameters: no noise, no learning (method 4.7)."""

    episodes: PositiveInt
    epsilon: Fraction = 0.001
    """Probability of a random action."""


class EvaluationPhase(Frozen):
    """Games played after each iteration of an offline agent, whose returns are the run's (method 5)."""

    agent_steps: PositiveInt
    """Games are begun until so many have passed, and played to their ends."""
    epsilon: Fraction = 0.001
    """Probability of a random action."""


class DatasetSpec(Frozen):
    """Which data an offline run learns from, wherever it lies."""

    name: str
    """Of the data, as its user calls it."""
    collected: str | None = None
    """Digest of the spec of the runs that are the data, if moerl trained them."""
    iterations: PositiveInt | None = None
    """How far those were trained."""


class Schedule(Frozen):
    """How a run is cut into iterations and episodes, and what an iteration leaves besides its returns.

    The defaults are those of the paper's online runs.
    """

    iteration_steps: PositiveInt
    """Agent steps of an iteration (paper: 250,000), see `iteration_end`; offline gradient steps (62,500)."""
    snapshot_every: NonNegativeInt = 0
    """Iterations between snapshots of parameters and sampled batches; 0: none."""
    snapshot_batches: PositiveInt = 4
    """Uniform replay batches stored in each snapshot."""
    iteration_end: IterationEnd = IterationEnd.EPISODE
    max_noops: NonNegativeInt = 0
    """An episode begins after 0 to this many no-op steps, all equally likely, that nobody sees."""
    evaluation: Evaluation | None = None
    evaluation_phase: EvaluationPhase | None = None
    """Offline agents have one."""


ANALYSED_STATES = 8
"""States of each snapshot whose tokens are analysed one by one: the first of its first batch."""


class TrainSpec(Frozen):
    """Everything the numbers of a run depend on, besides its seed and how far it is trained."""

    agent: str
    variant: str
    game: str
    num_actions: PositiveInt
    hyper: AgentSpec
    network: NetworkSpec
    schedule: Schedule
    cpu_threads: PositiveInt = 1
    """XLA's CPU thread pool. Convolutions are split among it, which changes the rounding of sums:
    runs on a CPU compare bit for bit only under the same number (whatever the number of cores)."""
    revision: PositiveInt
    """`TRAINING_REVISION` of the agent's family."""
    dataset: DatasetSpec | None = None
    """What an offline agent learns from; left out of the JSON of the others."""

    @model_validator(mode="after")
    def _offline_is_complete(self) -> TrainSpec:
        has = self.dataset is not None, self.schedule.evaluation_phase is not None
        if has != (self.hyper.offline, self.hyper.offline):
            raise ValueError("an offline agent, and no other, has a `dataset` and an `evaluation_phase`")
        return self

    def canonical_json(self) -> str:
        """One canonical JSON line: sorted keys, no spaces; the `params` of the training job."""
        parts = {part: identity(part, getattr(self, part)) for part in LATER_OPTIONS}
        absent = {"dataset"} if self.dataset is None else set[str]()
        return canonical_json(self.model_dump(mode="json", exclude=absent) | parts)

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:16]


def identity(part: str, value: Frozen) -> dict[str, Any]:
    """What identifies a `part` of a `TrainSpec`, as JSON values: no later option at its default."""
    fields = type(value).model_fields
    later = [name for name in LATER_OPTIONS[part] if name in fields]
    unused = {name for name in later if getattr(value, name) == fields[name].default}
    return value.model_dump(mode="json", exclude=unused)


def canonical_json(value: Any) -> str:
    """`value` as JSON with sorted keys and no spaces; NaN and infinities are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
