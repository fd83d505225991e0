"""A real one-node SLURM cluster, started and stopped by root on a machine that has none.

The daemons are the distribution's own (Debian: ``slurm-wlm``, ``munge``); nothing is installed here.
The node advertises more CPUs and memory than the machine has, so that a job's request is never
what a test waits for, and two fake GPUs. Jobs of the partition `urgent` preempt those of `main`, at once,
and those of `graceful`, which are told a minute before. By hand:
``python tests/slurm/cluster.py start|stop``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "sinfo")
CONFIGURATION = Path("/etc/slurm/slurm.conf")  # the jobs' own `srun` looks here and nowhere else
GENERIC_RESOURCES = Path("/etc/slurm/gres.conf")
MARK = "# moerl test cluster: written by tests/slurm/cluster.py, removed when it stops"
STATE = Path("/run/moerl-test-slurm")

_SLURM_CONF = """\
{mark}
ClusterName=moerl-test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={state}/munge/socket
StateSaveLocation={state}/ctld
SlurmdSpoolDir={state}/slurmd
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1,sched_interval=2
ReturnToService=2
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES PriorityTier=1 MaxTime=INFINITE State=UP
PartitionName=graceful Nodes={host} PriorityTier=1 GraceTime=60 MaxTime=INFINITE State=UP
PartitionName=urgent Nodes={host} PriorityTier=2 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


def obstacle() -> str | None:
    """Return why no cluster can be started on this machine, or None."""
    if missing := [c for c in COMMANDS if shutil.which(c, path=_path()) is None]:
        return f"SLURM is not installed: no {', '.join(missing)} (Debian: slurm-wlm munge)"
    if os.geteuid() != 0:
        return "starting SLURM daemons needs root"
    if CONFIGURATION.exists() and MARK not in CONFIGURATION.read_text():
        return f"{CONFIGURATION} belongs to somebody else's cluster"
    return None


def start() -> None:
    """Start munged, slurmctld and slurmd and wait until the node takes jobs; replaces an older test cluster.

    Raises:
        RuntimeError: an obstacle, or a daemon that did not come up (with the end of its log).
    """
    if (why := obstacle()) is not None:
        raise RuntimeError(why)
    stop()
    for folder in (STATE / "munge", STATE / "ctld", STATE / "slurmd", CONFIGURATION.parent):
        folder.mkdir(parents=True, exist_ok=True)
    settings = {"mark": MARK, "host": socket.gethostname().split(".")[0], "state": STATE}
    CONFIGURATION.write_text(_SLURM_CONF.format(**settings))
    GENERIC_RESOURCES.write_text(f"{MARK}\nName=gpu File=/dev/tty[0-1]\n")
    _start_munged(STATE / "munge")
    _run("slurmctld")
    _run("slurmd")
    _wait_until_idle()


def stop() -> None:
    """Cancel all jobs, stop the daemons of a test cluster and remove its configuration; quiet without one."""
    if (STATE / "slurmctld.pid").exists():
        subprocess.run(["scancel", "--user=root"], capture_output=True, timeout=30, check=False)
        time.sleep(1.0)
    for name in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
        _end(STATE / name)
    for file in (CONFIGURATION, GENERIC_RESOURCES):
        if file.exists() and MARK in file.read_text():
            file.unlink()
    shutil.rmtree(STATE, ignore_errors=True)


def _start_munged(folder: Path) -> None:
    """Start the authentication daemon on a key and socket of its own."""
    key = folder / "key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    _run("munged", *(f"--{option}={folder / name}" for option, name in files.items()))


def _wait_until_idle(timeout: float = 60.0) -> None:
    """Wait until the node accepts jobs."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        answer = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False)
        if set(answer.stdout.split()) == {"idle"}:  # a line for each partition
            return
        time.sleep(0.5)
    logs = "\n".join(
        f"{log}: {log.read_text(errors='replace')[-2000:]}" for log in sorted(STATE.glob("slurm*.log"))
    )
    raise RuntimeError(f"the SLURM node is {answer.stdout.strip() or answer.stderr.strip()!r}\n{logs}")


def _run(command: str, *arguments: str) -> None:
    """Run a daemon's foreground part; it forks by itself."""
    program = shutil.which(command, path=_path()) or command
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command} did not start: {done.stderr.strip() or done.stdout.strip()}")


def _end(pid_file: Path, timeout: float = 20.0) -> None:
    """Terminate the process that `pid_file` names and wait for it; kill it when it does not go."""
    try:
        pid = int(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return
    deadline = time.monotonic() + timeout
    try:
        os.kill(pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _path() -> str:
    """Return the search path with the folders where distributions keep daemons."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


if __name__ == "__main__":
    {"start": start, "stop": stop}[sys.argv[1]]()
