"""Loading configuration: YAML files to a resolved, validated `Study`, with one-line errors.

The files of `config/` (agents, networks, figures, games) are shared by all studies; a study is one
small YAML that picks figures and budgets from them and may add variants and override values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moerl.study.deviations import PAPER_SETS, deviations
from moerl.study.errors import ConfigError, one_of
from moerl.study.expansion import Study
from moerl.study.figures import (
    AGENT_FAMILIES,
    AGENT_TITLES,
    COLOURED_EXPERTS,
    ROUTING_CHOICES,
    FigureOverride,
    FigureSpec,
    Panel,
    Score,
    Series,
    base_agent,
)
from moerl.study.games import SET_TITLES, Game, GameChoice, game_sets, load_games, union
from moerl.study.specs import (
    ANALYSED_STATES,
    AgentSpec,
    Encoder,
    NetworkSpec,
    Tokens,
)
from moerl.study.study_file import NAME, StudyFile, read_entries, read_yaml, validate
from moerl.study.variants import Variants, study_variants


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
    variants = study_variants(shared / "networks.yaml", file, path)
    trainable = shared_agents(shared)
    figures = _figures(shared / "figures.yaml", file, path, games, variants, trainable)
    drawn = [name for name in file.figures if _drawable(figures[name], trainable)]
    drawn_or_not_listed = {n: f for n, f in figures.items() if n in drawn or n not in file.figures}
    _check_snapshots(file, path, figures)
    study = Study(
        path=path,
        name=file.name,
        agents=_agents(shared / "agents.yaml", file, path),
        listed=tuple(file.figures),
        variants=variants,
        games=games,
        figures={name: figures[name] for name in drawn},
        planned={name: figures[name] for name in file.figures if name not in drawn},
        on_request=frozenset(name for name, override in file.figures.items() if override.on_request),
        configured_figures=figures,
        seeds=file.seeds,
        seeds_per_job=file.seeds_per_job,
        iteration_frames=file.iteration_frames,
        milestone_frames={"short": file.milestones.short, "full": file.milestones.full},
        early_readout=file.early_readout,
        hidden_units=file.hidden_units,
        cpu_threads=file.cpu_threads,
        snapshot_every=file.snapshot_every,
        iteration_end=file.iteration_end,
        max_noops=file.max_noops,
        evaluation=file.evaluation,
        offline=file.offline,
        deviations=deviations(file, shared / "figures.yaml", drawn_or_not_listed, games, trainable),
    )
    variants.check(cell.variant for figure in study.figures.values() for cell in study.figure_cells(figure))
    _check_offline(study, variants)
    return study


def _check_offline(study: Study, variants: Variants) -> None:
    """Offline agents have data, and figures that say how long they learn; online ones neither."""
    offline = [name for name, agent in study.agents.items() if agent.offline]
    for name in offline:
        if study.offline is None:
            problem = "learns from a dataset: say under the study's `offline` where that is"
            raise ConfigError(study.path, f"agents.{name}", problem)
        if study.evaluation is not None:
            problem = "offline agents are evaluated as `offline` says; make them a study of their own"
            raise ConfigError(study.path, "evaluation", problem)
    for name, figure in study.figures.items():
        for agent in figure.agents:
            if agent in study.agents and (agent in offline) != (figure.over == "gradient steps"):
                axis = "gradient steps" if agent in offline else "frames or hours"
                problem = f"{agent} is trained over {axis}; {name} is over {figure.over}"
                raise ConfigError(study.path, f"figures.{name}.agent", problem)
    collect = study.offline.collect if study.offline else None
    if collect is None:
        return
    online = [name for name in study.agents if name not in offline]
    if collect.agent not in online:
        problem = one_of(collect.agent, online, "agent of this study that is online")
        raise ConfigError(study.path, "offline.collect.agent", problem)
    if study.agents[collect.agent].terminal_on_life_loss:
        problem = f"to {collect.agent} a lost life ends an episode: its runs are no data"
        raise ConfigError(study.path, "offline.collect.agent", problem)
    if collect.variant not in variants:
        problem = one_of(collect.variant, variants, "variant")
        raise ConfigError(study.path, "offline.collect.variant", problem)
    variants.check([collect.variant])


def shared_agents(shared: Path) -> dict[str, AgentSpec]:
    """Every agent of `agents.yaml` and every version of one, before a study changes anything.

    A version, such as `dqn_rr1`, is its base agent but for what its entry says. Raises ConfigError.
    """
    return _merged(shared / "agents.yaml", {}, shared / "agents.yaml", lambda _: True)


def _agents(shared: Path, file: StudyFile, path: Path) -> dict[str, AgentSpec]:
    """The study's agents, and the versions of them: what a study changes in an agent holds for these, too."""
    defaults = read_entries(shared)
    for name in file.agents:
        if name not in defaults:
            raise ConfigError(path, f"agents.{name}", one_of(name, defaults, "agent"))
    listed = _merged(shared, file.agents, path, lambda name: name in file.agents)
    versions = _merged(
        shared, file.agents, path, lambda name: name not in listed and base_agent(name) in listed
    )
    return {**{name: listed[name] for name in file.agents}, **versions}


