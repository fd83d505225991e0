# Runs that Dopamine's authors published, aggregated as ours: `snakemake reference` fetches them, and
# `--config reference=1` (or =FOLDER, offline) draws them in the figures that they can stand in.


rule fetch_reference:
    output:
        returns_file(RESULTS),
    log:
        LOGS / "reference/fetch.log",
    benchmark:
        LOGS / "reference/fetch.benchmark.tsv"
    localrule: True  # the nodes of a cluster often have no way out
    conda:
        CONDA
    params:
        **WHERE,
        code=closure_digest("moerl.cli.reference_files"),
        wanted=lambda wc: reference_files(),
    message:
        "Fetching published returns"
    shell:
        "moerl fetch-reference --study {params.study:q} --results {params.results}"
        ' ${{REFERENCE_FOLDER:+--from "$REFERENCE_FOLDER"}} > {log} 2>&1'


rule reference_table:
    input:
        returns_file(RESULTS),
    output:
        curves_file(RESULTS, "{figure}"),
    log:
        LOGS / "reference/{figure}.log",
    benchmark:
        LOGS / "reference/{figure}.benchmark.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        runtime=30,
        mem_mb=2_000,
    params:
        **WHERE,
        code=closure_digest("moerl.statistics.reference_stage"),
        shown=lambda wc: shown(wc.figure),
        aggregated=lambda wc: aggregated(wc.figure),
        referenced=lambda wc: referenced(wc.figure),
    message:
        "Aggregating published runs for {wildcards.figure}"
    shell:
        "moerl reference {wildcards.figure} --study {params.study:q} --results {params.results}"
        " > {log} 2>&1"


rule reference:
    input:
        lambda wc: reference_files()
        and [curves_file(RESULTS, name) for name in figures_with_reference(study)],
    localrule: True
    message:
        "{rule}: {input}"
