from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from moerl.figures.bars import grouped_bars
from moerl.figures.curves import band_curve, frames_axis, from_zero, ticks
from moerl.figures.notes import SIZE, absent_panel, finish, partial_note
from moerl.figures.scaling import parameter_rows
from moerl.figures.schematics import schematic
from moerl.figures.style import COLUMN, PAGE, SERIES, SPARE, legend_columns, paper_style, save, styles
from moerl.study.errors import UserError
from moerl.study.figures import FigureSpec

NAN = float("nan")


@pytest.fixture
def ax() -> Iterator[Axes]:
    with paper_style():
        yield Figure().subplots()


def rectangles(ax: Axes) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle)]


def test_methods_keep_their_look_whatever_else_is_drawn() -> None:
    assert styles(["SoftMoE", "Mine"])["SoftMoE"] == styles(["Other", "Baseline", "SoftMoE"])["SoftMoE"]
    assert styles(["Mine", "Yours"]) == {"Mine": SPARE[0], "Yours": SPARE[1]}
    assert styles(["Regular", "BIG", "Mine"])["Mine"].colour not in {
        SERIES["Regular"].colour,
        SERIES["BIG"].colour,
    }
    looks = [*(SERIES[name] for name in ("Baseline", "SoftMoE", "Top1-MoE")), *SPARE]
    assert len({look.colour for look in looks}) == len({look.marker for look in looks}) == len(looks)
    with pytest.raises(UserError, match=r"'m5': .* room for 5"):
        styles(f"m{i}" for i in range(6))


def configured_series(kind: str) -> dict[str, tuple[str, ...]]:
    """The series of every configured figure of a kind."""
    figures = yaml.safe_load((Path(__file__).parents[2] / "config" / "figures.yaml").read_text())
    specs = {name: FigureSpec.model_validate(raw) for name, raw in figures.items()}
    return {name: spec.all_series for name, spec in specs.items() if spec.kind == kind}


def test_added_series_get_the_colours_that_a_figure_leaves() -> None:
    four, three = ("fig05", "fig08", "fig09"), ("fig13", "fig14", "fig15")
    for name, own in {**configured_series("bars"), **configured_series("curves")}.items():
        room = 4 if name in four else 3 if name in three else 5
        added = [f"m{i}" for i in range(room + 1)]
        assert len(styles([*own, *added[:room]])) == len(own) + room
        with pytest.raises(UserError, match=f"room for {room}"):
            styles([*own, *added])


def test_no_two_series_of_a_figure_look_alike() -> None:
    for names in configured_series("bars").values():
        assert len({look.colour for look in styles(names).values()}) == len(names)
    for names in configured_series("curves").values():
        looks = styles(names).values()
        assert (
            len({look.marker for look in looks})
            == len({(look.colour, look.line) for look in looks})
            == len(looks)
        )
        assert set(names) <= set(SERIES)  # the paper's series have looks of their own


def test_a_legend_fits_its_figure() -> None:
    labels = ["Baseline", "SoftMoE", "Top1-MoE", "Top2-MoE"]
    with paper_style():
        assert [legend_columns(labels[:n], COLUMN) for n in (1, 3, 4)] == [1, 3, 2]  # 4: not three and one
        assert legend_columns(labels, PAGE) == 4
        for shown in (labels, ["a name that is about as wide as the figure is", "another"]):
            figure = Figure((COLUMN, 2))
            handles = [Line2D([], []) for _ in shown]
            legend = figure.legend(handles, shown, ncols=legend_columns(shown, COLUMN))
            assert legend.get_window_extent().width <= COLUMN * figure.dpi


def test_bars_stand_where_and_as_high_as_they_should(ax: Axes) -> None:
    series = {
        "Baseline": np.array([[1.0, 0.8, 1.3], [0.5, 0.4, 0.6]]),
        "SoftMoE": np.array([[2.0, NAN, NAN], [NAN, NAN, NAN]]),
    }
    assert grouped_bars(ax, ["1", "8"], series, styles(series)) is ax
    bars = rectangles(ax)
    assert [bar.get_height() for bar in bars[:3]] == [1.0, 0.5, 2.0]
    assert np.isnan(bars[3].get_height())
    assert all(bar.get_y() == 0 for bar in bars)
    left, right = bars[0], bars[2]
    assert left.get_x() + left.get_width() == pytest.approx(right.get_x())  # they touch, not overlap
    assert left.get_x() + left.get_width() == pytest.approx(0.0)  # the group is centred on its tick
    assert to_hex(left.get_facecolor()).upper() == SERIES["Baseline"].colour
    stems = [list(line.get_ydata()) for line in ax.lines if len(set(line.get_xdata())) == 1]
    assert stems == [[0.8, 1.3], [0.4, 0.6]]  # none where there is no interval


