"""`snn-distill convert`: teacher to SNN, checkpoint and report."""

from ann2snn_distill.cli import results
from ann2snn_distill.cli.options import DryRun, Json, with_flags
from ann2snn_distill.cli.output import emit, emit_json, outline, show
from ann2snn_distill.cli.render import observing
from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.errors import GateMissedError
from ann2snn_distill.reporting.report import Report, dumps


@with_flags(ConvertSettings, required=("dataset",), config=True)
def convert(settings: ConvertSettings, *, dry_run: DryRun = False, json: Json = False) -> None:
    """Turn a timm network into a distilled spiking network."""
    from ann2snn_distill import pipeline

    if dry_run:
        with observing() as observe:
            plan = pipeline.plan(settings, observe)
        emit_json(plan) if json else show(*outline("plan", plan))
        return
    settings = settings.model_copy(update={"output": pipeline.resolve_output(settings)})
    try:
        with observing() as observe:
            report = pipeline.convert(settings, observe)
    except GateMissedError as error:
        if isinstance(error.report, Report):
            _show(settings, error.report, json=json)
        raise
    _show(settings, report, json=json)


def _show(settings: ConvertSettings, report: Report, *, json: bool) -> None:
    if json:
        emit(dumps(report))
    else:
        show(*results.conversion(report), *results.gates(settings, report), f"written to {settings.output}")
