"""Reports and benchmarks as tables on stdout."""

from collections.abc import Iterator, Mapping

from rich.console import RenderableType

from ann2snn_distill.cli.output import cell, table
from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.reporting.benchmark import Benchmark, StepTime
from ann2snn_distill.reporting.report import CoverageResult, Report


def conversion(report: Report) -> Iterator[RenderableType]:
    """Lay out what `convert` found."""
    yield table("result", ("", "", ""), _headline(report))
    yield table("accuracy by timestep", ("t", "student, %"), ((int(t), p) for t, p in report.student.top1_at.items()))
    if report.branches:
        rows = ((branch.name, branch.top1, branch.cosine) for branch in report.branches)
        yield table("branches", ("cut", "top-1, %", "cosine"), rows)


def _headline(report: Report) -> list[tuple[object, ...]]:
    energy, training = report.energy, report.training
    rows: list[tuple[object, ...]] = [
        ("teacher", f"{cell(report.teacher.top1)} %", f"{report.model}, {cell(report.teacher.source)}"),
        ("student", f"{cell(report.student.top1)} %", f"{report.student.model}, T={report.timesteps}"),
        ("drop", f"{cell(report.drop)} points", f"on {report.dataset}"),
        ("coverage", share(report.coverage), "of multiply-accumulates driven by spikes"),
    ]
    if energy.snn_mj is not None:
        rows.append(("energy", f"{cell(energy.snn_mj)} mJ", f"an image; the ANN takes {cell(energy.ann_mj)} mJ"))
    if training.seconds is not None:
        rows.append(("training", f"{training.seconds:.1f} s", f"{cell(training.images_per_second)} images/s"))
    return rows


def gates(settings: ConvertSettings, report: Report) -> Iterator[str]:
    """Say of each gate that was set whether it is met."""
    top1, drop = report.student.top1, report.drop
    if settings.min_accuracy is not None:
        met = top1 is not None and top1 >= settings.min_accuracy
        yield f"gate --min-accuracy {settings.min_accuracy:g}: {_verdict(met)} ({cell(top1)} %)"
    if settings.max_drop is not None:
        met = report.keeps_drop(settings.max_drop)
        yield f"gate --max-drop {settings.max_drop:g}: {_verdict(met)} ({cell(drop)} points)"


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def evaluation(report: Report, reported: Mapping[str, float]) -> Iterator[RenderableType]:
    """Lay out what `eval` measured beside what the file says; `reported` is empty for another data set."""
    yield f"{report.student.model} on {report.dataset}, T={report.timesteps}, {report.device}"
    yield f"teacher {cell(report.teacher.top1)} %, student {cell(report.student.top1)} %"
    rows = [(int(t), reported.get(t), measured) for t, measured in report.student.top1_at.items()]
    yield table("accuracy by timestep", ("t", "reported, %", "measured, %"), rows)
    compared = [abs(measured - told) for _, told, measured in rows if told is not None]
    if compared and max(compared) == 0:
        yield "equal to the report, to the digit"
    elif compared:
        yield f"differs from the report by up to {max(compared):.4g} points"


def benchmark(found: Benchmark) -> Iterator[RenderableType]:
    """Lay out what `bench` measured, and what it depends on."""
    precision = f"{found.amp_dtype} autocast" if found.amp else "float32"
    yield (
        f"{found.model}, {found.img_size} px, {found.classes} classes, branches {', '.join(found.branches) or '-'}, "
        f"{precision}, {'compiled' if found.compiled else 'not compiled'}{', captured' if found.captured else ''}"
    )
    yield f"{found.device}, torch {found.versions['torch']}, {found.steps} timed steps a row"
    columns = (
        "method", "T", "batch", "ms", "10-90 %", "images/s", "x ANN", "TFLOP/s", "peak MiB", "estimate", "set-up, s",
    )  # fmt: skip
    yield table("training step", columns, (_step(row) for row in found.rows))
    if found.data:
        rows = ((d.dataset, d.batch_size, round(d.images_per_second), d.images, d.workers) for d in found.data)
        yield table("batches alone", ("data", "batch", "images/s", "images timed", "workers"), rows)


def _step(row: StepTime) -> tuple[object, ...]:
    if row.milliseconds is None:
        return (row.method, row.timesteps, row.batch_size, None, row.failure, *(None,) * 6)
    return (
        row.method, row.timesteps, row.batch_size, row.milliseconds, f"{row.low:.2f}-{row.high:.2f}",
        round(row.images_per_second or 0), row.ratio_to_ann, row.tflops_per_second,
        None if row.peak_memory_mib is None else round(row.peak_memory_mib),
        None if row.estimated_memory_mib is None else round(row.estimated_memory_mib), row.setup_seconds,
    )  # fmt: skip


def share(coverage: CoverageResult) -> str:
    """Write a coverage as percent."""
    return "-" if coverage.share is None else f"{100 * coverage.share:.2f} %"
