# Analyses of trained networks, one job per run, from the snapshots its training left.


rule analyse:
    input:
        analysed_run,
    output:
        analysis_file(RESULTS, Run("{agent}", "{variant}", "{game}", "{seed}", "")),
        tokens_file(RESULTS, Run("{agent}", "{variant}", "{game}", "{seed}", "")),
    log:
        LOGS / "analyse/{agent}/{variant}/{game}/seed{seed}.log",
    benchmark:
        LOGS / "analyse/{agent}/{variant}/{game}/seed{seed}.benchmark.tsv"
    conda:
        CONDA
    threads: study.cpu_threads
    resources:
        **GPU,
        runtime=120,
        mem_mb=8_000,
    params:
        **WHERE,
        state=STATE,
        code=closure_digest("moerl.analysis.stage"),
    message:
        "Analysing {wildcards.agent} {wildcards.variant} on {wildcards.game}, seed {wildcards.seed}"
    shell:
        "moerl analyse --study {params.study:q} --results {params.results} --agent {wildcards.agent}"
        " --variant {wildcards.variant} --game {wildcards.game} --seed {wildcards.seed}"
        " --state {params.state} > {log} 2>&1"
