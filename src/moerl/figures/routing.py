"""Where the tokens of one state go: its frame, the expert of each token and its weight. Not in the paper."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from moerl.figures.notes import absent_panel
from moerl.figures.style import EXPERTS, NO_RUNS, PAGE
from moerl.study.figures import ENCODER_TITLES, FigureSpec

ROW_HEIGHT = 1.75  # inches
TITLES = ("Newest frame", "Expert of each token", "Weight of that expert", "Tokens per expert")
WIDTHS = (1.0, 1.0, 1.0, 0.72)
RELIEF = 0.65  # how far the pixels that differ most from the background take a colour to white or black
HATCH = "/" * 7
CELL = ["top", "bottom", "left", "right"]

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.float64]
"""Grey values `[H, W]` in 0 … 255, or colours `[H, W, 3]` in 0 … 1."""


def routing_figure(table: pd.DataFrame, spec: FigureSpec) -> Figure:
    """Draw a routing figure from its table (the figure's CSV): a row per series."""
    tokens = table[table["token"].notna()]
    tokens = tokens.astype(dict.fromkeys(CELL, int) | {"expert": int, "dropped": bool})
    figure = Figure((PAGE, ROW_HEIGHT * len(spec.series) + 0.35))
    axes = figure.subplots(len(spec.series), len(TITLES), squeeze=False, width_ratios=WIDTHS)
    scale = LogNorm(1 / max(2, int(table["experts"].max())), 1.0)
    most = max(tokens.groupby("series")["expert"].value_counts(), default=1)
    weights = None
    for row, series in zip(axes, spec.series, strict=True):
        mine = tokens[tokens["series"] == series.name]
        if mine.empty:
            for ax in row:
                absent_panel(ax, NO_RUNS)
        else:
            frame = frame_of(mine)
            game_frame(row[0], frame)
            first_choices(row[1], mine, frame)
            weights = token_weights(row[2], mine, scale)
            token_counts(row[3], mine, int(mine["experts"].iloc[0]), most)
        row[0].set_ylabel(series.name, fontweight="bold", fontsize=8.5)
    for ax, title in zip(axes[0], TITLES, strict=True):
        ax.set_title(title)
    if weights is not None:
        _weight_bar(figure, axes[:, 2].tolist(), weights, scale)
    figure.suptitle(_title(tokens, spec), fontsize=8.5, fontweight="bold")
    return figure


def frame_of(tokens: pd.DataFrame) -> npt.NDArray[np.uint8]:
    """The frame `[H, W]` that the cells of a state's tokens make up."""
    frame = np.zeros((tokens["bottom"].max(), tokens["right"].max()), np.uint8)
    for (top, bottom, left, right), pixels in zip(tokens[CELL].to_numpy(), tokens["pixels"], strict=True):
        cell = np.frombuffer(bytes.fromhex(pixels), np.uint8)
        frame[top:bottom, left:right] = cell.reshape(bottom - top, right - left)
    return frame


def game_frame(ax: Axes, pixels: Pixels) -> Axes:
    """Draw `pixels`, a unit per pixel, the first row on top."""
    height, width = pixels.shape[:2]
    ax.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0), interpolation="nearest")
    return _framed(ax)


def first_choices(ax: Axes, tokens: pd.DataFrame, frame: npt.NDArray[np.uint8]) -> Axes:
    """Draw a frame with each token's cell in the colour of its expert, hatched if it was dropped."""
    colours = np.zeros((*frame.shape, 3))
    for (top, bottom, left, right), expert in zip(tokens[CELL].to_numpy(), tokens["expert"], strict=True):
        colours[top:bottom, left:right] = to_rgb(EXPERTS[expert])
    game_frame(ax, shaded(colours, frame))
    _hatch(ax, tokens)
    used, dropped = tokens["expert"].nunique(), int(tokens["dropped"].sum())
    lost = f"{dropped}/{len(tokens)} dropped" if dropped else "none dropped"
    ax.set_xlabel(f"{used} expert{'s' if used > 1 else ''}, {lost}")
    return ax


