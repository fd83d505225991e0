"""Entry point of `moerl`. Sub-commands import what they need when they run: `--help` stays instant.

Exit codes: 0 done, 1 failed, 2 wrong input, 3 a run diverged (running it again says so again),
75 training was saved and left early (run it again).
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from moerl.study.config import load_study
from moerl.study.errors import FailureError, UserError, one_line
from moerl.study.expansion import Cell, Run, Study
from moerl.study.standing import Standing

EXIT_LEFT_EARLY = 75  # EX_TEMPFAIL: saved, to be continued

_FILE = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="moerl")
def cli() -> None:
    """From training to the figures of “Mixtures of Experts Unlock Parameter Scaling for Deep RL”."""


_study_option = click.option("--study", "study_path", type=_FILE, required=True, help="Study file (YAML).")
_results_option = click.option("--results", type=_FILE, required=True, help="Results folder of the study.")
_partial_option = click.option(
    "--allow-partial", is_flag=True, help="Go on without the runs that are not finished; says so."
)
_state_option = click.option(
    "--state",
    type=_FILE,
    help="Folder of in-progress state: tells diverged runs, keeps finished ones.",
)


def _standing(study: Study, results: Path | None, state: Path | None) -> Standing:
    """How the runs of a study stand in the folders given, else in those where Snakemake puts them."""
    return Standing(study, results or Path("results") / study.name, state or Path("state") / study.name)


def _seeds(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise click.BadParameter("must be comma-separated integers from 0 on, such as 0,1,2")
    return tuple(int(part) for part in parts)


@cli.command()
@_study_option
@_results_option
@click.option("--agent", required=True)
@click.option("--variant", required=True, help="Network variant (config/networks.yaml or the study).")
@click.option("--game", required=True)
@click.option("--seeds", callback=_seeds, required=True, help="Comma-separated; trained side by side.")
@click.option("--milestone", required=True, help="How far to train: one of the study's milestones, as 50M.")
@click.option("--state", type=_FILE, required=True, help="Folder for in-progress state.")
@click.option("--expect-spec", metavar="DIGEST", help="Refuse if the study now resolves to another spec.")
@click.option("--runtime-minutes", type=float, help="Save and leave (exit 75) before this much time is up.")
@click.option(
    "--margin-seconds", default=120.0, show_default=True, help="How long before that. Needs a save to fit in."
)
@click.option("--save-every-seconds", default=1800.0, show_default=True, help="Time between checkpoints.")
@click.option(
    "--frames-folder",
    type=_FILE,
    envvar="MOERL_FRAMES_FOLDER",
    show_envvar=True,
    help="Offline: keep the data's frames on this fast disk instead of in memory.",
)
def train(
    study_path: Path,
    results: Path,
    agent: str,
    variant: str,
    game: str,
    seeds: tuple[int, ...],
    milestone: str,
    state: Path,
    expect_spec: str | None,
    runtime_minutes: float | None,
    margin_seconds: float,
    save_every_seconds: float,
    frames_folder: Path | None,
) -> None:
    """Train several seeds of one (agent, variant, game) to a milestone; resumes by itself."""
    from moerl.cli.train import TrainJob, train_job

    study = load_study(study_path)
    deadline = None if runtime_minutes is None else runtime_minutes * 60 - margin_seconds
    cell = Cell(agent, variant, game)
    job = TrainJob(cell, seeds, milestone, results, state, deadline, save_every_seconds, frames_folder)
    train_job(study, job, expect_spec)


@cli.command()
@_study_option
@_results_option
@click.option("--agent", required=True)
@click.option("--variant", required=True)
@click.option("--game", required=True)
@click.option("--seed", type=int, required=True)
@_state_option
def analyse(
    study_path: Path, results: Path, agent: str, variant: str, game: str, seed: int, state: Path | None
) -> None:
    """Dormant neurons, empirical NTK, feature norm, effective ranks and routing of one run's snapshots."""
    from moerl.cli.train import configure_jax
    from moerl.study.paths import analysis_file, run_dir, tokens_file

    study = load_study(study_path)
    configure_jax(study.cpu_threads)
    from moerl.analysis import stage

    run = Run(agent, variant, game, seed, study.analysed_milestone(agent))
    folder = Standing(study, results, state).finished(run) or run_dir(results, run)
    outs = analysis_file(results, run), tokens_file(results, run)
    stage.run(study.train_spec(run.cell), run.milestone, folder, *outs)


