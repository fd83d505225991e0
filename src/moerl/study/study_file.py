"""What a study file may say, and reading YAML: every mistake is one line that names file, path and value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from moerl.study.errors import ConfigError, one_line, one_of
from moerl.study.figures import (
    FigureOverride,
)
from moerl.study.specs import (
    FRAMES_PER_STEP,
    HIDDEN_UNITS,
    Evaluation,
    EvaluationPhase,
    Frozen,
    IterationEnd,
    NetworkSpec,
    NonNegativeInt,
    PositiveInt,
)
from moerl.study.yaml_file import parse_yaml

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_FRAMES = re.compile(r"(\d+)([kM]?)")
_Model = TypeVar("_Model")


def parse_frames(value: Any) -> int:
    """Emulated frames from an integer or a string such as "400", "8k" or "200M"."""
    if isinstance(value, int) and not isinstance(value, bool):
        frames = value
    elif isinstance(value, str) and (match := _FRAMES.fullmatch(value)):
        frames = int(match[1]) * {"": 1, "k": 1_000, "M": 1_000_000}[match[2]]
    else:
        raise ValueError("must be a number of frames such as 8000, 8k or 200M")
    if frames <= 0:
        raise ValueError("must be a positive number of frames")
    return frames


Frames = Annotated[int, BeforeValidator(parse_frames)]


class Milestones(Frozen):
    """The study's lengths for the figures' `short` (paper: 50M) and `full` (paper: 200M) budgets."""

    short: Frames
    full: Frames


class Collect(Frozen):
    """Online runs of the study whose experience is the data of its offline agents, seed by seed."""

    agent: str = "dqn"
    variant: str
    milestone: Literal["short", "full"] = "full"


class Offline(Frozen):
    """What the study's offline agents learn from, and for how long. The lengths default to the paper's."""

    collect: Collect | None = None
    folder: str | None = None
    """Of the data of one game and run, as files or as a finished run: `{game}`, `{seed}` and `{run}` (the
    seed + 1: the published runs are numbered from 1) are filled in. Relative to where commands are run."""
    name: str | None = None
    """Of the data in `folder`, which needs one; the published data is the "DQN Replay Dataset". Runs are
    those of the data of this name, wherever it lies: a new name trains them again."""
    iterations: PositiveInt = 200
    iteration_steps: PositiveInt = 62_500
    """Gradient steps of an iteration."""
    evaluation: EvaluationPhase = EvaluationPhase(agent_steps=125_000)
    """Games played after each iteration: their mean return is the iteration's."""

    @model_validator(mode="after")
    def _one_source(self) -> Offline:
        if (self.collect is None) == (self.folder is None):
            raise ValueError("needs either `collect` or `folder`: where the data comes from")
        if (self.folder is None) != (self.name is None):
            raise ValueError("`folder`, and nothing else, needs a `name`: what its data is called")
        if self.folder is not None:
            try:
                filled = {self.folder.format(game=g, seed=s, run=s + 1) for g in "ab" for s in (0, 1)}
            except (LookupError, ValueError, AttributeError) as error:
                raise ValueError("folder may name {game}, {seed} and {run}, and no others") from error
            if len(filled) < 4:
                raise ValueError("folder needs {game}, and {seed} or {run}: every run has data of its own")
        return self


