"""The HTML report, as a reader sees it: opened in a browser without network and clicked through."""

from __future__ import annotations

import base64
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from playwright.sync_api import Browser, Locator, Page, sync_playwright
from tiny_project import Project

from moerl.study.checkout import processor

pytestmark = pytest.mark.long

MENU, CONTENT = "#app > div > nav", "#app > div > div.grow"
LINES = f"{MENU} table tbody tr"

FIGURES = {"fig01": ("Section 4.2", "Figure 1"), "fig10": ("Section 5.1", "Figure 10")}
PAGES = {
    ("Section 4.2", "Figure 1, numbers"): "SoftMoE",
    ("Section 5.1", "Figure 10, numbers"): "Pong",
    ("Tables of hyper-parameters", "Table 2"): "Adam learning rate",
    ("Tables of hyper-parameters", "Table 4"): "Channels",
    ("Runs and networks", "Parameter counts"): "4046502",  # Baseline, Nature CNN, 6 actions
    ("Runs and networks", "Provenance"): "8 runs in 4 training jobs, seeds 0, 1: 2,560 emulated frames",
    ("Runs and networks", "Runs, one by one"): "cnn-softmoe1",
    ("Fidelity", "Fidelity notes"): "Baseline ×n and MoE-n do not have the same number of parameters",
}
FILES = {
    ("Section 4.2", "Figure 1, numbers, as CSV"): "tables/fig01.csv",
    ("Section 5.1", "Figure 10, numbers, as CSV"): "tables/fig10.csv",
    ("Tables of hyper-parameters", "Table 2, as CSV"): "tables/table2.csv",
    ("Tables of hyper-parameters", "Table 4, as CSV"): "tables/table4.csv",
    ("Runs and networks", "Parameter counts, as CSV"): "tables/parameters.csv",
    ("Runs and networks", "Runs, one by one, as CSV"): "report/runs.csv",
}


@pytest.fixture(scope="module")
def results(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a finished study, with the report of the target of that name."""
    project = finished.copy(tmp_path_factory.mktemp("reported") / "project")
    project.snakemake("report", "--cores", "1")
    return project.root / "results/tiny"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        missing = "needs a browser (Debian: apt-get install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def page(browser: Browser, results: Path) -> Iterator[Page]:
    """The report, wherever the test before left it. Scripts that fail in it are an error."""
    context = browser.new_context(offline=True, viewport={"width": 1600, "height": 900})
    opened, errors = context.new_page(), list[str]()
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.set_default_timeout(10_000)
    opened.goto((results / "report.html").as_uri())
    yield opened
    context.close()
    assert errors == []


def chapters(page: Page) -> list[str]:
    """What the menu of the first page lists under "Results"."""
    items: list[str] = page.locator(f"{MENU} li").all_inner_texts()
    return items[[item.lower() for item in items].index("results") + 1 :]


def enter(page: Page, chapter: str) -> None:
    """Go to a chapter from wherever the report stands."""
    page.locator(f"{MENU} > div > nav li a").first.click()  # home
    page.locator(f"{MENU} li a").get_by_text(chapter, exact=True).click()
    page.locator(LINES).first.wait_for()


def row(page: Page, result: str) -> Locator:
    """A chapter's line about one result."""
    cell = page.get_by_role("cell", name=result, exact=True)
    return page.locator(LINES).filter(has=cell)


def view(page: Page, chapter: str, result: str) -> None:
    """Click on the eye of a result."""
    enter(page, chapter)
    row(page, result).locator("a").first.click()


def test_every_result_stands_in_its_chapter(page: Page) -> None:
    expected: dict[str, set[str]] = {}
    for chapter, result in [*FIGURES.values(), *PAGES, *FILES]:
        expected.setdefault(chapter, set()).add(result)
    assert chapters(page) == sorted(expected)
    for chapter, wanted in expected.items():
        enter(page, chapter)
        shown = page.locator(f"{LINES} td:first-child").all_inner_texts()
        assert sorted(shown) == sorted(wanted)


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_is_seen(page: Page, figure: str) -> None:
    view(page, *FIGURES[figure])
    image = page.locator(f"{CONTENT} img")
    width, height = image.evaluate("i => i.decode().then(() => [i.naturalWidth, i.naturalHeight])")
    box = image.bounding_box()
    assert box is not None
    assert min(width, height, box["width"], box["height"]) > 100
    pixels = imread(io.BytesIO(image.screenshot()))
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20, "the image is blank"


def test_its_caption_is_the_studys(page: Page) -> None:
    enter(page, "Section 4.2")
    row(page, "Figure 1").locator("a").last.click()
    said = page.locator(MENU).inner_text()
    assert "SoftMoE and Top1-MoE scale with the number of experts" in said
    assert "Scored games: 1 of 1." in said
    assert "Not as in the paper:" in said
    assert "320 frames instead of 200M" in said


@pytest.mark.parametrize(("chapter", "result"), PAGES)
def test_a_page_is_read(page: Page, chapter: str, result: str) -> None:
    view(page, chapter, result)
    inside = page.frame_locator(f"{CONTENT} iframe").locator("main")
    inside.wait_for()
    assert inside.locator("h1, strong").first.is_visible()
    assert PAGES[chapter, result] in inside.inner_text()


def test_provenance_tells_versions_hardware_and_cost(page: Page) -> None:
    view(page, "Runs and networks", "Provenance")
    inside = page.frame_locator(f"{CONTENT} iframe").locator("main")
    inside.wait_for()
    headings = inside.locator("h2").all_inner_texts()
    assert headings == ["Cost by agent", "Hardware", "Source and software that trained"]
    columns = inside.locator("table").last.locator("th").all_inner_texts()
    assert {"git commit", "moerl", "jax", "ale-py", "python"} <= set(columns)
    said = inside.inner_text()
    assert "CPU-hours and 0 GPU-hours of training" in said
    assert processor() in said
    assert "no git checkout" in said  # the project is a copy


@pytest.mark.parametrize(("chapter", "result"), FILES)
def test_a_file_is_downloaded(page: Page, results: Path, chapter: str, result: str) -> None:
    enter(page, chapter)
    link = row(page, result).locator("a[download]")
    target = link.get_attribute("href")
    assert target is not None
    assert target.startswith("data:text/csv;")
    expected = (results / FILES[chapter, result]).read_bytes()
    assert base64.b64decode(target.partition("base64,")[2]) == expected
    assert link.get_attribute("download") == Path(FILES[chapter, result]).name
