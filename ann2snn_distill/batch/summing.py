"""From the runs of a batch to its summary: one entry a run, and the mean over seeds."""

import statistics
from collections.abc import Iterable, Sequence

from ann2snn_distill.batch.records import Records
from ann2snn_distill.batch.runner import Board, RunView
from ann2snn_distill.reporting.batch_summary import BatchSummary, GroupSummary, RunSummary
from ann2snn_distill.reporting.report import Report


def summed(title: str, board: Board, records: Records) -> BatchSummary:
    """Return the summary of a batch as it stands."""
    runs = tuple(_run(view, records) for view in board)
    return BatchSummary(title=title, runs=runs, groups=tuple(_groups(runs)))


def _run(view: RunView, records: Records) -> RunSummary:
    job = view.job
    settings = job.settings
    report = records.report(job) if view.state == "finished" else None
    known = RunSummary(
        name=job.name,
        fingerprint=job.fingerprint,
        folder=records.folder(job).name,
        state=view.shown,
        reason=view.gate or (view.detail if view.state == "failed" else None),
        varied=job.varied,
        model=settings.model,
        student=settings.student or settings.model,
        dataset=settings.dataset or "",
        timesteps=settings.timesteps,
        method=settings.method,
        seed=settings.seed,
    )
    return known if report is None else known.model_copy(update=_found(report))


def _found(report: Report) -> dict[str, object]:
    return {
        "dataset": report.dataset,
        "teacher_top1": report.teacher.top1,
        "top1": report.student.top1,
        "top1_at": report.student.top1_at,
        "drop": report.drop,
        "coverage": report.coverage.share,
        "energy_mj": report.energy.snn_mj,
        "training": report.training,
    }


def _groups(runs: Sequence[RunSummary]) -> Iterable[GroupSummary]:
    """Runs that differ in their seed alone, where there are several of them."""
    groups: dict[str, list[RunSummary]] = {}
    for run in runs:
        rest = {key: value for key, value in run.varied.items() if key != "seed"}
        groups.setdefault(repr(sorted(rest.items())), []).append(run)
    if not any("seed" in run.varied for run in runs):
        return
    for members in groups.values():
        finished = [run.top1 for run in members if run.top1 is not None]
        drops = [run.drop for run in members if run.drop is not None]
        if len(members) > 1 and finished:
            yield GroupSummary(
                varied={key: value for key, value in members[0].varied.items() if key != "seed"},
                runs=len(members),
                finished=len(finished),
                top1_mean=statistics.fmean(finished),
                top1_deviation=statistics.stdev(finished) if len(finished) > 1 else None,
                drop_mean=statistics.fmean(drops) if drops else None,
            )
