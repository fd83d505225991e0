"""Reading published returns: google/dopamine's JSON files, or one CSV file of their content."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moerl.study.errors import UserError, one_line
from moerl.study.json_file import parse_json
from moerl.study.reference import file_name
from moerl.study.specs import Encoder

COLUMNS = ("game", "encoder", "agent", "iteration", "run", "mean_return")
"""`agent` is theirs (DQN, Rainbow, …); `run` counts a file's values of one agent and iteration, in the file's
order, which need not be that of the runs."""
_ITERATIONS, _LARGEST = 100_000, 1e12  # far beyond any published value
_CONTENT_BYTES = 2**28  # of an unpacked table; all of the published values take a tenth


def source_files(folder: Path, games: Iterable[str], encoder: Encoder) -> list[str]:
    """Names of the files of a folder that hold some games: the first CSV file there is, else JSON files."""
    tables = sorted(path.name for path in folder.glob("*.csv*"))
    return tables[:1] or [file_name(game, encoder) for game in games]


def parse(name: str, data: bytes, games: Iterable[str], encoder: Encoder) -> pd.DataFrame:
    """The returns of some games with one encoder, columns `COLUMNS`, out of one file.

    Args:
        name: How to call the file in errors. Its end says what it is: `.json`, `.csv` or `.csv.gz`.
        data: Its bytes.
        games: The games that are wanted; a JSON file is of the one game of its name.
        encoder: The encoder that is wanted.

    Raises:
        UserError: It is something else, or a value is no finite number.
    """
    stem = Path(name).name
    if stem.endswith(".json"):
        game = next(game for game in games if file_name(game, encoder) == stem)
        return _json(name, data, game, encoder)
    return _csv(name, data, games, encoder)


def read_published(
    folder: Path,
    encoder: Encoder,
    games: Iterable[str],
    verify: Callable[[Path, bytes], None] = lambda path, data: None,
) -> pd.DataFrame:
    """The published returns of some games, columns `COLUMNS`, from a folder.

    Args:
        folder: Has the files (see `source_files`).
        encoder: The encoder that is wanted.
        games: The games that are wanted.
        verify: Is given each file and its bytes before they are parsed.

    Raises:
        UserError: A file is not there or is something else, or a game is in none of them.
    """
    wanted = list(games)
    parts = []
    for name in source_files(folder, wanted, encoder):
        data = read_file(folder / name)
        verify(folder / name, data)
        parts.append(parse(str(folder / name), data, wanted, encoder))
    return require(pd.concat(parts, ignore_index=True), folder, encoder, wanted)


def require(returns: pd.DataFrame, where: object, encoder: Encoder, games: Iterable[str]) -> pd.DataFrame:
    """`returns`, if every game is in it. Raises UserError."""
    there = set(returns.loc[returns["encoder"] == encoder, "game"])
    if absent := [game for game in games if game not in there]:
        raise UserError(f"{where}: no published returns of {absent[0]} with the encoder {encoder.value}")
    return returns


def read_file(path: Path) -> bytes:
    """A file's bytes. Raises UserError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _json(name: str, data: bytes, game: str, encoder: Encoder) -> pd.DataFrame:
    try:
        entries = parse_json(list[Any], data)
    except ValueError as error:
        raise UserError(f"{name}: not a file of published returns ({one_line(error)})") from error
    rows = []
    for place, entry in enumerate(entries):
        match entry:
            case {"Agent": str(agent), "Iteration": int(iteration), "Value": int() | float() as value} if (
                0 <= iteration < _ITERATIONS and abs(value) < _LARGEST
            ):
                rows.append((game, encoder.value, agent, iteration, float(value)))
            case _:
                needed = "needs Agent, Iteration (from 0) and a finite Value"
                raise UserError(f"{name}: entry {place}: {json.dumps(entry)[:80]}: {needed}")
    table = pd.DataFrame(rows, columns=[column for column in COLUMNS if column != "run"])
    table.insert(4, "run", table.groupby(["agent", "iteration"]).cumcount())
    return table


def _csv(name: str, data: bytes, games: Iterable[str], encoder: Encoder) -> pd.DataFrame:
    try:
        table = pd.read_csv(io.BytesIO(_unpacked(data) if name.endswith(".gz") else data))[list(COLUMNS)]
        table = table.astype({"iteration": np.int64, "run": np.int64, "mean_return": np.float64})
        if table["iteration"].lt(0).any():
            raise ValueError("an iteration before the first")
        finite = np.isfinite(table["mean_return"].to_numpy())
    except (OSError, EOFError, zlib.error, ValueError, TypeError, LookupError, OverflowError) as error:
        raise UserError(
            f"{name}: not a table of published returns ({one_line(error)}); needs {', '.join(COLUMNS)}"
        ) from error
    if not finite.all():
        raise UserError(f"{name}: line {int(np.argmin(finite)) + 2}: mean_return is not a finite number")
    return table[(table["encoder"] == encoder.value) & table["game"].isin(list(games))]


def _unpacked(data: bytes) -> bytes:
    """The content of a gzip file. Raises ValueError if it is larger than any such table."""
    with gzip.open(io.BytesIO(data)) as file:
        content = file.read(_CONTENT_BYTES + 1)
    if len(content) > _CONTENT_BYTES:
        raise ValueError(f"more than {_CONTENT_BYTES} bytes")
    return content
