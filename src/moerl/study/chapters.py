"""How the HTML report is arranged: by the paper's sections, with titles and captions of what is in it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from moerl.study.captions import caption
from moerl.study.expansion import Study
from moerl.study.tables import load_tables, made_tables

PARAMETERS, PROVENANCE, RUNS, FIDELITY = "parameters", "provenance", "runs", "fidelity"
"""Pages that belong to no figure or table of the paper. Without runs, a study has only the last."""

_KINDS = {"fig": "Figure", "table": "Table"}
_CHAPTERS = {"none": "Not in the paper", "text": "Text of the paper"}
RUNS_CHAPTER = "Runs and networks"


@dataclass(frozen=True)
class Page:
    """A table or document that the report shows as a page."""

    title: str
    chapter: str
    about: str
    """What it is, as reStructuredText."""


def title(name: str) -> str:
    """A figure or table as the paper calls it: "Figure 1"; one that is not in the paper by its name."""
    match = re.fullmatch(r"(fig|table)(\d+)", name)
    return f"{_KINDS[match[1]]} {int(match[2])}" if match else name


def chapter(study: Study, figure: str) -> str:
    """Where a figure stands: the section of the paper that shows it."""
    section = study.figure(figure).section
    return f"Section {section}" if section[:1].isdigit() else _CHAPTERS.get(section, section)


def figure_caption(study: Study, figure: str) -> str:
    """The caption of a figure and what is not as in the paper, as reStructuredText."""
    differs = "".join(f"* {rst(text)}\n" for text in study.deviations.of(figure))
    return rst(caption(study, figure)) + (f"\n\nNot as in the paper:\n\n{differs}" if differs else "")


def pages(study: Study) -> dict[str, Page]:
    """The pages of a study's report, those of figures on request among them."""
    found = {}
    for name, figure in study.figures.items():
        if figure.kind != "schematic":
            about = f"The numbers that {title(name)} shows.\n\n{figure_caption(study, name)}"
            found[name] = Page(f"{title(name)}, numbers", chapter(study, name), about)
    tables = load_tables(study)
    for name in made_tables(study):
        about = f"{rst(tables[name].title)}, as the study resolves them, and where the paper's table differs."
        found[name] = Page(title(name), "Tables of hyper-parameters", about)
    if study.runs():
        found[PARAMETERS] = Page(
            "Parameter counts",
            RUNS_CHAPTER,
            "Parameters of every network, by part; ``of_baseline`` is relative to Baseline ×1 with the same"
            " encoder.",
        )
        found[PROVENANCE] = Page(
            "Provenance",
            RUNS_CHAPTER,
            "Source, software and hardware that trained the runs, and what that cost.",
        )
        found[RUNS] = Page("Runs, one by one", RUNS_CHAPTER, "The same for each run.")
    found[FIDELITY] = Page(
        "Fidelity notes",
        "Fidelity",
        "What the paper says, what the published code did, what this code does, and the test that pins it.",
    )
    return found


def rst(text: str) -> str:
    """Plain text as reStructuredText, without inline markup."""
    return re.sub(r"([\\*`|_<>])", r"\\\1", " ".join(text.split()))