def _merged(
    shared: Path, overrides: Mapping[str, dict[str, Any]], path: Path, wanted: Callable[[str], bool]
) -> dict[str, AgentSpec]:
    defaults = read_entries(shared)
    agents = {}
    for name, own in defaults.items():
        if not wanted(name):
            continue
        try:
            base = base_agent(name)
        except ValueError as error:
            raise ConfigError(shared, name, str(error)) from error
        if base not in defaults:
            raise ConfigError(shared, name, f"is a version of {base!r}, which is not here")
        merged = defaults[base] if name == base else defaults[base] | own
        whole = validate(AgentSpec, merged, shared, name)
        changed = overrides.get(base, {}) if name == base else overrides.get(base, {}) | own
        changed = changed | overrides.get(name, {})
        agents[name] = validate(AgentSpec, whole.model_dump() | changed, path, f"agents.{name}")
    return agents


def _figures(
    shared: Path,
    file: StudyFile,
    path: Path,
    games: Mapping[str, Game],
    variants: Mapping[str, NetworkSpec],
    trainable: Mapping[str, AgentSpec],
) -> dict[str, FigureSpec]:
    """The study's figures and every other analysis figure, resolved: game names, overrides, variant names.

    Analysis figures that are not drawn decide on snapshots all the same, so that drawing one later
    retrains nothing. One that this study cannot resolve (it names a game set or a variant that
    the study does not have) is left out, and so is every other figure that the study does not draw.
    """
    configured = read_entries(shared)
    for name in file.figures:
        if name not in configured:
            raise ConfigError(path, f"figures.{name}", one_of(name, configured, "figure"))
    sets = {name: GameChoice(members) for name, members in game_sets(dict(games)).items()}
    for name, printed in PAPER_SETS.items():
        if printed not in sets:
            raise ConfigError(shared.with_name("games.tsv"), "sets", f"no game is in the set {printed}")
        sets[name] = sets[printed]
    for name, members in file.games.items():
        sets[name] = _games(members, sets, games, path, f"games.{name}")
    resolver = _Resolver(shared, path, sets, games, variants, trainable)
    figures = {}
    for name, raw in configured.items():
        spec = validate(FigureSpec, raw, shared, name)
        if name in file.figures:
            figures[name] = resolver.resolve(name, spec, file.figures[name])
            figures[name] = _with_choices(name, figures[name], file, path, variants)
        elif spec.kind == "analysis":
            with suppress(ConfigError):
                figures[name] = resolver.resolve(name, spec, FigureOverride())
    for name in file.figures:
        wanted = figures[name].agents
        known = {*wanted, *map(base_agent, wanted)}
        if _drawable(figures[name], trainable) and wanted and known.isdisjoint(file.agents):
            listed = ", ".join(file.agents)
            problem = f"shows {', '.join(wanted)}, none of which is among this study's agents ({listed})"
            raise ConfigError(path, f"figures.{name}", problem)
        if figures[name].score is Score.EVALUATION and file.evaluation is None:
            problem = "shows evaluation returns, of which this study has none; add `evaluation` to the study"
            raise ConfigError(path, f"figures.{name}.score", problem)
    return figures