@cli.command()
@click.argument("figure")
@_study_option
@_results_option
@_partial_option
@_state_option
def scores(figure: str, study_path: Path, results: Path, allow_partial: bool, state: Path | None) -> None:
    """Collect the scores of one figure's runs into one tidy file."""
    from moerl.statistics import scores_stage

    scores_stage.run(load_study(study_path), figure, results, allow_partial, state)


@cli.command()
@click.argument("figure")
@_study_option
@_results_option
@_partial_option
def table(figure: str, study_path: Path, results: Path, allow_partial: bool) -> None:
    """Aggregate one figure's scores into the table of the numbers it plots (CSV, LaTeX)."""
    from moerl.cli.sizes import Sizes
    from moerl.statistics import table_stage
    from moerl.study.sizes import KNOWN

    table_stage.run(load_study(study_path), figure, results, allow_partial, Sizes(KNOWN).of)


@cli.command()
@click.argument("figure")
@_study_option
@_results_option
@_partial_option
@click.option("--reference", is_flag=True, help="Draw published runs too (see `moerl reference`).")
def figure(figure: str, study_path: Path, results: Path, allow_partial: bool, reference: bool) -> None:
    """Draw one figure from its table (PDF, PNG, SVG)."""
    from moerl.figures import stage

    stage.run(load_study(study_path), figure, results, allow_partial, reference)


@cli.command("fetch-reference")
@_study_option
@_results_option
@click.option("--from", "folder", type=_FILE, help="Take the files from this folder: nothing is downloaded.")
def fetch_reference(study_path: Path, results: Path, folder: Path | None) -> None:
    """Fetch the returns that Dopamine's authors published, for the figures of a study; checksums are kept."""
    from moerl.cli.reference_files import fetch

    fetch(load_study(study_path), results, folder)


@cli.command()
@click.argument("figure")
@_study_option
@_results_option
def reference(figure: str, study_path: Path, results: Path) -> None:
    """Aggregate published runs as the curves of one figure; `fetch-reference` first."""
    from moerl.statistics import reference_stage

    reference_stage.run(load_study(study_path), figure, results)


@cli.command()
@click.argument("table")
@_study_option
@_results_option
def hyperparameters(table: str, study_path: Path, results: Path) -> None:
    """Write one of the paper's Tables 1 to 4 as the study resolves it (CSV, LaTeX, Markdown)."""
    study = load_study(study_path)
    from moerl.study.tables import find_table, shown_columns

    shown_columns(study, table, find_table(study, table))  # before anything heavy is imported
    from moerl.cli.hyperparameters import write_table

    write_table(study, table, results)


_look_study_option = click.option(
    "--study", "study_path", type=_FILE, default=Path("config/studies/demo.yaml"), show_default=True
)
_look_results_option = click.option("--results", type=_FILE, help="Default: results/<study>.")
_look_state_option = click.option("--state", type=_FILE, help="Default: state/<study>.")
_json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")


@cli.command()
@click.argument("figures", nargs=-1)
@_look_study_option
@_look_results_option
@_look_state_option
@_json_option
def plan(
    figures: tuple[str, ...], study_path: Path, results: Path | None, state: Path | None, as_json: bool
) -> None:
    """What figures take (default: all of the study): runs, jobs, hours, disk. Nothing is run."""
    from rich.console import Console

    from moerl.cli.plan import make_plan, print_plan, to_json

    study = load_study(study_path)
    made = make_plan(_standing(study, results, state), figures)
    if as_json:
        print(to_json(made))
    else:
        print_plan(made, Console())


