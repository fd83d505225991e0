"""A figure of runs that were not all made alike says so; one of runs that were does not tell how."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from synthetic_study import svg_text, write_returns, write_runs

from moerl.archive.contents import figure_data
from moerl.archive.dictionary import check_table
from moerl.cli.manifest import write_manifest
from moerl.figures import stage
from moerl.statistics import scores_stage, table_stage, tables
from moerl.statistics.mixes import described_mix
from moerl.study.errors import UserError
from moerl.study.expansion import Run, Study
from moerl.study.heartbeat import NAME, Beat
from moerl.study.paths import figure_files, left_out_file, run_dir, scores_file, state_dir, table_files

FIGURES = {
    "fig01": "{encoder: cnn}",
    "fig07": "{}",
    "learning": "{games: [Pong]}",
    "fig10": "{encoder: cnn, agent: dqn, games: [Pong]}",
    "routing": "{encoder: cnn, agent: dqn, games: [Pong]}",
}
"""One of each kind, and of curves both kinds of panels."""
EPYC, XEON = "AMD EPYC 7B13", "Intel(R) Xeon(R) CPU @ 2.20GHz"
MADE = {
    "versions": {"moerl": "0.1.0", "jax": "0.6.0", "ale-py": "0.10.1"},
    "device": "cpu",
    "processor": EPYC,
    "host": "one",
    "python": "3.11.2",
    "git": None,
}
OTHERWISE = {
    "versions": {"moerl": "0.2.0", "jax": "0.7.0", "ale-py": "0.11.0"},
    "device": "NVIDIA H200",
    "processor": XEON,
    "host": "two",
    "python": "3.12.1",
    "git": {"commit": "abc", "changed": True},
}


@pytest.fixture(autouse=True)
def few_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are tested elsewhere."""
    monkeypatch.setattr(tables, "BAR_REPETITIONS", 100)
    monkeypatch.setattr(tables, "CURVE_REPETITIONS", 100)


def one_figure(make_study: Callable[..., Study], figure: str) -> Study:
    choices = f"{{{figure}: {FIGURES[figure]}}}"
    return make_study(figures=choices, games="Pong", seeds="0, 1", short="2M", full="2M")


def made(runs: Sequence[Run], results: Path, **facts: Any) -> None:
    """Let the manifests of some runs tell how they were made."""
    for run in runs:
        path = run_dir(results, run) / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | MADE | facts))


def products(study: Study, figure: str, results: Path) -> dict[str, bytes]:
    """Everything that is made of the runs of a figure."""
    scores_stage.run(study, figure, results)
    table_stage.run(study, figure, results)
    stage.run(study, figure, results)
    write_manifest(study, results)
    paths = [
        scores_file(results, figure),
        left_out_file(results, figure),
        *table_files(results, figure),
        *figure_files(results, figure),
    ]
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.parametrize("figure", FIGURES)
def test_however_all_runs_were_made_a_figure_is_the_same_bytes(
    make_study: Callable[..., Study], tmp_path: Path, figure: str
) -> None:
    study = one_figure(make_study, figure)
    runs = write_runs(study, figure, tmp_path)
    found = [products(study, figure, tmp_path)]  # nothing is recorded
    for facts in (MADE, OTHERWISE):
        made(runs, tmp_path, **facts)
        found.append(products(study, figure, tmp_path))
    assert found[0] == found[1] == found[2]
    assert "mix" not in pd.read_csv(table_files(tmp_path, figure)[0])
    assert json.loads((tmp_path / "manifest.json").read_bytes())["mixed"] == {}


