from __future__ import annotations

import pytest

from moerl.statistics.latex import escape, number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.934, "0.93"),
        (-0.934, "$-$0.93"),
        (12.34, "12.3"),
        (11502.4, "11502"),
        (float("nan"), "--"),
        (0.0, "0.00"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_what_latex_would_interpret_is_literal() -> None:
    assert escape("50% of a_b & {c} ~ ^ \\ #1 $") == (
        r"50\% of a\_b \& \{c\} \textasciitilde{} \textasciicircum{} \textbackslash{} \#1 \$"
    )
    assert escape("SoftMoE (÷ NumExperts)") == r"SoftMoE ($\div$ NumExperts)"