@cli.command()
@click.argument("figures", nargs=-1)
@_look_study_option
@_look_results_option
@_look_state_option
@click.option("--logs", type=_FILE, help="Default: logs/<study>.")
@click.option("--watch", is_flag=True, help="Show it again and again until every run is done.")
@click.option("--every", default=5.0, show_default=True, help="Seconds between two looks of --watch.")
@_json_option
def status(
    figures: tuple[str, ...],
    study_path: Path,
    results: Path | None,
    state: Path | None,
    logs: Path | None,
    watch: bool,
    every: float,
    as_json: bool,
) -> None:
    """How every run stands: done, running, failed, paused, stale or missing, and why."""
    from rich.console import Console

    from moerl.cli import status as stage
    from moerl.study.status import Folders

    if watch and as_json:
        raise click.UsageError("--watch and --json: choose one")
    study = load_study(study_path)
    folders = Folders(
        results or Path("results") / study.name,
        state or Path("state") / study.name,
        logs or Path("logs") / study.name,
    )
    if watch:
        stage.watch(lambda: stage.look(study, folders, figures), study, Console(), every)
    elif as_json:
        print(stage.to_json(study, stage.look(study, folders, figures)))
    else:
        console = Console()
        for part in stage.render(study, stage.look(study, folders, figures)):
            console.print(part, highlight=False)


@cli.command()
@click.argument("figures", nargs=-1)
@_look_study_option
@_look_results_option
@_look_state_option
@click.option("--logdir", type=_FILE, help="Gets a folder of the study's name. Default: tensorboard.")
@click.option("--watch", is_flag=True, help="Go on until every run is done.")
@click.option("--every", default=30.0, show_default=True, help="Seconds between two looks of --watch.")
def tensorboard(
    figures: tuple[str, ...],
    study_path: Path,
    results: Path | None,
    state: Path | None,
    logdir: Path | None,
    watch: bool,
    every: float,
) -> None:
    """Mirror returns and losses, of finished and running runs, to event files for TensorBoard."""
    from moerl.cli import tensorboard as stage

    study = load_study(study_path)
    folder = (logdir or Path("tensorboard")) / study.name
    stage.run(_standing(study, results, state), figures, folder, every if watch else None)


@cli.command()
@_look_study_option
@_look_results_option
@_json_option
def doctor(study_path: Path, results: Path | None, as_json: bool) -> None:
    """Is this machine fit: versions, JAX, ALE, SLURM, disk; how to mend it. Exit code 1 on a problem."""
    from rich.console import Console

    from moerl.cli.doctor import examine, print_findings, to_json

    study = load_study(study_path)
    findings = examine(study, results or Path("results") / study.name)
    if as_json:
        print(to_json(findings))
    else:
        print_findings(findings, Console())
    if any(finding.verdict == "problem" for finding in findings):
        sys.exit(1)


@cli.command()
@_study_option
@_results_option
def manifest(study_path: Path, results: Path) -> None:
    """List every byte-reproducible file of a study's results with its SHA-256."""
    from moerl.cli.manifest import write_manifest

    write_manifest(load_study(study_path), results)


@cli.command()
@_study_option
@_results_option
@_partial_option
@_state_option
def provenance(study_path: Path, results: Path, allow_partial: bool, state: Path | None) -> None:
    """Gather where the runs of a study come from: source, software, hardware, seeds, times, total cost."""
    from moerl.report import provenance as stage

    stage.run(load_study(study_path), results, state, allow_partial)


@cli.command()
@click.argument("source", type=_FILE)
@click.argument("page", type=_FILE)
@click.option("--title", required=True, help="Heading of a table; a document has its own.")
def page(source: Path, page: Path, title: str) -> None:
    """Show a table (CSV) or a document (Markdown) as an HTML page."""
    from moerl.report.pages import write_page

    write_page(source, page, title)


