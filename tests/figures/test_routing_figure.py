"""The routing figure: its table from token files, what it shows, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from synthetic_study import write_runs

from moerl.cli.manifest import products
from moerl.figures import stage
from moerl.figures.routing import RELIEF, frame_of, routing_figure, shaded
from moerl.figures.style import EXPERTS, paper_style
from moerl.statistics import scores_stage, table_stage
from moerl.study import config
from moerl.study.errors import ConfigError, UserError
from moerl.study.expansion import Cell, Study
from moerl.study.figures import FigureSpec
from moerl.study.paths import figure_files, table_files, tokens_file

MakeStudy = Callable[..., Study]


def routing_study(make_study: MakeStudy, choices: str = "", **settings: str) -> Study:
    figure = f"routing: {{encoder: cnn, agent: dqn, games: [Pong]{choices}}}"
    return make_study(figures=f"{{{figure}}}", short="2M", full="2M", **settings)


def table(study: Study, results: Path, allow_partial: bool = False) -> pd.DataFrame:
    scores_stage.run(study, "routing", results, allow_partial)
    table_stage.run(study, "routing", results, allow_partial)
    return pd.read_csv(table_files(results, "routing")[0], dtype={"pixels": str})


def drawn(made: pd.DataFrame, spec: FigureSpec) -> Figure:
    with paper_style():
        return routing_figure(made, spec)


def test_the_last_snapshot_and_the_first_state_and_seed_unless_chosen(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    study = routing_study(make_study)
    assert [run.seed for run in write_runs(study, "routing", tmp_path)] == [0, 0]  # one of three seeds
    made = table(study, tmp_path)
    assert made.groupby(["series", "iteration", "state", "seed"]).size().to_dict() == {
        ("SoftMoE", 1, 0, 0): 121,
        ("Top1-MoE", 1, 0, 0): 121,
    }
    other = routing_study(make_study, ", seed: 2, snapshot: 1, state: 1")
    write_runs(other, "routing", tmp_path)
    chosen = table(other, tmp_path)
    assert set(chosen[["iteration", "state", "seed"]].itertuples(index=False, name=None)) == {(0, 1, 2)}
    (run, _) = other.figure_runs(other.figure("routing"))
    source = pd.read_parquet(tokens_file(tmp_path, run))
    source = source[(source["iteration"] == 0) & (source["state"] == 1)]
    mine = chosen[chosen["series"] == "SoftMoE"]
    for name in ("token", "top", "right", "expert", "dropped"):
        assert mine[name].tolist() == source[name].tolist()
    np.testing.assert_allclose(mine["gate"], source["gate"])


def test_the_figure_shows_the_frame_experts_and_drops_of_its_table(
    make_study: MakeStudy, tmp_path: Path
) -> None:
    study = routing_study(make_study, ", state: 1")
    write_runs(study, "routing", tmp_path)
    made = table(study, tmp_path)
    top1 = made[made["series"] == "Top1-MoE"]
    frame = np.full((84, 84), 40, np.uint8)
    frame[20:60, 30:60] = 200
    np.testing.assert_array_equal(frame_of(top1), frame)

    figure = drawn(made, study.figure("routing"))
    rows = np.array(figure.axes[:8]).reshape(2, 4)
    for row, (name, lost) in zip(rows, (("SoftMoE", 0), ("Top1-MoE", top1["dropped"].sum())), strict=True):
        assert row[0].get_ylabel() == name
        np.testing.assert_array_equal(row[0].images[0].get_array(), frame)
        assert len(row[1].patches) == len(row[2].patches) == lost  # the hatched cells
        counts = made[made["series"] == name].groupby("expert").size().reindex(range(8), fill_value=0)
        ends = [bar.get_x() + bar.get_width() for bar in row[3].patches[8:]]
        assert ends == counts.tolist()
    assert 0 < top1["dropped"].sum() < 121
    token = top1.iloc[100]  # on the background, where a colour is an expert's own
    pixel = rows[1, 1].images[0].get_array()[token["top"], token["left"]]
    np.testing.assert_allclose(pixel, to_rgb(EXPERTS[token["expert"]]))
    assert "DQN (Nature CNN) on Pong, seed 0, after iteration 2, state 1" in figure.get_suptitle()


def test_relief_takes_colours_to_white_and_black() -> None:
    frame = np.array([[100, 100, 100], [100, 150, 50]], np.uint8)
    found = shaded(np.full((2, 3, 3), 0.5), frame)
    assert found[:, :, 0].ravel().tolist() == pytest.approx(
        [0.5, 0.5, 0.5, 0.5, 0.5 + 0.5 * RELIEF, 0.5 - 0.5 * RELIEF]
    )


def test_the_same_bytes_again_and_latex_sums_up(make_study: MakeStudy, tmp_path: Path) -> None:
    study = routing_study(make_study)
    found = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        write_runs(study, "routing", folder)
        made = table(study, folder)
        stage.run(study, "routing", folder)
        files = [*table_files(folder, "routing"), *figure_files(folder, "routing")]
        found.append([path.read_bytes() for path in files])
    assert found[0] == found[1]
    latex = found[0][1].decode()
    assert "Pong, seed 0, after 2 iterations, state 0" in latex
    share = 100 * (made[made["series"] == "Top1-MoE"]["expert"] == 5).mean()
    assert f"{share:.1f}" in next(line for line in latex.splitlines() if line.startswith("Top1-MoE"))


def test_missing_runs_are_refused_or_named(make_study: MakeStudy, tmp_path: Path) -> None:
    study = routing_study(make_study)
    soft, top1 = write_runs(study, "routing", tmp_path)
    tokens_file(tmp_path, soft).unlink()
    with pytest.raises(UserError, match=r"dqn cnn-softmoe8 Pong seed 0 \(not analysed\)"):
        table(study, tmp_path)
    made = table(study, tmp_path, allow_partial=True)
    assert made["series"].value_counts().to_dict() == {"SoftMoE": 1, "Top1-MoE": 121}
    stage.run(study, "routing", tmp_path, allow_partial=True)
    figure = drawn(made, study.figure("routing"))
    assert [text.get_text() for ax in figure.axes[:4] for text in ax.texts] == ["no runs"] * 4
    tokens_file(tmp_path, top1).unlink()
    with pytest.raises(UserError, match="routing: none of its runs is analysed"):
        table(study, tmp_path, allow_partial=True)


def test_a_state_that_was_not_analysed_is_named(make_study: MakeStudy, tmp_path: Path) -> None:
    study = routing_study(make_study, ", state: 7")  # the made-up files have two
    write_runs(study, "routing", tmp_path)
    with pytest.raises(UserError, match=r"seed0\.tokens\.parquet: no tokens of state 7 in the last snapshot"):
        table(study, tmp_path)


PERFEAT = "{encoder: impala, module: top1, num_experts: 8, tokens: perfeat}"
MANY = "{encoder: impala, module: top1, num_experts: 9, tokens: perconv}"
WRONG = {
    "seed": ("seed: 5", "", r"figures\.routing\.seed: unknown seed 5 \(allowed: 0, 1, 2\)"),
    "state": ("state: 8", "", r"figures\.routing\.state: bad value 8: use 0 to 7"),
    "snapshot": ("snapshot: 3", "", r"figures\.routing\.snapshot: unknown snapshot 3 \(allowed: 1, 2\)"),
    "games": (
        "games: [Pong, Breakout]",
        "",
        r"figures\.routing\.games: routing shows one game, not Pong, Br",
    ),
    "tokens": ("", PERFEAT, "x-top1-8 has perfeat tokens; only perconv tokens have a place"),
    "experts": ("", MANY, "x-top1-8 has 9 experts; 8 can be told apart"),
}


@pytest.mark.parametrize(("choice", "variant", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_shown_is_refused_before_any_job(
    make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, choice: str, variant: str, said: str
) -> None:
    settings = {"figures": f"{{routing: {{{choice}}}}}", "short": "2M", "full": "2M", "agents": "rainbow: {}"}
    if variant:
        read = config.read_entries

        def one_series(path: Path) -> dict[str, Any]:
            value = read(path)
            if path.name == "figures.yaml":
                value["routing"]["series"] = [{"name": "Shown", "variants": ["x-top1-8"]}]
            return value

        monkeypatch.setattr(config, "read_entries", one_series)
        settings["extra"] = f"variants: {{x-top1-8: {variant}}}"
    with pytest.raises(ConfigError, match=said):
        make_study(**settings)


def test_only_a_routing_figure_takes_a_choice(make_study: MakeStudy) -> None:
    with pytest.raises(ConfigError, match=r"figures\.fig01\.state: fig01 is not a routing figure"):
        make_study(figures="{fig01: {state: 1}}")


def test_only_a_listed_routing_figure_decides_on_snapshots(make_study: MakeStudy) -> None:
    """Otherwise runs that were trained before there was such a figure would no longer be theirs."""
    cell = Cell("dqn", "cnn-softmoe8", "Pong")
    assert routing_study(make_study).train_spec(cell).schedule.snapshot_every == 1
    unlisted = make_study(figures="{fig01: {}}", agents="dqn: {}\n  rainbow: {}")
    assert unlisted.train_spec(cell).schedule.snapshot_every == 0
    defaults = {Cell("rainbow", f"impala-{name}", "SpaceInvaders") for name in ("softmoe8", "top1-8")}
    assert defaults <= unlisted.analysed_cells  # by Figure 10: of the paper's runs it takes none of its own


def test_a_figure_on_request_is_no_part_of_the_whole(make_study: MakeStudy, tmp_path: Path) -> None:
    fig10 = "fig10: {encoder: cnn, agent: dqn, games: [Pong]}"
    figure = "routing: {encoder: cnn, agent: dqn, games: [Breakout], on_request: true}"
    study = make_study(figures=f"{{{fig10}, {figure}}}")
    assert study.usual_figures == ("fig10",)
    assert {run.game for run in study.runs()} == {"Pong"}
    assert not any("routing" in path.name for path in products(study, tmp_path))
    assert len(study.figure_runs(study.figure("routing"))) == 2
