"""Tables and documents as HTML pages."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from moerl.cli.main import cli
from moerl.report.pages import write_page
from moerl.study.errors import UserError


class Cells(HTMLParser):
    """The cells of a page's tables, row by row, and which of them are flush right."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.right: set[str] = set()
        self._inside: str | None = None
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._inside = "number" if ("class", "number") in attrs else "text"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            if self._inside == "number":
                self.right.add(self.rows[-1][-1])
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


def test_a_table_has_all_cells_its_numbers_rounded_and_counts_whole(tmp_path: Path) -> None:
    source = tmp_path / "table.csv"
    source.write_text('name,count,score\n"a, <b>",4046502,0.123456789\n"two\nlines",198311,\n')
    write_page(source, tmp_path / "new" / "page.html", "A & B")
    cells = Cells(tmp_path / "new" / "page.html")
    assert cells.rows == [
        ["name", "count", "score"],
        ["a, <b>", "4046502", "0.123457"],
        ["two\nlines", "198311", ""],
    ]
    assert cells.right == {"count", "score", "4046502", "0.123457", "198311", ""}
    assert "<h1>A &amp; B</h1>" in (tmp_path / "new" / "page.html").read_text()


def test_a_document_keeps_its_tables_and_runs_nothing(tmp_path: Path) -> None:
    source, page = tmp_path / "notes.md", tmp_path / "page.html"
    source.write_text("# Notes\n\n| a | b |\n|---|---:|\n| `x|y`\\| | 2 |\n\n<script>alert(1)</script>\n")
    write_page(source, page, "Notes")
    assert Cells(page).rows[0] == ["a", "b"]
    text = page.read_text()
    assert "<h1>Notes</h1>" in text
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)" in text


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("notes.txt", b"", "bad suffix '.txt' (allowed: .md, .csv)"),
        ("notes.md", b"\xff\xfe\x80", "cannot be shown as a page"),
        ("absent.csv", None, "cannot be shown as a page"),
    ],
)
def test_what_is_no_table_or_document_is_one_line(
    tmp_path: Path, name: str, content: bytes | None, problem: str
) -> None:
    source = tmp_path / name
    if content is not None:
        source.write_bytes(content)
    done = CliRunner().invoke(cli, ["page", str(source), str(tmp_path / "page.html"), "--title", "x"])
    assert isinstance(done.exception, UserError)
    assert str(done.exception).startswith(f"{source}: ")
    assert problem in str(done.exception)
    assert not (tmp_path / "page.html").exists()