@cli.command()
@click.argument("archive", type=_FILE)
@_look_study_option
@_look_results_option
@_look_state_option
@_partial_option
def export(
    archive: Path, study_path: Path, results: Path | None, state: Path | None, allow_partial: bool
) -> None:
    """Write a study's results to one zip file, to be shared: tables, data dictionary, checksums."""
    from moerl.archive.export import export as write

    study = load_study(study_path)
    manifest = write(_standing(study, results, state), archive, allow_partial)
    click.echo(f"{archive}: {len(manifest.runs)} runs, {len(manifest.files)} files")
    for text in manifest.left_out:
        click.echo(f"left out: {text}")


@cli.command("import")
@click.argument("archive", type=_FILE)
@_look_study_option
@_look_results_option
def import_archive(archive: Path, study_path: Path, results: Path | None) -> None:
    """Verify an archive of results and restore it: figures are then made without training."""
    from moerl.archive.restore import restore

    study = load_study(study_path)
    folder = results or Path("results") / study.name
    manifest, written = restore(study, folder, archive)
    click.echo(f"{folder}: {len(manifest.runs)} runs of {archive}, {written} files written")
    for text in manifest.left_out:
        click.echo(f"not in the archive: {text}")


@cli.group()
def dataset() -> None:
    """Datasets for offline agents: files in the published layout, and finished runs."""


_per_checkpoint_option = click.option(
    "--transitions-per-checkpoint",
    "per_checkpoint",
    type=click.IntRange(min=1),
    default=1_000_000,
    show_default=True,
    help="How a run is cut into checkpoints; files are already.",
)


@dataset.command()
@click.argument("folder", type=_FILE)
@_per_checkpoint_option
@_json_option
def info(folder: Path, per_checkpoint: int, as_json: bool) -> None:
    """What a dataset holds, and how much memory its subsets take; its frames are not read."""
    from moerl.cli import dataset as stage

    found = stage.summary(folder, per_checkpoint)
    click.echo(stage.to_json(found) if as_json else "\n".join(stage.lines(folder, found)))


@dataset.command()
@click.argument("folder", type=_FILE)
def verify(folder: Path) -> None:
    """Read all of a dataset, or replay all of a run: is it sound?"""
    from moerl.cli import dataset as stage

    click.echo(stage.verify(folder))


@dataset.command()
@click.argument("run", type=_FILE)
@click.argument("out", type=_FILE)
@_per_checkpoint_option
def convert(run: Path, out: Path, per_checkpoint: int) -> None:
    """Write the transitions of a finished run as files in the published layout."""
    from moerl.cli import dataset as stage

    click.echo(stage.write(run, out, per_checkpoint))


@cli.command()
@click.option("--study", "study_path", type=_FILE, help="Count a study's variants; default: all variants.")
@click.option("--agent", "agents", multiple=True, help="Only this agent; may be given more than once.")
@click.option(
    "--actions",
    type=click.IntRange(min=1),
    multiple=True,
    help="Number of actions; may be given more than once. Default: those of the study's games, or 6 and 18.",
)
@click.option(
    "--format", "form", type=click.Choice(["text", "csv", "latex"]), default="text", show_default=True
)
def params(study_path: Path | None, agents: tuple[str, ...], actions: tuple[int, ...], form: str) -> None:
    """Print the number of parameters of every network variant."""
    from moerl.cli.params import table as parameter_table

    click.echo(parameter_table(study_path, agents, actions, form), nl=False)


def main() -> None:
    """Run the command line; errors of the user's making are one line and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for chatty in ("jax", "fontTools"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        print(f"moerl: {one_line(error.format_message())}", file=sys.stderr)
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except (UserError, FailureError) as error:
        print(f"moerl: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
