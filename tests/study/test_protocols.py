"""The two protocols of DER and DrQ(ε), and how a study says which one it follows (method 4.7)."""

import json
from pathlib import Path

import pytest
import yaml

from moerl.study.config import load_study
from moerl.study.expansion import Cell, Study
from moerl.study.paths import RUN_FILES, files_of_run
from moerl.study.specs import Evaluation, IterationEnd, Schedule

STUDIES = Path(__file__).parents[2] / "config" / "studies"


def edited(tmp_path: Path, name: str, **changes) -> Study:
    """A study of the repository with some keys replaced."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load((STUDIES / f"{name}.yaml").read_text()) | changes))
    return load_study(path)


@pytest.mark.parametrize("agent", ["der", "drq_eps"])
def test_atari100k(agent):
    study = load_study(STUDIES / "atari100k.yaml")
    spec = study.train_spec(Cell(agent, "impala-softmoe8", "Pong"))
    assert spec.schedule == Schedule(
        iteration_steps=10_000,
        iteration_end=IterationEnd.STEP,
        max_noops=29,
        evaluation=Evaluation(episodes=100, epsilon=0.001),
    )
    assert study.iterations("400k") == 10
    hyper = spec.hyper
    assert (hyper.terminal_on_life_loss, hyper.sticky_actions, hyper.max_episode_steps) == (True, 0.0, 27_000)
    assert (hyper.update_period, hyper.updates_per_period) == (1, 1)
    assert len(study.runs()) == 26 * 5 * 2 * 2 * 2
    assert {run.milestone for run in study.runs()} == {"400k"}
    assert files_of_run(study) == (*RUN_FILES, "evaluations.parquet")
    assert study.deviations.of("atari100k_impala") == study.deviations.of("atari100k_cnn") == ()


@pytest.mark.parametrize("agent", ["der", "drq_eps"])
def test_50m_frames_are_the_ordinary_protocol(agent):
    """Figures 12 and 16: 50 iterations of 250,000 agent steps, one update per step, training returns."""
    study = load_study(STUDIES / "paper.yaml")
    spec = study.train_spec(Cell(agent, "impala-softmoe8", "Pong"))
    assert spec.schedule == Schedule(iteration_steps=250_000)
    assert json.loads(spec.canonical_json())["schedule"].keys() == {
        "iteration_steps",
        "snapshot_every",
        "snapshot_batches",
    }
    assert study.iterations("50M") == 50
    ratio = spec.hyper.updates_per_period / spec.hyper.update_period
    assert ratio * spec.schedule.iteration_steps * study.iterations("50M") == 12_500_000
    assert (spec.hyper.terminal_on_life_loss, spec.hyper.sticky_actions) == (True, 0.0)
    assert files_of_run(study) == RUN_FILES


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"iteration_end": "episode"}, "iterations end with an episode instead of at a step"),
        ({"max_noops": 0}, "episodes begin with up to 0 no-op steps instead of 29"),
        (
            {"evaluation": {"episodes": 10}},
            "evaluation of 10 episodes at ε = 0.001 instead of 100 at 0.001",
        ),
        ({"iteration_frames": "20k"}, "iterations of 20k frames instead of 40k"),
        ({"milestones": {"short": "200k", "full": "400k"}}, "200k frames instead of 400k"),
        ({"seeds": [0]}, "1 seed instead of 5"),
        ({"figures": {"atari100k_cnn": {"score": "training"}}}, "training returns instead of evaluation"),
        (
            {"games": {"games26": ["Pong"]}},
            "Pong instead of the paper's 26 games",
        ),
    ],
)
def test_every_deviation_from_atari100k_is_told(tmp_path, changes, said):
    told = edited(tmp_path, "atari100k", **changes).deviations.of("atari100k_cnn")
    assert any(said in deviation for deviation in told), told
    assert len(told) == 1


def test_an_online_figure_tells_a_100k_schedule(tmp_path):
    changes = {"iteration_end": "step", "max_noops": 29, "evaluation": {"episodes": 100}}
    online = {"agents": {"dqn": {}, "rainbow": {}}, "figures": {"fig01": {"score": "evaluation"}}}
    told = edited(tmp_path, "paper", **online, **changes).deviations
    assert told.of("fig01") == (
        "iterations end at a step instead of with an episode",
        "episodes begin with up to 29 no-op steps instead of 0",
        "evaluation returns instead of training returns",
    )
