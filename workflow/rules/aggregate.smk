# From runs to the numbers a figure plots: tidy scores, then means or IQM with their intervals.


rule scores:
    input:
        returns_of,
    output:
        scores_file(RESULTS, "{figure}"),
        left_out_file(RESULTS, "{figure}"),
    log:
        LOGS / "scores/{figure}.log",
    benchmark:
        LOGS / "scores/{figure}.benchmark.tsv"
    wildcard_constraints:
        figure="|".join(DATA_FIGURES) or "-",
    conda:
        CONDA
    threads: 1
    resources:
        runtime=30,
        mem_mb=2_000,
    params:
        **WHERE,
        state=STATE,
        code=closure_digest("moerl.statistics.scores_stage"),
        shown=lambda wc: shown(wc.figure),
        left_out=lambda wc: left_out_names(wc.figure),
    message:
        "Collecting the scores of {wildcards.figure}"
    shell:
        "moerl scores {wildcards.figure} --study {params.study:q} --results {params.results}"
        " --state {params.state} $PARTIAL_OPTION > {log} 2>&1"


rule table:
    input:
        scores=scores_file(RESULTS, "{figure}"),
        left_out=left_out_file(RESULTS, "{figure}"),
        analyses=analyses_of,
    output:
        report(
            table_files(RESULTS, "{figure}")[0],
            caption="../report/file.rst",
            category=lambda wc: chapter(study, wc.figure),
            labels=lambda wc: {"Result": f"{PAGES[wc.figure].title}, as CSV"},
        ),
        table_files(RESULTS, "{figure}")[1],
    log:
        LOGS / "table/{figure}.log",
    benchmark:
        LOGS / "table/{figure}.benchmark.tsv"
    wildcard_constraints:
        figure="|".join(DATA_FIGURES) or "-",
    conda:
        CONDA
    threads: 1
    resources:
        runtime=60,
        mem_mb=4_000,
    params:
        **WHERE,
        code=closure_digest("moerl.statistics.table_stage"),
        aggregated=lambda wc: aggregated(wc.figure),
    message:
        "Aggregating {wildcards.figure} into its table"
    shell:
        "moerl table {wildcards.figure} --study {params.study:q} --results {params.results}"
        " $PARTIAL_OPTION > {log} 2>&1"
