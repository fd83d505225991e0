"""Published returns: read in both formats, refused when damaged, aggregated as ours; what they come to."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_study import load

from moerl.cli.reference_files import fetch
from moerl.statistics.published import COLUMNS, read_published
from moerl.statistics.reference_stage import evened, reference_scores, run
from moerl.statistics.tables import CURVE_COLUMNS, curve_row
from moerl.study.config import load_study
from moerl.study.errors import FailureError, UserError
from moerl.study.expansion import Study
from moerl.study.figures import Series, View
from moerl.study.games import game_sets
from moerl.study.reference import (
    SERIES,
    checksums_file,
    curves_file,
    figures_with_reference,
    returns_file,
    views_with_reference,
)
from moerl.study.specs import Encoder

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("MOERL_PUBLISHED", ROOT.parent / "shared" / "data"))
SETTINGS = {
    "agents": "{dqn: {}, rainbow: {}}",
    "figures": "{fig07: {}, learning: {games: [Pong]}, fig01: {encoder: cnn}}",
    "short": "2M",
    "full": "3M",
}
GAMES = ("AirRaid", "Pong", "Breakout")
RUNS, ITERATIONS = 2, 4


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return load(tmp_path, **SETTINGS)


def value(game: str, agent: str, iteration: int, run: int) -> float:
    return GAMES.index(game) + len(agent) + 10.0 * iteration + run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small files in the published format; the first value of Pong's first iteration is missing."""
    made = tmp_path / "published"
    made.mkdir()
    for game in GAMES:
        entries = [
            {"Iteration": iteration, "Value": value(game, agent, iteration, run), "Agent": agent}
            for run in range(RUNS)
            for agent in ("DQN", "C51", "Rainbow")
            for iteration in range(ITERATIONS)
            if (game, iteration, run, agent) != ("Pong", 0, 0, "DQN")
        ]
        (made / f"{game.lower()}_CNN.json").write_text(json.dumps(entries))
    return made


def as_csv(folder: Path) -> Path:
    """The same content as one table."""
    table = read_published(folder, Encoder.CNN, GAMES)
    other = folder.with_name("csv")
    other.mkdir()
    (other / "all.csv.gz").write_bytes(gzip.compress(table.to_csv(index=False).encode()))
    return other


