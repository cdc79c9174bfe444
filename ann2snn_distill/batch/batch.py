"""A batch, as one page: resolve the runs, skip what is done, work off the rest, sum up."""

from collections.abc import Sequence
from pathlib import Path

from ann2snn_distill.batch.jobs import Job, NamedRun, resolved_jobs
from ann2snn_distill.batch.records import Records, alone
from ann2snn_distill.batch.runner import Board, Runner, RunView, Slot, Watch
from ann2snn_distill.batch.summing import summed
from ann2snn_distill.files import write_text
from ann2snn_distill.reporting.batch_summary import BatchSummary, to_csv
from ann2snn_distill.reporting.html import to_html

SUMMARY_FILES = ("summary.json", "summary.csv", "summary.html")


def planned(runs: Sequence[NamedRun], output: Path, *, retry_failed: bool) -> Board:
    """Return how the runs of a batch stand, without running or writing anything.

    Raises:
        UsageError: a name is unknown, a value does not fit, or two runs are the same.
        BadInputError: data, weights or a device are not there.
    """
    return _board(resolved_jobs(runs), Records(output), retry_failed=retry_failed)


def run_batch(
    title: str,
    runs: Sequence[NamedRun],
    output: Path,
    *,
    retry_failed: bool,
    command: Sequence[str],
    slots: Sequence[Slot],
    watch: Watch,
) -> BatchSummary:
    """Run what is not done yet, and write the summaries.

    Args:
        title: of the summaries.
        runs: all runs of the batch.
        output: folder of the batch; every run has its own in it.
        retry_failed: run again what failed before.
        command: what starts a run's process; the arguments of `snn-distill` follow.
        slots: where runs go.
        watch: told how the runs stand.

    Raises:
        InterruptedRunError: Ctrl-C or SIGTERM; the same batch goes on where it was.
        UsageError: a name is unknown, a value does not fit, or two runs are the same.
        BadInputError: data, weights, a device or the disk fail, or another batch is at work in `output`.
    """
    jobs = resolved_jobs(runs)
    with alone(output) as lock:
        records = Records(output)
        board = _board(jobs, records, retry_failed=retry_failed)
        done = -1

        def look(board: Board) -> None:
            nonlocal done
            watch(board)
            ended = sum(view.state in ("finished", "failed", "interrupted") for view in board)
            if ended != done:
                done = ended
                _write(title, board, records)

        try:
            Runner(records, command=command, slots=slots, inherited=lock, watch=look).work_off(board)
        finally:
            summary = _write(title, board, records)
            watch(board)
        return summary


def _board(jobs: Sequence[Job], records: Records, *, retry_failed: bool) -> Board:
    return [_view(job, records, retry_failed=retry_failed) for job in jobs]


def _view(job: Job, records: Records, *, retry_failed: bool) -> RunView:
    record = records.of(job)
    if record.state == "failed" and not retry_failed:
        return RunView(job, "failed", record.error or "")
    view, report = RunView(job, "waiting"), records.report(job)
    if report is not None:
        view.finish(report)
    return view


def _write(title: str, board: Board, records: Records) -> BatchSummary:
    summary = summed(title, board, records)
    contents = (summary.model_dump_json(indent=2) + "\n", to_csv(summary), to_html(summary))
    for name, content in zip(SUMMARY_FILES, contents, strict=True):
        write_text(records.output / name, content)
    return summary
