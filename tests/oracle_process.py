"""Runs scripts of `envs/` in the paper-era code's environment (envs/oracle.txt).

It is expected in `.venv-oracle`, or wherever the variable MOERL_ORACLE_PYTHON says its interpreter is. With
MOERL_REQUIRE_ORACLE set its absence is a failure, otherwise tests that need it are skipped.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run_oracle(script: str, *arguments: str | Path) -> None:
    """Run `envs/<script>` to its end, as in a shell that knows nothing of our settings of XLA.

    The oracle's older XLA ends the process over a flag that it does not know.
    """
    python = Path(os.environ.get("MOERL_ORACLE_PYTHON", ROOT / ".venv-oracle" / "bin" / "python"))
    if not python.exists():
        absent = f"no oracle environment at {python}; `make parity` makes one"
        if os.environ.get("MOERL_REQUIRE_ORACLE"):
            pytest.fail(absent)
        pytest.skip(absent)
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [python, ROOT / "envs" / script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
