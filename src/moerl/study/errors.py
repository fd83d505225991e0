"""Errors a user can mend: one line saying what, where, and what is allowed. The CLI exits with 2 on them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic import ValidationError

_LONGEST = 2000


class UserError(Exception):
    """Something in the user's input is wrong; ``str(error)`` is one complete line."""

    exit_code = 2


class FailureError(Exception):
    """Work failed although the input was fine; ``str(error)`` is one complete line."""

    exit_code = 1


class ConfigError(UserError):
    """A configuration value is wrong: names the file, the path inside it, the value and what is allowed."""

    def __init__(self, file: object, path: str, problem: str) -> None:
        self.file, self.path, self.problem = str(file), path, problem
        super().__init__(one_line(f"{self.file}: {path}: {problem}" if path else f"{self.file}: {problem}"))


def one_line(problem: object) -> str:
    """An error of any library, or a text from a file, in one printable line that is not too long to read."""
    if isinstance(problem, ValidationError):
        first = problem.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))
        text = f"{where}: {first['msg']}" if where else first["msg"]
    elif isinstance(problem, KeyError):
        text = f"lacks {problem}"
    else:
        text = str(problem) or type(problem).__name__
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} …"


def one_of(value: object, allowed: Iterable[object], what: str) -> str:
    """Describe `value` as an unknown `what`: the allowed values, and the closest of them as a suggestion."""
    names = [str(a) for a in allowed]
    close = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5) or difflib.get_close_matches(
        str(value).lower(), [n.lower() for n in names], n=1, cutoff=0.5
    )
    by_lower = {n.lower(): n for n in names}
    hint = f"; did you mean {by_lower.get(close[0].lower(), close[0])!r}?" if close else ""
    shown = ", ".join(names) if len(names) <= 24 else ", ".join(names[:20]) + f", … ({len(names)} in all)"
    return f"unknown {what} {value!r} (allowed: {shown}){hint}"
