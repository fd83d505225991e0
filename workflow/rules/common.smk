# What the rules share: the study, its folders, and what each stage's jobs depend on. Imports no JAX and
# no pandas: every cluster job reads this again.
#
# Params decide what an edit re-runs, so they are what a rule's numbers depend on, as strings. Where files
# lie must not count: Snakemake does not track a param that is a `Path`, and WHERE relies on it.

import gc
import os
import re
import sys
from dataclasses import asdict, replace
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from moerl.study.captions import caption, scored_games
from moerl.study.chapters import (
    FIDELITY,
    PARAMETERS,
    PROVENANCE,
    RUNS,
    RUNS_CHAPTER,
    chapter,
    figure_caption,
    pages,
    title,
)
from moerl.study.closure import closure_digest
from moerl.study.config import config_dir, load_study
from moerl.study.study_file import read_yaml
from moerl.study.errors import UserError, one_of
from moerl.study.expansion import Cell, Run
from moerl.study.paths import (
    RETURNS,
    TIMING,
    analysis_file,
    divergence_file,
    figure_files,
    files_of_run,
    left_out_file,
    page_file,
    parameters_file,
    provenance_files,
    run_dir,
    scores_file,
    spec_table_files,
    table_files,
    tokens_file,
    train_log,
)
from moerl.study.pipeline_lock import clear_stale_locks
from moerl.study.reference import (
    can_stand_in,
    curves_file,
    figures_with_reference,
    returns_file,
    views_with_reference,
    wanted_games,
)
from moerl.study.sizes import KNOWN, KnownSizes, size_dependencies
from moerl.study.specs import canonical_json
from moerl.study.standing import Standing, unfinished
from moerl.study.status import study_runs
from moerl.study.tables import agent_defaults, load_tables, made_tables, shown_columns

# A plan is millions of small objects that stay until its end: Python's collector of cyclic garbage, at its usual
# threshold, goes through them again and again, for a seventh of the time that planning takes.
gc.set_threshold(200_000, 50, 100)


def fail(message):
    """End Snakemake as the command line ends on a user's mistake: one line, exit code 2, no traceback."""
    print(f"moerl: {message}", file=sys.stderr)
    sys.exit(2)


def study_file():
    """The study: the one --configfile given (also by a profile), else the demo; relative where it can be.

    Snakemake's own `config` is not read: it would merge two studies into one.
    """
    given = workflow.overwrite_configfiles
    if len(given) > 1:
        fail(f"--configfile: one study at a time, not {len(given)}")
    if not given:
        return Path("config/studies/demo.yaml")
    here = Path.cwd()
    return given[0].relative_to(here) if given[0].is_relative_to(here) else given[0]


def check_settings():
    """Refuse a misspelt `--config` setting: a `allow_partal=1` would train everything instead.

    And a bad value: these are written into the commands of jobs and of sbatch.
    """
    known = ("gpu", "gpu_model", "margin_seconds", "allow_partial", "reference")
    for key in workflow.config_settings.config:
        if key not in known:
            fail(f"--config: {one_of(key, known, 'setting')}")
    for key, allowed, words in (
        ("gpu", r"[0-9]+", "a whole number"),
        ("gpu_model", r"[A-Za-z0-9][A-Za-z0-9_.-]*", "letters, digits, _ . -"),
        ("margin_seconds", r"[0-9]+", "a whole number"),
    ):
        if not re.fullmatch(allowed, given := str(config.get(key, 0))):
            fail(f"--config {key}: bad value {given!r} (allowed: {words})")


def partial_allowed():
    """Whether figures are made from the runs that are finished now: `--config allow_partial=1`."""
    given = config.get("allow_partial", 0)
    if str(given).lower() not in ("0", "1", "false", "true"):
        fail(
            f"--config allow_partial: bad value {given!r} (allowed: 1, 0, true, false)"
        )
    return str(given).lower() in ("1", "true")


