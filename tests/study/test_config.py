"""Every wrong value in a study gives one line: file, path, value, what is allowed, a suggestion."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from moerl.cli.main import main
from moerl.study.config import load_study
from moerl.study.errors import ConfigError, UserError
from moerl.study.expansion import Cell

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "config" / "studies" / "demo.yaml"


def edited(tmp_path: Path, **changes) -> Path:
    """The demo study with `a__b=value` changes applied (value None deletes the key)."""
    study = yaml.safe_load(DEMO.read_text())
    for dotted, value in changes.items():
        *parents, key = dotted.split("__")
        target = study
        for parent in parents:
            target = target[parent]
        if value is None:
            del target[key]
        else:
            target[key] = value
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


BAD = {
    "unknown key": ({"sedes": [0]}, ["sedes", "unknown key 'sedes'", "did you mean 'seeds'?"]),
    "unknown agent key": ({"agents__dqn__gama": 0.9}, ["agents.dqn.gama", "did you mean 'gamma'?"]),
    "unknown game": (
        {"games__games20": ["Pong", "Astrix"]},
        ["games.games20[1]", "unknown game 'Astrix'", "did you mean 'Asterix'?"],
    ),
    "sets and games": (
        {"games__games20": ["games20_paper", "Pong"]},
        ["games.games20[1]", "unknown game set 'Pong'", "games or game sets, not both"],
    ),
    "a set twice": (
        {"games__games20": ["games26", "games26"]},
        ["games.games20[1]", "duplicate set 'games26'"],
    ),
    "encoder of panels": (
        {"figures": {"fig19": {"encoder": "cnn"}}},
        ["figures.fig19.encoder", "of their own"],
    ),
    "games of panels": (
        {"figures": {"fig08": {"games": ["Pong"]}}},
        ["figures.fig08.games: the panels 'Rainbow, {games} games' have games of their own", "`games`"],
    ),
    "unknown set": ({"games__games20": "games_20paper"}, ["games.games20", "did you mean 'games20_paper'?"]),
    "unknown figure": ({"figures__fig1": {}}, ["figures.fig1", "unknown figure 'fig1'", "allowed: fig01"]),
    "unknown agent": ({"agents__dqm": {}}, ["agents.dqm", "did you mean 'dqn'?"]),
    "unknown encoder": (
        {"figures__fig01__encoder": "impalla"},
        ["figures.fig01.encoder", "unknown value 'impalla'", "did you mean 'impala'?"],
    ),
    "wrong type": ({"seeds_per_job": "two"}, ["seeds_per_job", "bad value 'two'", "integer"]),
    "negative budget": ({"milestones__full": -4000}, ["milestones.full", "-4000", "positive"]),
    "budget in words": ({"milestones__full": "4 k"}, ["milestones.full", "'4 k'", "8k or 200M"]),
    "uneven budget": ({"milestones__full": "2500"}, ["milestones.full", "multiple of iteration_frames"]),
    "duplicate seeds": ({"seeds": [0, 1, 0]}, ["seeds", "duplicate seed 0"]),
    "negative seed": ({"seeds": [0, -1]}, ["seeds[1]", "-1"]),
    "no seeds": ({"seeds": []}, ["seeds"]),
    "missing key": ({"seeds": None}, ["seeds", "missing"]),
    "figure without its agent": ({"figures__fig12": {}}, ["figures.fig12", "der", "agents (dqn, rainbow)"]),
    "agent of two panels": ({"figures__fig01": {"agent": "dqn"}}, ["figures.fig01.agent", "single-panel"]),
    "hyper-parameter out of range": ({"agents__dqn__gamma": 1.5}, ["agents.dqn.gamma", "1.5"]),
    "replay too small": ({"agents__dqn__replay_capacity": 20}, ["agents.dqn", "replay_capacity 20"]),
    "window longer than an episode": (
        {"agents__dqn__n_step": 50, "agents__dqn__max_episode_steps": 40},
        ["agents.dqn", "n_step 50 is not shorter than max_episode_steps 40"],
    ),
    "agent that only figures know": (
        {"agents__sac": {}},
        ["agents.sac", "allowed: dqn, rainbow"],
    ),
    "early read-out after the end": ({"early_readout": "40M"}, ["early_readout (40000000 frames)"]),
    "uneven early read-out": ({"early_readout": 1500}, ["early_readout (1500 frames)", "multiple"]),
    "analysis without snapshots": ({"snapshot_every": 0}, ["snapshot_every", "fig10 needs snapshots"]),
    "snapshots too rare": ({"snapshot_every": 3}, ["snapshot_every", "use 1 to 2 iterations"]),
    "history too short": ({"agents__dqn__min_replay_history": 2}, ["agents.dqn", "min_replay_history 2"]),
    "infinite": ({"agents__dqn__learning_rate": float("inf")}, ["agents.dqn.learning_rate", "finite"]),
    "taken variant name": (
        {"variants": {"cnn-baseline": {"encoder": "cnn", "module": "baseline"}}},
        ["variants.cnn-baseline", "already defined"],
    ),
    "inconsistent variant": (
        {"variants": {"mine": {"encoder": "cnn", "module": "softmoe", "num_experts": 4}}},
        ["variants.mine", "tokens"],
    ),
    "unknown iteration end": ({"iteration_end": "steps"}, ["iteration_end", "did you mean 'step'?"]),
    "negative no-ops": ({"max_noops": -1}, ["max_noops", "bad value -1"]),
    "no evaluation episodes": ({"evaluation": {"episodes": 0}}, ["evaluation.episodes", "bad value 0"]),
    "evaluation that always explores": (
        {"evaluation": {"episodes": 5, "epsilon": 1.5}},
        ["evaluation.epsilon", "bad value 1.5"],
    ),
    "unknown evaluation key": (
        {"evaluation": {"episode": 5}},
        ["evaluation.episode", "did you mean 'episodes'?"],
    ),
    "unknown score": ({"figures__fig01": {"score": "eval"}}, ["figures.fig01.score", "'evaluation'"]),
    "score without evaluation": (
        {"figures__fig01": {"score": "evaluation"}},
        ["figures.fig01.score", "add `evaluation`"],
    ),
    "hidden units that do not divide": (
        {"hidden_units": 36},
        ["hidden_units", "bad value 36", "softmoe8-divided has 64 / 512 of it"],
    ),
    "hostile name": ({"name": "a; rm -rf b"}, ["name", "lower-case"]),
}


@pytest.mark.parametrize(("changes", "expected"), BAD.values(), ids=BAD.keys())
def test_wrong_value_is_named_in_one_line(tmp_path, changes, expected):
    path = edited(tmp_path, **changes)
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(path))
    for part in expected:
        assert part in line


def test_missing_variant_of_a_figure_is_named(tmp_path):
    config = tmp_path / "config"
    (config / "studies").mkdir(parents=True)
    for name in ("agents.yaml", "networks.yaml", "games.tsv"):
        (config / name).write_text((ROOT / "config" / name).read_text())
    figures = (ROOT / "config" / "figures.yaml").read_text()
    (config / "figures.yaml").write_text(figures.replace("{encoder}-softmoe4", "{encoder}-softmo4"))
    path = config / "studies" / "demo.yaml"
    path.write_text(DEMO.read_text())
    with pytest.raises(ConfigError, match=r"fig01\.series\[1\]\.variants\[2\].*did you mean 'cnn-softmoe4'"):
        load_study(path)


def study_with(tmp_path, shared_figures, **changes):
    """The demo study with other figures in its shared configuration."""
    config = tmp_path / "config"
    (config / "studies").mkdir(parents=True)
    for name in ("agents.yaml", "networks.yaml", "games.tsv"):
        (config / name).write_text((ROOT / "config" / name).read_text())
    (config / "figures.yaml").write_text(yaml.safe_dump(shared_figures))
    path = config / "studies" / "study.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(DEMO.read_text()) | changes))
    return path


def test_shared_variants_are_as_wide_as_the_study_says(tmp_path):
    own = {"mine": {"encoder": "cnn", "module": "baseline", "hidden_units": 100}}
    narrow = load_study(edited(tmp_path, hidden_units=32, variants=own)).variants
    usual = load_study(DEMO).variants
    assert narrow["mine"].hidden_units == 100
    assert all(narrow[name].hidden_units * 16 == usual[name].hidden_units for name in usual)
    assert narrow["cnn-softmoe8-divided"].hidden_units == 4


def test_figures_a_study_does_not_list_ask_nothing_of_it(tmp_path):
    figures = yaml.safe_load((ROOT / "config" / "figures.yaml").read_text())
    figures["fig10"] |= {"games": "rare", "series": [{"name": "X", "variants": ["only-elsewhere"]}]}
    figures["fig01"]["games"] = "rarer"
    path = study_with(tmp_path, figures, figures={"learning": {}}, games={}, snapshot_every=0)
    study = load_study(path)
    assert list(study.figures) == ["learning"]
    assert study.figure("learning").games == ("Pong", "Breakout")
    assert study.analysed_cells == frozenset()
    evidence = load_study(ROOT / "config" / "studies" / "evidence.yaml")
    assert [(c.variant, c.game) for c in evidence.figure_cells(evidence.figure("learning"))] == [
        ("cnn-baseline", "Pong"),
        ("cnn-baseline", "Breakout"),
    ]


def test_a_listed_figure_names_the_game_set_it_lacks(tmp_path):
    figures = yaml.safe_load((ROOT / "config" / "figures.yaml").read_text())
    figures["fig01"]["games"] = "rare"
    path = study_with(tmp_path, figures, games={})
    with pytest.raises(ConfigError, match=r"study\.yaml: games: fig01 shows the game set 'rare': say"):
        load_study(path)


def test_twenty_games_are_the_papers_unless_a_study_says_otherwise(tmp_path):
    sizes = {}
    for games in ({}, {"games20": "games20_alt"}, {"games20": ["games20_paper", "games20_alt"]}):
        study = load_study(edited(tmp_path, games=games))
        sizes[str(games)] = [len(view.games) for view in study.figure("fig01").views]
    assert list(sizes.values()) == [[20, 20], [20, 20], [20, 20, 20, 20]]
    assert len(study.figure("fig01").all_games) == 31
    assert [view.title for view in study.figure("fig01").views] == [
        f"{agent}, {which}"
        for agent in ("DQN", "Rainbow")
        for which in ("games of Appendix A", "alternative games")
    ]
    assert (
        len(study.figure_cells(study.figure("fig01"))) == 2 * 12 * 31
    )  # what both sets have is trained once
    assert "20 games in panels of their own" in study.deviations.of("fig01")


def test_a_panel_has_what_it_says_and_else_what_its_figure_has():
    study = load_study(ROOT / "config" / "studies" / "paper.yaml")
    left, right = study.figure("fig08").views
    assert [len(left.games), len(right.games)] == [60, 20]
    assert [left.title, right.title] == ["Rainbow, 60 games", "Rainbow, random Φ"]
    assert [[s.name for s in view.series] for view in (left, right)] == [
        ["Baseline", "SoftMoE"],
        ["Baseline", "SoftMoE", "SoftMoE (RandPhi)"],
    ]
    impala, cnn = study.figure("fig19").views
    assert [s.variants for s in impala.series] == [
        (f"impala-{v}",) for v in ("baseline", "top1-8", "softmoe8")
    ]
    assert [s.variants for s in cnn.series] == [(f"cnn-{v}",) for v in ("baseline", "top1-8", "softmoe8")]
    left, right = study.figure("fig18").views
    assert {variant[-7:] for s in left.series for variant in s.variants} == {"filter4"}
    assert {variant[-7:] for s in right.series for variant in s.variants} == {"filter6"}


ROUTING = {"kind": "routing", "measure": None, "panel_per": None}


def test_a_title_tells_how_many_games_its_panel_has(tmp_path):
    titles = []
    for games in (["Pong", "Boxing"], ["games20_alt", "games26"]):
        study = load_study(edited(tmp_path, figures={"fig08": {}}, games={"games60": games}))
        titles.append([view.title for view in study.figure("fig08").views])
    assert titles == [
        ["Rainbow, 2 games", "Rainbow, random Φ"],
        ["Rainbow, 20 games, alternative games", "Rainbow, 26 games, games26", "Rainbow, random Φ"],
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"panels": []}, "fig08: bad value|fig08: needs at least one entry in `panels`"),
        ({"series": []}, "panel 'Rainbow, {games} games' has no `series`"),
        ({"games": []}, "panel 'Rainbow, random Φ' has no `games`"),
        ({"panels": [{"title": "a", "agent": "rainbow"}] * 2}, "a title of its own"),
        ({"panels": [{"title": "a", "agent": "rainbo"}]}, "did you mean 'rainbow'"),
        ({"panels": [{"title": "a", "agent": "rainbow", "games": "games6"}]}, "game set 'games6'"),
        ({"drawing": "tokens"}, "a schematic, and nothing else"),
        ({"kind": "schematic", "drawing": "tokens"}, "only a curves figure has `measure`"),
        ({"parameters": True}, "only a bars figure"),
        (
            {"panel_per": "game", "over": "hours", "panels": [{"title": "a", "agent": "dqn"}]},
            "`over: hours` needs",
        ),
        ({"seeds": 0}, "greater than or equal to 1"),
        (
            ROUTING | {"panels": [{"title": "a", "agent": "dqn", "games": ["Pong"], "encoder": "cnn"}]},
            "a routing figure's panel has no `games`, `encoder`: the figure has them",
        ),
        (
            ROUTING | {"panels": [{"title": "a", "agent": "dqn", "series": []}]},
            "a routing figure's panel has no `series`: ",
        ),
    ],
)
def test_a_contradictory_figure_is_refused_by_name(tmp_path, change, said):
    figures = yaml.safe_load((ROOT / "config" / "figures.yaml").read_text())
    figures["fig08"] |= change
    with pytest.raises(ConfigError, match=said) as caught:
        load_study(study_with(tmp_path, figures, figures={"fig08": {}}))
    assert "fig" in str(caught.value)


def test_a_scaling_axis_of_agents_names_known_ones(tmp_path):
    figures = yaml.safe_load((ROOT / "config" / "figures.yaml").read_text())
    figures["fig04"]["x"]["agents"][3] = "{agent}_rr3"
    with pytest.raises(ConfigError, match=r"fig04\.x\.agents\[3\]: unknown agent 'dqn_rr3'.*did you mean"):
        load_study(study_with(tmp_path, figures, figures={"fig04": {}}))
    figures["fig04"]["x"]["agents"].pop()
    with pytest.raises(ConfigError, match=r"fig04\.x: .*names 3 agents for 4 values"):
        load_study(study_with(tmp_path / "again", figures, figures={"fig04": {}}))


def test_figures_of_agents_that_cannot_be_trained_are_planned_and_not_drawn():
    study = load_study(ROOT / "config" / "studies" / "paper.yaml")
    assert list(study.planned) == ["fig20"]
    assert [f"fig{number:02}" for number in range(1, 21)] == list(study.listed)[:20]
    with pytest.raises(
        UserError, match=r"^fig20: SAC and PPO cannot be trained yet, so there is nothing to draw$"
    ):
        study.figure("fig20")
    with pytest.raises(UserError, match="fig02: a schematic shows no runs"):
        study.data_figure("fig02")


def test_an_analysis_figure_that_is_not_drawn_takes_its_snapshots_all_the_same(tmp_path):
    figures = yaml.safe_load((ROOT / "config" / "figures.yaml").read_text())
    figures["fig10"]["panels"] = [{"title": "DQN", "agent": "dqn"}]
    study = load_study(study_with(tmp_path, figures, figures={"fig01": {"encoder": "cnn"}}))
    cell = Cell("dqn", "impala-softmoe8", "Asterix")
    assert study.train_spec(cell).schedule.snapshot_every == 1
    assert "fig10" not in study.figures


def test_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_study(tmp_path / "absent.yaml")
    path = tmp_path / "torn.yaml"
    path.write_text("name: [demo")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_study(path)
    path.write_text("- a list")
    with pytest.raises(ConfigError, match="must be a mapping"):
        load_study(path)


def test_command_line_exits_with_2_in_one_line_and_in_time(tmp_path):
    path = edited(tmp_path, games__games20=["Pong", "Astrix"])
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    arguments = ["--agent", "dqn", "--variant", "cnn-baseline", "--game", "Pong", "--seeds", "0"]
    folders = ["--milestone", "4k", "--results", str(tmp_path / "r"), "--state", str(tmp_path / "s")]
    done = subprocess.run(
        [sys.executable, "-m", "moerl", "train", "--study", str(path), *arguments, *folders],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "did you mean 'Asterix'?" in done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3
    )  # whatever the machine's load
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("agent", "variant", "hint"),
    [
        (
            "der",
            "cnn-baseline",
            "unknown agent 'der' (allowed: dqn, rainbow, dqn_rr05",
        ),  # built, but not in this study
        ("sac", "cnn-baseline", "unknown agent 'sac'"),
        ("dqn", "impala-softmoe16", "did you mean 'impala-softmoe1'?"),
        ("dqn", "resnet-baseline", "unknown variant 'resnet-baseline'"),
    ],
)
def test_a_combination_that_does_not_exist_is_one_line(tmp_path, monkeypatch, capsys, agent, variant, hint):
    cell = ["--agent", agent, "--variant", variant, "--game", "Pong", "--seeds", "0", "--milestone", "800"]
    folders = ["--results", str(tmp_path / "r"), "--state", str(tmp_path / "s")]
    monkeypatch.setattr("sys.argv", ["moerl", "train", "--study", str(DEMO), *cell, *folders])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"moerl: {DEMO}: ")
    assert said.count("\n") == 1
    assert hint in said
    assert not (tmp_path / "s").exists()


def test_study_imports_no_heavy_package():
    code = (
        "import sys, moerl.study.config; print(*[m for m in ('jax', 'pandas', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""


def test_paper_study_is_the_papers_grid():
    study = load_study(ROOT / "config" / "studies" / "paper.yaml")
    fig01 = study.figure_runs(study.figure("fig01"))
    assert len(fig01) == 24 * 20 * 5
    assert {r.milestone for r in fig01} == {"200M"}
    assert study.iterations("200M") == 200
    assert study.previous_milestone("200M") == "50M"
    assert study.previous_milestone("50M") is None
    spec = study.train_spec(Cell("dqn", "impala-softmoe8", "Pong"))
    assert spec.schedule.iteration_steps == 250_000
    assert spec.hyper.learning_rate == 6.25e-5


def test_games_table():
    study = load_study(DEMO)
    assert len(study.games) == 60
    unscored = [g.name for g in study.games.values() if not g.scored]
    assert unscored == ["AirRaid", "Carnival", "ElevatorAction", "JourneyEscape", "Pooyan"]
    sizes = {"games20_paper": 20, "games20_alt": 20, "games26": 26, "offline17": 17, "games60": 60}
    for name, size in sizes.items():
        assert sum(name in g.sets for g in study.games.values()) == size


@pytest.mark.parametrize(
    ("changes", "figure", "said"),
    [
        ({"games__games20": "games20_alt"}, "fig01", "20 games instead of the paper's 20 games"),
        (
            {"iteration_frames": "2M", "milestones": {"short": "50M", "full": "200M"}},
            "fig01",
            "iterations of 2M",
        ),
        ({"milestones": {"short": "10M", "full": "200M"}}, "fig10", "10M frames instead of 50M"),
        ({"seeds": [0, 1, 2]}, "fig10", "3 seeds instead of 5"),
        ({"hidden_units": 64}, "fig01", "64 hidden units instead of 512"),
    ],
)
def test_every_deviation_from_the_paper_is_told(tmp_path, changes, figure, said):
    study = yaml.safe_load((ROOT / "config" / "studies" / "paper.yaml").read_text())
    study["games"] |= {"games20": changes.pop("games__games20", "games20_paper")}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study | changes))
    assert any(said in deviation for deviation in load_study(path).deviations.of(figure))


def test_the_papers_own_settings_deviate_in_nothing():
    assert load_study(ROOT / "config" / "studies" / "paper.yaml").deviations.of("fig01") == ()


def test_spec_digest_sees_every_field_that_matters(tmp_path):
    cell = Cell("dqn", "cnn-baseline", "Asterix")
    base = load_study(DEMO).train_spec(cell)
    assert load_study(DEMO).train_spec(cell).digest() == base.digest()
    changed = load_study(edited(tmp_path, agents__dqn__learning_rate=1e-4)).train_spec(cell)
    assert changed.digest() != base.digest()
    more_seeds = load_study(edited(tmp_path, seeds=[0, 1, 2], milestones__full="8k")).train_spec(cell)
    assert more_seeds.digest() == base.digest()