def shaded(colours: npt.NDArray[np.float64], frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """`colours` `[H, W, 3]`, lighter and darker where a frame `[H, W]` is so than its background (median)."""
    relief = frame[:, :, None] - np.median(frame)
    relief *= RELIEF / max(1.0, float(np.abs(relief).max()))
    return np.where(relief > 0, colours + (1 - colours) * relief, colours * (1 + relief))


def token_weights(ax: Axes, tokens: pd.DataFrame, scale: LogNorm) -> QuadMesh:
    """Draw each token's weight of its expert as a heat map; returns what a colour bar needs."""
    rows, columns = (np.unique(tokens[names].to_numpy()) for names in (CELL[:2], CELL[2:]))
    weights = tokens["gate"].to_numpy(dtype=np.float64)
    grid = weights.reshape(len(rows) - 1, len(columns) - 1)
    mesh = ax.pcolormesh(columns, rows, grid, norm=scale, cmap="Blues", rasterized=True)
    ax.set_aspect("equal")
    ax.invert_yaxis()
    _hatch(_framed(ax), tokens)
    ax.set_xlabel(f"{weights.min():.2f} to {weights.max():.2f}, mean {weights.mean():.2f}")
    return mesh


def token_counts(ax: Axes, tokens: pd.DataFrame, experts: int, most: int) -> Axes:
    """Draw how many tokens each expert is the first choice of, kept and dropped: also the colours' legend.

    Args:
        ax: Drawn into.
        tokens: The table's rows of one series.
        experts: How many there are, chosen or not.
        most: End of the axis.
    """
    start = np.zeros(experts)
    for dropped, hatch in ((False, ""), (True, HATCH)):
        chosen = tokens.loc[tokens["dropped"] == dropped, "expert"]
        counts = np.bincount(chosen, minlength=experts)
        ax.barh(range(experts), counts, left=start, color=EXPERTS[:experts], hatch=hatch, linewidth=0)
        start = start + counts
    ax.set_yticks(range(experts), [str(e) for e in range(experts)])
    ax.set_ylim(experts - 0.5, -0.5)
    ax.set_xlim(0, most)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False)
    ax.set_ylabel("Expert")
    if tokens["dropped"].any():
        ax.set_xlabel("hatched: dropped")
    return ax


def _framed(ax: Axes) -> Axes:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.spines[:].set_visible(True)
    return ax


def _hatch(ax: Axes, tokens: pd.DataFrame) -> None:
    for top, bottom, left, right in tokens.loc[tokens["dropped"], CELL].to_numpy():
        size = right - left, bottom - top
        ax.add_patch(Rectangle((left, top), *size, fill=False, hatch=HATCH, linewidth=0))


def _weight_bar(figure: Figure, axes: Sequence[Axes], weights: QuadMesh, scale: LogNorm) -> None:
    """One colour bar for all heat maps, from the least that a first choice can weigh to all."""
    assert scale.vmin is not None
    bar = figure.colorbar(weights, ax=axes, location="right", aspect=40, shrink=0.9)
    ticks = [scale.vmin, *(tick for tick in (0.25, 0.5) if tick > 1.2 * scale.vmin), 1.0]
    bar.set_ticks(ticks, labels=[f"1/{1 / scale.vmin:.0f}", *(f"{tick:g}" for tick in ticks[1:])])
    bar.ax.minorticks_off()


def _title(tokens: pd.DataFrame, spec: FigureSpec) -> str:
    """Which run, snapshot and state are shown."""
    encoder = ENCODER_TITLES[spec.encoder]
    ends = sorted({int(iteration) + 1 for iteration in tokens["iteration"]})
    when = f", after iteration {ends[0]}" if len(ends) == 1 else ""
    return (
        f"{spec.panels[0].title} ({encoder}) on {spec.games[0]}, seed {spec.seed}{when}, state {spec.state}"
    )
