"""A study's `offline`: what its agents learn from, for how long, and how that is told and refused."""

import json
from pathlib import Path

import pytest
import yaml

from moerl.study.config import load_study
from moerl.study.errors import ConfigError, UserError
from moerl.study.expansion import Cell, Run, Study
from moerl.study.paths import dataset_dir

STUDIES = Path(__file__).parents[2] / "config" / "studies"
PAPER = load_study(STUDIES / "paper.yaml")
COLLECTING = {
    "name": "mine",
    "agents": {"dqn": {}, "cql": {}, "cql_c51": {}},
    "figures": {"fig11": {"encoder": "cnn"}, "fig17": {"encoder": "cnn"}},
    "games": {"offline17": ["Pong", "Breakout"]},
    "seeds": [0, 3],
    "seeds_per_job": 1,
    "iteration_frames": 4000,
    "milestones": {"short": 4000, "full": 8000},
    "snapshot_every": 1,
    "offline": {"collect": {"variant": "cnn-baseline"}, "iterations": 3, "iteration_steps": 1000},
}
CELL = Cell("cql", "cnn-softmoe8", "Pong")


def study_of(tmp_path: Path, **changes) -> Study:
    """The collecting study with some keys replaced; None removes one."""
    settings = {key: value for key, value in (COLLECTING | changes).items() if value is not None}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    return load_study(tmp_path / "mine.yaml")


def test_the_papers_offline_runs():
    spec = PAPER.train_spec(Cell("cql_c51_data50", "impala-top1-8", "Pong"))
    assert (spec.schedule.iteration_steps, spec.schedule.snapshot_every) == (62_500, 0)
    assert spec.schedule.evaluation_phase.model_dump() == {"agent_steps": 125_000, "epsilon": 0.001}
    assert (spec.hyper.data_percent, spec.hyper.replay_capacity) == (50, 25_000_000)
    assert spec.dataset.model_dump() == {
        "name": "DQN Replay Dataset",
        "collected": None,
        "iterations": None,
    }
    assert PAPER.iterations("12500k-steps") == 200
    run = Run("cql", "impala-baseline", "Pong", 2, "12500k-steps")
    assert dataset_dir(PAPER, Path("results"), run) == Path("datasets/dqn/Pong/3")
    assert PAPER.deviations.of("fig11") == ()
    assert PAPER.previous_milestone("12500k-steps") is None


def test_runs_of_a_figure_bring_those_that_they_learn_from(tmp_path):
    study = study_of(tmp_path)
    collected = {run for run in study.runs() if run.agent == "dqn"}
    assert collected == {
        Run("dqn", "cnn-baseline", game, seed, "8k") for game in ("Pong", "Breakout") for seed in (0, 3)
    }
    assert {run.milestone for run in study.figure_runs(study.figure("fig11"))} == {"3k-steps"}
    folder = dataset_dir(study, Path("here"), Run("cql", "cnn-top1-8", "Pong", 3, "3k-steps"))
    assert folder == Path("here/runs/dqn/cnn-baseline/Pong/seed3/8k")


def test_what_collected_the_data_is_part_of_a_run_and_where_it_lies_is_not(tmp_path):
    specs = [
        study_of(tmp_path, **changes).train_spec(CELL)
        for changes in (
            {},
            {"agents": COLLECTING["agents"] | {"dqn": {"learning_rate": 1e-4}}},
            {"milestones": {"short": 4000, "full": 4000}},
            {"offline": {"folder": "here/{game}/{run}", "name": "data"}},
            {"offline": {"folder": "there/{game}/{seed}", "name": "data"}},
            {"offline": {"folder": "here/{game}/{run}", "name": "other data"}},
        )
    ]
    digests = [spec.digest() for spec in specs]
    assert len(set(digests)) == 5
    assert digests[3] == digests[4]
    study = study_of(tmp_path)
    source = study.train_spec(Cell("dqn", "cnn-baseline", "Pong"))
    assert json.loads(specs[0].canonical_json())["dataset"] == {
        "name": "dqn cnn-baseline",
        "collected": source.digest(),
        "iterations": 2,
    }
    assert "dataset" not in json.loads(source.canonical_json()), "online runs keep the identity they had"
    assert "evaluation_phase" not in json.loads(source.canonical_json())["schedule"]


