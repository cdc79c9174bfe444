"""Runs as processes: so many at once, each on its device, each ended with the batch and gone on with by the next."""

import json
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from ann2snn_distill.batch.jobs import Job
from ann2snn_distill.batch.records import Records
from ann2snn_distill.errors import GateMissedError, InterruptedRunError
from ann2snn_distill.pipeline.gates import check_gates
from ann2snn_distill.pipeline.outputs import METRICS_FILE
from ann2snn_distill.reporting.batch_summary import RunState
from ann2snn_distill.reporting.report import Report

State = Literal["waiting", "running", "finished", "failed", "interrupted"]

_TICK = 0.2
"""Seconds between two looks at the running processes."""

_FINISHED_CODES = (0, GateMissedError.exit_code)


@dataclass
class RunView:
    """A run as it stands.

    Attributes:
        job: what is run.
        state: how far it is.
        detail: its progress, its result or the reason of its failure.
        gate: which gates it missed, once it is finished.
        seconds: since its start.
    """

    job: Job
    state: State
    detail: str = ""
    gate: str | None = None
    seconds: float = 0.0

    @property
    def shown(self) -> RunState:
        """Its state for a reader, to whom a missed gate is no success."""
        return "missed" if self.gate else self.state

    def finish(self, report: Report) -> None:
        """Take over what the finished run found."""
        self.state, self.gate = "finished", _missed_gates(self.job, report)
        self.detail = self.gate or _outcome(report)


Board = Sequence[RunView]
Watch = Callable[[Board], None]


@dataclass(frozen=True)
class Slot:
    """A place for one run at a time, and the environment that a run in it gets."""

    environment: Mapping[str, str]


@dataclass
class _Running:
    view: RunView
    slot: Slot
    process: subprocess.Popen[bytes]
    log_start: int
    started: float = field(default_factory=time.monotonic)


def _outcome(report: Report) -> str:
    """Say what a run found, in a few words."""
    if report.student.top1 is None:
        return ""
    drop = "" if report.drop is None else f", drop {report.drop:.2f} points"
    return f"student {report.student.top1:.2f} %{drop}"


def _missed_gates(job: Job, report: Report) -> str | None:
    try:
        check_gates(job.settings, report)
    except GateMissedError as error:
        return str(error).removesuffix("; all files are written")
    return None


class Runner:
    """Works off the waiting runs of a board.

    Args:
        records: where it is kept how far each run is.
        command: what starts a process; the arguments of `snn-distill` follow.
        slots: as many runs at once as there are slots.
        inherited: a file descriptor that every process keeps open: the batch's lock.
        watch: told how the board stands, several times a second.
    """

    def __init__(
        self, records: Records, *, command: Sequence[str], slots: Sequence[Slot], inherited: int, watch: Watch
    ):
        self._records, self._command, self._inherited, self._watch = records, command, inherited, watch
        self._free = deque(slots)
        self._running: list[_Running] = []

    def work_off(self, board: Board) -> None:
        """Run what waits on `board`, and keep the board up to date.

        Raises:
            InterruptedRunError: Ctrl-C or SIGTERM; the running processes were told, and have saved their state.
        """
        waiting = deque(view for view in board if view.state == "waiting")
        with self._interruptible():
            while waiting or self._running:
                while waiting and self._free:
                    self._start(waiting.popleft())
                self._look()
                self._watch(board)
                time.sleep(_TICK)

    def _start(self, view: RunView) -> None:
        records, job = self._records, view.job
        record = records.of(job).model_copy(update={"state": "started", "error": None})
        settings = records.write_settings(job)
        records.keep(job, record)
        arguments = ("convert", "--config", settings, "--output", records.folder(job), "--resume", "auto", "--json")
        slot = self._free.popleft()
        with records.path(job, ".log").open("ab") as log:
            process = subprocess.Popen(
                [*self._command, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # the report, which is also in the folder
                stderr=log,
                env=dict(slot.environment),
                pass_fds=(self._inherited,),
                process_group=0,  # Ctrl-C reaches the batch alone, which passes it on once
            )
            self._running.append(_Running(view, slot, process, log.tell()))
        view.state = "running"

    def _look(self) -> None:
        for running in list(self._running):
            view = running.view
            view.seconds = time.monotonic() - running.started
            code = running.process.poll()
            if code is None:
                view.detail = self._progress(view.job)
            else:
                self._running.remove(running)
                self._free.append(running.slot)
                self._end(running, code)

    def _end(self, running: _Running, code: int) -> None:
        view, records = running.view, self._records
        if code == InterruptedRunError.exit_code:  # by somebody else: its record stays as it is, and so does its state
            view.state, view.detail = "interrupted", "its state is kept"
            return
        report = records.report(view.job) if code in _FINISHED_CODES else None
        if report is not None:
            view.finish(report)
        else:
            view.state, view.detail = "failed", self._reason(running, code)
        error = view.detail if report is None else None
        records.keep(view.job, records.of(view.job).model_copy(update={"state": view.state, "error": error}))

    def _reason(self, running: _Running, code: int) -> str:
        path = self._records.path(running.view.job, ".log")
        said = path.read_bytes()[running.log_start :].decode(errors="replace").splitlines()
        errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
        if code < 0:
            ended = f"it was ended by {signal.Signals(-code).name}, by the system or by hand"
            return f"{ended}; if memory ran out, choose fewer --jobs or a smaller batch_size"
        return errors[-1] if errors else f"it ended with exit code {code}; see {path}"

    def _progress(self, job: Job) -> str:
        """Say how far a run is: by its epochs, or before the first by the last line that it wrote."""
        with suppress(OSError, ValueError, KeyError, IndexError):
            lines = (self._records.folder(job) / METRICS_FILE).read_text(encoding="utf-8").splitlines()
            return f"epoch {json.loads(lines[-1])['epoch']} of {job.settings.epochs}"
        with suppress(OSError, IndexError):
            return self._records.path(job, ".log").read_text(errors="replace").splitlines()[-1]
        return "starting"

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._stop()
            if isinstance(error, KeyboardInterrupt):
                raise InterruptedRunError("interrupted; give the same command again to go on") from None
            raise

    def _stop(self) -> None:
        """Tell every process to save its state, once, and wait; a second interruption ends them at once."""
        for running in self._running:
            running.view.state = "interrupted"
            running.process.send_signal(signal.SIGINT)
        try:
            for running in self._running:
                code = running.process.wait()
                if code in _FINISHED_CODES:  # it was just done
                    self._end(running, code)
        except KeyboardInterrupt:
            for running in self._running:
                running.process.kill()
                running.process.wait()
