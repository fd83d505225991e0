"""`snakemake --lint` has nothing to say, with one exception."""

from __future__ import annotations

import re

from tiny_project import CHECKOUT, Project

# The software is the hash-locked environment of envs/, the same for all rules. A conda or container
# definition beside it would be a second one, which nothing here could check.
ACCEPTED = "Specify a conda environment or container for each rule.:"


def test_snakemake_lint_is_clean() -> None:
    done = Project(CHECKOUT).run("snakemake", "--lint", timeout=60)
    said = done.stdout + done.stderr
    assert len(re.findall(r"^Lints for rule ", said, re.MULTILINE)) >= 6, said
    assert set(re.findall(r"^    \* (.*)$", said, re.MULTILINE)) == {ACCEPTED}, said
