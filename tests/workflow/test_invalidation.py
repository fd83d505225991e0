"""What an edit re-runs: exactly the jobs it touches, by dry run on a finished study."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_project import STUDY, Project

pytestmark = pytest.mark.long

MANIFEST = "Listing every byte-reproducible file of study tiny"
PROVENANCE = "Gathering where the runs of study tiny come from"
PARAMETERS = "Counting the parameters of every network"
VARIANTS = ("cnn-baseline", "cnn-softmoe1")
STYLE = "src/moerl/figures/style.py"


def training(agent: str, variant: str, game: str = "Pong", seeds: str = "0,1", milestone: str = "320") -> str:
    return f"Training {agent} {variant} on {game}, seeds {seeds}, to {milestone}"


def analysing(seed: int) -> str:
    return f"Analysing dqn cnn-baseline on Pong, seed {seed}"


def from_scores(*figures: str) -> set[str]:
    return {f"Collecting the scores of {f}" for f in figures} | from_table(*figures)


def from_table(*figures: str) -> set[str]:
    return {f"Aggregating {f} into its table" for f in figures} | drawing(*figures) | pages(*figures)


def drawing(*figures: str) -> set[str]:
    return {f"Drawing {f}" for f in figures} | {MANIFEST}


def pages(*names: str) -> set[str]:
    return {f"Making the page {name} of the report" for name in names}


NEW_RUNS = {PROVENANCE} | pages("provenance", "runs")
TABLE2 = "Writing table2 from the resolved hyper-parameters"


def change_study(project: Project, **changes: Any) -> None:
    project.write(STUDY, project.read(STUDY) | changes)


def test_a_finished_study_plans_nothing(project: Project) -> None:
    assert project.planned() == set()
    assert project.planned("fig01", "fig10") == set()


def test_words_that_change_no_behaviour_plan_nothing(project: Project) -> None:
    for module in ("figures/style.py", "analysis/stage.py", "statistics/tables.py", "training/online.py"):
        path = project.root / "src/moerl" / module
        path.write_text(f"# A remark.\n{path.read_text()}\n\n")
    project.edit("config/figures.yaml", "section: '4.2'", "section: 4.2 of the paper")
    (project.root / STUDY).rename(project.root / "renamed.yaml")
    moved = project.root / "config/studies/renamed.yaml"
    (project.root / "renamed.yaml").rename(moved)
    said = project.snakemake("--dry-run", study="config/studies/renamed.yaml")
    assert "Nothing to be done" in said


def test_another_software_environment_plans_nothing_unless_conda_makes_it(project: Project) -> None:
    project.edit("envs/conda.yaml", "  - pip\n", "  - pip\n  - tqdm\n")
    script = project.root / "envs/conda.post-deploy.sh"
    script.write_text(f"{script.read_text()}\npython -m pip list\n")
    (project.root / "envs/cpu.txt").write_text("")
    assert project.planned() == set()


def test_a_caption_colour_redraws_the_figures(project: Project) -> None:
    path = project.root / STYLE
    line = next(line for line in path.read_text().splitlines() if line.startswith("MUTED = "))
    project.edit(STYLE, line, 'MUTED = "#010203"')
    assert project.planned() == drawing("fig01", "fig10")


def test_an_analysis_constant_repeats_the_analyses(project: Project) -> None:
    path = project.root / "src/moerl/analysis/dormant.py"
    path.write_text(f"{path.read_text()}\nONE_MORE_THRESHOLD = 0.5\n")
    assert project.planned() == {analysing(0), analysing(1)} | from_table("fig10")


def test_an_aggregation_constant_repeats_the_tables_and_trains_nothing(project: Project) -> None:
    path = project.root / "src/moerl/statistics/iqm.py"
    path.write_text(f"{path.read_text()}\nONE_MORE_CONSTANT = 1\n")
    assert project.planned() == from_table("fig01", "fig10")


def test_a_learning_rate_retrains_its_agent_only(project: Project) -> None:
    agents = project.read(STUDY)["agents"]
    agents["dqn"]["learning_rate"] = 1e-4
    change_study(project, agents=agents)
    expected = {training("dqn", variant) for variant in VARIANTS}
    expected |= {analysing(0), analysing(1), TABLE2} | pages("table2") | from_scores("fig01", "fig10")
    assert project.planned() == expected | NEW_RUNS


def test_one_more_seed_trains_that_seed_only(project: Project) -> None:
    change_study(project, seeds=[0, 1, 2])
    expected = {training(agent, v, seeds="2") for agent in ("dqn", "rainbow") for v in VARIANTS}
    assert project.planned() == expected | {analysing(2)} | from_scores("fig01", "fig10") | NEW_RUNS


def test_one_more_game_trains_that_game_only(project: Project) -> None:
    change_study(project, games={"games20": ["Pong", "Breakout"]})
    expected = {training(agent, v, game="Breakout") for agent in ("dqn", "rainbow") for v in VARIANTS}
    expected |= {PARAMETERS} | pages("parameters")  # it has other actions
    assert project.planned() == expected | from_scores("fig01") | NEW_RUNS


def test_a_longer_milestone_goes_on_from_the_one_before(project: Project) -> None:
    change_study(project, milestones={"short": 320, "full": 640})
    expected = {training(agent, v, milestone="640") for agent in ("dqn", "rainbow") for v in VARIANTS}
    assert project.planned() == expected | from_scores("fig01") | NEW_RUNS


def test_one_figure_trains_only_what_it_shows(project: Project) -> None:
    change_study(project, seeds=[0, 1, 2])
    expected = {training("dqn", "cnn-baseline", seeds="2"), analysing(2)} | from_scores("fig10")
    assert project.planned("fig10") == expected - {MANIFEST} - pages("fig10")


def test_a_note_on_fidelity_remakes_its_page(project: Project) -> None:
    path = project.root / "docs/fidelity.md"
    path.touch()
    assert project.planned() == set()
    path.write_text(f"{path.read_text()}\nOne more note.\n")
    assert project.planned() == pages("fidelity")