def _drawable(figure: FigureSpec, trainable: Mapping[str, AgentSpec]) -> bool:
    """Whether moerl can train any agent of a figure, or it shows none."""
    return not figure.agents or any(agent in trainable for agent in figure.agents)


@dataclass(frozen=True)
class _Resolver:
    """Fills in a figure's games by name, its variants' encoder and a study's overrides."""

    shared: Path
    path: Path
    sets: Mapping[str, GameChoice]
    games: Mapping[str, Game]
    variants: Mapping[str, NetworkSpec]
    trainable: Mapping[str, AgentSpec]

    def resolve(self, name: str, spec: FigureSpec, override: FigureOverride) -> FigureSpec:
        """The figure `name` as the study shows it. Raises ConfigError."""
        update: dict[str, Any] = {"panels": spec.panels}
        _check_panels(spec, override, self.path, f"figures.{name}")
        if override.encoder:
            update["encoder"] = override.encoder
        if override.score:
            update["score"] = override.score
        if override.agent:
            if len(spec.panels) != 1:
                problem = "only a single-panel figure's agent may change"
                raise ConfigError(self.path, f"figures.{name}.agent", problem)
            title = AGENT_TITLES.get(override.agent, override.agent)
            changed = {"agent": override.agent, "title": title}
            update["panels"] = (spec.panels[0].model_copy(update=changed),)
        whole = None
        if spec.kind != "schematic" and (override.games or spec.games):
            whole = self._choice(name, override.games, spec.games)
            update["games"] = whole.games
        encoder = update.get("encoder", spec.encoder)
        added = f"figures.{name}.add_series"
        _check_added(spec, override, self.path, added)
        update["series"] = (
            *self._series(self.shared, f"{name}.series", spec.series, encoder, spec.agents),
            *self._series(self.path, added, override.add_series, encoder, spec.agents),
        )
        divided = spec.kind == "bars" or (spec.kind == "curves" and spec.panel_per == "agent")
        update["panels"] = tuple(
            one
            for place, panel in enumerate(update["panels"])
            for one in self._panels(name, place, panel, spec, encoder, override, whole if divided else None)
        )
        update["panels"] = tuple(
            _titled(panel, update.get("games", spec.games)) for panel in update["panels"]
        )
        return spec.model_copy(update=update)

    def _choice(
        self,
        name: str,
        override: str | tuple[str, ...] | None,
        own: str | tuple[str, ...],
        panel: str = "",
    ) -> GameChoice:
        """A figure's or panel's games, those of the study's override if it has any."""
        if override:
            return _games(override, self.sets, self.games, self.path, f"figures.{name}.games")
        if isinstance(own, str) and own not in self.sets:
            problem = f"{name} shows the game set {own!r}: say what it is here, a list or a set of games.tsv"
            raise ConfigError(self.path, "games", problem)
        return _games(own, self.sets, self.games, self.shared, f"{name}{panel}.games")

    def _panels(
        self,
        name: str,
        place: int,
        panel: Panel,
        spec: FigureSpec,
        encoder: Encoder,
        override: FigureOverride,
        whole: GameChoice | None,
    ) -> Iterator[Panel]:
        """A panel; where its games are several sets (`whole`: the figure's), one for each of them."""
        where = f".panels[{place}]"
        update: dict[str, Any] = {}
        if panel.games and _plays_atari(panel.agent):
            whole = self._choice(name, None, panel.games, where)
            update["games"] = whole.games
        if panel.series or panel.encoder:
            at = f"{name}{where if panel.series else ''}.series"
            own, agents = panel.encoder or encoder, (panel.agent,)
            update["series"] = (
                *self._series(self.shared, at, panel.series or spec.series, own, agents),
                *self._series(self.path, f"figures.{name}.add_series", override.add_series, own, agents),
            )
        for i, template in enumerate(spec.x.agents if spec.x else ()):
            agent = template.format(agent=panel.agent)
            if panel.agent in self.trainable and agent not in self.trainable:
                problem = one_of(agent, self.trainable, "agent")
                raise ConfigError(self.shared, f"{name}.x.agents[{i}]", problem)
        filled = panel.model_copy(update=update)
        if whole is None or not whole.parts:
            yield filled
            return
        for part, games in whole.parts:
            title = f"{panel.title}, {SET_TITLES.get(part, part)}"
            yield filled.model_copy(update={"title": title, "games": games})

    def _series(
        self, file: Path, where: str, series: tuple[Series, ...], encoder: Encoder, agents: Iterable[str]
    ) -> tuple[Series, ...]:
        """Series with their encoder filled in; variants must exist, but for agents that play no Atari."""
        filled = tuple(
            s.model_copy(update={"variants": tuple(v.replace("{encoder}", encoder) for v in s.variants)})
            for s in series
        )
        if any(_plays_atari(agent) for agent in agents):
            for i, one in enumerate(filled):
                for j, variant in enumerate(one.variants):
                    if variant not in self.variants:
                        here = f"{where}[{i}].variants[{j}]"
                        raise ConfigError(file, here, one_of(variant, self.variants, "variant"))
        return filled


