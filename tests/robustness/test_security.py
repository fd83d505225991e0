"""Files and names are data: nothing runs what they say, and no name becomes a part of a command or a path."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tiny_project import CHECKOUT, STUDY, TINY_AGENT, Project

from moerl.cli.main import main

CANARY = "canary"
PYTHON = sorted(
    path for folder in ("src", "benchmarks", "docs") for path in (CHECKOUT / folder).rglob("*.py")
)
WORKFLOW = [CHECKOUT / "workflow" / "Snakefile", *sorted((CHECKOUT / "workflow" / "rules").glob("*.smk"))]

CALLS = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "tarfile"}
METHODS = {
    *("os.system", "os.popen", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"),
    *("pd.read_pickle", "pandas.read_pickle", "torch.load", "shutil.unpack_archive"),
}
UNPACKING = {"extractall", "extract", "to_pickle"}
FLAGS = {"shell", "allow_pickle"}


def dangers(source: str) -> Iterator[str]:
    """What in a module can run what is in a file or a name, each with its line."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found = [alias.name for alias in names if alias.name.partition(".")[0] in MODULES]
            case ast.ImportFrom(module=str(module)):
                found = [module] if module.partition(".")[0] in MODULES else []
            case ast.Call(func=function, keywords=keywords):
                name = ast.unparse(function)
                found = [name] if name in CALLS | METHODS or name.rpartition(".")[2] in UNPACKING else []
                flags = [word for word in keywords if word.arg in FLAGS]
                found += [f"{name}({word.arg}=…)" for word in flags if ast.unparse(word.value) != "False"]
            case _:
                continue
        yield from (f"line {node.lineno}: {what}" for what in found)


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_nothing_that_runs_data_is_used(path: Path) -> None:
    assert list(dangers(path.read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "eval(x)",
        "exec(x)",
        "__import__(x)",
        "os.system(x)",
        "subprocess.run(x, shell=True)",
        "subprocess.run(x, shell=flag)",
        "yaml.load(x)",
        "yaml.unsafe_load(x)",
        "np.load(x, allow_pickle=True)",
        "archive.extractall(x)",
        "pd.read_pickle(x)",
        "import tarfile",
    ],
)
def test_what_would_run_data_is_seen(line: str) -> None:
    assert len(list(dangers(f"def f():\n    {line}\n"))) == 1
    assert not list(dangers("np.load(x, allow_pickle=False); yaml.safe_load(x); re.compile(x)"))


@pytest.mark.parametrize("path", WORKFLOW, ids=lambda path: path.name)
def test_the_workflow_runs_no_data_either(path: Path) -> None:
    text = path.read_text()
    words = ("pickle", "os.system", "os.popen", "eval(", "exec(", "yaml.load(", "shell=True")
    assert [word for word in words if word in text] == []


HOSTILE = [
    f"x; touch {CANARY}",
    f"$(touch {CANARY})",
    f"`touch {CANARY}`",
    f"x\ntouch {CANARY}",
    f"' ; touch {CANARY} ; '",
    "../../x",
    "/tmp/x",
    "x/../y",
    "{output}",
    "{0.__class__}",
    "a b",
    "-rf",
    "",
    ".",
    "x\0y",
]
PLACES = {
    "study": ": name:",
    "variant": ": variants",
    "game": ": games.games20",
    "game set": "",
    "figure": ": figures",
    "agent": ": agents",
}
"""What can have a name in a study → what an error says of it."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.create(tmp_path_factory.mktemp("hostile") / "project", tiny_study())


def tiny_study() -> dict[str, object]:
    return {
        "name": "tiny",
        "agents": {"dqn": TINY_AGENT},
        "figures": {"fig01": {}},
        "games": {"games20": ["Pong"]},
        "seeds": [0],
        "seeds_per_job": 1,
        "snapshot_every": 1,
        "iteration_frames": 400,
        "milestones": {"short": 800, "full": 800},
    }


def with_name(place: str, name: str) -> dict[str, object]:
    """A study in which something has this name."""
    study = tiny_study()
    match place:
        case "study":
            return study | {"name": name}
        case "variant":
            return study | {"variants": {name: {"encoder": "cnn", "module": "baseline"}}}
        case "game":
            return study | {"games": {"games20": [name]}}
        case "game set":
            sets = {"games20": ["Pong"], name: ["Pong"]}
            return study | {"games": sets, "figures": {"fig01": {"games": name}}}
        case "figure":
            return study | {"figures": {name: {}}}
        case _:
            return study | {"agents": {"dqn": TINY_AGENT, name: {}}}


def below(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_a_hostile_name_in_a_study_is_refused_or_stays_inside_it(
    shared: Project,
    place: str,
    name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A set of games may have any name, for it is only looked up; all others are refused in one line."""
    shared.write(STUDY, with_name(place, name))
    before = below(shared.root)
    code, said = planned(shared, capsys, monkeypatch)
    if place != "game set":
        assert code == 2
    if code:
        assert code == 2
        assert PLACES[place] in said
        assert said.isprintable()
    assert below(shared.root) == before


def test_the_study_is_fine_without_a_hostile_name(
    shared: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.write(STUDY, tiny_study())
    assert planned(shared, capsys, monkeypatch) == (0, "")


def planned(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[object, str]:
    """Exit code of `moerl plan`, and what it said of errors."""
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(sys, "argv", ["moerl", "plan", "--study", STUDY])
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code or 0
    return code, capsys.readouterr().err.strip()


SETTINGS = {
    "margin_seconds": f"1; touch {CANARY}",
    "gpu_model": f"a100; touch {CANARY}",
    "gpu": f"$(touch {CANARY})",
    "allow_partial": f"$(touch {CANARY})",
    "reference": f"$(touch {CANARY})",
}


@pytest.mark.long
@pytest.mark.parametrize("key", SETTINGS)
def test_a_hostile_setting_is_refused_in_one_line(shared: Project, key: str) -> None:
    shared.write(STUDY, tiny_study())
    command = ("snakemake", "-n", "--cores", "1", "--configfile", STUDY, "--config", f"{key}={SETTINGS[key]}")
    done = shared.run(*command)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("moerl: ")]
    assert key in line
    assert not list(shared.root.rglob(CANARY))


@pytest.mark.long
def test_hostile_paths_are_words_of_commands(tmp_path: Path) -> None:
    """The file of a study and the folder of the project may have any name; real jobs are run with them."""
    root = tmp_path / f"it's; touch {CANARY}; $(touch {CANARY}) & co"
    project = Project.create(root, tiny_study())
    hostile = f"config/studies/a; touch {CANARY}; '$(touch {CANARY}).yaml"
    (root / hostile).write_text(yaml.safe_dump(tiny_study()))
    project.snakemake("table2", "--cores", "2", study=hostile)
    assert (root / "results" / "tiny" / "tables" / "table2.csv").is_file()
    assert not list(tmp_path.rglob(CANARY))


def test_names_in_results_are_words_of_no_command() -> None:
    """Rules put names into commands only through wildcards, which have a pattern, or quoted."""
    common = (CHECKOUT / "workflow" / "rules" / "common.smk").read_text()
    patterns = re.search(r"wildcard_constraints:\n(.*?)\n\n", common, re.DOTALL)
    assert patterns
    found = dict(re.findall(r'(\w+)="([^"]+)"', patterns[1]))
    assert {"agent", "variant", "game", "seed", "milestone"} <= set(found)
    for name, pattern in found.items():
        if name not in ("figure", "paper_table", "page"):
            assert not any(re.fullmatch(pattern, hostile) for hostile in HOSTILE), name
