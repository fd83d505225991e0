"""Tables as LaTeX (booktabs), for a paper to \\input: a compact view of the CSV beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from moerl.study.figures import NO_EPISODE, FigureSpec
from moerl.study.sizes import millions

_ESCAPES = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "÷": r"$\div$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "ε": r"$\epsilon$",
    "γ": r"$\gamma$",
    "δ": r"$\delta$",
    "²": r"$^2$",
    "½": r"$\frac{1}{2}$",
    "–": "--",
    "₈": "$_8$",
    "Φ": r"$\Phi$",
}
ABSENT = "--"
COLUMNS = 5  # of a table of curves: points shown of each
NAMED_RUNS = 6  # left-out runs named below a table; the CSV file names all
READOUTS = {
    "last": "last iteration",
    "last_5": "mean of the last 5 iterations",
    "early": "early read-out",
}


def escape(text: str) -> str:
    """`text` with everything that LaTeX would interpret made literal."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def number(value: float) -> str:
    """About three significant digits, without an exponent; a missing value is a dash."""
    if pd.isna(value):
        return ABSENT
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 or value == 0 else 4
    text = f"{value:.{digits}f}"
    return f"$-${text[1:]}" if text.startswith("-") else text


def bars_latex(table: pd.DataFrame, figure: FigureSpec, headline: str) -> str:
    """One block per panel and read-out, one row per series, one column per x."""
    assert figure.x is not None
    xs = [str(x) for x in figure.x.values]
    body = []
    for (panel, readout), block in table.groupby(["panel", "readout"], sort=False):
        frames = f"{int(block['frame'].iloc[0]):,}".replace(",", r"\,")
        title = f"{panel}, {READOUTS[str(readout)]} ({{frames}} frames)"
        body.append(_span(len(xs) + 1, escape(title).replace(r"\{frames\}", frames)))
        for series, rows in block.groupby("series", sort=False):
            ordered = rows.set_index("x").loc[list(figure.x.values)][["iqm", "ci_low", "ci_high"]]
            cells = [_with_bounds(*values) for values in ordered.to_numpy(dtype=np.float64)]
            body.append(_row([escape(str(series)), *cells]))
        body.append(r"\addlinespace")
    if "parameters_min" in table:
        body += _parameters(table, list(figure.x.values))
    header = _row([escape(figure.x.label), *xs])
    return _tabular(headline, "l" + "c" * len(xs), header, body[:-1], _remarks(table, len(xs) + 1))


def _parameters(table: pd.DataFrame, xs: list[float]) -> list[str]:
    """One block per panel: the parameters of the networks behind its bars."""
    body = []
    for panel, block in table.groupby("panel", sort=False):
        actions = str(block["actions"].iloc[0]).replace("-", " to ")
        body.append(_span(len(xs) + 1, escape(f"{panel}, parameters in millions ({actions} actions)")))
        for series, rows in block.groupby("series", sort=False):
            ordered = rows.drop_duplicates("x").set_index("x").loc[xs][["parameters_min", "parameters_max"]]
            counts = ordered.to_numpy(dtype=np.int64)
            body.append(_row([escape(str(series)), *(escape(millions(*count)) for count in counts)]))
        body.append(r"\addlinespace")
    return body


