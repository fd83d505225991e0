"""Where every file of a study lies, below its results folder (see docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moerl.study.errors import UserError
from moerl.study.expansion import Run, Study
from moerl.study.figures import Score

TIMING = "timing.parquet"
"""The wall-clock of a run's iterations; like its manifest, it is of the machine that trained it."""
RUN_FILES = (
    "returns.parquet",
    "losses.parquet",
    TIMING,
    "actions.safetensors",
    "resume.safetensors",
    "manifest.json",
)
"""Files every finished run has; a run that analyses need also has the folder `snapshots`."""

RETURNS: dict[Score, str] = {
    Score.TRAINING: "returns.parquet",
    Score.EVALUATION: "evaluations.parquet",
}
"""Where a run's returns of each kind stand, in equal columns; evaluations only in a study that has them."""

NOT_ARCHIVED = ("actions.safetensors", "resume.safetensors")
"""Files of a run that no archive of results has (`moerl export`): large, and there to go on training from."""


def files_of_run(study: Study) -> tuple[str, ...]:
    """Files every finished run of a study has."""
    return (*RUN_FILES, RETURNS[Score.EVALUATION]) if study.evaluation else RUN_FILES


def run_dir(results: Path, run: Run) -> Path:
    """Folder of one run's outputs at one milestone."""
    return results.joinpath("runs", run.agent, run.variant, run.game, f"seed{run.seed}", run.milestone)


def dataset_dir(study: Study, results: Path, run: Run) -> Path:
    """Folder of the data that an offline run learns from. Raises UserError if the study has no such data."""
    offline = study.offline
    if offline is None:
        raise UserError(f"{study.path}: says nothing of the data that {run.agent} learns from (`offline`)")
    if offline.folder is not None:
        return Path(offline.folder.format(game=run.game, seed=run.seed, run=run.seed + 1))
    (source,) = study.collected([run])
    return run_dir(results, source)


def state_dir(state: Path, run: Run) -> Path:
    """Folder of one run's in-progress state, shared by its milestones; never a declared output."""
    return state.joinpath(run.agent, run.variant, run.game, f"seed{run.seed}")


def train_log(logs: Path, run: Run, pack: Sequence[int]) -> Path:
    """Log of the job that trains a pack to the milestone of `run`, one of its seeds."""
    seeds = "_".join(map(str, pack))
    return logs / "train" / run.agent / run.variant / run.game / f"{run.milestone}_seed{seeds}.log"


def divergence_file(state: Path, run: Run) -> Path:
    """Record of a run that diverged; shared by its milestones."""
    return state.joinpath(run.agent, run.variant, run.game, f"seed{run.seed}", "diverged.json")


def analysis_file(results: Path, run: Run) -> Path:
    """Tidy analysis values of one run."""
    return results / "analysis" / run.agent / run.variant / run.game / f"seed{run.seed}.parquet"


def tokens_file(results: Path, run: Run) -> Path:
    """How one run routes single tokens."""
    return analysis_file(results, run).with_suffix(".tokens.parquet")


def imported_dir(results: Path) -> Path:
    """Manifests of the archives that were imported into the results."""
    return results / "imported"


def scores_file(results: Path, figure: str) -> Path:
    """Tidy scores of one figure."""
    return results / "scores" / f"{figure}.parquet"


def left_out_file(results: Path, figure: str) -> Path:
    """The runs that one figure's scores leave out, and why; empty but for its header when complete."""
    return results / "scores" / f"{figure}.left_out.csv"


def table_files(results: Path, figure: str) -> tuple[Path, Path]:
    """The numbers behind one figure, as CSV and LaTeX."""
    return results / "tables" / f"{figure}.csv", results / "tables" / f"{figure}.tex"


def spec_table_files(results: Path, table: str) -> tuple[Path, Path, Path]:
    """One of the paper's tables of hyper-parameters, as CSV, LaTeX and Markdown."""
    base = results / "tables"
    return base / f"{table}.csv", base / f"{table}.tex", base / f"{table}.md"


def parameters_file(results: Path) -> Path:
    """The networks' numbers of parameters."""
    return results / "tables" / "parameters.csv"


def provenance_files(results: Path) -> tuple[Path, Path]:
    """Where the runs come from: a document, and a table of them."""
    return results / "report" / "provenance.md", results / "report" / "runs.csv"


def page_file(results: Path, page: str) -> Path:
    """One page of the report."""
    return results / "report" / f"{page}.html"


def figure_files(results: Path, figure: str) -> tuple[Path, Path, Path]:
    """One figure as PDF, PNG and SVG."""
    base = results / "figures"
    return base / f"{figure}.pdf", base / f"{figure}.png", base / f"{figure}.svg"