def test_figures_say_how_an_offline_study_falls_short(tmp_path):
    told = study_of(tmp_path).deviations.of("fig11")
    assert told[:3] == (
        "3 iterations of 1,000 gradient steps instead of 200 of 62,500",
        "data of DQN cnn-baseline trained here for 8k frames instead of the DQN Replay Dataset",
        "2 seeds instead of 5",
    )
    other = {"folder": "here/{game}/{run}", "name": "mine", "evaluation": {"agent_steps": 50}}
    told = study_of(tmp_path, offline=other).deviations.of("fig11")
    assert told[:2] == (
        "evaluation of 50 agent steps at ε = 0.001 instead of 125,000 at 0.001",
        "data 'mine' instead of the DQN Replay Dataset",
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"offline": None}, r"agents\.cql: learns from a dataset: say under the study's `offline`"),
        ({"offline": {}}, "offline: needs either `collect` or `folder`"),
        ({"offline": {"folder": "a/{game}/{run}", "collect": {"variant": "cnn-baseline"}}}, "needs either"),
        ({"offline": {"folder": "a/{game}/{run}"}}, "`folder`, and nothing else, needs a `name`"),
        (
            {"offline": {"collect": {"variant": "cnn-baseline"}, "name": "mine"}},
            "nothing else, needs a `name`",
        ),
        (
            {"offline": {"folder": "data/{run}", "name": "mine"}},
            r"folder needs \{game\}, and \{seed\} or \{run\}",
        ),
        ({"offline": {"folder": "data/{game}", "name": "mine"}}, r"folder needs \{game\}, and"),
        (
            {"offline": {"folder": "data/{game}/{tape}", "name": "mine"}},
            r"folder may name \{game\}, \{seed\} and \{run\}",
        ),
        ({"offline": {"folder": "data/{game.__class__}/{run}", "name": "mine"}}, "folder (may name|needs)"),
        ({"offline": {"folder": "{", "name": "mine"}}, r"folder may name"),
        ({"offline": {"collect": {"variant": "cnn-baselin"}}}, "unknown variant 'cnn-baselin'"),
        ({"offline": {"collect": {"variant": "cnn-baseline", "agent": "cql"}}}, "unknown agent .* 'cql'"),
        ({"offline": {"collect": {"variant": "cnn-baseline"}, "iterations": 0}}, r"offline\.iterations"),
        ({"offline": {"colect": {}}}, "unknown key 'colect'"),
        ({"evaluation": {"episodes": 3}}, "offline agents are evaluated as `offline` says"),
        (
            {"figures": {"fig06": {"agent": "cql"}}},
            "cql is trained over gradient steps; fig06 is over frames",
        ),
        (
            {"figures": {"offline_values": {"agent": "dqn"}}},
            "dqn is trained over frames or hours; offline_values is over gradient steps",
        ),
        (
            {"figures": {"offline_values": {}}, "snapshot_every": 4},
            "offline_values needs snapshots; use 1 to 3",
        ),
        (
            {
                "agents": {"der": {}, "cql": {}, "cql_c51": {}},
                "offline": {"collect": {"variant": "cnn-baseline", "agent": "der"}},
            },
            "to der a lost life ends an episode",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said) as caught:
        study_of(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_an_offline_figure_can_be_analysed(tmp_path):
    study = study_of(tmp_path, figures={"offline_values": {}})
    spec = study.train_spec(Cell("cql", "cnn-baseline", "Pong"))
    assert spec.schedule.snapshot_every == 1
    assert study.train_spec(CELL).schedule.snapshot_every == 0
    assert study.analysed_milestone("cql") == "3k-steps"
    assert study.analysed_milestone("dqn") == "4k"


def test_an_unknown_milestone_names_those_that_there_are(tmp_path):
    with pytest.raises(UserError, match=r"unknown milestone '4k-steps' .*3k-steps"):
        study_of(tmp_path).iterations("4k-steps")
