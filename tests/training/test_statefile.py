"""State files: exact round trips, equal bytes for equal content, every corruption detected."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from moerl.training.statefile import StateError, dump, load, store

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scalar": np.array(7, dtype=np.int32),
    "empty": np.zeros(0, dtype=np.uint8),
}
META = {"step": 3, "rows": [[1, 2.5]]}


def test_round_trip(tmp_path):
    store(tmp_path / "s", TENSORS, META)
    tensors, meta = load(tmp_path / "s")
    assert meta == META
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype
        assert tensors[name].shape == value.shape
        assert np.array_equal(tensors[name], value)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_bytes_do_not_depend_on_order():
    assert dump(TENSORS, META) == dump(dict(reversed(TENSORS.items())), dict(reversed(META.items())))


def test_every_flipped_bit_and_every_truncation_is_detected(tmp_path):
    data = dump({"a": np.arange(4, dtype=np.uint8)}, {"k": 1})
    path = tmp_path / "s"
    for position in range(len(data)):
        torn = bytearray(data)
        torn[position] ^= 1 << (position % 8)
        path.write_bytes(torn)
        with pytest.raises(StateError) as caught:
            load(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        path.write_bytes(data[:position])
        with pytest.raises(StateError):
            load(path)


def test_missing_file(tmp_path):
    with pytest.raises(StateError, match="does not exist"):
        load(tmp_path / "s")


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(st.sampled_from([np.float32, np.uint8, np.int64]), hnp.array_shapes(min_dims=0, max_dims=3))
)
def test_any_array_survives(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("s") / "s"
    store(path, {"x": value}, {})
    back = load(path)[0]["x"]
    assert back.dtype == value.dtype
    assert back.tobytes() == value.tobytes()
