"""Drawings without data: the networks that are compared (paper Fig 2) and the ways to make tokens (Fig 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from moerl.figures.style import BLUE, GREEN, GREY, MUTED, ORANGE, PAGE, PURPLE, RED, SKY

Point = tuple[float, float]
Colour = tuple[float, float, float]

SHADES = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
_EDGE = "#333333"


def schematic(drawing: Literal["networks", "tokens"]) -> Figure:
    """One of the drawings, by name."""
    match drawing:
        case "networks":
            return networks()
        case "tokens":
            return tokens()


def networks() -> Figure:
    """Baseline, baseline with a scaled penultimate layer, and mixture of experts (paper Fig 2)."""
    figure = Figure((PAGE, 2.6))
    ax = _canvas(figure, 19.6, 7.4)
    _dense_network(ax, 5.35, 1.6, "Baseline", "512")
    _dense_network(ax, 1.6, 3.0, "Baseline, penultimate layer scaled", "512·n")
    _mixture(ax, 9.3, 3.25)
    return figure


def _dense_network(ax: Axes, y: float, height: float, title: str, width: str) -> None:
    """Encoder, dense penultimate layer of a `width` in words, output."""
    ax.text(
        0.1, y + max(height / 2, 1.05) + 0.25, title, fontweight="bold", fontsize=7.5, ha="left", va="bottom"
    )
    _encoder(ax, 1.1, y)
    _box(ax, (4.4, y), 1.15, height, f"Dense\n{width}", GREY)
    _box(ax, (7.1, y), 1.35, 0.9, "Output", GREY)
    _arrow(ax, (2.15, y), (3.8, y), "flatten")
    _arrow(ax, (5.0, y), (6.4, y))


def _mixture(ax: Axes, x: float, y: float) -> None:
    """Encoder, tokens, gate, three of n experts, combination, output; the encoder begins at `x`."""
    ax.text(x, 6.65, "Mixture of n experts", fontweight="bold", fontsize=7.5, ha="left", va="bottom")
    _encoder(ax, x + 1.0, y)
    for place, colour in enumerate(SHADES[:4]):
        _box(ax, (x + 2.95, y + 1.05 - 0.7 * place), 0.9, 0.42, "", colour)
    ax.text(x + 2.95, y - 1.5, "tokens", fontsize=6, ha="center", va="top", color=MUTED)
    _arrow(ax, (x + 2.05, y), (x + 2.4, y))
    _box(ax, (x + 4.7, y), 0.95, 2.7, "Gate", ORANGE)
    _arrow(ax, (x + 3.5, y), (x + 4.15, y))
    for name, level in (("1", 2.4), ("2", 0.95), ("n", -2.4)):
        _box(ax, (x + 6.65, y + level), 1.55, 0.9, f"Expert {name}", BLUE)
        _arrow(ax, (x + 5.2, y + level * 0.3), (x + 5.83, y + level))
        _arrow(ax, (x + 7.45, y + level), (x + 8.05, y + level * 0.3))
    ax.text(x + 6.65, y - 0.75, "⋮", fontsize=11, ha="center", va="center", color=_EDGE)
    _box(ax, (x + 8.55, y), 0.9, 2.7, "Combine", ORANGE, rotation=90)
    _arrow(ax, (x + 9.03, y), (x + 9.35, y))
    _box(ax, (x + 9.82, y), 0.85, 1.9, "Output", GREY, rotation=90)


def _encoder(ax: Axes, x: float, y: float) -> None:
    """A trapezium that narrows to the right, as feature maps shrink."""
    corners = [(x - 1.0, y - 1.05), (x + 1.0, y - 0.6), (x + 1.0, y + 0.6), (x - 1.0, y + 1.05)]
    ax.add_patch(Polygon(corners, closed=True, facecolor=_pale(GREEN), edgecolor=_EDGE, linewidth=0.8))
    ax.text(x, y, "Encoder", fontsize=7, ha="center", va="center")


def _box(
    ax: Axes, centre: Point, width: float, height: float, text: str, colour: str, rotation: int = 0
) -> None:
    corner = centre[0] - width / 2, centre[1] - height / 2
    shape = "round,pad=0,rounding_size=0.12"
    ax.add_patch(
        FancyBboxPatch(corner, width, height, shape, facecolor=_pale(colour), edgecolor=_EDGE, linewidth=0.8)
    )
    ax.text(*centre, text, fontsize=6.5, ha="center", va="center", rotation=rotation)


def _arrow(ax: Axes, start: Point, end: Point, text: str = "") -> None:
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=6, linewidth=0.8, color=_EDGE, shrinkA=0, shrinkB=0
        )
    )
    if text:
        middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.12
        ax.text(*middle, text, fontsize=6, ha="center", va="bottom", color=MUTED)


def tokens() -> Figure:
    """PerConv, PerFeat and PerSamp tokens of one feature map (paper Fig 3)."""
    figure = Figure((PAGE, 2.35))
    ax = _canvas(figure, 20.0, 6.9)
    cells = [(k, i, j) for k in range(_DEEP) for i in range(_HIGH) for j in range(_WIDE)]
    _title(ax, 0, "Encoder output", "h × w × d")
    _feature_map(ax, 0, dict.fromkeys(cells, _pale(GREY)))
    for text, x, y in (("h", 0.55, 3.75), ("w", 1.95, 2.6), ("d", 4.2, 3.1)):
        ax.text(x, y, text, fontsize=8, style="italic", ha="center", va="center")
    _title(ax, 1, "PerConv", "h·w tokens of width d")
    _feature_map(ax, 1, {(k, i, j): _strong(SHADES[_WIDE * i + j]) for k, i, j in cells})
    _strips(ax, 1, SHADES[: _HIGH * _WIDE], _DEEP)
    _title(ax, 2, "PerFeat", "d tokens of width h·w")
    _feature_map(ax, 2, {(k, i, j): _strong(SHADES[k]) for k, i, j in cells})
    _strips(ax, 2, SHADES[:_DEEP], _HIGH * _WIDE)
    _title(ax, 3, "PerSamp", "1 token of width h·w·d")
    _feature_map(ax, 3, dict.fromkeys(cells, _strong(BLUE)))
    _strips(ax, 3, SHADES[:1], _HIGH * _WIDE * _DEEP)
    return figure


_HIGH, _WIDE, _DEEP = 2, 3, 4  # cells of the drawn feature map
_PANEL = 5.0  # width of a way to make tokens
_CELL, _BEHIND = 0.8, (0.42, 0.3)  # size of a cell, and how far the next channel stands behind
_CORNER = (0.75, 2.95)  # of the front channel within its panel, lower left


def _title(ax: Axes, panel: int, name: str, shape: str) -> None:
    centre = (panel + 0.5) * _PANEL
    ax.text(centre, 6.6, name, fontweight="bold", fontsize=8, ha="center", va="center")
    ax.text(centre, 6.05, shape, fontsize=6.5, ha="center", va="center", color=MUTED)


def _feature_map(ax: Axes, panel: int, fills: Mapping[tuple[int, int, int], Colour]) -> None:
    """Channels one behind the other; cells by (channel, row, column)."""
    for (k, i, j), fill in sorted(fills.items(), key=lambda cell: -cell[0][0]):
        x = panel * _PANEL + _CORNER[0] + k * _BEHIND[0] + j * _CELL
        y = _CORNER[1] + k * _BEHIND[1] + (_HIGH - 1 - i) * _CELL
        _cell(ax, (x, y), (_CELL, _CELL), fill)


def _strips(ax: Axes, panel: int, shades: Sequence[str], length: int) -> None:
    """Tokens below the feature map: one row of cells for each."""
    width = min(0.38, 0.92 * _PANEL / length)
    for row, shade in enumerate(shades):
        for i in range(length):
            x = (panel + 0.5) * _PANEL + (i - length / 2) * width
            _cell(ax, (x, 2.05 - 0.4 * row), (width, 0.3), _strong(shade))


def _cell(ax: Axes, corner: Point, size: Point, fill: Colour) -> None:
    ax.add_patch(Rectangle(corner, *size, facecolor=fill, edgecolor=_EDGE, linewidth=0.5))


def _canvas(figure: Figure, width: float, height: float) -> Axes:
    """An empty drawing area with equal units in both directions, as wide as the page."""
    ax = figure.subplots()
    ax.set_axis_off()
    ax.set_xlim(0, width)
    ax.set_ylim(-0.3, height)
    ax.set_aspect("equal")
    return ax


def _strong(colour: str) -> Colour:
    return _pale(colour, 0.55)


def _pale(colour: str, strength: float = 0.28) -> Colour:
    """A colour mixed with white."""
    red, green, blue = to_rgb(colour)
    return (1 - strength * (1 - red), 1 - strength * (1 - green), 1 - strength * (1 - blue))
