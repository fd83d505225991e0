# The paper's tables of hyper-parameters, from the resolved study alone: nothing has to be trained for them.


rule hyperparameters:
    output:
        report(
            spec_table_files(RESULTS, "{paper_table}")[0],
            caption="../report/file.rst",
            category=lambda wc: PAGES[wc.paper_table].chapter,
            labels=lambda wc: {"Result": f"{PAGES[wc.paper_table].title}, as CSV"},
        ),
        *spec_table_files(RESULTS, "{paper_table}")[1:],
    log:
        LOGS / "hyperparameters/{paper_table}.log",
    benchmark:
        LOGS / "hyperparameters/{paper_table}.benchmark.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        runtime=15,
        mem_mb=2_000,
    params:
        **WHERE,
        code=closure_digest("moerl.cli.hyperparameters"),
        written=lambda wc: tabulated(wc.paper_table),
    message:
        "Writing {wildcards.paper_table} from the resolved hyper-parameters"
    shell:
        "moerl hyperparameters {wildcards.paper_table} --study {params.study:q}"
        " --results {params.results} > {log} 2>&1"
