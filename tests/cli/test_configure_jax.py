"""XLA's flags: what training needs of it, unless the user says otherwise."""

import os

import pytest

from moerl.cli.train import XLA_FLAGS, configure_jax


@pytest.fixture(autouse=True)
def no_memory_policy(monkeypatch):
    monkeypatch.setattr("moerl.cli.train.keep_freed_memory", lambda: None)


def flags_after(monkeypatch, users: str | None) -> list[str]:
    if users is None:
        monkeypatch.delenv("XLA_FLAGS", raising=False)
    else:
        monkeypatch.setenv("XLA_FLAGS", users)
    monkeypatch.setenv("PJRT_NPROC", "1")
    configure_jax(threads=1)
    return os.environ["XLA_FLAGS"].split()


def test_ours_are_there(monkeypatch):
    assert flags_after(monkeypatch, None) == [f"--{flag}={value}" for flag, value in XLA_FLAGS.items()]


def test_the_users_other_flags_do_not_turn_ours_off(monkeypatch):
    flags = flags_after(monkeypatch, "--xla_dump_to=/tmp/hlo")
    assert flags[0] == "--xla_dump_to=/tmp/hlo"
    assert "--xla_gpu_deterministic_ops=true" in flags
    assert len(flags) == 1 + len(XLA_FLAGS)


def test_the_users_value_wins(monkeypatch):
    flags = flags_after(monkeypatch, "--xla_gpu_deterministic_ops=false")
    assert [flag for flag in flags if "deterministic" in flag] == ["--xla_gpu_deterministic_ops=false"]


def test_twice_is_once(monkeypatch):
    first = flags_after(monkeypatch, None)
    assert flags_after(monkeypatch, " ".join(first)) == first
