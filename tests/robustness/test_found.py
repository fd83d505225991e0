"""What the fuzzer found, each once more."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_study import make_configuration

from moerl.offline.layout import open_array
from moerl.offline.source import DatasetError
from moerl.statistics.readers import read_timing
from moerl.study.config import load_study
from moerl.study.errors import ConfigError, UserError
from moerl.study.games import load_games
from moerl.study.yaml_file import parse_yaml


@pytest.mark.parametrize("number", ["0x" + "f" * 5000, "9" * 5000, "9" * 50, "-" + "9" * 50])
def test_an_integer_that_cannot_be_printed_is_refused(number: str) -> None:
    with pytest.raises(ValueError, match="integer"):
        parse_yaml(f"a: {number}".encode())
    assert parse_yaml(b"a: [0x1f, -7, 18446744073709551616]") == {"a": [31, -7, 2**64]}


def test_a_column_with_an_unprintable_name_is_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "timing.parquet"
    pd.DataFrame({"iteration": [0], "wall\x1b[31m\nseconds": [1.0]}).to_parquet(path)
    with pytest.raises(UserError, match="lacks the column 'wall_seconds'") as caught:
        read_timing(path, 1)
    assert str(caught.value).isprintable()


def test_an_array_whose_header_ends_too_soon_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "add_count_ckpt.0.gz"
    np.save(tmp_path / "whole.npy", np.int64(3))
    whole = (tmp_path / "whole.npy").read_bytes()
    path.write_bytes(gzip.compress(whole.replace(b"'shape': (), }", b"'shape': (((((")))
    with pytest.raises(DatasetError, match="holds no NumPy array"), open_array(path):
        pytest.fail("it was opened")


def test_games_of_which_none_is_in_the_papers_set_are_refused(tmp_path: Path) -> None:
    study = make_configuration(tmp_path / "config")
    games = tmp_path / "config" / "games.tsv"
    games.write_text(games.read_text().replace("games20_paper", "mine"))
    load_games.cache_clear()
    with pytest.raises(ConfigError, match=r"games\.tsv: sets: no game is in the set games20_paper"):
        load_study(study)