def test_an_interval_may_lie_beside_its_point(ax: Axes) -> None:
    grouped_bars(ax, ["1"], {"Baseline": np.array([[1.0, 1.1, 1.2]])}, styles(["Baseline"]))
    assert [1.1, 1.2] in [list(line.get_ydata()) for line in ax.lines]


def test_curves_have_their_line_and_band(ax: Axes) -> None:
    x, y = np.array([1.0, 2.0, 3.0]), np.array([5.0, 6.0, 7.0])
    assert band_curve(ax, "SoftMoE", SERIES["SoftMoE"], x, y, (y - 1, y + 2)) is ax
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), np.column_stack([x, y]))
    (band,) = ax.collections
    assert isinstance(band, PolyCollection)
    vertices = band.get_paths()[0].vertices
    assert {tuple(v) for v in vertices} >= {(1.0, 4.0), (3.0, 6.0), (1.0, 7.0), (3.0, 9.0)}


def test_curves_without_a_band_or_without_points(ax: Axes) -> None:
    nothing = np.array([NAN, NAN])
    band_curve(ax, "a", SPARE[0], np.array([1.0, 2.0]), np.array([1.0, 2.0]), (nothing, nothing))
    band_curve(ax, "b", SPARE[1], nothing[:0], nothing[:0], (nothing[:0], nothing[:0]))
    assert not ax.collections
    assert [line.get_label() for line in ax.lines] == ["a", "b"]  # both in the legend


def test_frames_are_counted_in_readable_units() -> None:
    assert frames_axis(50_000_000)[0] == 1e6
    assert "millions" in frames_axis(1_000_000)[1]
    assert frames_axis(8_000) == (1e3, "Number of Frames\n(in thousands)")


@pytest.mark.parametrize("top", [0.0, 0.4, 30.0])
def test_a_curve_along_zero_stays_visible(ax: Axes, top: float) -> None:
    ax.plot([1, 2], [0, top])
    low, high = from_zero(ax).get_ylim()
    assert low < 0 < max(top, 0.1) < high
    assert -low < 0.1 * high


def test_large_values_are_read_in_thousands(ax: Axes) -> None:
    ax.plot([1, 50], [-20_000, 400_000])
    ax.figure.draw_without_rendering()
    ticks(ax, 50).figure.draw_without_rendering()
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert {"0", "200k", "400k"} <= set(labels)
    assert ax.get_xlim() == (0, pytest.approx(51.5))


def test_an_absent_panel_says_why(ax: Axes) -> None:
    assert [text.get_text() for text in absent_panel(ax, "not in this study").texts] == ["not in this study"]


def test_what_is_left_out_is_named_diverged_runs_first() -> None:
    assert partial_note(40, {}) is None
    assert partial_note(40, {"a": "missing"}) == "PARTIAL: 39 of 40 runs; missing: a."
    left_out = {"a": "missing", "b": "diverged at gradient step 3", "c": "missing"}
    assert partial_note(40, left_out, ["x without y"]) == (
        "PARTIAL: 37 of 40 runs; diverged: b; missing: a, c; IQM over fewer games: x without y."
    )


def test_long_lists_of_missing_runs_are_cut_and_counted() -> None:
    left_out = {str(i): "missing" for i in range(9)}
    assert partial_note(20, left_out) == (
        "PARTIAL: 11 of 20 runs; missing: 0, 1, 2, 3, 4, 5 and 3 more (all named in the table)."
    )
    left_out |= {str(i): "diverged at gradient step 1" for i in range(9, 16)}
    assert partial_note(20, left_out) == (
        "PARTIAL: 4 of 20 runs; diverged: 9, 10, 11, 12, 13, 14 and 1 more; missing: 9 runs "
        "(all named in the table)."
    )


