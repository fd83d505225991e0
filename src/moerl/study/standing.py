"""How the runs of a study stand: finished, diverged or missing, read from small JSON files alone.

A run is finished when its returns are there and its manifest names the spec that the study resolves to
now: what another spec trained is never taken for it. It is published when all of its files are in the
results, so that Snakemake has nothing left to train.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from moerl.study.errors import UserError, one_line
from moerl.study.expansion import Cell, Run, Study
from moerl.study.figures import FigureSpec
from moerl.study.json_file import RunManifest, parse_json
from moerl.study.paths import (
    NOT_ARCHIVED,
    divergence_file,
    files_of_run,
    imported_dir,
    run_dir,
    state_dir,
)
from moerl.study.specs import Frozen, NonNegativeInt

DIVERGED, OUTDATED, MISSING = "diverged", "trained under another spec", "missing"
"""Why a run is left out; a diverged one also says where: "diverged at gradient step 37"."""
ARCHIVED = "archived"
"""Set in the manifest of a run that came from an archive of results (`moerl import`)."""
_NAMED = 3  # unfinished runs named in an error


class Divergence(Frozen):
    """Where and how a run diverged: what training leaves in `diverged.json`."""

    run: str
    """Agent, variant, game and seed in words."""
    spec: str
    """Digest of the spec it was trained under."""
    problem: str
    """What was not finite, and the gradient step."""
    gradient_step: NonNegativeInt
    """0-based."""
    agent_step: NonNegativeInt | None
    """0-based agent step of that gradient step; None offline."""
    frame: NonNegativeInt | None
    """Emulated frames by then; None offline."""
    iteration: NonNegativeInt
    """0-based iteration that this step belongs to; the iterations before it are sound."""
    checkpoint: str | None
    """The last good checkpoint; None: there was none yet."""
    checkpoint_agent_step: NonNegativeInt | None
    checkpoint_gradient_step: NonNegativeInt | None = None
    """Offline, in place of the agent step."""
    versions: dict[str, str]
    """Of the packages that decide a run's numbers."""

    def concerns(self, spec: str, iterations: int) -> bool:
        """Whether a run of the spec with digest `spec` to so many iterations ends here."""
        return self.spec == spec and self.iteration < iterations

    def describe(self, path: Path, versions: dict[str, str]) -> str:
        """One line for the user: what happened where, and which file stands in the way of another try.

        Args:
            path: The file that holds this record.
            versions: Those of the running process; any that differ are named.
        """
        good = "there was no checkpoint yet"
        if self.checkpoint is not None:
            at = f"agent step {self.checkpoint_agent_step}"
            if self.checkpoint_agent_step is None:
                at = f"gradient step {self.checkpoint_gradient_step}"
            good = f"last good checkpoint: {self.checkpoint} ({at})"
        other = [
            f"{name} {then}, now {now}"
            for name, then in self.versions.items()
            if (now := versions.get(name, then)) != then
        ]
        changed = f" (it was recorded under {'; '.join(other)})" if other else ""
        where = self.problem
        if self.agent_step is not None:
            where += f" (agent step {self.agent_step}, frame {self.frame})"
        return (
            f"{self.run}: diverged, {where}; {good}; "
            f"the same training diverges again, so it is not repeated: delete {path} to try again{changed}"
        )


def read_divergence(path: Path) -> Divergence | None:
    """The record at `path`; None if there is none. Raises UserError if it is not one."""
    try:
        return Divergence.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise UserError(f"{path}: not a record of a divergence ({one_line(error)}); delete it") from error


