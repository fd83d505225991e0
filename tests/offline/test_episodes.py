"""Where episodes begin and end, and which of them a subset takes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moerl.offline.episodes import Episode, choose_episodes, find_episodes, states_of

FLAGS = {"terminal": "T", "blank": "0"}


def flags(drawn: str) -> dict[str, np.ndarray]:
    """`0` is a blank transition, `T` a terminal one, anything else neither."""
    return {name: np.array([c == mark for c in drawn]) for name, mark in FLAGS.items()}


def parts(drawn: str) -> list[str]:
    """The episodes of a checkpoint, each with a bar before its first state."""
    return [
        drawn[e.start : e.first_state] + "|" + drawn[e.first_state : e.stop]
        for e in find_episodes(**flags(drawn))
    ]


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        ("000abT000cd", ["000|abT", "000|cd"]),
        ("000abc000def", ["000|abc", "000|def"]),  # the first was cut
        ("abcdT000e", ["abc|dT", "000|e"]),  # begins inside of an episode: the stack of a is unknown
        ("0abcdT", ["0ab|cdT"]),  # begins inside of padding
        ("000aT00", ["000|aT", "00|"]),  # ends inside of padding
        (
            "000abc00",
            ["000|abc", "00|"],
        ),  # the same after a cut: what looks like padding is not a window's end
        ("000a00bT", ["000|a00bT"]),  # two black frames in a game
        ("000aT0000bT", ["000|aT", "000|0bT"]),  # after a terminal, padding is three: a game may begin black
        ("000ab00000c", ["000|ab", "00000|c"]),  # after a cut, which of the five are padding is unknown
        ("aT", ["aT|"]),
        ("T", ["T|"]),
        ("0000", ["0000|"]),
    ],
)
def test_episodes_by_hand(drawn: str, expected: list[str]) -> None:
    assert parts(drawn) == expected


def test_states_by_hand() -> None:
    episode = Episode(10, 20, 13)
    assert states_of(episode, True, 3) == range(13, 20)
    assert states_of(episode, False, 3) == range(13, 17)
    assert not states_of(Episode(10, 12, 12), False, 1)


GAMES = st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=12)


@settings(deadline=None)
@given(games=GAMES, cut=st.tuples(st.integers(0, 40), st.integers(1, 60)))
def test_a_window_of_whole_episodes_has_their_bounds(
    games: list[tuple[int, bool]], cut: tuple[int, int]
) -> None:
    drawn = "".join("000" + "a" * (steps - 1) + ("T" if over else "a") for steps, over in games)
    first, last = cut[0] % len(drawn), min(len(drawn), cut[0] % len(drawn) + cut[1])
    bounds = np.cumsum([0, *(3 + steps for steps, _ in games)])
    seen = find_episodes(**flags(drawn[first:last]))
    expected = [first, *(b for b in bounds if first < b < last), last]
    assert [first + e.start for e in seen] + [last] == expected
    for episode in seen:
        start = bounds[np.searchsorted(bounds, first + episode.start, side="right") - 1]
        for state in range(episode.first_state, episode.stop):
            assert first + state - 3 >= max(start, first)  # its stack is known and of its own episode
            assert first + state >= start + 3  # it is no padding


CHECKPOINTS = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=30), min_size=1, max_size=8)


def dataset(lengths: list[list[int]]) -> list[list[Episode]]:
    ends = [np.cumsum(checkpoint) for checkpoint in lengths]
    return [
        [Episode(int(e - n), int(e), int(e - n)) for n, e in zip(checkpoint, end, strict=True)]
        for checkpoint, end in zip(lengths, ends, strict=True)
    ]


@given(lengths=CHECKPOINTS, percent=st.integers(1, 100), seed=st.integers(0, 2**32))
def test_size_rule(lengths: list[list[int]], percent: int, seed: int) -> None:
    checkpoints = dataset(lengths)
    chosen = choose_episodes(checkpoints, percent, seed)
    taken = total = 0
    longest = max(max(checkpoint) for checkpoint in lengths)
    for there, drawn in zip(checkpoints, chosen, strict=True):
        assert set(drawn) <= set(there)
        assert len(set(drawn)) == len(drawn)
        assert [e.start for e in drawn] == sorted(e.start for e in drawn)
        taken += sum(map(len, drawn))
        total += sum(map(len, there))
        assert 0 <= taken - percent * total / 100 < longest
    assert chosen == choose_episodes(checkpoints, percent, seed)
    if percent == 100:
        assert chosen == checkpoints


def test_a_checkpoints_draw_depends_on_its_number_and_the_seed_alone() -> None:
    equal = dataset([[5] * 40] * 3)
    other = choose_episodes([equal[0], dataset([[7] * 40])[0], equal[2]], 20, 1)
    chosen = choose_episodes(equal, 20, 1)
    assert other[0] == chosen[0]
    assert other[2] == chosen[2]
    assert chosen[0] != chosen[1]  # checkpoints are drawn independently
    assert chosen != choose_episodes(equal, 20, 2)


def test_episodes_are_drawn_uniformly() -> None:
    (episodes,) = dataset([[10] * 20])
    counts = np.zeros(20)
    for seed in range(2_000):
        for episode in choose_episodes([episodes], 25, seed)[0]:
            counts[episode.start // 10] += 1
    assert counts.sum() == 2_000 * 5
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500 * 0.75)
