"""docs/extending.md does what it says: its files and edits, in a scratch copy, to the figures it promises."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from tiny_project import CHECKOUT, TINY_AGENT, Project

from moerl.figures.style import SPARE

PAGE = (CHECKOUT / "docs" / "extending.md").read_text()
STUDY = "config/studies/mine.yaml"
SERIES = "Top2-MoE"

# Runs of seconds.
TINY = {
    "agents": {"dqn": TINY_AGENT, "rainbow": TINY_AGENT | {"epsilon_decay_period": None}},
    "seeds": [0],
    "seeds_per_job": 1,
    "iteration_frames": 320,
    "milestones": {"short": 320, "full": 320},
}
# The series of the paper that are trained beside the page's.
KEPT = {"fig01": ["SoftMoE"], "fig06": [], "fig10": []}


def blocks(language: str, section: str) -> list[str]:
    """The code blocks of one language in a section of the page (a second-level heading)."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Extended(Project):
    """A copy of the project whose Python also finds what lies in `mine/`, as after the page's `export`."""

    def environment(self) -> dict[str, str]:
        environment = super().environment()
        return environment | {"PYTHONPATH": f"{environment['PYTHONPATH']}{os.pathsep}{self.root / 'mine'}"}


def apply(diff: str, file: Path) -> None:
    """Replace the lines of a page's edit, which must be there once."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] != "+")
    after = "".join(line[1:] for line in lines if line[0] != "-")
    text = file.read_text()
    assert text.count(before) == 1, f"{file} does not have the lines\n{before}"
    file.write_text(text.replace(before, after))


def extended(root: Path) -> Extended:
    """What a reader of the page has: the class, the variants, the series, the metric and the figure."""
    (variants, mine), (metric,), (figure,) = (
        blocks("yaml", "A mixture of experts"),
        blocks("diff", "A metric"),
        blocks("yaml", "A figure"),
    )
    study: dict[str, Any] = yaml.safe_load(mine) | TINY
    study["figures"] |= dict.fromkeys(yaml.safe_load(figure), {})
    study["games"] = {name: ["Pong"] for name in study["games"]}
    study["figures"]["fig10"]["games"] = ["Pong"]
    project = Extended.create(root, study)
    project.write(STUDY, study)
    for file, more in (("networks", variants), ("figures", figure)):
        with (root / "config" / f"{file}.yaml").open("a") as shared:
            shared.write(f"\n{more}")
    apply(metric, root / "src" / "moerl" / "analysis" / "snapshot.py")
    (root / "mine").mkdir()
    shutil.copy2(CHECKOUT / "docs" / "examples" / "topk.py", root / "mine")
    return project


def fewer_runs(project: Extended) -> None:
    """Leave out runs that the page's series does not need: of Figure 1, all but the bars for eight experts."""
    figures, study = project.read("config/figures.yaml"), project.read(STUDY)
    for name, kept in KEPT.items():
        figures[name]["series"] = [series for series in figures[name]["series"] if series["name"] in kept]
    figures["fig01"]["x"]["values"] = [8]
    for series in figures["fig01"]["series"] + study["figures"]["fig01"]["add_series"]:
        series["variants"] = series["variants"][-1:]
    # A figure has a series of its own.
    for name in ("fig06", "fig10"):
        figures[name]["series"] = study["figures"][name].pop("add_series")
    project.write("config/figures.yaml", figures)
    project.write(STUDY, study)


@pytest.mark.long
def test_the_page_leads_to_its_figures(tmp_path: Path) -> None:
    project = extended(tmp_path / "moerl")
    counts = project.run("moerl", "params", "--study", STUDY, "--actions", "6").stdout
    sizes = dict(re.findall(r"│ cnn-(top\S+) +│ +([\d,]+) ", counts))
    assert sizes["top2-8"] == sizes["top1-8"]  # routing alone differs

    planned = project.snakemake("fig01", "fig06", "fig10", "--dry-run", study=STUDY)
    for agent in ("dqn", "rainbow"):
        for size in (1, 2, 4, 8):
            assert f"Training {agent} cnn-top2-{size} on Pong, seeds 0, to 320" in planned
    assert "Analysing rainbow cnn-top2-8 on Pong, seed 0" in planned

    fewer_runs(project)
    project.snakemake("fig01", "fig06", "fig10", "qmax", "--cores", "2", study=STUDY)
    results = project.root / "results" / "mine"
    for agent in ("dqn", "rainbow"):
        analysis = pd.read_parquet(results / f"analysis/{agent}/cnn-top2-8/Pong/seed0.parquet")
        assert {"q_max", "routing_dropped", "routing_usage_7"} <= set(analysis["metric"])
        assert analysis["value"].notna().all()
    colour = SPARE[0].colour.lower()
    for figure, value in {"fig01": "iqm", "fig06": "value", "fig10": "mean", "qmax": "mean"}.items():
        rows = pd.read_csv(results / f"tables/{figure}.csv")
        assert rows["series"].drop_duplicates().iloc[-1] == SERIES
        assert rows[value].notna().all()
        assert colour in (results / f"figures/{figure}.svg").read_text()


def test_the_files_and_names_of_the_page_exist() -> None:
    for path in re.findall(r"`((?:src|config|tests)/[\w/.]+)`", PAGE):
        assert path == STUDY or (CHECKOUT / path).exists(), path
    for link in re.findall(r"\]\(([\w/.]+)\)", PAGE):
        assert (CHECKOUT / "docs" / link).exists(), link
