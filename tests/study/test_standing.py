"""What counts as finished, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moerl.study.config import load_study
from moerl.study.errors import UserError
from moerl.study.expansion import Run
from moerl.study.paths import divergence_file, run_dir, state_dir
from moerl.study.standing import Divergence, Standing, read_divergence, unfinished

STUDY = load_study(Path(__file__).parents[2] / "config" / "studies" / "paper.yaml")
RUN = Run("dqn", "impala-softmoe8", "Asterix", 3, "200M")
DIGEST = STUDY.train_spec(RUN.cell).digest()
RECORD = Divergence(
    run=RUN.name,
    spec=DIGEST,
    problem="loss inf at gradient step 9",
    gradient_step=9,
    agent_step=36,
    frame=144,
    iteration=49,
    checkpoint="state/current.safetensors",
    checkpoint_agent_step=20,
    versions={"jax": "1"},
)


@pytest.fixture
def standing(tmp_path: Path) -> Standing:
    return Standing(STUDY, tmp_path / "results", tmp_path / "state")


def finish(folder: Path, digest: str = DIGEST) -> None:
    folder.mkdir(parents=True)
    (folder / "returns.parquet").touch()
    (folder / "manifest.json").write_text(json.dumps({"spec_digest": digest}))


def diverge(standing: Standing, record: Divergence = RECORD) -> None:
    assert standing.state is not None
    path = divergence_file(standing.state, RUN)
    path.parent.mkdir(parents=True)
    path.write_text(record.model_dump_json())


def test_finished_in_the_results_or_in_the_state(standing: Standing) -> None:
    assert standing.finished(RUN) is None
    assert standing.why_not(RUN) == "missing"
    kept = state_dir(standing.state, RUN) / "200M"
    finish(kept)
    assert standing.finished(RUN) == kept
    assert Standing(STUDY, standing.results).finished(RUN) is None
    finish(run_dir(standing.results, RUN))
    assert standing.finished(RUN) == run_dir(standing.results, RUN)


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"spec_digest": null}'])
def test_torn_or_foreign_manifests_finish_nothing(standing: Standing, manifest: str) -> None:
    folder = run_dir(standing.results, RUN)
    finish(folder)
    (folder / "manifest.json").write_text(manifest)
    assert standing.finished(RUN) is None


def test_another_specs_run_is_not_this_one(standing: Standing) -> None:
    finish(run_dir(standing.results, RUN), "another")
    assert standing.finished(RUN) is None
    assert standing.why_not(RUN) == "trained under another spec"


def test_a_divergence_counts_for_its_spec_and_from_its_iteration_on(standing: Standing) -> None:
    diverge(standing)
    assert standing.why_not(RUN) == "diverged at gradient step 9"
    short = Run(RUN.agent, RUN.variant, RUN.game, RUN.seed, "50M")
    assert standing.divergence(short) == RECORD  # in the last of its 50 iterations
    for changed in ({"iteration": 50}, {"spec": "another"}):
        divergence_file(standing.state, RUN).write_text(RECORD.model_copy(update=changed).model_dump_json())
        assert standing.why_not(short) == "missing"
    assert Standing(STUDY, standing.results).why_not(RUN) == "missing"


def test_a_finished_run_is_finished_whatever_the_record_says(standing: Standing) -> None:
    diverge(standing)
    finish(run_dir(standing.results, RUN))
    figure = STUDY.figure("fig01").model_copy(update={"games": ("Asterix",)})
    left_out = standing.left_out(figure)
    assert RUN not in left_out
    assert len(left_out) == 24 * 5 - 1


def test_a_record_is_told_in_one_line() -> None:
    said = RECORD.describe(Path("state/diverged.json"), {"jax": "1"})
    assert said == (
        f"{RUN.name}: diverged, loss inf at gradient step 9 (agent step 36, frame 144); "
        "last good checkpoint: state/current.safetensors (agent step 20); "
        "the same training diverges again, so it is not repeated: delete state/diverged.json to try again"
    )
    assert RECORD.describe(Path("x"), {"jax": "2"}).endswith("(it was recorded under jax 1, now 2)")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"run": "a"}'])
def test_what_is_no_record_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "diverged.json"
    assert read_divergence(path) is None
    path.write_text(text)
    with pytest.raises(UserError, match="not a record of a divergence") as caught:
        read_divergence(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_unfinished_runs_are_listed_diverged_ones_first() -> None:
    runs = [Run("dqn", "v", "Pong", seed, "50M") for seed in range(5)]
    left_out = dict.fromkeys(runs, "missing") | {runs[4]: "diverged at gradient step 1"}
    assert unfinished("fig01", 40, left_out) == (
        "fig01: 5 of 40 runs are not finished: dqn v Pong seed 4 (diverged at gradient step 1), "
        "dqn v Pong seed 0 (missing), dqn v Pong seed 1 (missing) and 2 more"
    )
