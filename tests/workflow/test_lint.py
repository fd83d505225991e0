"""`snakemake --lint` has nothing to say."""

from __future__ import annotations

from tiny_project import CHECKOUT, Project


def test_snakemake_lint_is_clean() -> None:
    done = Project(CHECKOUT).run("snakemake", "--lint", timeout=60)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Congratulations, your workflow is in a good condition!" in said
    assert "Lints for" not in said
