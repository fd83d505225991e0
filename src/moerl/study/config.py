"""Loading configuration: YAML files to a resolved, validated `Study`, with one-line errors.

The files of `config/` (agents, networks, figures, games) are shared by all studies; a study is one
small YAML that picks figures and budgets from them and may add variants and override values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from moerl.study.errors import ConfigError, one_of
from moerl.study.expansion import Deviations, Study, frames_label
from moerl.study.figures import AGENT_TITLES, ENCODER_TITLES, FigureOverride, FigureSpec, Score, Series
from moerl.study.games import Game, game_sets, load_games
from moerl.study.modules import module_source
from moerl.study.specs import (
    FRAMES_PER_STEP,
    AgentSpec,
    Evaluation,
    Frozen,
    IterationEnd,
    NetworkSpec,
    NonNegativeInt,
    PositiveInt,
)

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
PAPER_FRAMES = {
    Score.TRAINING: {"short": 50_000_000, "full": 200_000_000, "iteration": 1_000_000},
    Score.EVALUATION: {"short": 400_000, "full": 400_000, "iteration": 40_000},
}
"""The paper's budgets, in emulated frames; with evaluation: the Atari-100k protocol's."""
PAPER_SCHEDULE: dict[Score, dict[str, Any]] = {
    Score.TRAINING: {"iteration_end": IterationEnd.EPISODE, "max_noops": 0},
    Score.EVALUATION: {
        "iteration_end": IterationEnd.STEP,
        "max_noops": 29,
        "evaluation": Evaluation(episodes=100, epsilon=0.001),
    },
}
"""The paper's settings of the schedule, besides its budgets (method 4.2, 4.7)."""
_ENDS = {IterationEnd.EPISODE: "with an episode", IterationEnd.STEP: "at a step"}
PAPER_SETS = {"games20": "games20_paper"}
"""Game sets as figures name them → the list printed in the paper (Appendix A)."""
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


