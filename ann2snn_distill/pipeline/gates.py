"""Accuracy gates."""

from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.errors import GateMissedError
from ann2snn_distill.reporting.report import Report


def check_gates(settings: ConvertSettings, report: Report) -> None:
    """Compare a report with the gates.

    Raises:
        GateMissedError: the student is below `min_accuracy`, or below its teacher by more than `max_drop`.
    """
    missed = []
    accuracy, drop = report.student.top1, report.drop
    if settings.min_accuracy is not None and accuracy is not None and accuracy < settings.min_accuracy:
        missed.append(f"the student's {accuracy:.2f} % is below --min-accuracy {settings.min_accuracy:g}")
    if settings.max_drop is not None and drop is not None and not report.keeps_drop(settings.max_drop):
        missed.append(f"the drop of {drop:.2f} points is above --max-drop {settings.max_drop:g}")
    if missed:
        raise GateMissedError(f"{' and '.join(missed)}; all files are written", report)