@pytest.mark.parametrize("figure", FIGURES)
def test_a_mixed_figure_says_so_wherever_it_is_told(
    make_study: Callable[..., Study], tmp_path: Path, figure: str, caplog: pytest.LogCaptureFixture
) -> None:
    study = one_figure(make_study, figure)
    runs = sorted(set(write_runs(study, figure, tmp_path)))
    made(runs, tmp_path)
    alike = products(study, figure, tmp_path)
    made(runs[:1], tmp_path, versions=MADE["versions"] | {"ale-py": "0.11.0"}, device="NVIDIA H200")
    rest = len(runs) - 1
    many = f"{rest} run{'s' if rest > 1 else ''}"
    # The more frequent is named first; of as many, in the order of their names.
    devices = [f"cpu ({many})", "NVIDIA H200 (1 run)"]
    mix = (
        f"MIXED: ale-py 0.10.1 ({many}), 0.11.0 (1 run); "
        f"device {', '.join(devices if rest > 1 else reversed(devices))}"
    )
    with caplog.at_level(logging.WARNING):
        found = products(study, figure, tmp_path)
    assert [record.getMessage() for record in caplog.records] == [f"{figure}: {mix}"]

    scores, (csv, tex) = scores_file(tmp_path, figure), table_files(tmp_path, figure)
    assert pq.read_schema(scores).metadata[b"moerl.mix"].decode() == mix
    assert set(pd.read_csv(csv)["mix"]) == {mix}
    assert f"\\emph{{{mix}.}}" in tex.read_text(encoding="utf-8")
    assert f"{mix}." in svg_text(study, figure, tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_bytes())["mixed"] == {figure: mix}
    for path, kind in figure_data(study, figure).items():
        if kind is not None:
            check_table(path, (tmp_path / path).read_bytes(), kind)

    mixed = pd.read_csv(csv).drop(columns="mix")
    made(runs, tmp_path)
    assert products(study, figure, tmp_path) == alike
    pd.testing.assert_frame_equal(mixed, pd.read_csv(csv))  # the numbers are the same
    assert {name for name in found if found[name] == alike[name]} == {left_out_file(tmp_path, figure).name}


@pytest.mark.parametrize(
    ("facts", "mix"),
    [
        ({"processor": XEON}, f"processor {EPYC} (2 runs), {XEON} (1 run)"),
        ({"device": "NVIDIA H200"}, "device cpu (2 runs), NVIDIA H200 (1 run)"),
        ({"device": "NVIDIA H200", "processor": XEON}, "device cpu (2 runs), NVIDIA H200 (1 run)"),
        ({"versions": MADE["versions"] | {"moerl": "0.2.0"}}, "moerl 0.1.0 (2 runs), 0.2.0 (1 run)"),
        (
            {"versions": {"moerl": "0.1.0", "ale-py": "0.10.1", "jax": "0.5.0"}, "processor": XEON},
            f"jax 0.6.0 (2 runs), 0.5.0 (1 run); processor {EPYC} (2 runs), {XEON} (1 run)",
        ),
        (
            {"versions": {"moerl": "0.1.0", "jax": "0.6.0"}},
            "ale-py 0.10.1 (2 runs), not recorded (1 run)",
        ),
        (
            {"versions": "0.1.0"},
            "; ".join(
                f"{name} {value} (2 runs), not recorded (1 run)"
                for name, value in (("ale-py", "0.10.1"), ("jax", "0.6.0"), ("moerl", "0.1.0"))
            ),
        ),
        ({"host": "two", "python": "3.12.1", "git": OTHERWISE["git"]}, None),
    ],
)
def test_what_counts_as_a_mix(facts: dict[str, Any], mix: str | None) -> None:
    manifests = [MADE, MADE | facts, MADE]
    expected = None if mix is None else f"MIXED: {mix}"
    assert described_mix(manifests) == described_mix(manifests[::-1]) == expected


def test_the_processor_beside_a_gpu_does_not_matter_and_that_of_runs_on_cpus_does() -> None:
    on_gpu = [MADE | {"device": "NVIDIA H200", "processor": name} for name in (EPYC, XEON)]
    assert described_mix(on_gpu) is None
    assert described_mix([*on_gpu, MADE, MADE | {"processor": XEON}]) == (
        f"MIXED: device NVIDIA H200 (2 runs), cpu (2 runs); processor {EPYC} (1 run), {XEON} (1 run)"
    )


def test_of_a_run_that_is_not_in_the_figure_nothing_is_said(
    make_study: Callable[..., Study], tmp_path: Path
) -> None:
    study = one_figure(make_study, "fig01")
    runs = write_runs(study, "fig01", tmp_path)
    made(runs, tmp_path)
    made(runs[:1], tmp_path, device="NVIDIA H200")
    (run_dir(tmp_path, runs[0]) / "returns.parquet").unlink()
    scores_stage.run(study, "fig01", tmp_path, allow_partial=True)
    assert b"moerl.mix" not in pq.read_schema(scores_file(tmp_path, "fig01")).metadata