class StudyFile(Frozen):
    """The keys of a study YAML. Frames are emulated frames (4 per agent step)."""

    name: str
    agents: dict[str, dict[str, Any]]
    """Agents trained in this study → overrides of their `agents.yaml` entry."""
    figures: dict[str, FigureOverride]
    variants: dict[str, NetworkSpec] = Field(default_factory=dict)
    games: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    """Game sets that the study's figures name → a set of games.tsv or a list of games."""
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    seeds_per_job: PositiveInt
    iteration_frames: Frames
    milestones: Milestones
    early_readout: Frames | None = None
    """Second read-out of bar figures (paper App. A: 40M frames)."""
    cpu_threads: PositiveInt = 1
    """XLA threads per job on a CPU; part of the spec, because it changes rounding."""
    snapshot_every: NonNegativeInt
    """Iterations between the snapshots that analysis figures need."""
    iteration_end: IterationEnd = IterationEnd.EPISODE
    """Whether an iteration goes on to the end of its episode, or ends with the step."""
    max_noops: NonNegativeInt = 0
    """Most no-op steps that are skipped at the start of an episode."""
    evaluation: Evaluation | None = None
    """Games played after each iteration; figures show them if their `score` is `evaluation`."""

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
    """Parse a YAML mapping (safe loader). Raises ConfigError if absent, malformed or not a mapping."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(path, "", f"cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(path, "", f"is not valid YAML ({problem})") from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(path, "", "must be a mapping with text keys")
    return value


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
            shown = "" if isinstance(value, dict) else f"bad value {value!r}: "
            return f"{shown}{message[0].lower()}{message[1:]}"


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


def config_dir(study: Path) -> Path:
    """The shared configuration: `config/` around the study file, else the one of this checkout."""
    for folder in study.resolve().parents:
        if (folder / "agents.yaml").is_file() and (folder / "games.tsv").is_file():
            return folder
    return Path(__file__).parents[3] / "config"


def load_study(path: Path) -> Study:
    """Read and resolve a study. Raises ConfigError (one line) on the first problem found."""
    file = validate(StudyFile, read_yaml(path), path)
    if not NAME.fullmatch(file.name):
        raise ConfigError(
            path, "name", f"bad value {file.name!r}: lower-case letters, digits, '-' and '_' only"
        )
    if len(set(file.seeds)) != len(file.seeds):
        twice = next(s for s in file.seeds if file.seeds.count(s) > 1)
        raise ConfigError(path, "seeds", f"duplicate seed {twice}; every seed may appear once")
    shared = config_dir(path)
    games = load_games(shared / "games.tsv")
    variants = _variants(shared / "networks.yaml", file, path)
    figures = _figures(shared / "figures.yaml", file, path, games, variants)
    _check_snapshots(file, path, figures)
    return Study(
        path=path,
        name=file.name,
        agents=_agents(shared / "agents.yaml", file, path),
        variants=variants,
        games=games,
        figures={name: figures[name] for name in file.figures},
        configured_figures=figures,
        seeds=file.seeds,
        seeds_per_job=file.seeds_per_job,
        iteration_frames=file.iteration_frames,
        milestone_frames={"short": file.milestones.short, "full": file.milestones.full},
        early_readout=file.early_readout,
        cpu_threads=file.cpu_threads,
        snapshot_every=file.snapshot_every,
        iteration_end=file.iteration_end,
        max_noops=file.max_noops,
        evaluation=file.evaluation,
        deviations=_deviations(file, shared / "figures.yaml", figures, games),
    )


def _agents(shared: Path, file: StudyFile, path: Path) -> dict[str, AgentSpec]:
    defaults = read_yaml(shared)
    agents = {}
    for name, overrides in file.agents.items():
        if name not in defaults:
            raise ConfigError(path, f"agents.{name}", one_of(name, defaults, "agent"))
        base = validate(AgentSpec, defaults[name], shared, name)
        agents[name] = validate(AgentSpec, base.model_dump() | overrides, path, f"agents.{name}")
    return agents


def load_variants(shared: Path) -> dict[str, NetworkSpec]:
    """The shared network variants, by name. Raises ConfigError."""
    return {
        name: _with_source(validate(NetworkSpec, value, shared, name), shared, name)
        for name, value in read_yaml(shared).items()
    }


def _with_source(spec: NetworkSpec, file: Path, where: str) -> NetworkSpec:
    """`spec` with its options checked and the digest of its module's source, if that is a custom one.

    The module is not imported: whether it works is seen where JAX is used anyway.
    """
    if not spec.custom:
        return spec
    if spec.source is not None:
        raise ConfigError(file, f"{where}.source", "is computed from the module's file; leave it out")
    try:
        found = module_source(spec.module)
    except ValueError as error:
        raise ConfigError(file, f"{where}.module", f"bad value {spec.module!r}: {error}") from error
    given = validate(found.options, dict(spec.options), file, f"{where}.options")
    options = tuple(sorted(given.model_dump(exclude_unset=True).items()))
    return spec.model_copy(update={"options": options, "source": found.digest})


def _variants(shared: Path, file: StudyFile, path: Path) -> dict[str, NetworkSpec]:
    variants = load_variants(shared)
    for name in file.variants:
        if not NAME.fullmatch(name):
            raise ConfigError(path, f"variants.{name}", "lower-case letters, digits, '-' and '_' only")
        if name in variants:
            raise ConfigError(path, f"variants.{name}", f"already defined in {shared}; choose another name")
    own = {name: _with_source(spec, path, f"variants.{name}") for name, spec in file.variants.items()}
    return variants | own


def _figures(
    shared: Path,
    file: StudyFile,
    path: Path,
    games: Mapping[str, Game],
    variants: Mapping[str, NetworkSpec],
) -> dict[str, FigureSpec]:
    """The study's figures and every other analysis figure, resolved: game names, overrides, variant names.

    Analysis figures that are not drawn decide on snapshots all the same, so that drawing one later
    retrains nothing. One that this study cannot resolve (it names a game set or a variant that
    the study does not have) is left out, and so is every other figure that the study does not draw.
    """
    configured = read_yaml(shared)
    for name in file.figures:
        if name not in configured:
            raise ConfigError(path, f"figures.{name}", one_of(name, configured, "figure"))
    sets = dict(game_sets(dict(games)))
    for name, members in file.games.items():
        sets[name] = _games(members, sets, games, path, f"games.{name}")
    figures = {}
    for name, raw in configured.items():
        spec = validate(FigureSpec, raw, shared, name)
        if name in file.figures:
            figures[name] = _resolve(name, spec, file.figures[name], shared, path, sets, games, variants)
        elif spec.kind == "analysis":
            with suppress(ConfigError):
                figures[name] = _resolve(name, spec, FigureOverride(), shared, path, sets, games, variants)
    for name in file.figures:
        if not any(panel.agent in file.agents for panel in figures[name].panels):
            wanted = ", ".join(panel.agent for panel in figures[name].panels)
            problem = f"shows {wanted}, none of which is among this study's agents ({', '.join(file.agents)})"
            raise ConfigError(path, f"figures.{name}", problem)
        if figures[name].score is Score.EVALUATION and file.evaluation is None:
            problem = "shows evaluation returns, of which this study has none; add `evaluation` to the study"
            raise ConfigError(path, f"figures.{name}.score", problem)
    return figures


def _resolve(
    name: str,
    spec: FigureSpec,
    override: FigureOverride,
    shared: Path,
    path: Path,
    sets: Mapping[str, tuple[str, ...]],
    games: Mapping[str, Game],
    variants: Mapping[str, NetworkSpec],
) -> FigureSpec:
    """One figure with a study's overrides, its games by name and its variants' encoder filled in."""
    where = (path, f"figures.{name}.games") if override.games else (shared, f"{name}.games")
    if not override.games and isinstance(spec.games, str) and spec.games not in sets:
        problem = (
            f"{name} shows the game set {spec.games!r}: say what it is here, a list or a set of games.tsv"
        )
        raise ConfigError(path, "games", problem)
    update: dict[str, Any] = {"games": _games(override.games or spec.games, sets, games, *where)}
    if override.encoder:
        update["encoder"] = override.encoder
    if override.score:
        update["score"] = override.score
    if override.agent:
        if len(spec.panels) != 1:
            raise ConfigError(path, f"figures.{name}.agent", "only a single-panel figure's agent may change")
        title = AGENT_TITLES[override.agent]
        update["panels"] = (spec.panels[0].model_copy(update={"agent": override.agent, "title": title}),)
    encoder = str(update.get("encoder", spec.encoder))
    _check_added(spec, override, path, f"figures.{name}.add_series")
    update["series"] = (
        *_series(spec.series, encoder, variants, shared, f"{name}.series"),
        *_series(override.add_series, encoder, variants, path, f"figures.{name}.add_series"),
    )
    return spec.model_copy(update=update)


def _series(
    configured: tuple[Series, ...],
    encoder: str,
    variants: Mapping[str, NetworkSpec],
    file: Path,
    where: str,
) -> tuple[Series, ...]:
    """Series with the encoder filled in; raises ConfigError on a variant that does not exist."""
    found = []
    for i, series in enumerate(configured):
        names = tuple(name.replace("{encoder}", encoder) for name in series.variants)
        for j, name in enumerate(names):
            if name not in variants:
                raise ConfigError(file, f"{where}[{i}].variants[{j}]", one_of(name, variants, "variant"))
        found.append(series.model_copy(update={"variants": names}))
    return tuple(found)


def _check_added(spec: FigureSpec, override: FigureOverride, path: Path, where: str) -> None:
    """Added series have a name of their own, and as many variants as the figure's."""
    taken, needed = [series.name for series in spec.series], len(spec.x.values) if spec.x else 1
    for i, series in enumerate(override.add_series):
        if series.name in taken:
            raise ConfigError(path, f"{where}[{i}].name", f"{series.name!r} is in the figure already")
        if len(series.variants) != needed:
            problem = f"names {len(series.variants)} variants; a series of this figure has {needed}"
            raise ConfigError(path, f"{where}[{i}].variants", problem)
        taken.append(series.name)