def reference_folder():
    """Whether figures show published runs (`--config reference=1`, or =FOLDER with the files), and that folder."""
    given = str(config.get("reference", 0))
    if given.lower() in ("0", "1", "false", "true"):
        return given.lower() in ("1", "true"), ""
    if not Path(given).is_dir():
        fail(
            f"--config reference: {given!r} is no folder (allowed: 1 to download, 0, or a folder with the files)"
        )
    return True, given


def gpu_resources():
    """What a training or analysis job asks for when `--config gpu=1` (and perhaps gpu_model=a100) is given."""
    return {key: config[key] for key in ("gpu", "gpu_model") if key in config}


# A job of a pipeline is none of its own: only who plans jobs takes locks.
if not (workflow.subprocess_exec or workflow.remote_exec):
    if clear_stale_locks(Path(".snakemake")):
        print(
            "moerl: removed the locks of a Snakemake that was killed", file=sys.stderr
        )

STUDY_FILE = study_file()
try:
    study = load_study(STUDY_FILE)
    TABLES = load_tables(study)
    SIZES = KnownSizes(KNOWN)
except UserError as error:
    fail(error)

check_settings()
RESULTS = Path("results") / study.name
STATE = Path("state") / study.name
LOGS = Path("logs") / study.name
RUN_FILES = files_of_run(study)
DATA_FIGURES = [
    name for name, spec in study.figures.items() if spec.kind != "schematic"
]
WHERE = {"study": STUDY_FILE, "results": RESULTS}
GPU = gpu_resources()

# Then there are no training jobs, and what is not finished is left out by name.
ALLOW_PARTIAL = partial_allowed()
PARTIAL_OPTION = "--allow-partial" if ALLOW_PARTIAL else ""
SHOW_REFERENCE, REFERENCE_FOLDER = reference_folder()
STANDING = Standing(study, RESULTS, STATE)

# What `snakemake --sdm conda` runs jobs in, as seen from this folder; without that option it decides nothing. Not a
# named environment: Snakemake would ask `conda` for it after every job. And a small file (the packages are in the
# locks that it stands for): Snakemake's records keep a copy of it for every output of every job.
CONDA = "../../envs/conda.yaml"

# What the templates in workflow/report say. Not in the params of the jobs: a caption redraws no figure.
PAGES = pages(study)
FIDELITY_NOTES = Path(workflow.basedir) / "docs/fidelity.md"
config["report"] = {
    "study": study.name,
    "runs": len(study_runs(study)),
    "frames": f"{max(study.milestones.values()):,}",
    "captions": {name: figure_caption(study, name) for name in study.figures},
    "pages": {name: page.about for name, page in PAGES.items()},
}

# Inside an allocation a training job saves and leaves this many seconds before its time is up (`--config
# margin_seconds=…` changes it), and a retry goes on. A plain `snakemake` on a workstation has no such limit.
MARGIN_SECONDS = config.get("margin_seconds", 120) if workflow.remote_exec else ""

# Jobs import the source that planned them, whatever checkout their environment was installed from.
SOURCE = Path(find_spec("moerl").origin).parents[1]
shell.prefix(
    "set -euo pipefail; MARGIN_SECONDS={MARGIN_SECONDS}; PARTIAL_OPTION={PARTIAL_OPTION};"
    " REFERENCE_FOLDER={REFERENCE_FOLDER:q};"
    " export PYTHONPATH={SOURCE:q}${{PYTHONPATH:+:$PYTHONPATH}}; "
)


wildcard_constraints:
    agent="[a-z0-9_]+",
    variant="[a-z0-9][a-z0-9_-]*",
    game="[A-Za-z0-9]+",
    seed="[0-9]+",
    milestone="[0-9]+[kM]?(-steps)?",
    figure="|".join(study.figures),
    paper_table="|".join(TABLES),
    page="|".join(PAGES),


