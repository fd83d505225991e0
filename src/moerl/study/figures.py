"""Figures as data: what `config/figures.yaml` may say, and a study's resolved version of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, model_validator

from moerl.study.errors import one_of
from moerl.study.specs import Encoder, Frozen, NonNegativeInt, PositiveFloat, PositiveInt

AGENT_TITLES: dict[str, str] = {
    "dqn": "DQN",
    "rainbow": "Rainbow",
    "der": "DER",
    "drq_eps": "DrQ(ε)",
    "cql": "CQL",
    "cql_c51": "CQL + C51",
    "sac": "SAC",
    "ppo": "PPO",
}
"""Every agent of the paper as it prints them, also those that moerl does not train yet."""

AGENT_FAMILIES: dict[str, str] = {
    "dqn": "online",
    "rainbow": "online",
    "der": "low-data",
    "drq_eps": "low-data",
    "cql": "offline",
    "cql_c51": "offline",
    "sac": "continuous control",
    "ppo": "continuous control",
}
"""Kinds of agents, as the paper's runs are counted."""


def base_agent(name: str) -> str:
    """The agent of the paper that `name` is a version of: "dqn_rr1" is DQN at another replay ratio.

    Raises ValueError if there is none.
    """
    bases = [base for base in AGENT_TITLES if f"{name}_".startswith(f"{base}_")]
    if not bases:
        raise ValueError(one_of(name, AGENT_TITLES, "agent"))
    return max(bases, key=len)


def _agent_name(name: str) -> str:
    base_agent(name)
    return name


AgentName = Annotated[str, AfterValidator(_agent_name)]
"""An agent of the paper or a version of one."""

ENCODER_TITLES: dict[str, str] = {Encoder.CNN: "Nature CNN", Encoder.IMPALA: "Impala"}
"""Encoders as the paper prints them."""


NO_EPISODE = " (no episode ended)"
"""In tables, marks games that are left out although they have a human score: there is no return."""

ROUTING_CHOICES = ("seed", "snapshot", "state")
"""What a routing figure, and no other, picks besides its agent, game and variants."""
COLOURED_EXPERTS = 8
"""Most experts of a variant in a routing figure: as many as there are colours that all readers tell apart."""

Measure = Literal["iqm", "return"]
PanelPer = Literal["agent", "game"]
Over = Literal["frames", "hours", "gradient steps"]


class Score(StrEnum):
    """The returns that a figure shows or aggregates."""

    TRAINING = "training"
    """Of the training episodes that ended in an iteration, under the training policy."""
    EVALUATION = "evaluation"
    """Of the games played after an iteration; only in studies with `evaluation`."""


class Series(Frozen):
    """One series as printed in the legend: a variant per x value (bars), or one variant."""

    name: str
    variants: tuple[str, ...]


class XAxis(Frozen):
    """A scaling axis: its label and one value per entry of each series' `variants`."""

    label: str
    values: tuple[NonNegativeInt | PositiveFloat, ...]
    agents: tuple[str, ...] = ()
    """Where the agent itself differs along the axis: its name at each value, `{agent}` being the panel's."""

    @model_validator(mode="after")
    def _an_agent_per_value(self) -> XAxis:
        if self.agents and len(self.agents) != len(self.values):
            raise ValueError(f"names {len(self.agents)} agents for {len(self.values)} values")
        return self


class Panel(Frozen):
    """One panel: its title as printed, the agent it shows, and what it has instead of the figure's.

    In `figures.yaml`, `{games}` in a title is the number of the panel's games.
    """

    title: str
    agent: AgentName
    games: str | tuple[str, ...] | None = None
    encoder: Encoder | None = None
    series: tuple[Series, ...] | None = None


@dataclass(frozen=True)
class View:
    """What one panel of a resolved figure shows."""

    title: str
    agent: str
    encoder: Encoder
    games: tuple[str, ...]
    series: tuple[Series, ...]
    x: XAxis | None

    def places(self) -> Iterator[tuple[str, float | None, str, str]]:
        """Series, x (None without a scaling axis), agent and variant of all that is shown, in order."""
        for series in self.series:
            for place, variant in enumerate(series.variants):
                if self.x is None:
                    yield series.name, None, self.agent, variant
                else:
                    agent = self.x.agents[place].format(agent=self.agent) if self.x.agents else self.agent
                    yield series.name, self.x.values[place], agent, variant


class Metric(Frozen):
    """A column of an analysis grid: metric name as in the analysis files, or "return"."""

    name: str
    label: str