def curves_latex(table: pd.DataFrame, figure: FigureSpec, headline: str) -> str:
    """Points of every curve, evenly spaced and with the last: one block per panel, one row per series.

    Over hours, a second row has the hours at which a curve's points stand.
    """
    along, title = ("gradient_steps", "Gradient steps") if "gradient_steps" in table else ("frame", "Frames")
    ends = sorted(table[along].dropna().astype(int).unique())
    count = min(COLUMNS, len(ends))
    frames = [ends[(place + 1) * len(ends) // count - 1] for place in range(count)]
    body = []
    for panel, block in table.groupby("panel", sort=False):
        body.append(_span(count + 1, escape(str(panel))))
        for series, rows in block.groupby("series", sort=False):
            points = rows.dropna(subset=along).set_index(along).reindex(frames)
            values = points[["value", "ci_low", "ci_high"]].to_numpy(dtype=np.float64)
            body.append(_row([escape(str(series)), *(_with_bounds(*point) for point in values)]))
            if figure.over == "hours":
                hours = points["hours"].to_numpy(dtype=np.float64)
                body.append(_row([r"\quad hours", *(number(value) for value in hours)]))
        body.append(r"\addlinespace")
    header = _row([title, *(f"{frame:,}".replace(",", r"\,") for frame in frames)])
    return _tabular(headline, "l" + "c" * count, header, body[:-1], _remarks(table, count + 1))


def analysis_latex(table: pd.DataFrame, figure: FigureSpec, headline: str) -> str:
    """The last point of every curve: one block per game, one row per series."""
    labels = {metric.name: metric.label for metric in figure.metrics}
    body = []
    for game, block in table.groupby("game", sort=False):
        body.append(_span(len(labels) + 1, escape(str(game))))
        for series, rows in block.groupby("series", sort=False):
            last = rows.drop_duplicates("metric", keep="last").set_index("metric")
            values = last.loc[list(labels), ["mean", "se_high"]].to_numpy(dtype=np.float64)
            cells = [_with_error(*point) for point in values]
            body.append(_row([escape(str(series)), *cells]))
        body.append(r"\addlinespace")
    header = _row(["", *(escape(label) for label in labels.values())])
    remarks = _remarks(table, len(labels) + 1)
    return _tabular(headline, "l" + "c" * len(labels), header, body[:-1], remarks)


def routing_latex(table: pd.DataFrame, _: FigureSpec, headline: str) -> str:
    """How the tokens share the experts: a row per series, a column per expert. The CSV has every token."""
    experts = range(int(table["experts"].max()))
    first = table.dropna(subset="token").iloc[0]
    place = f"{first['game']}, seed {first['seed']}, after {int(first['iteration']) + 1} iterations"
    body = [_span(len(experts) + 3, escape(f"{place}, state {first['state']}: percent of tokens"))]
    for series, rows in table.groupby("series", sort=False):
        tokens = rows.dropna(subset="token")
        counts = tokens["expert"].value_counts().reindex(experts[: rows["experts"].iloc[0]], fill_value=0)
        shares = [*(100 * counts.reindex(experts) / len(tokens)), 100 * tokens["dropped"].mean()]
        cells = [number(value) for value in (*shares, tokens["gate"].astype(float).mean())]
        body.append(_row([escape(str(series)), *cells]))
    header = _row(["Expert", *map(str, experts), "Dropped", "Mean weight"])
    return _tabular(headline, "l" + "r" * (len(experts) + 2), header, body, _remarks(table, len(experts) + 3))


FORMATS: dict[str, Callable[[pd.DataFrame, FigureSpec, str], str]] = {
    "bars": bars_latex,
    "curves": curves_latex,
    "analysis": analysis_latex,
    "routing": routing_latex,
}


def tabular(
    headline: str,
    columns: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    remarks: Sequence[str],
) -> str:
    """A table of texts.

    Args:
        headline: A comment on the first line.
        columns: LaTeX's column specification.
        header: A text per column.
        rows: As many texts each.
        remarks: Lines below the table.
    """
    body = [_row([escape(cell) for cell in row]) for row in rows]
    below = [_span(len(header), escape(remark)) for remark in remarks]
    return _tabular(headline, columns, _row([escape(cell) for cell in header]), body, below)


def _with_bounds(point: float, low: float, high: float) -> str:
    return number(point) + ("" if pd.isna(low) else f" [{number(low)}, {number(high)}]")


def _with_error(mean: float, high: float) -> str:
    return number(mean) + ("" if pd.isna(high) else f" $\\pm$ {number(high - mean)}")


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _span(columns: int, text: str) -> str:
    return f"\\multicolumn{{{columns}}}{{l}}{{\\emph{{{text}}}}} \\\\"


def _remarks(table: pd.DataFrame, columns: int) -> list[str]:
    """What the numbers leave out or mix, as rows below the table."""
    left_out = _names(table, "games_left_out")
    without = [name for name in left_out if name.endswith(NO_EPISODE)]
    told = [
        ("Without a human score, left out", [name for name in left_out if name not in without]),
        ("Without a finished episode, left out", [name.removesuffix(NO_EPISODE) for name in without]),
        (
            "Without any run in some cells, whose IQM is over the other games",
            _names(table, "games_without_runs"),
        ),
    ]
    runs = _names(table, "missing_runs")
    more = [f"and {len(runs) - NAMED_RUNS} more, named in the CSV file"] if len(runs) > NAMED_RUNS else []
    told.append((f"Partial: {len(runs)} runs left out", runs[:NAMED_RUNS] + more))
    remarks = [f"{title}: {', '.join(names)}." for title, names in told if names]
    if "mix" in table:
        remarks.append(f"{table['mix'].iloc[0]}.")
    return [_span(columns, escape(remark)) for remark in remarks]


def _names(table: pd.DataFrame, column: str) -> list[str]:
    """What a column names, each once. Cells without any run have no IQM, so it is over no other games."""
    if column not in table:
        return []
    rows = table[table["n_games"] > 0] if column == "games_without_runs" else table
    return sorted({name for cell in rows[column].dropna() for name in str(cell).split("; ") if name})


def _tabular(headline: str, columns: str, header: str, body: Sequence[str], remarks: Sequence[str]) -> str:
    lines = [
        f"% {headline}",
        r"% Needs \usepackage{booktabs}.",
        f"\\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        header,
        r"\midrule",
        *body,
        r"\bottomrule",
        *remarks,
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"