@cache
def spec_of(agent, variant, game):
    """The resolved spec of a cell, and its digest."""
    try:
        spec = study.train_spec(Cell(agent, variant, game))
    except UserError as error:
        fail(error)
    return spec.canonical_json(), spec.digest()


def run_files(names, agent, variant, game, seeds, milestone):
    """The files called `names` of some seeds of one cell; the arguments may be wildcard patterns."""
    return [
        str(run_dir(RESULTS, Run(agent, variant, game, seed, milestone)) / name)
        for seed in seeds
        for name in names
    ]


# --- What a figure's stages depend on beside their inputs and their source, as canonical JSON. ---


def shown(figure):
    """What is collected: which runs stand where, how far they go, and the scores that normalise them."""
    spec = study.figures[figure]
    games = [study.games[game] for game in spec.all_games]
    return canonical_json(
        {
            "panels": [
                (view.title, view.games, list(view.places()))
                for view in spec.views
                if study.shows(view)
            ],
            "score": spec.score,
            "over": spec.over,
            "games": [(g.name, g.random, g.human) for g in games],
            "seeds": study.figure_seeds(spec),
            "iterations": study.iterations(study.figure_milestone(spec)),
        }
    )


def aggregated(figure):
    """What the table adds: read-outs, metrics and their labels."""
    spec = study.figures[figure]
    return canonical_json(
        {
            "study": study.name,
            "kind": spec.kind,
            "metrics": [m.model_dump() for m in spec.metrics],
            "curves": [spec.measure, spec.panel_per],
            "caption": caption(study, figure),
            "parameters": size_dependencies(study, spec, SIZES),
            "routing": [spec.snapshot, spec.state],
            "x": spec.x.label if spec.x else None,
            "iteration_frames": study.iteration_length(spec),
            "early_readout": study.early_readout,
        }
    )


def referenced(figure):
    """Which published runs stand in which panel: theirs of an agent, an encoder and games."""
    views = views_with_reference(study, study.figures[figure])
    return canonical_json([(v.title, v.agent, v.encoder, v.games) for v in views])


def networks_of(specs):
    """The networks of some figures, and the actions of their games."""
    places = {
        (a, v)
        for spec in specs
        for view in spec.views
        if study.shows(view)
        for _, _, a, v in view.places()
    }
    heads = {agent: study.agents[agent].head for agent, _ in places}
    games = [game for spec in specs for game in spec.all_games]
    return {
        "actions": [study.games[game].num_actions for game in games],
        "heads": {agent: head.model_dump() for agent, head in heads.items()},
        "networks": {v: study.variants[v].model_dump(mode="json") for _, v in places},
    }


def all_networks():
    """The networks whose parameters are counted, as canonical JSON: those of figures and the study's own."""
    shared = read_yaml(config_dir(study.path) / "networks.yaml")
    own = {
        name: spec.model_dump(mode="json")
        for name, spec in study.variants.items()
        if name not in shared
    }
    networks = networks_of(study.figures.values())
    return canonical_json({**networks, "own": own, "hidden_units": study.hidden_units})


def drawn(figure):
    """What the drawing adds: the figure's words, and the note on how it differs from the paper's."""
    spec = study.figures[figure]
    return canonical_json(
        {
            "study": study.name,
            "spec": spec.model_dump(mode="json", exclude={"caption", "section"}),
            "agents": sorted(study.agents),
            "deviations": study.deviations.of(figure),
            "reduced": bool(study.deviations.budget.get(figure)),
            "milestone": study.figure_milestone(spec),
            "seeds": len(study.seeds),
            "games": scored_games(study, figure),
        }
    )


def tabulated(table):
    """What one of the paper's tables shows: the values used, those of agents.yaml, those printed."""
    spec = TABLES[table]
    agents = [name for name in spec.columns if name in study.agents]
    return canonical_json(
        {
            "study": study.name,
            "spec": spec.model_dump(mode="json"),
            "used": {
                name: study.agents[name].model_dump(mode="json") for name in agents
            },
            "defaults": {name: agent_defaults(study)[name] for name in agents},
        }
    )


