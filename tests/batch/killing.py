"""Batches in processes of their own, and ways to kill them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


class BatchProcess:
    """A batch's process, in a process group of its own."""

    def __init__(self, command: Sequence[object], *, folder: Path, environment: dict[str, str] | None = None):
        self._process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )

    def children(self) -> list[int]:
        """The processes that it started and that live."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _parent(pid) == self._process.pid]

    def wait_for_a_run(self, *, timeout: float = 120) -> None:
        """Wait until it has started a run, or is done."""
        end = time.monotonic() + timeout
        while not self.children() and self._process.poll() is None:
            assert time.monotonic() < end, "no run was started"
            time.sleep(0.05)

    def kill(self) -> bool:
        """SIGKILL to the batch's process group; its runs are left behind. Says whether it was still at work."""
        alive = self._process.poll() is None
        if alive:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        return alive

    def kill_all(self) -> bool:
        """SIGKILL to the batch and to all its runs at once, as when the machine stops."""
        alive = self._process.poll() is None
        if alive:
            self._process.send_signal(signal.SIGSTOP)  # so that it starts nothing meanwhile
            for pid in self.children():
                os.kill(pid, signal.SIGKILL)
        return self.kill()

    def interrupt(self) -> None:
        """SIGTERM, as a scheduler sends it."""
        self._process.terminate()

    def result(self, *, timeout: float = 1200) -> tuple[int, str]:
        """Wait for its end; return the exit code and what it wrote."""
        out, _ = self._process.communicate(timeout=timeout)
        return self._process.returncode, out.decode()


def _parent(pid: int) -> int | None:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(status.rpartition(")")[2].split()[1])
