"""A copy of the project with a tiny study, for tests that run the pipeline or edit its source."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).parents[1]
PARTS = ("Snakefile", "slurm", "profiles", "workflow", "config", "envs", "src", "benchmarks", "docs")
STUDY = "config/studies/tiny.yaml"

# Seconds of training per run: episodes cut after 40 agent steps, iterations of 80, an update every 4.
TINY_AGENT = {
    "replay_capacity": 500,
    "min_replay_history": 40,
    "epsilon_decay_period": 40,
    "target_update_period": 40,
    "max_episode_steps": 40,
}


@dataclass(frozen=True)
class Project:
    """A copy of the project whose own `src/` is what its commands import."""

    root: Path

    @classmethod
    def create(cls, root: Path, study: Mapping[str, Any]) -> Project:
        """Copy what a clean clone needs to run, and write the tiny study."""
        root.mkdir(parents=True)
        for part in PARTS:
            source = CHECKOUT / part
            if source.is_symlink():
                (root / part).symlink_to(source.readlink())
            elif source.is_dir():
                shutil.copytree(
                    source, root / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
                )
            else:
                shutil.copy2(source, root / part)
        project = cls(root)
        project.write(STUDY, study)
        return project

    def copy(self, root: Path) -> Project:
        """This project, finished runs and Snakemake's records included, in another place."""
        shutil.copytree(self.root, root, symlinks=True)
        return Project(root)

    def read(self, path: str) -> Any:
        """A YAML file of the project."""
        return yaml.safe_load((self.root / path).read_text())

    def write(self, path: str, value: Any) -> None:
        """Replace a YAML file of the project."""
        (self.root / path).write_text(yaml.safe_dump(value, sort_keys=False))

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace the only occurrence of `old` in a file."""
        text = (self.root / path).read_text()
        assert text.count(old) == 1, f"{path}: {text.count(old)} times {old!r}"
        (self.root / path).write_text(text.replace(old, new))

    def environment(self) -> dict[str, str]:
        """What a user's shell has: the environment's programs on the path, this project's source."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return os.environ | {"PATH": path, "PYTHONPATH": str(self.root / "src")}

    def run(self, *command: str, timeout: float = 600.0) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's root."""
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def snakemake(self, *arguments: str, study: str = STUDY, timeout: float = 600.0) -> str:
        """Run Snakemake on a study; returns what it said. Fails the test if Snakemake does."""
        done = self.run("snakemake", *arguments, "--configfile", study, timeout=timeout)
        assert done.returncode == 0, (
            f"snakemake {' '.join(arguments)}\n{done.stdout}\n{done.stderr}{self.logs()}"
        )
        return done.stdout + done.stderr

    def planned(self, *targets: str, study: str = STUDY) -> set[str]:
        """The jobs a dry run plans, each as its message; the targets themselves are left out."""
        said = self.snakemake(*targets, "--dry-run", study=study)
        jobs = set(re.findall(r"^Job \d+: (.*)$", said, re.MULTILINE))
        assert jobs or "Nothing to be done" in said, said
        return {job for job in jobs if not re.match(r"Study |fig\d+: |table\d: ", job)}

    def logs(self) -> str:
        """The logs of all jobs, for the message of a failed test."""
        return "".join(
            f"\n--- {p}\n{p.read_text()[-3000:]}" for p in sorted((self.root / "logs").rglob("*.log"))
        )
