"""Modules of the user's own: found and checked without being run, and part of a run's identity."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from moerl.study.config import load_study
from moerl.study.errors import ConfigError
from moerl.study.expansion import Cell
from moerl.study.variants import load_variants

DEMO = Path(__file__).parents[2] / "config" / "studies" / "demo.yaml"
SOURCE = '''"""A class that says nothing when it is not run."""

raise RuntimeError("loading a study ran this")


class Mine(Base):
    num_experts: int
    hidden_units: int
    noisy: bool
    capacity_factor: float
    slots: "int | None"
    k: int = 2
    temperature: float | None = None
    hard: bool = False
    init: Callable = zeros
    _private: int = 0


class Needy(Base):
    num_experts: int
    hidden_units: int
    noisy: bool
    capacity_factor: float
    slots: int | None
    depth: int


class Unfit(Needy):
    num_experts: int
    hidden_units: int
    noisy: bool
    capacity_factor: float
    slots: int | None
    init: Callable


class Small(Base):
    num_experts: int
    slots: int
'''
VARIANT = {"encoder": "cnn", "module": "pack_a.inner.moe:Mine", "num_experts": 4, "tokens": "perconv"}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of `pack_a.inner.moe`: neither it nor a package around it may be run."""
    folder = tmp_path / "code" / "pack_a" / "inner"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").write_text("raise RuntimeError('ran a package')\n")
    (folder / "moe.py").write_text(SOURCE)
    (folder / "broken.py").write_text("class Mine(:\n")
    (folder / "leaning.py").write_text(f"from .broken import Mine as Other\n{SOURCE}")
    monkeypatch.syspath_prepend(tmp_path / "code")
    return folder / "moe.py"


def study(folder: Path, *, figures: dict[str, Any] | None = None, **fields: Any) -> Path:
    """The demo study with a variant `mine`."""
    content = yaml.safe_load(DEMO.read_text()) | {"variants": {"mine": VARIANT | fields}}
    for name, override in (figures or {}).items():
        content["figures"][name] |= override
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def canonical(path: Path) -> dict[str, Any]:
    return json.loads(load_study(path).train_spec(Cell("dqn", "mine", "Pong")).canonical_json())["network"]


def test_options_and_source_are_in_the_spec_of_such_variants_alone(module: Path, tmp_path: Path) -> None:
    network = canonical(study(tmp_path, options={"temperature": 1, "k": 3}))
    assert network["options"] == {"k": 3, "temperature": 1.0}
    assert network["module"] == VARIANT["module"]
    assert len(network["source"]) == 16
    assert "options" not in canonical(study(tmp_path))
    own = canonical(study(tmp_path, module="top1"))
    assert not {"options", "source"} & set(own)


def test_an_edit_changes_the_spec_and_words_do_not(module: Path, tmp_path: Path) -> None:
    path = study(tmp_path)
    before = canonical(path)
    module.write_text(SOURCE.replace("when it is not run", "at all") + "\n\n# a remark\n")
    assert canonical(path) == before
    module.write_text(SOURCE.replace("k: int = 2", "k: int = 3"))
    assert canonical(path)["source"] != before.pop("source")
    module.write_text(SOURCE)
    assert canonical(path) == canonical(path) | before


BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "misspelt module of the paper": (
        {"module": "softmo"},
        ["variants.mine.module: unknown value 'softmo'", "package.module:ClassName", "'softmoe'?"],
    ),
    "no class": ({"module": "pack_a.inner.moe"}, ["variants.mine.module: unknown value 'pack_a.inner.moe'"]),
    "not a word": ({"module": "pack-a:Mine"}, ["variants.mine.module: unknown value 'pack-a:Mine'"]),
    "no package": (
        {"module": "no_such:Mine"},
        ["variants.mine.module: bad value 'no_such:Mine'", "PYTHONPATH"],
    ),
    "no module": ({"module": "pack_a.outer:Mine"}, ["no Python file of a module 'pack_a.outer'"]),
    "below a module": ({"module": "pack_a.inner.moe.x:Mine"}, ["no Python file of a module"]),
    "the program itself": ({"module": "__main__:Mine"}, ["no Python file of a module '__main__'"]),
    "compiled": ({"module": "math:Mine"}, ["no Python file of a module 'math'"]),
    "no such class": ({"module": "pack_a.inner.moe:Mein"}, ["unknown class 'Mein'", "did you mean 'Mine'?"]),
    "not Python": ({"module": "pack_a.inner.broken:Mine"}, ["broken.py is not valid Python (line 1: "]),
    "not Python further down": (
        {"module": "pack_a.inner.leaning:Mine"},
        ["inner/broken.py is not valid Python (line 1: "],
    ),
    "too few fields": (
        {"module": "pack_a.inner.moe:Small"},
        ["Small does not declare hidden_units, noisy, capacity_factor"],
    ),
    "option without a type for YAML": (
        {"module": "pack_a.inner.moe:Unfit"},
        ["its option init is of type Callable", "give it a default"],
    ),
    "missing option": ({"module": "pack_a.inner.moe:Needy"}, ["variants.mine.options.depth: missing"]),
    "unknown option": (
        {"options": {"kk": 2}},
        ["variants.mine.options.kk: unknown key 'kk'", "did you mean 'k'"],
    ),
    "size as an option": ({"options": {"slots": 2}}, ["variants.mine.options.slots: unknown key"]),
    "private option": ({"options": {"_private": 2}}, ["unknown key '_private'"]),
    "option that keeps its default": ({"options": {"init": 2}}, ["options.init: unknown key 'init'"]),
    "text for a number": ({"options": {"k": "2"}}, ["variants.mine.options.k: bad value '2'", "integer"]),
    "fraction for an integer": ({"options": {"k": 2.0}}, ["variants.mine.options.k: bad value 2.0"]),
    "number for a switch": ({"options": {"hard": 1}}, ["variants.mine.options.hard: bad value 1", "boolean"]),
    "infinite option": ({"options": {"temperature": float("inf")}}, ["options.temperature", "finite"]),
    "list for an option": (
        {"options": {"k": [2]}},
        ["variants.mine.options", "option 'k' must be a name with"],
    ),
    "options in a list": ({"options": ["k"]}, ["variants.mine.options", "must be a mapping"]),
    "source given": ({"source": "0" * 16}, ["variants.mine.source: is computed"]),
    "options of the paper's": (
        {"module": "top1", "options": {"k": 2}},
        ["variants.mine", "`options`", "needs"],
    ),
    "phi": ({"phi": "redraw"}, ["`phi` (redraw)", "needs a SoftMoE"]),
    "noise of Top1": ({"router_noise": 1.0}, ["`router_noise` (1.0)", "needs Top1"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_module_or_option_is_named_in_one_line(case: str, module: Path, tmp_path: Path) -> None:
    fields, expected = BAD[case]
    path = study(tmp_path, **fields)
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: variants.mine")
    assert "\n" not in line
    for part in expected:
        assert part in line


def test_a_shared_variant_is_looked_at_where_it_is_used(module: Path, tmp_path: Path) -> None:
    """Whoever does without it does without its module, too: any study, and every run of other variants."""
    config = tmp_path / "config"
    shutil.copytree(DEMO.parents[1], config)
    fields = "encoder: cnn, num_experts: 4, tokens: perconv"
    with (config / "networks.yaml").open("a") as file:
        file.write(f'absent: {{module: "no_such:Mine", {fields}}}\n')
        file.write(f'broken: {{module: "pack_a.inner.broken:Mine", {fields}}}\n')
    path = config / "studies" / "demo.yaml"
    loaded, cell = load_study(path), Cell("dqn", "cnn-baseline", "Alien")
    assert loaded.train_spec(cell).digest() == load_study(DEMO).train_spec(cell).digest()
    for variant, problem in (("absent", "no Python file of a module"), ("broken", "not valid Python")):
        named = rf"networks\.yaml: {variant}\.module: .*{problem}"
        with pytest.raises(ConfigError, match=named):
            loaded.train_spec(replace(cell, variant=variant))
        shown = {"fig10": {"add_series": [{"name": "New", "variants": [variant]}]}}
        path.write_text(study(tmp_path, figures=shown).read_text())
        with pytest.raises(ConfigError, match=named):
            load_study(path)
    with pytest.raises(ConfigError, match="networks"):
        load_variants(config / "networks.yaml")  # all of them


SERIES = {"name": "Mine", "variants": ["{encoder}-baseline", "mine", "mine", "mine"]}
BAD_SERIES: dict[str, tuple[list[dict[str, Any]], str]] = {
    "unknown variant": ([SERIES | {"variants": ["mine"] * 3 + ["mien"]}], "[0].variants[3]: unknown variant"),
    "too few": (
        [SERIES | {"variants": ["mine"]}],
        "[0].variants: names 1 variants; a series of this figure has 4",
    ),
    "a name that is taken": ([SERIES | {"name": "SoftMoE"}], "[0].name: 'SoftMoE' is in the figure already"),
    "twice": ([SERIES, SERIES], "[1].name: 'Mine' is in the figure already"),
    "unknown key": ([SERIES | {"colour": "red"}], "[0].colour: unknown key 'colour'"),
}


@pytest.mark.parametrize("case", BAD_SERIES)
def test_a_wrong_added_series_is_named_in_one_line(case: str, module: Path, tmp_path: Path) -> None:
    added, expected = BAD_SERIES[case]
    path = study(tmp_path, figures={"fig01": {"add_series": added}})
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    assert str(caught.value).startswith(f"{path}: figures.fig01.add_series{expected}")


def test_an_added_series_is_trained_snapshotted_and_a_deviation(module: Path, tmp_path: Path) -> None:
    one = {"name": "Mine", "variants": ["mine"]}
    figures = {"fig01": {"add_series": [SERIES]}, "fig10": {"add_series": [one]}}
    loaded = load_study(study(tmp_path, figures=figures))
    assert loaded.figures["fig01"].series[-1].variants == ("cnn-baseline", "mine", "mine", "mine")
    assert "Mine added" in loaded.deviations.of("fig01")
    of_figure = loaded.figure_cells(loaded.figures["fig10"])
    cells = [cell for cell in of_figure if cell.variant == "mine"]
    assert {cell.game for cell in cells} == {cell.game for cell in of_figure}
    assert all(loaded.train_spec(cell).schedule.snapshot_every == 1 for cell in cells)


def test_loading_a_study_imports_neither_jax_nor_the_module(module: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from moerl.study.config import load_study;"
        f"sys.path.insert(0, {str(module.parents[2])!r}); load_study(Path({str(study(tmp_path))!r}));"
        "print(sorted({'jax', 'flax', 'numpy', 'pack_a', 'pack_a.inner'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
