"""Fixtures of the tests of datasets: two games, trained and converted once."""

import pytest
from small_datasets import Case, Trained, make_case, random_play


@pytest.fixture(scope="session")
def breakout(tmp_path_factory) -> Trained:
    """Many episodes, terminal and cut."""
    return random_play(tmp_path_factory.mktemp("breakout"), "Breakout", 700, max_episode_steps=190)


@pytest.fixture(scope="session")
def cases(breakout, tmp_path_factory) -> dict[str, Case]:
    """By game; Pong has one long episode that ends, and one that is running."""
    pong = random_play(tmp_path_factory.mktemp("pong"), "Pong", 600)
    runs = {"Breakout": breakout, "Pong": pong}
    return {game: make_case(tmp_path_factory.mktemp(game), run) for game, run in runs.items()}


@pytest.fixture(params=["Breakout", "Pong"])
def case(request, cases) -> Case:
    """Each of them."""
    return cases[request.param]