class StudyFile(Frozen):
    """The keys of a study YAML. Frames are emulated frames (4 per agent step)."""

    name: str
    agents: dict[str, dict[str, Any]]
    """Agents trained in this study → overrides of their `agents.yaml` entry."""
    figures: dict[str, FigureOverride]
    variants: dict[str, NetworkSpec] = Field(default_factory=dict)
    hidden_units: PositiveInt = HIDDEN_UNITS
    """Takes the place of the 512 of `networks.yaml`; widths that are a part of 512 there are that part of it.
    The study's own variants are as wide as they say."""
    games: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    """Game sets that figures name → a set of games.tsv, a list of games, or a list of sets: figures then
    aggregate over each of them. `games20` is the paper's list unless a study says otherwise."""
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    seeds_per_job: PositiveInt
    iteration_frames: Frames
    milestones: Milestones
    early_readout: Frames | None = None
    """Second read-out of bar figures (paper App. A: 40M frames)."""
    cpu_threads: PositiveInt = 1
    """XLA threads per job on a CPU; part of the spec, because it changes rounding."""
    snapshot_every: NonNegativeInt
    """Iterations between the snapshots that are analysed."""
    iteration_end: IterationEnd = IterationEnd.EPISODE
    """Whether an iteration goes on to the end of its episode, or ends with the step."""
    max_noops: NonNegativeInt = 0
    """Most no-op steps that are skipped at the start of an episode."""
    evaluation: Evaluation | None = None
    """Games played after each iteration; figures show them if their `score` is `evaluation`."""
    offline: Offline | None = None
    """Of agents that learn from a dataset."""

    @model_validator(mode="after")
    def _consistent(self) -> StudyFile:
        if self.iteration_frames % FRAMES_PER_STEP:
            raise ValueError(f"iteration_frames must be a multiple of {FRAMES_PER_STEP}")
        for label in ("short", "full"):
            frames = getattr(self.milestones, label)
            if frames % self.iteration_frames:
                raise ValueError(
                    f"milestones.{label} ({frames} frames) must be a multiple of "
                    f"iteration_frames ({self.iteration_frames})"
                )
        if self.milestones.short > self.milestones.full:
            raise ValueError("milestones.short must not exceed milestones.full")
        early = self.early_readout
        if early and (early % self.iteration_frames or early > self.milestones.full):
            raise ValueError(
                f"early_readout ({early} frames) must be a multiple of iteration_frames "
                f"({self.iteration_frames}) and not exceed milestones.full ({self.milestones.full})"
            )
        return self


def read_yaml(path: Path) -> dict[str, Any]:
    """Parse a YAML mapping (`parse_yaml`). Raises ConfigError if absent, malformed or not a mapping."""
    try:
        value = parse_yaml(path.read_bytes())
    except OSError as error:
        raise ConfigError(path, "", f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(path, "", f"is not valid YAML ({one_line(error)})") from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(path, "", "must be a mapping with text keys")
    return value


def read_entries(path: Path) -> dict[str, Any]:
    """Parse a YAML mapping whose keys become parts of paths and targets. Raises ConfigError (`read_yaml`)."""
    entries = read_yaml(path)
    for name in entries:
        if not NAME.fullmatch(name):
            raise ConfigError(path, "", f"bad name {name!r}: lower-case letters, digits, '-' and '_' only")
    return entries


def validate(kind: type[_Model], value: Any, file: Path, prefix: str = "") -> _Model:
    """Validate `value` as `kind`; the first problem becomes a ConfigError with its YAML path."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        # An unknown key explains a missing one next to it: report it first.
        problems = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        first = problems[0]
        where = prefix
        for part in first["loc"]:
            if isinstance(part, int):
                where += f"[{part}]"
            elif NAME.match(str(part)):
                where += f".{part}" if where else str(part)
        raise ConfigError(file, where, _describe(kind, first)) from error


def _describe(kind: Any, problem: Any) -> str:
    value, context = problem["input"], problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            return one_of(problem["loc"][-1], _fields_at(kind, problem["loc"][:-1]), "key")
        case "missing":
            return f"missing; required here are {', '.join(_fields_at(kind, problem['loc'][:-1]))}"
        case "enum" | "literal_error":
            allowed = re.findall(r"'([^']*)'", context["expected"])
            return one_of(value, allowed, "value")
        case _:
            message = problem["msg"].removeprefix("Value error, ")
            shown = "" if isinstance(value, dict) else f"bad value {_shortened(value)}: "
            return f"{shown}{message[0].lower()}{message[1:]}"


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]} …"


def _fields_at(kind: Any, location: tuple[Any, ...]) -> list[str]:
    """Field names of the model that `location` points at, following fields, dict and tuple items."""
    for part in location:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[part].annotation
        else:
            arguments = [a for a in getattr(kind, "__args__", ()) if a is not Ellipsis]
            kind = arguments[-1] if arguments else kind
        models = [a for a in getattr(kind, "__args__", ()) if isinstance(a, type) and issubclass(a, Frozen)]
        if models and type(None) in kind.__args__:
            kind = models[0]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return list(kind.model_fields)
    return []
