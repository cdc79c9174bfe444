"""`snn-distill convert`: teacher to SNN, checkpoint and report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ann2snn_distill.cli import results
from ann2snn_distill.cli.options import DryRun, Json, with_flags
from ann2snn_distill.cli.output import emit, emit_json, outline, show
from ann2snn_distill.cli.render import observing
from ann2snn_distill.config import CONFIG_FILE, ConvertSettings
from ann2snn_distill.errors import GateMissedError, UsageError
from ann2snn_distill.events import Event, Observer, OutputChosen
from ann2snn_distill.reporting.report import CoverageResult, Report, dumps


def _kept(values: Mapping[str, object]) -> Path | None:
    """Return the settings in the folder that is to be gone on in, where the command names no model.

    Raises:
        UsageError: there are none.
    """
    folder = values.get("resume")
    if folder in (None, "auto") or values.get("model") is not None:
        return None
    path = Path(str(folder)).expanduser() / CONFIG_FILE
    if not path.is_file():
        raise UsageError(f"there is no run in {folder}; give the output folder of one, or the model and its flags")
    return path


@with_flags(ConvertSettings, required=("dataset",), config=True, kept=_kept)
def convert(settings: ConvertSettings, *, dry_run: DryRun = False, json: Json = False) -> None:
    """Turn a timm network into a distilled spiking network."""
    from ann2snn_distill import pipeline

    if dry_run:
        with observing() as observe:
            plan = pipeline.plan(settings, observe)
        emit_json(plan) if json else show(*outline("plan", _readable(plan)))
        return
    folders: list[Path] = []
    try:
        with observing() as observe:
            report = pipeline.convert(settings, _keeping(folders, observe))
    except GateMissedError as error:
        if isinstance(error.report, Report):
            _show(settings, error.report, folders, json=json)
        raise
    _show(settings, report, folders, json=json)


def _readable(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan whose coverage is in percent, as everywhere, and whose settings can be given again."""
    covered = plan["coverage"] | {"share": results.share(CoverageResult.model_validate(plan["coverage"]))}
    return {**plan, "coverage": covered, "settings": {name: _exact(value) for name, value in plan["settings"].items()}}


def _exact(value: object) -> object:
    """Return a number as it can be given again, and not rounded for a table."""
    return repr(value) if isinstance(value, float) else value


def _keeping(folders: list[Path], observe: Observer) -> Observer:
    """Return an observer that also keeps where the run writes."""

    def both(event: Event) -> None:
        if isinstance(event, OutputChosen):
            folders.append(event.folder)
        observe(event)

    return both


def _show(settings: ConvertSettings, report: Report, folders: list[Path], *, json: bool) -> None:
    if json:
        emit(dumps(report))
    else:
        written = (f"written to {folder}" for folder in folders)
        show(*results.conversion(report), *results.gates(settings, report), *written)