class FigureSpec(Frozen):
    """One figure. In `figures.yaml`, `games` may be a set's name and variants may say `{encoder}`."""

    kind: Literal["bars", "curves", "analysis", "schematic", "routing"]
    section: str
    caption: str
    milestone: Literal["short", "full"] = "full"
    games: str | tuple[str, ...] = ()
    encoder: Encoder = Encoder.IMPALA
    score: Score = Score.TRAINING
    seeds: PositiveInt | None = None
    """Shown are the first so many of the study's seeds; None: all of them."""
    panels: tuple[Panel, ...] = ()
    series: tuple[Series, ...] = ()
    x: XAxis | None = None
    beside: bool = False
    """Bars: panels stand beside each other instead of one below the other."""
    parameters: bool = False
    """Bars: the networks' numbers of parameters are told with them, in the table and on the figure."""
    metrics: tuple[Metric, ...] = ()
    measure: Measure | None = None
    """Curves: IQM of human-normalised scores over games and seeds, or mean return over seeds."""
    panel_per: PanelPer | None = None
    """Curves: a panel for each entry of `panels` (all games in one curve), or one for each game."""
    over: Over = "frames"
    """Curves, analyses: the x axis. Hours are the recorded wall-clock of training; offline agents learn over
    gradient steps."""
    drawing: Literal["networks", "tokens"] | None = None
    """Schematics: what is drawn."""
    seed: NonNegativeInt | None = None
    """Routing: the seed whose run is shown; None in `figures.yaml`: the study's first."""
    snapshot: PositiveInt | None = None
    """Routing: the snapshot shown, by the finished iterations in its file's name; None: the last."""
    state: NonNegativeInt | None = None
    """Routing: which of the analysed states is shown, from 0; None in `figures.yaml`: the first."""

    @property
    def views(self) -> tuple[View, ...]:
        """The panels of a resolved figure, with the figure's games and series where they have none."""
        found = []
        for panel in self.panels:
            games = panel.games or self.games
            assert isinstance(games, tuple), "views are of resolved figures"
            encoder, series = panel.encoder or self.encoder, panel.series or self.series
            found.append(View(panel.title, panel.agent, encoder, games, series, self.x))
        return tuple(found)

    @property
    def all_games(self) -> tuple[str, ...]:
        """The games of all panels of a resolved figure, each once."""
        return tuple(dict.fromkeys(game for view in self.views for game in view.games))

    @property
    def all_series(self) -> tuple[str, ...]:
        """The names of all panels' series, each once."""
        return tuple(dict.fromkeys(one.name for p in self.panels for one in p.series or self.series))

    @property
    def agents(self) -> tuple[str, ...]:
        """The agents of all panels, each once."""
        return tuple(dict.fromkeys(panel.agent for panel in self.panels))

    @property
    def analysed(self) -> bool:
        """Whether the figure shows analyses of snapshots."""
        return self.kind in ("analysis", "routing")

    @model_validator(mode="after")
    def _fits_kind(self) -> FigureSpec:
        curves = self.measure is not None and self.panel_per is not None
        if self.kind != "curves" and (self.measure or self.panel_per or self.over == "hours"):
            raise ValueError("only a curves figure has `measure`, `panel_per` and `over: hours`")
        if self.kind not in ("curves", "analysis") and self.over != "frames":
            raise ValueError("only a curves or analysis figure has `over`")
        if self.kind != "bars" and (self.beside or self.parameters):
            raise ValueError("only a bars figure has `beside` and `parameters`")
        if (self.kind == "schematic") != (self.drawing is not None):
            raise ValueError("a schematic, and nothing else, has a `drawing`")
        if self.kind != "routing" and any(getattr(self, name) is not None for name in ROUTING_CHOICES):
            raise ValueError("only a routing figure has `seed`, `snapshot` and `state`")
        match self.kind:
            case "bars":
                if self.x is None or self.metrics:
                    raise ValueError("a bars figure has `x` and no `metrics`")
            case "curves":
                if not curves or self.x is not None or self.metrics:
                    raise ValueError(
                        "a curves figure has `measure` and `panel_per`, and neither `x` nor `metrics`"
                    )
                if self.panel_per == "game" and len(self.panels) != 1:
                    raise ValueError("a figure with a panel per game has one entry in `panels`, its agent")
                if self.panel_per == "agent" and self.measure == "return":
                    raise ValueError(
                        "raw returns of several games have no common scale: `measure: return` needs "
                        "`panel_per: game`"
                    )
                if self.panel_per == "game" and self.over == "hours":
                    raise ValueError("`over: hours` needs `panel_per: agent`")
            case "analysis":
                if self.x is not None or not self.metrics or len(self.panels) != 1:
                    raise ValueError("an analysis figure has `metrics`, one panel and no `x`")
            case "routing":
                if self.x is not None or self.metrics or len(self.panels) != 1:
                    raise ValueError("a routing figure has one panel, and neither `x` nor `metrics`")
                own = ("games", "series", "encoder")
                if given := [name for name in own if getattr(self.panels[0], name) is not None]:
                    listed = ", ".join(f"`{name}`" for name in given)
                    raise ValueError(f"a routing figure's panel has no {listed}: the figure has them")
            case "schematic":
                if self.panels or self.series or self.games or self.metrics or self.x:
                    raise ValueError("a schematic has no `panels`, `series`, `games`, `metrics` and `x`")
        return self

    @model_validator(mode="after")
    def _panels_are_filled(self) -> FigureSpec:
        if self.kind != "schematic" and not self.panels:
            raise ValueError("needs at least one entry in `panels`")
        titles = [panel.title for panel in self.panels]
        if len(set(titles)) != len(titles):
            raise ValueError(f"every panel needs a title of its own, not {', '.join(map(repr, titles))}")
        for panel in self.panels:
            if not (panel.games or self.games):
                raise ValueError(f"panel {panel.title!r} has no `games`, nor has the figure")
            if not (panel.series or self.series):
                raise ValueError(f"panel {panel.title!r} has no `series`, nor has the figure")
            needed = 1 if self.x is None else len(self.x.values)
            for series in panel.series or self.series:
                if len(series.variants) != needed:
                    raise ValueError(
                        f"series {series.name!r} names {len(series.variants)} variants; needs {needed}"
                    )
        return self


class FigureOverride(Frozen):
    """What a study may change in a figure: encoder, score, games, or the agent of a single-panel figure.

    It may add series of its own, and choose what a routing figure shows.
    """

    encoder: Encoder | None = None
    score: Score | None = None
    agent: AgentName | None = None
    games: str | tuple[str, ...] | None = None
    seed: NonNegativeInt | None = None
    snapshot: PositiveInt | None = None
    state: NonNegativeInt | None = None
    on_request: bool = False
    """Made only when it is named: no part of `snakemake` alone, nor of the study's manifest."""
    add_series: tuple[Series, ...] = ()
    """Drawn after the figure's own, with as many variants as they have."""
