"""Long steps: lines in a log, a bar in a terminal."""

from __future__ import annotations

import io
import sys

import pytest

from moerl.study import long_step as module
from moerl.study.long_step import long_step


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter([0.0, 10.0, 31.0, 40.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock, 41.0))
    caplog.set_level("INFO")
    assert list(long_step("abc", "letters read")) == ["a", "b", "c"]
    assert [record.message for record in caplog.records] == ["letters read: 1 of 3"]


def test_a_short_step_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert list(long_step([1, 2], "numbers")) == [1, 2]
    assert not caplog.records


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(long_step([1, 2], "numbers")) == [1, 2]
    assert "numbers:" in terminal.getvalue()
