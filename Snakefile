# `snakemake` alone runs the demo study; workflow/Snakefile is the table of contents.


include: "workflow/Snakefile"


# Here and not among the rules: Snakemake forgets a default target that an included file sets.
rule all:
    default_target: True
    input:
        all_products(),
    localrule: True
    message:
        f"Study {study.name} is complete: {RESULTS}{left_to_come()}"