def _check_snapshots(file: StudyFile, path: Path, figures: Mapping[str, FigureSpec]) -> None:
    """Analysis figures share a milestone, and need a snapshot in it."""
    analysed = {name: f.milestone for name, f in figures.items() if f.kind == "analysis"}
    if len(set(analysed.values())) > 1:
        raise ConfigError(path, "figures", f"analysis figures must share a milestone, not {analysed}")
    for name in file.figures:
        if name in analysed:
            iterations = getattr(file.milestones, analysed[name]) // file.iteration_frames
            if not 1 <= file.snapshot_every <= iterations:
                given = f"bad value {file.snapshot_every}: {name} needs snapshots"
                raise ConfigError(path, "snapshot_every", f"{given}; use 1 to {iterations} iterations")


def _games(
    members: str | tuple[str, ...],
    sets: Mapping[str, tuple[str, ...]],
    games: Mapping[str, Game],
    file: Path,
    where: str,
) -> tuple[str, ...]:
    if isinstance(members, str):
        if members not in sets:
            raise ConfigError(file, where, one_of(members, sets, "game set"))
        return sets[members]
    for i, name in enumerate(members):
        if name not in games:
            raise ConfigError(file, f"{where}[{i}]", one_of(name, games, "game"))
        if name in members[:i]:
            raise ConfigError(file, f"{where}[{i}]", f"duplicate game {name!r}")
    if not members:
        raise ConfigError(file, where, "must name at least one game")
    return members