def _plays_atari(agent: str) -> bool:
    """Whether an agent's games and networks are those of games.tsv and networks.yaml."""
    return AGENT_FAMILIES[base_agent(agent)] != "continuous control"


def _titled(panel: Panel, figure_games: tuple[str, ...]) -> Panel:
    """A resolved panel with the number of its games in its title, where it asks for that."""
    number = str(len(panel.games or figure_games))
    return panel.model_copy(update={"title": panel.title.replace("{games}", number)})


def _check_panels(spec: FigureSpec, override: FigureOverride, path: Path, where: str) -> None:
    """A study does not change what panels have of their own: they are told apart by it."""
    for key, instead in (("encoder", ""), ("games", "; say under the study's `games` what their sets are")):
        own = [repr(panel.title) for panel in spec.panels if getattr(panel, key)]
        if getattr(override, key) and own:
            problem = f"the panels {', '.join(own)} have {key.rstrip('s')}s of their own{instead}"
            raise ConfigError(path, f"{where}.{key}", problem)


def _check_added(spec: FigureSpec, override: FigureOverride, path: Path, where: str) -> None:
    """Added series have a name of their own, and as many variants as the figure's."""
    taken, needed = list(spec.all_series), len(spec.x.values) if spec.x else 1
    for i, series in enumerate(override.add_series):
        if series.name in taken:
            raise ConfigError(path, f"{where}[{i}].name", f"{series.name!r} is in the figure already")
        if len(series.variants) != needed:
            problem = f"names {len(series.variants)} variants; a series of this figure has {needed}"
            raise ConfigError(path, f"{where}[{i}].variants", problem)
        taken.append(series.name)


