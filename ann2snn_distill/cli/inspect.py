"""`snn-distill inspect`: the fate of every layer, before any training."""

from ann2snn_distill.cli import results
from ann2snn_distill.cli.options import Json, with_flags
from ann2snn_distill.cli.output import emit, show
from ann2snn_distill.cli.render import observing
from ann2snn_distill.cli.resolve import Positional
from ann2snn_distill.config import InspectSettings
from ann2snn_distill.errors import UnsupportedModelError
from ann2snn_distill.reporting.inspection import Inspection


@with_flags(InspectSettings, positional=Positional("model", "MODEL|CKPT"))
def inspect(settings: InspectSettings, *, json: Json = False) -> None:
    """Show the fate of every layer, without training."""
    from ann2snn_distill import pipeline

    with observing() as observe:
        found = pipeline.inspect(settings.model, settings=settings, observe=observe)
    if json:
        emit(found.model_dump_json(indent=2) + "\n")
    else:
        show(*results.inspection(found))
    _check(found, strict=settings.strict)


def _check(found: Inspection, *, strict: float | None) -> None:
    covered = 100 * (found.coverage.share or 0.0)
    if strict is not None and covered < strict:
        raise UnsupportedModelError(
            f"spikes drive {covered:.2f} % of the multiply-accumulates of {found.model}, "
            f"below --strict {strict:g} %; try --coverage full"
        )
