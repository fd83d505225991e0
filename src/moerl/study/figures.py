"""Figures as data: what `config/figures.yaml` may say, and a study's resolved version of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import model_validator

from moerl.study.specs import Encoder, Frozen, NonNegativeInt

AgentName = Literal["dqn", "rainbow", "der", "drq_eps", "cql", "cql_c51", "sac", "ppo"]
"""Every agent of the paper; a figure may name one that a study, or moerl, does not train yet."""

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
"""Agents as the paper prints them."""

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

ENCODER_TITLES: dict[str, str] = {Encoder.CNN: "Nature CNN", Encoder.IMPALA: "Impala"}
"""Encoders as the paper prints them."""


NO_EPISODE = " (no episode ended)"
"""In tables, marks games that are left out although they have a human score: there is no return."""

Measure = Literal["iqm", "return"]
PanelPer = Literal["agent", "game"]


class Score(StrEnum):
    """The returns that a figure shows or aggregates."""

    TRAINING = "training"
    """Of the training episodes that ended in an iteration, under the training policy."""
    EVALUATION = "evaluation"
    """Of the games played after an iteration; only in studies with `evaluation`."""


class Panel(Frozen):
    """One panel: its title as printed, and the agent it shows."""

    title: str
    agent: AgentName


class XAxis(Frozen):
    """A scaling axis: its label and one value per entry of each series' `variants`."""

    label: str
    values: tuple[NonNegativeInt, ...]


class Metric(Frozen):
    """A column of an analysis grid: metric name as in the analysis files, or "return"."""

    name: str
    label: str


class Series(Frozen):
    """One series as printed in the legend: a variant per x value (bars), or one variant."""

    name: str
    variants: tuple[str, ...]


class FigureSpec(Frozen):
    """One figure. In `figures.yaml`, `games` may be a set's name and variants may say `{encoder}`."""

    kind: Literal["bars", "curves", "analysis"]
    section: str
    caption: str
    milestone: Literal["short", "full"]
    games: str | tuple[str, ...]
    encoder: Encoder
    score: Score = Score.TRAINING
    panels: tuple[Panel, ...]
    series: tuple[Series, ...]
    x: XAxis | None = None
    metrics: tuple[Metric, ...] = ()
    measure: Measure | None = None
    """Curves: IQM of human-normalised scores over games and seeds, or mean return over seeds."""
    panel_per: PanelPer | None = None
    """Curves: a panel for each entry of `panels` (all games in one curve), or one for each game."""

    @model_validator(mode="after")
    def _consistent(self) -> FigureSpec:
        per_series = 1
        curves = self.measure is not None and self.panel_per is not None
        if self.kind != "curves" and (self.measure or self.panel_per):
            raise ValueError("only a curves figure has `measure` and `panel_per`")
        match self.kind:
            case "bars":
                if self.x is None or self.metrics:
                    raise ValueError("a bars figure has `x` and no `metrics`")
                per_series = len(self.x.values)
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
            case "analysis":
                if self.x is not None or not self.metrics or len(self.panels) != 1:
                    raise ValueError("an analysis figure has `metrics`, one panel and no `x`")
        for series in self.series:
            if len(series.variants) != per_series:
                raise ValueError(
                    f"series {series.name!r} names {len(series.variants)} variants; needs {per_series}"
                )
        return self


class FigureOverride(Frozen):
    """What a study may change in a figure: encoder, score, games, or the agent of a single-panel figure.

    And it may add series of its own.
    """

    encoder: Encoder | None = None
    score: Score | None = None
    agent: AgentName | None = None
    games: str | tuple[str, ...] | None = None
    add_series: tuple[Series, ...] = ()
    """Drawn after the figure's own, with as many variants as they have."""
