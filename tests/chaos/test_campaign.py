"""A few faults of each kind of the campaign that `make chaos` runs in full."""

from __future__ import annotations

from pathlib import Path

import campaign
import pytest


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("kind", "faults"), [("operation", 2), ("instant", 1)])
def test_a_disturbed_study_is_completed_to_the_same_bytes(
    prepared: campaign.Campaign, kind: str, faults: int
) -> None:
    if kind == "disk" and not campaign.can_mount():
        pytest.skip("mounting a file system needs root")
    for fault in campaign.disturb(prepared, faults, {kind: 1}):
        assert not fault.problem, f"{fault.what}: {fault.problem}"
        assert fault.files == len(prepared.expected) > 30


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> campaign.Campaign:
    folder: Path = tmp_path_factory.mktemp("chaos")
    return campaign.Campaign.prepared(folder, seed=0)


def test_a_file_that_differs_is_seen(tmp_path: Path) -> None:
    results = tmp_path / "results" / "tiny"
    results.mkdir(parents=True)
    (results / "manifest.json").write_text('{"sha256": {"a": "0", "b": "0"}}')
    (results / "a").write_bytes(b"x")
    first = campaign.digests(tmp_path)
    assert first["b"] == "missing"
    (results / "a").write_bytes(b"y")
    assert campaign.digests(tmp_path)["a"] != first["a"]