@dataclass(frozen=True)
class Standing:
    """Looks up how the runs of a study stand, in its results and, if given, its in-progress state."""

    study: Study
    results: Path
    state: Path | None = None

    def finished(self, run: Run) -> Path | None:
        """The folder that holds a run's finished files; None if it is not finished.

        Snakemake deletes the results of a job that failed: finished seeds of a pack in which another
        one diverged are found in the state, where training keeps them.
        """
        digest = self.digest(run.cell)
        folders = [run_dir(self.results, run)]
        if self.state is not None:
            folders.append(state_dir(self.state, run) / run.milestone)
        return next((folder for folder in folders if finished_spec(folder) == digest), None)

    def in_results(self, run: Run) -> bool:
        """Whether a run was published to its milestone, under whatever spec."""
        return (run_dir(self.results, run) / "manifest.json").is_file()

    def published(self, run: Run) -> bool:
        """Whether all of a run's files are in the results, trained under the spec of now."""
        return self.in_results(run) and self.outdated(run) is None

    def outdated(self, run: Run) -> str | None:
        """Why Snakemake would train a run in the results again, in words; None if it would not."""
        folder = run_dir(self.results, run)
        expected = [n for n in files_of_run(self.study) if n not in NOT_ARCHIVED or not self.archived(run)]
        if lacking := [name for name in expected if not (folder / name).is_file()]:
            return f"missing output files: {', '.join(lacking)}"
        try:
            manifest = parse_json(RunManifest, (folder / "manifest.json").read_bytes())
            if manifest.spec is None:
                raise ValueError("lacks the spec")
        except (OSError, ValueError):
            return f"{folder / 'manifest.json'} cannot be read"
        if manifest.spec_digest == self.digest(run.cell):
            return None
        now = json.loads(self.study.train_spec(run.cell).canonical_json())
        changed = one_line("; ".join(differences(manifest.spec, now)) or "the form of the spec")
        return f"params have changed: {changed}"

    def archived(self, run: Run) -> bool:
        """Whether the run in the results came from an archive, without what training would go on from."""
        if not self._imported:
            return False
        try:
            data = (run_dir(self.results, run) / "manifest.json").read_bytes()
            return parse_json(RunManifest, data).archived
        except (OSError, ValueError):
            return False

    def divergence(self, run: Run) -> Divergence | None:
        """The record of a run that diverged before its milestone; None if it did not, as far as is known."""
        record = read_divergence(divergence_file(self.state, run)) if self.state is not None else None
        if record is None:
            return None
        iterations = self.study.iterations(run.milestone)
        return record if record.concerns(self.digest(run.cell), iterations) else None

    def why_not(self, run: Run) -> str:
        """Why a run that is not finished is not."""
        if (record := self.divergence(run)) is not None:
            return f"{DIVERGED} at gradient step {record.gradient_step}"
        known = finished_spec(run_dir(self.results, run))
        return MISSING if known in (None, self.digest(run.cell)) else OUTDATED

    def left_out(self, figure: FigureSpec) -> dict[Run, str]:
        """The runs of a figure that are not finished, in the figure's order, and why."""
        runs = self.study.figure_runs(figure)
        return {run: self.why_not(run) for run in runs if self.finished(run) is None}

    def digest(self, cell: Cell) -> str:
        """Digest of the spec that the study resolves a cell to."""
        if cell not in self._digests:
            self._digests[cell] = self.study.train_spec(cell).digest()
        return self._digests[cell]

    @cached_property
    def _imported(self) -> bool:
        return imported_dir(self.results).is_dir()

    @cached_property
    def _digests(self) -> dict[Cell, str]:
        return {}


def unfinished(figure: str, total: int, left_out: Mapping[Run, str]) -> str:
    """One line that names the runs, diverged ones first, that a figure of `total` runs lacks."""
    ordered = sorted(left_out.items(), key=lambda item: not item[1].startswith(DIVERGED))
    named = ", ".join(f"{run.name} ({why})" for run, why in ordered[:_NAMED])
    more = f" and {len(ordered) - _NAMED} more" if len(ordered) > _NAMED else ""
    return f"{figure}: {len(left_out)} of {total} runs are not finished: {named}{more}"


def finished_spec(folder: Path) -> str | None:
    """Digest of the spec that the finished run in `folder` was trained under; None if there is none."""
    if not (folder / "returns.parquet").is_file():
        return None
    try:
        return parse_json(RunManifest, (folder / "manifest.json").read_bytes()).spec_digest
    except (OSError, ValueError):  # not there, torn, or something else's
        return None


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
