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
from click.testing import CliRunner
from tiny_project import CHECKOUT, TINY_AGENT, Project

from moerl.cli.main import cli

PAGE = (CHECKOUT / "docs" / "extending.md").read_text()
STUDY = "config/studies/mine.yaml"
SERIES = "Top2-MoE"

# A run of seconds; the figures are made of the runs that are there.
TINY = {
    "agents": {"dqn": TINY_AGENT},
    "seeds": [0],
    "seeds_per_job": 1,
    "iteration_frames": 320,
    "milestones": {"short": 320, "full": 320},
}


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
    for name in ("fig06", "fig10"):  # the paper's are of Rainbow, on other games
        study["figures"][name] |= {"agent": "dqn", "games": ["Pong"]}
    project = Extended.create(root, study)
    project.write(STUDY, study)
    for file, more in (("networks", variants), ("figures", figure)):
        with (root / "config" / f"{file}.yaml").open("a") as shared:
            shared.write(f"\n{more}")
    apply(metric, root / "src" / "moerl" / "analysis" / "snapshot.py")
    (root / "mine").mkdir()
    shutil.copy2(CHECKOUT / "docs" / "examples" / "topk.py", root / "mine")
    return project


@pytest.mark.long
def test_the_page_leads_to_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = extended(tmp_path / "moerl")
    # Commands that the page's edit of the source does not concern run in this process, which saves starting JAX.
    monkeypatch.syspath_prepend(project.root / "mine")
    monkeypatch.chdir(project.root)
    folders = ("--study", STUDY, "--results", "results/mine")

    def moerl(*arguments: str) -> str:
        done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    counts = moerl("params", "--study", STUDY, "--actions", "6")
    sizes = dict(re.findall(r"^cnn-(top\S+) +([\d,]+) ", counts, re.MULTILINE))
    assert sizes["top2-8"] == sizes["top1-8"]  # routing alone differs

    planned = project.snakemake("fig01", "fig06", "fig10", "--dry-run", study=STUDY)
    for size in (1, 2, 4, 8):
        assert f"Training dqn cnn-top2-{size} on Pong, seeds 0, to 320 frames" in planned
    assert "Analysing dqn cnn-top2-8 on Pong, seed 0" in planned

    cell = ("--agent", "dqn", "--variant", "cnn-top2-8", "--game", "Pong")
    moerl("train", *folders, *cell, "--seeds", "0", "--milestone", "320", "--state", "state/mine")
    done = project.run("moerl", "analyse", *folders, *cell, "--seed", "0")
    assert done.returncode == 0, done.stderr
    analysis = pd.read_parquet("results/mine/analysis/dqn/cnn-top2-8/Pong/seed0.parquet")
    assert {"q_max", "routing_dropped", "routing_usage_7"} <= set(analysis["metric"])
    assert analysis["value"].notna().all()

    values = {"fig01": "iqm", "fig06": "value", "fig10": "mean", "qmax": "mean"}
    for figure, value in values.items():
        for stage in ("scores", "table", "figure"):
            moerl(stage, figure, *folders, "--allow-partial")
        rows = pd.read_csv(f"results/mine/tables/{figure}.csv")
        assert rows["series"].drop_duplicates().iloc[-1] == SERIES
        have = rows[rows["missing_runs"].isna()]
        assert set(have["series"]) == {SERIES}
        assert have[value].notna().all()
        assert Path(f"results/mine/figures/{figure}.png").stat().st_size > 10_000


def test_the_files_and_names_of_the_page_exist() -> None:
    for path in re.findall(r"`((?:src|config|tests)/[\w/.]+)`", PAGE):
        assert path == STUDY or (CHECKOUT / path).exists(), path
    for link in re.findall(r"\]\(([\w/.]+)\)", PAGE):
        assert (CHECKOUT / "docs" / link).exists(), link
