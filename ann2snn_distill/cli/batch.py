"""`snn-distill batch`: many conversions, and one summary of them."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from ann2snn_distill.cli.board import watching
from ann2snn_distill.cli.options import DryRun, Json, with_flags
from ann2snn_distill.cli.output import emit, emit_json, show, table
from ann2snn_distill.cli.resolve import Positional
from ann2snn_distill.cli.runs_file import read_runs
from ann2snn_distill.config import BatchSettings
from ann2snn_distill.errors import BadInputError, GateMissedError, InterruptedRunError

if TYPE_CHECKING:
    from ann2snn_distill.batch import Board
    from ann2snn_distill.reporting.batch_summary import BatchSummary

_PLANS = {"waiting": "will run", "finished": "is done", "failed": "failed; --retry-failed runs it again"}


@with_flags(BatchSettings, positional=Positional("runs", "RUNS.toml"))
def batch(settings: BatchSettings, *, dry_run: DryRun = False, json: Json = False) -> None:
    """Run many conversions, each once, and sum them up."""
    runs = read_runs(settings.runs)
    from ann2snn_distill import batch as whole
    from ann2snn_distill.batch.slots import slots

    output = settings.output or Path("runs") / settings.runs.stem
    places = slots(settings.jobs, settings.devices, environment=os.environ)
    if dry_run:
        board = whole.planned(runs, output, retry_failed=settings.retry_failed)
        emit_json(_plan(board)) if json else show(*_planned(board, output))
        return
    with watching() as watch:
        summary = whole.run_batch(
            settings.runs.stem,
            runs,
            output,
            retry_failed=settings.retry_failed,
            command=(sys.executable, "-m", "ann2snn_distill.cli.run_of_batch", str(os.getpid())),
            slots=places,
            watch=watch,
        )
    if json:
        emit(summary.model_dump_json(indent=2) + "\n")
    else:
        show(*_results(summary), f"written to {output / 'summary.html'}, and as summary.json and summary.csv")
    _check(summary)


def _plan(board: "Board") -> list[dict[str, Any]]:
    return [
        {
            "name": view.job.name,
            "fingerprint": view.job.fingerprint,
            "state": view.state,
            "varied": view.job.varied,
            "settings": view.job.settings.model_dump(mode="json", exclude_none=True),
        }
        for view in board
    ]


def _planned(board: "Board", output: Path) -> Iterator[RenderableType]:
    rows = (
        (view.job.name, view.job.fingerprint, view.job.settings.epochs, _PLANS.get(view.state, view.state))
        for view in board
    )
    yield table(f"{len(board)} runs in {output}", ("run", "fingerprint", "epochs", "plan"), rows)


def _results(summary: "BatchSummary") -> Iterator[RenderableType]:
    reasons = any(run.reason for run in summary.runs)
    columns = ["run", "state", "T", "teacher, %", "student, %", "drop", "s", *(["reason"] if reasons else [])]
    rows = [
        [r.name, r.state, r.timesteps, r.teacher_top1, r.top1, r.drop, r.training.seconds]
        + ([r.reason or ""] if reasons else [])
        for r in summary.runs
    ]
    yield table(summary.title, columns, rows)
    if summary.groups:
        keys = list(dict.fromkeys(key for group in summary.groups for key in group.varied))
        yield table(
            "means over seeds",
            (*keys, "seeds", "student, %", "deviation", "drop"),
            (
                (*map(g.varied.get, keys), g.finished, g.top1_mean, g.top1_deviation, g.drop_mean)
                for g in summary.groups
            ),
        )


def _check(summary: "BatchSummary") -> None:
    """Leave with the exit code of the worst run.

    Raises:
        BadInputError: a run failed.
        InterruptedRunError: none failed, and one was interrupted.
        GateMissedError: neither, and one missed a gate.
    """
    total, failed, missed = len(summary.runs), summary.count("failed"), summary.count("missed")
    if failed:
        raise BadInputError(f"{failed} of {total} runs failed; the summary has the reasons, --retry-failed tries again")
    if interrupted := summary.count("interrupted"):
        raise InterruptedRunError(
            f"{interrupted} of {total} runs were interrupted; give the same command again to go on"
        )
    if missed:
        raise GateMissedError(f"{missed} of {total} runs missed a gate; all files are written", summary)
