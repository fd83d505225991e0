"""What training has published: finished runs, and whether they are what the study now asks for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from moerl.study.expansion import Cell, Run, Study
from moerl.study.paths import RUN_FILES, run_dir


@dataclass(frozen=True)
class Published:
    """Looks at the results of one study."""

    study: Study
    results: Path

    def finished(self, run: Run) -> bool:
        """Whether the run's files are there and were trained under the spec that the study resolves to."""
        return self.exists(run) and self.outdated(run) is None

    def exists(self, run: Run) -> bool:
        """Whether a run was published to its milestone, under whatever spec."""
        return (run_dir(self.results, run) / "manifest.json").is_file()

    def outdated(self, run: Run) -> str | None:
        """Why Snakemake would train a published run again, in words; None if it would not."""
        folder = run_dir(self.results, run)
        if lacking := [name for name in RUN_FILES if not (folder / name).is_file()]:
            return f"missing output files: {', '.join(lacking)}"
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes())
            digest, then = manifest["spec_digest"], manifest["spec"]
        except (ValueError, KeyError, TypeError):
            return f"{folder / 'manifest.json'} cannot be read"
        if digest == self.digest(run.cell):
            return None
        now = self.study.train_spec(run.cell).model_dump(mode="json")
        changes = differences(then, now)
        return f"params have changed: {'; '.join(changes) or 'the form of the spec'}"

    def digest(self, cell: Cell) -> str:
        """Digest of the spec that the study resolves a cell to."""
        if cell not in self._digest_of:
            self._digest_of[cell] = self.study.train_spec(cell).digest()
        return self._digest_of[cell]

    @cached_property
    def _digest_of(self) -> dict[Cell, str]:
        return {}


def differences(then: Any, now: Any, where: str = "") -> list[str]:
    """Every value that differs between two specs, as "hyper.gamma 0.9 → 0.99", in the order of `now`."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return [] if then == now else [f"{where} {_shown(then)} → {_shown(now)}"]
    return [
        change
        for key in {**now, **then}
        for change in differences(then.get(key), now.get(key), f"{where}.{key}" if where else key)
    ]


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
