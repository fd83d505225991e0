"""The digest of a stage's source follows what the stage imports, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moerl.study.closure import closure_digest, import_closure, module_digest

SOURCE = Path(__file__).parents[2] / "src"
STAGES = (
    "moerl.analysis.stage",
    "moerl.statistics.scores_stage",
    "moerl.statistics.table_stage",
    "moerl.figures.stage",
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package `moerl` where a imports b inside a function, b imports c.d, and e stands alone."""
    root = tmp_path / "moerl"
    (root / "c").mkdir(parents=True)
    (root / "__init__.py").write_text("__version__ = '1'\n")
    (root / "a.py").write_text("import json\n\n\ndef f():\n    from moerl.b import g\n    return g()\n")
    (root / "b.py").write_text("from moerl.c import d\n\n\ndef g():\n    return d.VALUE\n")
    (root / "c" / "__init__.py").write_text("")
    (root / "c" / "d.py").write_text("VALUE = 1\n")
    (root / "e.py").write_text("from moerl import a\n")
    return tmp_path


def digest_after(package: Path, file: str, text: str) -> str:
    """The digest of moerl.a with one file replaced, in a copy (files are read once per process)."""
    copy = package.parent / f"{package.name}-{file.replace('/', '-')}-{abs(hash(text))}"
    shutil.copytree(package, copy)
    (copy / "moerl" / file).write_text(text)
    return closure_digest("moerl.a", copy)


def test_the_closure_follows_imports_wherever_they_stand(package: Path) -> None:
    assert import_closure("moerl.a", package) == {"moerl.a", "moerl.b", "moerl.c", "moerl.c.d"}


def test_behaviour_changes_the_digest_and_words_do_not(package: Path) -> None:
    before = closure_digest("moerl.a", package)
    assert digest_after(package, "c/d.py", "VALUE = 2\n") != before
    assert digest_after(package, "c/__init__.py", "SIDE = 1\n") != before
    assert (
        digest_after(package, "c/d.py", '"""Doc."""\n\nVALUE  =  (1)  # a remark\n"""What it is."""\n')
        == before
    )
    assert digest_after(package, "e.py", "SOMETHING = 'else'\n") == before
    assert digest_after(package, "__init__.py", "__version__ = '2'\n") == before


def test_an_unknown_stage_is_an_error(package: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"no module moerl\.z"):
        closure_digest("moerl.z", package)


USERS = {
    "mine/moe.py": "import near\nfrom . import routing\nfrom .routing import k\nfrom ... import beyond\n"
    "import jax\nfrom moerl.networks.moe import Top1MoE\n",
    "mine/__init__.py": "",
    "mine/routing.py": "from mine.deep.down import VALUE\n",
    "mine/deep/down.py": "VALUE = 1\n",
    "mine/unused.py": "VALUE = 1\n",
    "near.py": "VALUE = 1\n",
    "moerl/networks/moe.py": "VALUE = 1\n",
}


@pytest.mark.parametrize(
    ("folder", "counted"),
    [
        ("code", {"routing.py", "down.py", "__init__.py", "near.py"}),
        ("site-packages", {"routing.py", "down.py", "__init__.py"}),
    ],
)
def test_what_a_users_module_imports_from_its_place_counts(
    folder: str, counted: set[str], tmp_path: Path
) -> None:
    place = tmp_path / folder
    for name, text in USERS.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)

    def digest() -> str:
        return module_digest("mine.moe", place / "mine" / "moe.py")

    before, changing = digest(), set()
    for name, text in USERS.items():
        (place / name).write_text(f'"""Words."""\n{text}  # more words\n')
        assert digest() == before
        (place / name).write_text(f"{text}SIDE = 1\n")
        changing |= {Path(name).name} if digest() != before else set()
        (place / name).write_text(text)
    assert changing == counted | {"moe.py"}
    (place / "moerl" / "networks" / "moe.py").write_text("VALUE = 2\n")
    assert digest() == before


@pytest.mark.parametrize("stage", STAGES)
def test_the_closure_holds_what_a_stage_really_imports(stage: str) -> None:
    code = f"import sys, {stage}; print(*(m for m in sys.modules if m.split('.')[0] == 'moerl'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - {"moerl"} <= import_closure(stage, SOURCE)


def test_drawing_does_not_depend_on_aggregation_nor_aggregation_on_drawing() -> None:
    figures = import_closure("moerl.figures.stage", SOURCE)
    statistics = import_closure("moerl.statistics.table_stage", SOURCE)
    assert not {m for m in figures if m.startswith(("moerl.statistics", "moerl.analysis", "moerl.training"))}
    assert not {m for m in statistics if m.startswith(("moerl.figures", "moerl.analysis", "moerl.training"))}
