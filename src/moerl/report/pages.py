"""`moerl page`: a table or a document as one HTML page, for a browser to show inside the report."""

from __future__ import annotations

import csv
import io
from html import escape
from pathlib import Path
from string import Template

from markdown_it import MarkdownIt

from moerl.study.errors import UserError, one_line

DIGITS = 6
"""Significant digits of numbers with a decimal point; the CSV file has all of them."""

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1e293b; background: #fff; margin: 1.5rem; }
main.document { max-width: 62rem; }
h1 { font-size: 1.4rem; }
h2 { font-size: 1.2rem; margin-top: 2rem; }
h3 { font-size: 1rem; margin-top: 1.5rem; }
code { font-size: 0.9em; background: #f1f5f9; padding: 0 0.2em; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.75rem 0.25rem 0; }
td { border-bottom: 1px solid #e2e8f0; }
th { border-bottom: 1px solid #64748b; background: #fff; }
table.numbers th { position: sticky; top: 0; }
table.numbers td { white-space: nowrap; max-width: 22rem; overflow: hidden; text-overflow: ellipsis; }
td.number, th.number { text-align: right; }
p.note { color: #64748b; }
</style>
</head>
<body>
<main class="$kind">
$body
</main>
</body>
</html>
""")


def write_page(source: Path, page: Path, title: str) -> None:
    """Write `source`, a Markdown document or a CSV table with a header, as an HTML page.

    A document brings its own heading; a table gets `title`, and its numbers rounded to `DIGITS` digits.
    Raises UserError if `source` cannot be read or is neither.
    """
    try:
        text = source.read_text(encoding="utf-8")
        match source.suffix:
            case ".md":
                kind, body = "document", document(text)
            case ".csv":
                kind, body = "table", f"<h1>{escape(title)}</h1>\n{table(text)}"
            case other:
                raise ValueError(f"bad suffix {other!r} (allowed: .md, .csv)")
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{source}: cannot be shown as a page: {one_line(error)}") from error
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(_PAGE.substitute(title=escape(title), kind=kind, body=body), encoding="utf-8")


def document(text: str) -> str:
    """Markdown as HTML. HTML inside of it is shown as text, so that no document can run anything."""
    html: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return html


def table(text: str) -> str:
    """A CSV table as HTML; columns without any text in them are flush right.

    Raises ValueError or csv.Error if it is none.
    """
    header, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    if any(len(row) != len(header) for row in rows):
        raise ValueError("rows of unequal length")
    numeric = [all(_number(row[i]) is not None or not row[i] for row in rows) for i in range(len(header))]

    def line(tag: str, cells: list[str]) -> str:
        marks = [' class="number"' if right else "" for right in numeric]
        inside = "".join(f"<{tag}{m}>{escape(c)}</{tag}>" for m, c in zip(marks, cells, strict=True))
        return f"<tr>{inside}</tr>"

    body = "\n".join(line("td", [_shown(cell) for cell in row]) for row in rows)
    head = line("th", header)
    note = f"Numbers are rounded to {DIGITS} significant digits; the CSV file has all of them."
    return (
        f'<p class="note">{len(rows)} rows. {note}</p>\n'
        f'<table class="numbers">\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table>'
    )


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _shown(cell: str) -> str:
    """A cell with numbers that have a decimal point rounded, so that counts stay whole."""
    value = _number(cell) if "." in cell else None
    return cell if value is None else f"{value:.{DIGITS}g}"
