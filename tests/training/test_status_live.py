"""`moerl status` on real training: a finished, a running, a killed, a diverged and a stale run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.long

STUDIES = Path(__file__).parents[2] / "config" / "studies"
STUDY: dict[str, Any] = {
    "name": "live",
    "agents": {
        "dqn": {
            "replay_capacity": 500,
            "min_replay_history": 40,
            "epsilon_decay_period": 40,
            "target_update_period": 40,
            "max_episode_steps": 40,
        }
    },
    "figures": {"learning": {"games": ["Pong", "Breakout", "Asterix"]}},
    "seeds": [0],
    "seeds_per_job": 1,
    "iteration_frames": 320,
    "milestones": {"short": "320k", "full": "320k"},
    "snapshot_every": 0,
}


class Live:
    """A folder with a study, jobs of it and what `moerl status` says."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.change()

    def change(self, **agent: float) -> None:
        """Write the study, with some hyper-parameters changed."""
        study = STUDY | {"agents": {"dqn": STUDY["agents"]["dqn"] | agent}}
        (self.root / "live.yaml").write_text(yaml.safe_dump(study))

    def frames(self, frames: str) -> None:
        """Shorten or lengthen the study."""
        study = yaml.safe_load((self.root / "live.yaml").read_text())
        study["milestones"] = {"short": frames, "full": frames}
        (self.root / "live.yaml").write_text(yaml.safe_dump(study))

    def start(self, game: str, milestone: str) -> subprocess.Popen[str]:
        """Start a job as the pipeline does."""
        where = ["--study", "live.yaml", "--results", "results/live", "--state", "state/live"]
        cell = ["--agent", "dqn", "--variant", "cnn-baseline", "--game", game, "--seeds", "0"]
        command = [sys.executable, "-m", "moerl", "train", *where, *cell, "--milestone", milestone]
        log = self.root / f"logs/live/train/dqn/cnn-baseline/{game}/{milestone}_seed0.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            return subprocess.Popen(command, cwd=self.root, stdout=file, stderr=file, text=True)

    def status(self) -> dict[str, dict[str, Any]]:
        """Game → what `moerl status` says of its run."""
        command = [sys.executable, "-m", "moerl", "status", "--study", "live.yaml", "--json"]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=True)
        return {run["game"]: run for run in json.loads(done.stdout)["runs"]}

    def wait_for_frames(self, game: str, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Wait until a running job has said how far it is."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            found = self.status()[game]
            if found["frames"]:
                return found
            assert process.poll() is None, "training ended too early"
            time.sleep(1)
        raise AssertionError(f"no heartbeat: {found}")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return Live(tmp_path_factory.mktemp("live"))


def test_running_then_killed(live: Live) -> None:
    process = live.start("Breakout", "320k")
    try:
        found = live.wait_for_frames("Breakout", process)
        assert found["state"] == "running"
        assert 0 < found["frames"] < 320_000
        assert found["frames_per_second"] > 0
        expected = (320_000 - found["frames"]) / found["frames_per_second"]
        assert found["eta_seconds"] == pytest.approx(expected)
    finally:
        process.kill()
        process.wait()
    found = live.status()["Breakout"]
    assert found["state"] == "failed"
    assert found["reason"].startswith(f"killed: process {process.pid} on ")
    assert found["log"] == "logs/live/train/dqn/cnn-baseline/Breakout/320k_seed0.log"
    assert live.status()["Pong"]["state"] == "missing"


def test_asked_to_leave_is_paused(live: Live) -> None:
    process = live.start("Asterix", "320k")
    live.wait_for_frames("Asterix", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    found = live.status()["Asterix"]
    assert found["state"] == "paused"
    assert "SIGTERM" in found["reason"]


def test_finished_then_stale(live: Live) -> None:
    live.frames("320")
    assert live.start("Pong", "320").wait(timeout=300) == 0
    found = live.status()["Pong"]
    assert (found["state"], found["frames"], found["reason"]) == ("done", 320, "")
    assert not list((live.root / "state").glob("**/Pong/**/progress.json"))
    live.change(gamma=0.9)
    live.frames("320")
    found = live.status()["Pong"]
    assert found["state"] == "stale"
    assert found["reason"] == "params have changed: hyper.gamma 0.99 → 0.9"


def test_diverged(live: Live) -> None:
    live.change(learning_rate=1e30)
    live.frames("320")
    assert live.start("Breakout", "320").wait(timeout=300) != 0
    found = live.status()["Breakout"]
    assert found["state"] == "failed"
    assert "seed 0: diverged" in found["reason"]
    assert Path(live.root / found["log"]).is_file()
