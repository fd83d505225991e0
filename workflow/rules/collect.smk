# Named targets, one per figure of the study and per table of the paper: fig01, table2, … (`all` is in the root
# Snakefile), and the manifest. A figure that a study makes on request is in neither of these two.


for _name in study.figures:

    rule:
        name:
            _name
        input:
            products(_name),
        localrule: True
        message:
            "{rule}: {input}"


for _name in study.planned:

    rule:
        name:
            _name
        input:
            lambda wc, name=_name: untrainable(name),
        localrule: True
        message:
            "{rule}"


for _name in TABLES:

    rule:
        name:
            _name
        input:
            lambda wc, name=_name: paper_table(name),
        localrule: True
        message:
            "{rule}: {input}"


rule manifest:
    input:
        reproducible_products(),
    output:
        RESULTS / "manifest.json",
    log:
        LOGS / "manifest.log",
    benchmark:
        LOGS / "manifest.benchmark.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        runtime=60,
        mem_mb=2_000,
    params:
        **WHERE,
        code=closure_digest("moerl.cli.manifest"),
        deviations=canonical_json(asdict(study.deviations)),
    message:
        "Listing every byte-reproducible file of study {study.name}"
    shell:
        "moerl manifest --study {params.study:q} --results {params.results} > {log} 2>&1"