def test_both_formats_hold_the_same(folder: Path) -> None:
    table = read_published(folder, Encoder.CNN, ["Pong"])
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 3 * ITERATIONS * RUNS - 1
    dqn = table[(table["agent"] == "DQN") & (table["iteration"] == 1)]
    assert dqn["mean_return"].tolist() == [value("Pong", "DQN", 1, run) for run in range(RUNS)]
    assert dqn["run"].tolist() == [0, 1]
    again = read_published(as_csv(folder), Encoder.CNN, ["Pong"])
    pd.testing.assert_frame_equal(again.reset_index(drop=True), table)
    with pytest.raises(UserError, match="no published returns of Alien with the encoder cnn"):
        read_published(folder.with_name("csv"), Encoder.CNN, ["Alien"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[", "not a file of published returns"),
        ("{}", "not a file of published returns .*valid array"),
        ('[{"Agent": "DQN", "Iteration": -1, "Value": 1}]', "entry 0: .*needs Agent, Iteration"),
        ('[{"Agent": "DQN", "Iteration": 0, "Value": NaN}]', "entry 0: .*a finite Value"),
        ('[{"Agent": "DQN", "Iteration": 0}]', "entry 0: "),
    ],
)
def test_a_damaged_file_is_named(folder: Path, text: str, problem: str) -> None:
    path = folder / "pong_CNN.json"
    path.write_text(text)
    with pytest.raises(UserError, match=problem) as caught:
        read_published(folder, Encoder.CNN, ["Pong"])
    assert str(caught.value).startswith(f"{path}: ")


def test_published_curves_are_aggregated_as_ours(study: Study, folder: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert figures_with_reference(study) == ["fig07", "learning"]
    fetch(study, results, folder)
    for name in ("fig07", "learning"):
        run(study, name, results)
    table = pd.read_csv(curves_file(results, "fig07"), dtype={"n_seeds": str})
    assert tuple(table.columns) == CURVE_COLUMNS
    assert set(table["series"]) == {SERIES}
    assert list(table["panel"].unique()) == ["DQN", "Rainbow"]
    assert table["frame"].tolist() == [1_000_000, 2_000_000, 3_000_000] * 2  # not beyond the study's end
    first = table.iloc[0]
    assert (first["n_games"], first["n_seeds"], first["games_left_out"]) == (2, "1-2", "AirRaid")
    assert table["ci_low"].isna().tolist() == table["ci_high"].isna().tolist() == [True] + 5 * [False]
    assert set(table["n_seeds"][1:]) == {"2"}  # a copy stands in for the one value that is missing
    pong, breakout = study.games["Pong"], study.games["Breakout"]
    scores = [
        (value(game.name, "DQN", 1, seed) - game.random) / (game.human - game.random)  # type: ignore[operator]
        for game in (pong, breakout)
        for seed in range(RUNS)
    ]
    assert table.iloc[1]["value"] == pytest.approx(np.mean(sorted(scores)[1:3]))  # the middle half of four
    returns = pd.read_csv(curves_file(results, "learning")).set_index("frame")["value"]
    assert returns.to_dict() == {1_000_000: 5.0, 2_000_000: 14.5}  # Pong's; the missing value is not a zero
    with pytest.raises(UserError, match="fig01 has no place for published runs"):
        run(study, "fig01", results)


def test_published_runs_have_the_encoder_of_the_networks_they_stand_beside(tmp_path: Path) -> None:
    study = load(tmp_path, **SETTINGS)
    figure = study.figures["learning"]

    def shown(*variants: str) -> list[View]:
        series = tuple(Series(name=variant, variants=(variant,)) for variant in variants)
        return views_with_reference(study, figure.model_copy(update={"series": series}))

    assert figure.encoder is Encoder.CNN
    assert [view.encoder for view in shown("cnn-baseline", "cnn-softmoe8")] == [Encoder.CNN]
    assert [view.encoder for view in shown("impala-baseline")] == [Encoder.IMPALA]
    assert shown("cnn-baseline", "impala-baseline") == []


def test_files_are_trusted_once_and_verified_from_then_on(study: Study, folder: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    fetch(study, results, folder)
    assert list(json.loads(checksums_file(results).read_text())["sha256"]) == [
        f"{game}_CNN.json" for game in ("airraid", "breakout", "pong")
    ]
    before = returns_file(results).read_bytes()
    fetch(study, results, folder)
    assert returns_file(results).read_bytes() == before
    path = folder / "pong_CNN.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(UserError, match=r"SHA-256 .* differs from .* seen first") as caught:
        fetch(study, results, folder)
    assert str(caught.value).startswith(f"{path}: ")
    checksums_file(results).write_text("{}")
    with pytest.raises(UserError, match="not a record of checksums"):
        fetch(study, results, folder)


def test_files_are_downloaded_once(study: Study, folder: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    fetch(study, results, url=f"{folder.as_uri()}/")
    by_hand = tmp_path / "by hand"
    fetch(study, by_hand, folder)
    assert returns_file(results).read_bytes() == returns_file(by_hand).read_bytes()
    assert checksums_file(results).read_bytes() == checksums_file(by_hand).read_bytes()
    nowhere = f"{(tmp_path / 'nowhere').as_uri()}/"
    fetch(study, results, url=nowhere)
    with pytest.raises(FailureError, match=r"airraid_CNN\.json: cannot be downloaded .* --from FOLDER"):
        fetch(study, tmp_path / "other", url=nowhere)


def test_a_study_without_a_place_for_them_says_so(tmp_path: Path) -> None:
    study = load(tmp_path, figures="{fig01: {encoder: cnn}}")
    with pytest.raises(UserError, match="no figure that published runs can be drawn in"):
        fetch(study, tmp_path / "results")


# Method 7.4: IQM at 40M, 50M and 200M frames of the published runs, over several sets of games.
KNOWN = {
    ("cnn", "DQN", "games20_paper"): (0.50, 0.57, 0.92),
    ("cnn", "Rainbow", "games20_paper"): (0.83, 0.89, 1.22),
    ("cnn", "DQN", "games20_alt"): (1.64, 1.79, 2.75),
    ("cnn", "Rainbow", "games20_alt"): (1.97, 1.97, 2.97),
    ("cnn", "DQN", "games26"): (1.17, 1.23, 1.73),
    ("cnn", "Rainbow", "games26"): (1.46, 1.48, 2.05),
    ("cnn", "DQN", "games60"): (0.74, 0.81, 1.36),
    ("cnn", "Rainbow", "games60"): (1.22, 1.26, 1.64),
    ("impala", "DQN", "games20_paper"): (0.80, 0.90, 1.13),
    ("impala", "Rainbow", "games20_paper"): (1.29, 1.27, 1.91),
    ("impala", "DQN", "games20_alt"): (2.46, 2.69, 3.30),
    ("impala", "Rainbow", "games20_alt"): (3.14, 3.16, 5.17),
    ("impala", "DQN", "games26"): (1.51, 1.57, 1.89),
    ("impala", "Rainbow", "games26"): (2.07, 2.08, 3.30),
    ("impala", "DQN", "games60"): (1.12, 1.20, 1.52),
    ("impala", "Rainbow", "games60"): (1.84, 1.83, 2.51),
}
SCORED = {"games20_paper": 19, "games20_alt": 20, "games26": 26, "games60": 55}


@pytest.mark.skipif(not list(SHARED.glob("*.csv*")), reason="the published returns are not here")
def test_the_published_runs_come_to_the_known_iqms() -> None:
    study = load_study(ROOT / "config" / "studies" / "paper.yaml")
    sets = game_sets(study.games)
    scores = {
        encoder.value: read_published(SHARED, encoder, study.games)
        .query("iteration in [39, 49, 199]")
        .reset_index(drop=True)
        for encoder in (Encoder.CNN, Encoder.IMPALA)
    }
    for (encoder, agent, games), expected in KNOWN.items():
        table = scores[encoder]
        chosen = table[(table["agent"] == agent) & table["game"].isin(sets[games])]
        points = evened(reference_scores(chosen, study.games))
        for iteration, iqm in zip((39, 49, 199), expected, strict=True):
            row = curve_row(points[points["iteration"] == iteration], "iqm")
            assert row["n_games"] == SCORED[games]
            assert row["value"] == pytest.approx(iqm, abs=0.0051), (encoder, agent, games, iteration)