def _with_choices(
    name: str, spec: FigureSpec, file: StudyFile, path: Path, variants: Mapping[str, NetworkSpec]
) -> FigureSpec:
    """A figure with what the study chooses in a routing figure filled in and checked."""
    override, here = file.figures[name], f"figures.{name}"
    chosen = {choice: getattr(override, choice) for choice in ROUTING_CHOICES}
    given = {choice: value for choice, value in chosen.items() if value is not None}
    if spec.kind != "routing":
        if given:
            raise ConfigError(path, f"{here}.{next(iter(given))}", f"{name} is not a routing figure")
        return spec
    configured = spec.model_dump(include=set(ROUTING_CHOICES), exclude_none=True)
    spec = spec.model_copy(update={"seed": file.seeds[0], "state": 0} | configured | given)
    if spec.seed not in file.seeds:
        raise ConfigError(path, f"{here}.seed", one_of(spec.seed, file.seeds, "seed"))
    if spec.state not in range(ANALYSED_STATES):
        raise ConfigError(path, f"{here}.state", f"bad value {spec.state}: use 0 to {ANALYSED_STATES - 1}")
    last = getattr(file.milestones, spec.milestone) // file.iteration_frames
    taken = [str(k) for k in range(1, last + 1) if file.snapshot_every and not k % file.snapshot_every]
    if taken and spec.snapshot is not None and str(spec.snapshot) not in taken:
        raise ConfigError(path, f"{here}.snapshot", one_of(spec.snapshot, taken, "snapshot"))
    if len(spec.games) != 1:
        problem = f"{name} shows one game, not {', '.join(spec.games)}"
        raise ConfigError(path, f"{here}.games", problem)
    for variant in dict.fromkeys(variant for series in spec.series for variant in series.variants):
        network = variants[variant]
        if network.tokens is not Tokens.PERCONV:
            have = f"{network.tokens} tokens" if network.tokens else "no tokens"
            problem = f"{variant} has {have}; only perconv tokens have a place in the frame"
            raise ConfigError(path, here, problem)
        if network.num_experts > COLOURED_EXPERTS:
            problem = f"{variant} has {network.num_experts} experts; {COLOURED_EXPERTS} can be told apart"
            raise ConfigError(path, here, problem)
    return spec


def _check_snapshots(file: StudyFile, path: Path, figures: Mapping[str, FigureSpec]) -> None:
    """Figures that show analyses of online runs share a milestone; all of them need a snapshot in theirs."""
    analysed = {name: f.milestone for name, f in figures.items() if f.analysed and f.over == "frames"}
    if len(set(analysed.values())) > 1:
        raise ConfigError(
            path, "figures", f"figures that show analyses must share a milestone, not {analysed}"
        )
    for name in file.figures:
        if name in analysed:
            iterations = getattr(file.milestones, analysed[name]) // file.iteration_frames
            _check_range(file, path, name, iterations)
        elif figures[name].analysed and (offline := file.offline) is not None:
            _check_range(file, path, name, offline.iterations)


def _check_range(file: StudyFile, path: Path, name: str, iterations: int) -> None:
    if not 1 <= file.snapshot_every <= iterations:
        given = f"bad value {file.snapshot_every}: {name} needs snapshots"
        raise ConfigError(path, "snapshot_every", f"{given}; use 1 to {iterations} iterations")


def _games(
    members: str | tuple[str, ...],
    sets: Mapping[str, GameChoice],
    games: Mapping[str, Game],
    file: Path,
    where: str,
) -> GameChoice:
    """A set by name, several sets, or games. Raises ConfigError."""
    if isinstance(members, str):
        if members not in sets:
            raise ConfigError(file, where, one_of(members, sets, "game set"))
        return sets[members]
    of_sets = any(name in sets for name in members)
    for i, name in enumerate(members):
        if of_sets and name not in sets:
            problem = f"{one_of(name, sets, 'game set')} (a list holds games or game sets, not both)"
            raise ConfigError(file, f"{where}[{i}]", problem)
        if not of_sets and name not in games:
            raise ConfigError(file, f"{where}[{i}]", one_of(name, games, "game"))
        if name in members[:i]:
            raise ConfigError(file, f"{where}[{i}]", f"duplicate {'set' if of_sets else 'game'} {name!r}")
    if not members:
        raise ConfigError(file, where, "must name at least one game")
    if not of_sets:
        return GameChoice(members)
    return union(members, sets) if len(members) > 1 else sets[members[0]]
