"""Titles, chapters and captions of the report."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from docutils.core import publish_doctree
from docutils.nodes import bullet_list, list_item, paragraph

from moerl.study.captions import caption
from moerl.study.chapters import chapter, figure_caption, pages, rst, title
from moerl.study.config import load_study

STUDIES = Path(__file__).parents[2] / "config" / "studies"


@pytest.mark.parametrize(
    ("name", "expected"), [("fig01", "Figure 1"), ("fig19", "Figure 19"), ("table2", "Table 2")]
)
def test_titles_are_the_papers(name: str, expected: str) -> None:
    assert title(name) == expected


def test_every_figure_of_the_paper_has_its_section_and_data_a_page() -> None:
    study = load_study(STUDIES / "paper.yaml")
    found = {name: chapter(study, name) for name in study.figures}
    assert found["fig01"] == "Section 4.2"
    assert found["fig10"] == "Section 5.1"
    assert found["fig19"] == "Appendix"
    assert found["routing"] == "Not in the paper"
    paged = pages(study)
    data = {name for name, spec in study.figures.items() if spec.kind != "schematic"}
    assert set(paged) == data | {"table1", "table2", "table3", "table4"} | {
        "parameters",
        "provenance",
        "runs",
        "fidelity",
    }
    titles = [(page.chapter, page.title) for page in paged.values()]
    assert len(set(titles)) == len(titles)


def test_a_study_without_runs_has_nothing_to_tell_of_them(tmp_path: Path) -> None:
    demo = yaml.safe_load((STUDIES / "demo.yaml").read_text())
    path = tmp_path / "drawings.yaml"
    path.write_text(yaml.safe_dump(demo | {"figures": {"fig02": {}}}))
    study = load_study(path)
    assert not study.runs()
    assert set(pages(study)) == {"table2", "table4", "fidelity"}


def test_a_caption_says_what_is_not_as_in_the_paper() -> None:
    study = load_study(STUDIES / "demo.yaml")
    tree = publish_doctree(figure_caption(study, "fig01"), settings_overrides={"halt_level": 2})
    first = tree.next_node(paragraph)
    assert first is not None
    assert first.astext() == " ".join(caption(study, "fig01").split())
    (differs,) = tree.findall(bullet_list)
    assert [item.astext() for item in differs.findall(list_item)] == list(study.deviations.of("fig01"))


@pytest.mark.parametrize("text", ["*a* and **b**", "a_ and `b`", "|c|", "back\\slash", "x_1 × ε₈"])
def test_words_are_no_markup(text: str) -> None:
    tree = publish_doctree(rst(text), settings_overrides={"halt_level": 2})
    (only,) = tree.findall(paragraph)
    assert only.astext() == text
    assert len(only.children) == 1
