"""The locked environments satisfy what `pyproject.toml` and `envs/*.in` declare; checked offline."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = {"cpu": (), "dev": ("dev",), "cuda12": ("cuda12",), "cuda13": ("cuda13",)}
PINNED = re.compile(
    r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)(?:\s*;\s*([^\\]+?))?\s*\\?$", re.MULTILINE
)


def pins(lock: str) -> dict[str, set[str]]:
    """Locked versions per distribution; several where a marker tells Pythons or platforms apart."""
    found: dict[str, set[str]] = {}
    for name, version, _ in PINNED.findall((ROOT / "envs" / f"{lock}.txt").read_text()):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def declared(lock: str) -> list[Requirement]:
    """What a lock must satisfy."""
    if lock == "oracle":
        return inputs("oracle.in")
    extras = [r for extra in LOCKS[lock] for r in PROJECT["optional-dependencies"][extra]]
    return [Requirement(r) for r in [*PROJECT["dependencies"], *extras]] + inputs("build.in")


def inputs(name: str) -> list[Requirement]:
    lines = (ROOT / "envs" / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def unsatisfied(lock: str, requirements: list[Requirement]) -> list[str]:
    """Requirements that no version, or not every version, in the lock satisfies."""
    locked = pins(lock)
    bad = []
    for requirement in requirements:
        versions = locked.get(canonicalize_name(requirement.name), set())
        if not versions or not all(requirement.specifier.contains(v, prereleases=True) for v in versions):
            bad.append(f"{requirement}: locked {sorted(versions)}")
    return bad


@pytest.mark.parametrize("lock", [*LOCKS, "oracle"])
def test_lock_satisfies_what_is_declared(lock: str) -> None:
    assert unsatisfied(lock, declared(lock)) == []


def test_the_build_backend_is_locked() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    assert [Requirement(r) for r in build["requires"]] == inputs("build.in")


def test_a_missing_or_outdated_pin_is_noticed() -> None:
    assert unsatisfied("cpu", [Requirement("jax>=999")])
    assert unsatisfied("cpu", [Requirement("no-such-distribution")])


@pytest.mark.parametrize("lock", ["dev", "cuda12", "cuda13"])
def test_every_environment_has_the_versions_of_the_cpu_one(lock: str) -> None:
    here = pins(lock)
    assert {name: here.get(name) for name in pins("cpu")} == pins("cpu")


@pytest.mark.parametrize("lock", [*LOCKS, "oracle"])
def test_every_pin_has_a_hash_and_no_registry_is_named(lock: str) -> None:
    text = (ROOT / "envs" / f"{lock}.txt").read_text()
    blocks = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    requirements = [block for block in blocks if re.match(r"[A-Za-z0-9]", block)]
    assert len(requirements) == len(PINNED.findall(text)) > 50
    assert all("--hash=sha256:" in block for block in requirements)
    assert "://" not in text
    assert "--index" not in text


# What `snakemake --sdm conda` makes an environment from, all but conda itself.


def test_the_conda_file_holds_the_python_of_the_locks_and_no_other_package() -> None:
    declared = yaml.safe_load((ROOT / "envs/conda.yaml").read_text())
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert f"--python-version {oldest} " in (ROOT / "Makefile").read_text()
    assert declared == {
        "channels": ["conda-forge", "nodefaults"],
        "dependencies": [f"python={oldest}.*", "pip"],
    }


def test_the_conda_file_changes_with_the_locks() -> None:
    locks = b"".join((ROOT / "envs" / name).read_bytes() for name in ("build.txt", "cpu.txt"))
    named = re.findall(r"^# SHA-256 .*: (.*)$", (ROOT / "envs/conda.yaml").read_text(), re.MULTILINE)
    assert named == [hashlib.sha256(locks).hexdigest()], "make lock renews it"


def installed(tmp_path: Path, script: str, *arguments: str, keeps_bytecode: bool = True) -> list[str]:
    """What an installation calls: a line per call of a `python` and a `mypip` that only write it down."""
    for name in ("python", "mypip"):
        (tmp_path / name).write_text(f'#!/bin/bash\necho "{name} $*" >> {tmp_path}/calls\n')
        (tmp_path / name).chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    env = os.environ | {"PATH": path, "PYTHONDONTWRITEBYTECODE": "" if keeps_bytecode else "1"}
    subprocess.run(["bash", script, *arguments], cwd=ROOT, env=env, check=True)
    return (tmp_path / "calls").read_text().splitlines()


def test_conda_environments_are_installed_as_make_installs_them(tmp_path: Path) -> None:
    pip = "--quiet --disable-pip-version-check install --no-compile"
    expected = [
        f"{pip} --require-hashes -r envs/build.txt",
        f"{pip} --require-hashes --no-build-isolation --use-pep517 -r envs/cpu.txt",
        f"{pip} --no-index --no-build-isolation --no-deps -e .",
    ]
    (conda, make) = (tmp_path / "conda", tmp_path / "make")
    conda.mkdir()
    make.mkdir()
    # Snakemake calls a script of this name, beside the file, without arguments.
    assert installed(conda, "envs/conda.post-deploy.sh") == [f"python -m pip {call}" for call in expected]
    by_make = installed(make, "envs/install.sh", "envs/cpu.txt", "mypip", "--python", "x")
    assert by_make == [f"mypip --python x {call}" for call in expected]
    assert "bash envs/install.sh $(1) $(call pip,$(VENV))" in (ROOT / "Makefile").read_text()


def test_modules_are_compiled_at_installation_where_python_may_not_keep_them_later(tmp_path: Path) -> None:
    calls = installed(tmp_path, "envs/install.sh", keeps_bytecode=False)
    assert not [call for call in calls if "--no-compile" in call]
    assert "\nunexport PYTHONDONTWRITEBYTECODE\n" in (ROOT / "Makefile").read_text()


def test_an_installation_that_fails_says_so(tmp_path: Path) -> None:
    done = subprocess.run(["bash", "envs/install.sh", "envs/cpu.txt", "false"], cwd=ROOT, check=False)
    assert done.returncode != 0