def _deviations(
    file: StudyFile, shared: Path, figures: Mapping[str, FigureSpec], games: Mapping[str, Game]
) -> Deviations:
    configured = read_yaml(shared)
    defaults = read_yaml(shared.parent / "agents.yaml")
    changed = {
        name: f"{AGENT_TITLES.get(name, name)}: {', '.join(keys)} changed"
        for name, overrides in file.agents.items()
        if (keys := [key for key, value in overrides.items() if value != defaults[name][key]])
    }
    budgets: dict[str, tuple[str, ...]] = {}
    own: dict[str, tuple[str, ...]] = {}
    for name, override in file.figures.items():
        figure, original, found = figures[name], configured[name], []
        score = Score(original.get("score", Score.TRAINING))
        budgets[name] = tuple(_budget_deviations(file, figure, score))
        if figure.encoder != original["encoder"]:
            titles = ENCODER_TITLES[figure.encoder], ENCODER_TITLES[original["encoder"]]
            found.append(f"{titles[0]} encoder instead of {titles[1]}")
        if figure.score is not score:
            found.append(f"{figure.score} returns instead of {score} returns")
        if override.agent and override.agent != original["panels"][0]["agent"]:
            found.append(f"{AGENT_TITLES[override.agent]} instead of {original['panels'][0]['title']}")
        listed = original["games"]
        sets = game_sets(dict(games))
        paper = sets[PAPER_SETS.get(listed, listed)] if isinstance(listed, str) else tuple(listed)
        if set(figure.games) != set(paper):
            shown = ", ".join(figure.games) if len(figure.games) <= 4 else f"{len(figure.games)} games"
            found.append(f"{shown} instead of the paper's {len(paper)} games")
        found += [f"{series.name} added" for series in override.add_series]
        own[name] = tuple(found)
    for name, figure in figures.items():
        agents = {panel.agent for panel in figure.panels}
        own[name] = (*own.get(name, ()), *(text for agent, text in changed.items() if agent in agents))
    return Deviations(budgets, own)


def _budget_deviations(file: StudyFile, figure: FigureSpec, score: Score) -> Iterator[str]:
    """How a study's budget and schedule fall short of the paper's for a figure that shows `score` there."""
    budgets = PAPER_FRAMES[score]
    frames, printed = getattr(file.milestones, figure.milestone), budgets[figure.milestone]
    if frames != printed:
        yield f"{frames_label(frames)} frames instead of {frames_label(printed)}"
    if len(file.seeds) < 5:
        yield f"{len(file.seeds)} seed{'s' if len(file.seeds) > 1 else ''} instead of 5"
    if file.iteration_frames != budgets["iteration"]:
        yield (
            f"iterations of {frames_label(file.iteration_frames)} frames "
            f"instead of {frames_label(budgets['iteration'])}"
        )
    expected = PAPER_SCHEDULE[score]
    if file.iteration_end is not expected["iteration_end"]:
        yield f"iterations end {_ENDS[file.iteration_end]} instead of {_ENDS[expected['iteration_end']]}"
    if file.max_noops != expected["max_noops"]:
        yield f"episodes begin with up to {file.max_noops} no-op steps instead of {expected['max_noops']}"
    if figure.score is Score.EVALUATION and file.evaluation != expected.get("evaluation", file.evaluation):
        assert file.evaluation is not None
        yield (
            f"evaluation of {file.evaluation.episodes} episodes at ε = {file.evaluation.epsilon:g} "
            f"instead of {expected['evaluation'].episodes} at {expected['evaluation'].epsilon:g}"
        )