def divergence(run):
    """The record of a run that diverged before its milestone, if it did."""
    try:
        return STANDING.divergence(run)
    except UserError as error:
        fail(error)


@cache
def left_out(figure):
    """The runs that a figure does without, and why; none unless partial figures are allowed."""
    if not ALLOW_PARTIAL:
        return {}
    spec = study.figures[figure]
    try:
        without = STANDING.left_out(spec)
    except UserError as error:
        fail(error)
    total = len(study.figure_runs(spec))
    if len(without) == total:
        fail(unfinished(figure, total, without))
    return without


def left_out_names(figure):
    """What the scores leave out, as canonical JSON: an empty list for a complete figure, asked for or not."""
    return canonical_json([(run.name, why) for run, why in left_out(figure).items()])


# --- Inputs. ---


def finished_folder(run):
    """Where a finished run's files are: its results, whatever training must do first to put them there.

    Where nothing is trained, the state has those that Snakemake deleted with a failed job's outputs.
    """
    found = STANDING.finished(run) if ALLOW_PARTIAL else None
    return found or run_dir(RESULTS, run)


@cache
def check_imported(run):
    """Refuse an imported run of another spec: Snakemake has no record of its training and would keep it.

    And a run to be trained beside imported ones.
    """
    if not STANDING.archived(run):
        check_pack(run)
    elif why := STANDING.outdated(run):
        fail(
            f"{run_dir(RESULTS, run)}: came from an archive, and does not fit {STUDY_FILE} now: {why};"
            " undo the change, or delete this folder to train the run"
        )


def check_pack(run):
    """Refuse to train a run in one job with imported ones: Snakemake deletes what a job makes before it."""
    pack = next(pack for pack in study.packs if run.seed in pack)
    imported = [s for s in pack if STANDING.archived(replace(run, seed=s))]
    if imported and not STANDING.published(run):
        fail(
            f"{run_dir(RESULTS, run)}: is missing, and would be trained in one job with the seeds"
            f" {', '.join(map(str, imported))}, which came from an archive and would be deleted and trained"
            " again: `--config allow_partial=1` makes figures without the missing runs; a `seeds_per_job` in"
            f" {STUDY_FILE} that puts no imported seed beside a missing one trains these alone"
        )


def numbers_of(figure):
    """The table of a figure, as CSV and LaTeX; a schematic has none."""
    return list(table_files(RESULTS, figure)) if figure in DATA_FIGURES else []


def products(figure):
    """What a user gets for naming a figure: the figure, and always the numbers it plots."""
    return [*figure_files(RESULTS, figure), *numbers_of(figure)]


def reproducible_products():
    """What the study's manifest covers, but for the runs and analyses behind it."""
    return [
        *(path for name in study.usual_figures for path in products(name)),
        *(
            path
            for name in made_tables(study)
            for path in spec_table_files(RESULTS, name)
        ),
        *([parameters_file(RESULTS)] if PARAMETERS in PAGES else []),
    ]


def all_products():
    """What `snakemake` alone makes: every figure that is not on request, every table, the pages of the report."""
    shown = [page for page in PAGES if page not in study.on_request]
    return [
        *reproducible_products(),
        *(page_file(RESULTS, page) for page in shown),
        RESULTS / "manifest.json",
    ]


def left_to_come():
    """The remark of `all` on the figures that it leaves out."""
    names = ", ".join(study.planned)
    return f", but for {names}: their agents cannot be trained yet" if names else ""


def untrainable(figure):
    """Ends Snakemake in one line: the agents of a figure that the study lists cannot be trained yet."""
    fail(study.why_planned(figure))


def shows_reference(figure):
    """Whether published runs are drawn in a figure: it was asked for, and they can be."""
    return SHOW_REFERENCE and can_stand_in(study, study.figures[figure])


def reference_of(wildcards):
    """The published curves of a figure that shows them."""
    name = wildcards.figure
    return [curves_file(RESULTS, name)] if shows_reference(name) else []


