"""How the runs of one figure were made, where not all were made alike: software, device, processor.

A run of another spec or length than the study's is refused. What is compared here may differ, since nobody
wants to train everything again after an update or on another machine; but it can decide a run's numbers, so
a figure of such runs says so. A figure of runs that were all made alike says nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

NOT_RECORDED = "not recorded"
"""What a manifest of an earlier version of moerl does not say."""


def described_mix(manifests: Iterable[Mapping[str, Any]]) -> str | None:
    """What the runs of a figure differ in, and how many runs have what, in one line; None if in nothing.

    Such as "MIXED: ale-py 0.10.1 (12 runs), 0.11.0 (3 runs); device NVIDIA H200 (12 runs), cpu (3 runs)".
    The order of the runs does not matter. Compared are

    * the versions of all packages that manifests list, which are those that decide numbers: ale-py those of
      the games; moerl, jax, jaxlib, flax, optax and numpy those of training;
    * the device;
    * of runs on a CPU its model, for which XLA compiles.

    Not compared are the host, Python, the processor beside a GPU, and the git commit: a commit that changes a
    run's numbers changes `TRAINING_REVISION` in its spec.

    Args:
        manifests: The `manifest.json` of each run. A job that continues another's training writes its own.
    """
    runs = [_facts(manifest) for manifest in manifests]
    packages = sorted({name for versions, _, _ in runs for name in versions})
    told = [
        *((name, [versions.get(name, NOT_RECORDED) for versions, _, _ in runs]) for name in packages),
        ("device", [device for _, device, _ in runs]),
        ("processor", [processor for _, device, processor in runs if device.lower() == "cpu"]),
    ]
    mixed = [f"{what} {_counted(values)}" for what, values in told if len(set(values)) > 1]
    return f"MIXED: {'; '.join(mixed)}" if mixed else None


def _facts(manifest: Mapping[str, Any]) -> tuple[dict[str, str], str, str]:
    """Versions, device and processor of one run."""
    versions = manifest.get("versions")
    known = {str(name): str(value) for name, value in versions.items()} if isinstance(versions, dict) else {}
    return known, str(manifest.get("device", NOT_RECORDED)), str(manifest.get("processor", NOT_RECORDED))


def _counted(values: Iterable[str]) -> str:
    """Every value with its number of runs, the most frequent first."""
    ordered = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{value} ({count} run{'s' if count > 1 else ''})" for value, count in ordered)