def test_notes_stay_on_the_page_and_off_the_axes() -> None:
    with paper_style():
        figure = Figure((3.25, 2.0), dpi=300)  # as saved: hinting widens text below that
        ax = figure.subplots()
        ax.set_xlabel("Number of Experts")
        finish(figure, "A reduced study, " * 12, "INCOMPLETE " * 20)
        figure.draw_without_rendering()
        page = figure.bbox
        notes = [text.get_window_extent() for text in figure.texts]
        assert len(notes) > 4
        assert all(n.x0 >= 0 and n.x1 <= page.x1 and n.y0 >= 0 for n in notes)
        ordered = sorted(notes, key=lambda n: n.y0)
        assert all(a.y1 <= b.y0 + 0.25 * SIZE * 300 / 72 for a, b in pairwise(ordered))
        assert max(n.y1 for n in notes) < ax.get_tightbbox().y0


def test_saving_leaves_no_time_or_version_in_the_files(tmp_path) -> None:
    with paper_style():
        figure = Figure((2, 1))
        figure.subplots().plot([1, 2])
        save(figure, [tmp_path / f"new/f.{suffix}" for suffix in ("pdf", "png", "svg")])
    for file in (tmp_path / "new").iterdir():
        assert not any(word in file.read_bytes() for word in (b"atplotlib v", b"CreationDate", b"<dc:date>"))


def test_parameters_stand_below_their_bars(ax: Axes) -> None:
    series = {"Baseline": np.ones((2, 3)), "SoftMoE (÷ NumExperts)": np.ones((2, 3))}
    looks = styles(series)
    grouped_bars(ax, ["1", "8"], series, looks)
    counts = {"Baseline": ["2.1", "16.0"], "SoftMoE (÷ NumExperts)": ["0.15–0.20", "0.39"]}
    ax.set_xlabel("Number of Experts")
    assert parameter_rows(ax, counts, looks, "3-18") is ax
    ax.figure.draw_without_rendering()
    placed = {text.get_text(): text for text in ax.texts}
    assert placed["÷ NumExperts"].get_color() == looks["SoftMoE (÷ NumExperts)"].colour
    assert "Parameters in millions, for 3 to 18 actions" in placed
    for place, names in enumerate((("2.1", "0.15–0.20"), ("16.0", "0.39"))):
        centre = ax.transData.transform((place, 0))[0]
        boxes = [placed[name].get_window_extent() for name in names]
        assert all((box.x0 + box.x1) / 2 == pytest.approx(centre, abs=1) for box in boxes)
        assert ax.xaxis.label.get_window_extent().y0 > boxes[0].y1 > boxes[0].y0 >= boxes[1].y1 - 1


@pytest.mark.parametrize(
    ("drawing", "words"),
    [
        ("networks", ("Encoder", "Gate", "Expert n", "Combine", "Dense\n512·n", "Output")),
        ("tokens", ("PerConv", "PerFeat", "PerSamp", "h·w tokens of width d", "d tokens of width h·w")),
    ],
)
def test_schematics_say_what_they_show_inside_the_page(drawing, words) -> None:
    with paper_style():
        figure = schematic(drawing)
        finish(figure, None, None)
        figure.draw_without_rendering()
    (ax,) = figure.axes
    assert {text.get_text() for text in ax.texts} >= set(words)
    page = figure.bbox
    boxes = [text.get_window_extent() for text in ax.texts]
    assert all(b.x0 >= 0 and b.x1 <= page.x1 and b.y0 >= 0 and b.y1 <= page.y1 for b in boxes)


def test_tokens_hold_every_cell_of_the_feature_map_once() -> None:
    with paper_style():
        (ax,) = schematic("tokens").axes
    cells = rectangles(ax)
    maps = [cell for cell in cells if cell.get_height() > 0.5]
    tokens = [cell for cell in cells if cell.get_height() < 0.5]
    assert len(maps) == 4 * 2 * 3 * 4  # the encoder's output, and once for each way to make tokens of it
    for panel in (1, 2, 3):
        colours = [
            sorted(
                to_hex(cell.get_facecolor()) for cell in part if 5 * panel <= cell.get_x() < 5 * (panel + 1)
            )
            for part in (maps, tokens)
        ]
        assert colours[0] == colours[1]
