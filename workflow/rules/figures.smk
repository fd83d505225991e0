# Figures are drawn from their table alone, and from that of published runs where it is asked for; schematics from nothing.


rule figure:
    input:
        lambda wc: numbers_of(wc.figure)[:1],
        reference_of,
    output:
        *figure_files(RESULTS, "{figure}")[:2],
        report(
            figure_files(RESULTS, "{figure}")[2],
            caption="../report/figure.rst",
            category=lambda wc: chapter(study, wc.figure),
            labels=lambda wc: {"Result": title(wc.figure)},
        ),
    log:
        LOGS / "figure/{figure}.log",
    benchmark:
        LOGS / "figure/{figure}.benchmark.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        runtime=15,
        mem_mb=2_000,
    params:
        **WHERE,
        code=closure_digest("moerl.figures.stage"),
        drawn=lambda wc: drawn(wc.figure),
        reference=lambda wc: "--reference" if shows_reference(wc.figure) else "",
    message:
        "Drawing {wildcards.figure}"
    shell:
        "moerl figure {wildcards.figure} --study {params.study:q} --results {params.results}"
        " $PARTIAL_OPTION {params.reference} > {log} 2>&1"