def reference_files():
    """The games and encoders whose published returns the study's figures can show, as canonical JSON."""
    try:
        return canonical_json(wanted_games(study))
    except UserError as error:
        fail(error)


def paper_table(name):
    """One of the paper's tables; ends Snakemake in one line where the study cannot fill it."""
    try:
        shown_columns(study, name, TABLES[name])
    except UserError as error:
        fail(error)
    return spec_table_files(RESULTS, name)


def returns_of(wildcards):
    """The training or evaluation returns of every run of a figure, but for those left out."""
    figure = study.figures[wildcards.figure]
    without = left_out(wildcards.figure)
    runs = [run for run in study.figure_runs(figure) if run not in without]
    if not ALLOW_PARTIAL:
        for run in runs:
            check_imported(run)
    names = [RETURNS[figure.score], *([TIMING] if figure.over == "hours" else [])]
    return [finished_folder(run) / name for run in runs for name in names]


def analysed_run(wildcards):
    """The finished run whose snapshots are analysed."""
    cell = (wildcards.agent, wildcards.variant, wildcards.game)
    run = Run(*cell, int(wildcards.seed), study.analysed_milestone(wildcards.agent))
    return finished_folder(run) / "manifest.json"


def analyses_of(wildcards):
    """The analysis files of a figure that shows analyses; none for the others."""
    figure = study.figures[wildcards.figure]
    if not figure.analysed:
        return []
    without = left_out(wildcards.figure)
    runs = [run for run in study.figure_runs(figure) if run not in without]
    file = tokens_file if figure.kind == "routing" else analysis_file
    return [file(RESULTS, run) for run in runs]


def records_of_runs(wildcards):
    """What the runs of the study say of their training; in a partial study, those that are finished."""
    runs = study_runs(study)
    if ALLOW_PARTIAL:
        folders = [folder for run in runs if (folder := STANDING.finished(run))]
    else:
        for run in runs:
            check_imported(run)
        folders = [run_dir(RESULTS, run) for run in runs]
    return [folder / name for folder in folders for name in ("manifest.json", TIMING)]


def runs_left_out():
    """The runs that a partial study does without, and why, as canonical JSON; else an empty list."""
    runs = study_runs(study) if ALLOW_PARTIAL else []
    without = [run for run in runs if STANDING.finished(run) is None]
    return canonical_json([(run.name, STANDING.why_not(run)) for run in without])


def page_source(page):
    """What a page of the report shows: a table, or a document."""
    document, table = provenance_files(RESULTS)
    single = {
        PARAMETERS: parameters_file(RESULTS),
        PROVENANCE: document,
        RUNS: table,
        FIDELITY: FIDELITY_NOTES,
    }
    if page in single:
        return single[page]
    tables = spec_table_files if page in TABLES else table_files
    return tables(RESULTS, page)[-1 if page in TABLES else 0]


def fidelity_digest():
    """Of the notes on fidelity: as an input, a source file would count as new in every clone."""
    return sha256(FIDELITY_NOTES.read_bytes()).hexdigest()[:16]


def previous_resume(wildcards, seeds):
    """Where the pack goes on from: the resume files of the milestone before, none for the first.

    With a seed that diverged on the way, the pack never gets them all: its other seeds go on from the state.
    """
    earlier = (
        study.previous_milestone(wildcards.milestone)
        if wildcards.milestone in study.lengths
        else None
    )
    if earlier is None:
        return []
    cell = (wildcards.agent, wildcards.variant, wildcards.game)
    if any(divergence(Run(*cell, seed, earlier)) for seed in seeds):
        return []
    return run_files(
        ["resume.safetensors", "actions.safetensors"], *cell, seeds, earlier
    )


