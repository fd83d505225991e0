# Training: one job takes a pack of seeds of one agent, network variant and game to one milestone. Its
# in-progress state is no declared output (Snakemake deletes those of a failed job): killed or left at its
# deadline (exit code 75), the next attempt goes on from there. A run that diverged (exit code 3) is on record
# there: the next attempt ends at once. Where partial figures are allowed, nothing is trained.


for _pack in () if ALLOW_PARTIAL else study.packs:
    _seeds = "_".join(map(str, _pack))

    rule:
        name:
            f"train_{_seeds}"
        input:
            lambda wc, seeds=_pack: learnt_from(wc, seeds),
        output:
            run_files(RUN_FILES, "{agent}", "{variant}", "{game}", _pack, "{milestone}"),
        log:
            train_log(
                LOGS, Run("{agent}", "{variant}", "{game}", "", "{milestone}"), _pack
            ),
        benchmark:
            LOGS
            / "train/{agent}/{variant}/{game}"
            / f"{{milestone}}_seed{_seeds}.benchmark.tsv"
        conda:
            CONDA
        threads: study.cpu_threads
        resources:
            **GPU,
            runtime=lambda wc, seeds=_pack: train_minutes(wc.agent, wc.milestone, seeds),
            mem_mb=lambda wc, seeds=_pack: train_megabytes(wc.agent, seeds),
        params:
            **WHERE,
            state=STATE,
            seeds=",".join(map(str, _pack)),
            spec=lambda wc: spec_of(wc.agent, wc.variant, wc.game)[0],
            digest=lambda wc: spec_of(wc.agent, wc.variant, wc.game)[1],
        message:
            "Training {wildcards.agent} {wildcards.variant} on {wildcards.game},"
            " seeds {params.seeds}, to {wildcards.milestone}"
        shell:
            "moerl train --study {params.study:q} --results {params.results} --state {params.state}"
            " --agent {wildcards.agent} --variant {wildcards.variant} --game {wildcards.game}"
            " --seeds {params.seeds} --milestone {wildcards.milestone} --expect-spec {params.digest}"
            " ${{MARGIN_SECONDS:+--runtime-minutes {resources.runtime} --margin-seconds $MARGIN_SECONDS}}"
            " > {log} 2>&1"


onerror:
    say_diverged()