def test_a_partial_figure_can_be_a_mixed_one(make_study: Callable[..., Study], tmp_path: Path) -> None:
    study = one_figure(make_study, "fig01")
    runs = write_runs(study, "fig01", tmp_path)
    made(runs, tmp_path)
    made(runs[1:2], tmp_path, processor=XEON)
    (run_dir(tmp_path, runs[0]) / "returns.parquet").unlink()
    for module in (scores_stage, table_stage, stage):
        module.run(study, "fig01", tmp_path, allow_partial=True)
    said = svg_text(study, "fig01", tmp_path)
    assert f"PARTIAL: {len(runs) - 1} of {len(runs)} runs; missing: {runs[0].name}." in said
    assert f"MIXED: processor {EPYC} ({len(runs) - 2} runs), {XEON} (1 run)." in said


def with_gamma(study: Study, gamma: float) -> Study:
    return replace(study, agents={"dqn": study.agents["dqn"].model_copy(update={"gamma": gamma})})


@pytest.mark.parametrize("figure", FIGURES)
def test_runs_of_two_specs_never_stand_in_one_figure(
    make_study: Callable[..., Study], tmp_path: Path, figure: str
) -> None:
    before = one_figure(make_study, figure)
    runs = sorted(set(write_runs(before, figure, tmp_path)))
    study = with_gamma(before, 0.9)
    write_returns(study, runs[0], tmp_path)
    named = f"{runs[1].name} (trained under another spec)"
    with pytest.raises(UserError, match="are not finished") as caught:
        scores_stage.run(study, figure, tmp_path)
    assert named in str(caught.value)
    scores_stage.run(study, figure, tmp_path, allow_partial=True)
    scores = pd.read_parquet(scores_file(tmp_path, figure))
    assert set(zip(scores["variant"], scores["seed"], strict=True)) == {(runs[0].variant, runs[0].seed)}


@pytest.mark.parametrize("figure", FIGURES)
def test_scores_of_other_training_are_refused(
    make_study: Callable[..., Study], tmp_path: Path, figure: str
) -> None:
    """Collected, trained anew with another gamma or for longer, and not collected again."""
    study = one_figure(make_study, figure)
    write_runs(study, figure, tmp_path)
    scores_stage.run(study, figure, tmp_path)
    path = scores_file(tmp_path, figure)
    other = r"its dqn \S+ Pong is of other training \(spec \w{16} to 2M, the study's \w{16} to 2M\); make the"
    with pytest.raises(UserError, match=other) as caught:
        table_stage.run(with_gamma(study, 0.9), figure, tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    longer = make_study(
        figures=f"{{{figure}: {FIGURES[figure]}}}", games="Pong", seeds="0, 1", short="3M", full="3M"
    )
    with pytest.raises(UserError, match=r" to 2M, the study's \w{16} to 3M\); make the scores again"):
        table_stage.run(longer, figure, tmp_path, allow_partial=True)
    pd.read_parquet(path).to_parquet(path, index=False)
    with pytest.raises(UserError, match="does not say which training it is of; make the scores again"):
        table_stage.run(study, figure, tmp_path)


def test_a_failed_run_is_named_as_missing(make_study: Callable[..., Study], tmp_path: Path) -> None:
    study = one_figure(make_study, "fig01")
    results, state = tmp_path / "results", tmp_path / "state"
    run = write_runs(study, "fig01", results)[1]
    for path in run_dir(results, run).iterdir():
        path.unlink()
    beat = Beat(
        phase="failed",
        frames=400_000,
        spec=study.train_spec(run.cell).digest(),
        target_frames=2_000_000,
        frames_per_second=None,
        time=1.7e9,
        pid=1,
        host="one",
        reason="out of memory",
    )
    folder = state_dir(state, run)
    folder.mkdir(parents=True)
    (folder / NAME).write_text(beat.model_dump_json())
    with pytest.raises(UserError, match=rf"1 of \d+ runs are not finished: {run.name} \(missing\)"):
        scores_stage.run(study, "fig01", results, state=state)
    scores_stage.run(study, "fig01", results, allow_partial=True, state=state)
    table_stage.run(study, "fig01", results, allow_partial=True)
    stage.run(study, "fig01", results, allow_partial=True)
    named = pd.read_csv(table_files(results, "fig01")[0])["missing_runs"].dropna().unique()
    assert named.tolist() == [f"{run.name} (missing)"]
    assert f"missing: {run.name}." in svg_text(study, "fig01", results)