def learnt_from(wildcards, seeds):
    """What the pack goes on from: resume files, or the finished runs whose experience it learns from.

    With one of these that diverged, the pack never gets them all: the others are found in the state.
    """
    if wildcards.milestone != study.offline_milestone:
        return previous_resume(wildcards, seeds)
    cell = (wildcards.agent, wildcards.variant, wildcards.game)
    runs = [Run(*cell, seed, wildcards.milestone) for seed in seeds]
    sources = study.collected(runs)
    if any(divergence(run) for run in sources):
        return []
    if archived := [run for run in sources if STANDING.archived(run)]:
        if all(STANDING.published(run) for run in runs):
            return []
        fail(
            f"{run_dir(RESULTS, archived[0])}: came from an archive, which holds no action logs, so nothing can"
            f" learn from it: `--config allow_partial=1` makes figures without {runs[0].agent}; delete this"
            " folder to train the run again"
        )
    names = ["actions.safetensors", "resume.safetensors", "manifest.json"]
    return [run_dir(RESULTS, run) / name for run in sources for name in names]


# --- Time and memory a job asks for; a profile or --set-resources overrides them. ---

# Emulated frames per run, at the slowest: an Impala encoder on one CPU core.
FRAMES_PER_MINUTE = 3_000
SLOWEST_RATIO = 0.25  # updates per agent step at that speed
GRADIENT_STEPS_PER_MINUTE = FRAMES_PER_MINUTE // 4 * SLOWEST_RATIO
EVALUATION_STEPS_PER_MINUTE = 5_000  # agent steps
LONGEST_MINUTES = 1_440  # then a training job leaves, and a retry goes on
FRAME_BYTES = 84 * 84
PROCESS_MB = 3_000  # JAX, its compiler, the emulators


def train_minutes(agent, milestone, seeds):
    """Minutes a training job may take before it is continued in another one.

    An evaluation that is interrupted starts over, so its time is that of games as long as games can be.
    """
    hyper = study.agents[agent]
    ratio = hyper.updates_per_period / hyper.update_period
    if milestone == study.offline_milestone:
        minutes = study.lengths[milestone] / GRADIENT_STEPS_PER_MINUTE
        steps = study.offline.evaluation.agent_steps
        evaluation = steps + min(32, steps // 1000 + 1) * hyper.max_episode_steps
        minutes += study.offline.iterations * evaluation / EVALUATION_STEPS_PER_MINUTE
        return min(LONGEST_MINUTES, 60 + int(minutes * len(seeds)))
    frames = study.milestones.get(milestone, 0)
    minutes = frames * max(1, ratio / SLOWEST_RATIO) / FRAMES_PER_MINUTE
    if study.evaluation and frames:
        games = study.iterations(milestone) * study.evaluation.episodes
        minutes += games * hyper.max_episode_steps / EVALUATION_STEPS_PER_MINUTE
    return min(LONGEST_MINUTES, 15 + int(minutes * len(seeds)))


def train_megabytes(agent, seeds):
    """Host memory of a training job: every lane's frame ring, offline its subset, and the process."""
    hyper = study.agents[agent]
    kept = hyper.replay_capacity
    if hyper.offline and study.offline.collect:
        frames = study.milestone_frames[study.offline.collect.milestone]
        kept = min(kept, frames // 4 * hyper.data_percent // 100)
    if hyper.offline and os.environ.get("MOERL_FRAMES_FOLDER"):
        kept = 0
    rings = len(seeds) * kept * FRAME_BYTES // 1_000_000
    return PROCESS_MB + rings + 500 * len(seeds)


def say_diverged():
    """Name the runs of this study that diverged: their jobs always fail, and there may be many logs."""
    if workflow.remote_exec or ALLOW_PARTIAL:
        return
    records = {
        divergence_file(STATE, run): record
        for run in study.runs()
        if (record := divergence(run)) is not None
    }
    for path, record in records.items():
        print(f"moerl: {record.describe(path, {})}", file=sys.stderr)
    if records:
        advice = "`--config allow_partial=1` makes the figures without diverged runs"
        print(f"moerl: {advice}", file=sys.stderr)
