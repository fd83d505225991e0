# The HTML report (`snakemake --report FILE.html`, or `snakemake report`) is Snakemake's own: it shows the outputs that
# a rule marks with `report`. Here are those that are neither figures nor tables, and pages of all that a browser
# does not show as it is.


rule parameters:
    output:
        report(
            parameters_file(RESULTS),
            caption="../report/file.rst",
            category=RUNS_CHAPTER,
            labels={"Result": "Parameter counts, as CSV"},
        ),
    log:
        LOGS / "report/parameters.log",
    benchmark:
        LOGS / "report/parameters.benchmark.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        runtime=30,
        mem_mb=4_000,
    params:
        **WHERE,
        code=closure_digest("moerl.cli.params"),
        networks=lambda wc: all_networks(),
    message:
        "Counting the parameters of every network"
    shell:
        "moerl params --study {params.study:q} --format csv > {output:q} 2> {log}"


rule provenance:
    input:
        records_of_runs,
    output:
        provenance_files(RESULTS)[0],
        report(
            provenance_files(RESULTS)[1],
            caption="../report/file.rst",
            category=RUNS_CHAPTER,
            labels={"Result": "Runs, one by one, as CSV"},
        ),
    log:
        LOGS / "report/provenance.log",
    benchmark:
        LOGS / "report/provenance.benchmark.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        runtime=30,
        mem_mb=2_000,
    params:
        **WHERE,
        state=STATE,
        code=closure_digest("moerl.report.provenance"),
        packs=canonical_json(study.packs),
        left_out=lambda wc: runs_left_out(),
    message:
        "Gathering where the runs of study {study.name} come from"
    shell:
        "moerl provenance --study {params.study:q} --results {params.results} --state {params.state}"
        " $PARTIAL_OPTION > {log} 2>&1"


rule page:
    input:
        lambda wc: [] if wc.page == "fidelity" else page_source(wc.page),
    output:
        report(
            page_file(RESULTS, "{page}"),
            caption="../report/page.rst",
            category=lambda wc: PAGES[wc.page].chapter,
            labels=lambda wc: {"Result": PAGES[wc.page].title},
        ),
    log:
        LOGS / "report/page/{page}.log",
    benchmark:
        LOGS / "report/page/{page}.benchmark.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        runtime=15,
        mem_mb=1_000,
    params:
        source=lambda wc: page_source(wc.page),
        title=lambda wc: PAGES[wc.page].title,
        text=lambda wc: fidelity_digest() if wc.page == "fidelity" else "",
        code=closure_digest("moerl.report.pages"),
    message:
        "Making the page {wildcards.page} of the report"
    shell:
        "moerl page {params.source:q} {output:q} --title {params.title:q} > {log} 2>&1"


# Snakemake makes a report from finished files and its own records of them, so this asks another Snakemake for it. That
# one locks nothing: this one holds the lock, and neither touches what the other reads.
rule report:
    input:
        all_products(),
    output:
        RESULTS / "report.html",
    log:
        LOGS / "report/report.log",
    benchmark:
        LOGS / "report/report.benchmark.tsv"
    localrule: True  # it reads the Snakefile and Snakemake's records in this folder
    conda:
        CONDA
    params:
        study=STUDY_FILE,
        snakefile=Path(workflow.main_snakefile),
        settings=[
            f"allow_partial={int(ALLOW_PARTIAL)}",
            f"reference={REFERENCE_FOLDER or int(SHOW_REFERENCE)}",
        ],
        words=canonical_json(config["report"]),
    message:
        "Gathering the report {output}"
    shell:
        "snakemake all --snakefile {params.snakefile:q} --configfile {params.study:q}"
        " --config {params.settings:q} --nolock --report {output:q} > {log} 2>&1"
