"""`snn-distill inspect`: the fate of every layer, before any training."""

from collections.abc import Mapping

from ann2snn_distill.cli import fates
from ann2snn_distill.cli.options import Json, with_flags
from ann2snn_distill.cli.output import emit, show
from ann2snn_distill.cli.render import observing
from ann2snn_distill.cli.resolve import Positional
from ann2snn_distill.config import InspectSettings
from ann2snn_distill.errors import UnsupportedModelError

_WAY_ON = "try --coverage full"


@with_flags(InspectSettings, positional=Positional("model", "MODEL|CKPT", unless="all"))
def inspect(settings: InspectSettings, *, json: Json = False) -> None:
    """Show the fate of every layer, without training."""
    _all(settings, json=json) if settings.model is None else _one(settings.model, settings, json=json)


def _one(model: str, settings: InspectSettings, *, json: bool) -> None:
    from ann2snn_distill import pipeline

    with observing() as observe:
        found = pipeline.inspect(model, settings=settings, observe=observe)
    emit(found.model_dump_json(indent=2) + "\n") if json else show(*fates.inspection(found))
    way_on = "convert it with --coverage full" if model.endswith(".safetensors") else _WAY_ON
    _check({found.model: found.coverage.share or 0.0}, settings, way_on if found.placement != "full" else None)


def _all(settings: InspectSettings, *, json: bool) -> None:
    from ann2snn_distill import pipeline

    with observing() as observe:
        found = pipeline.inspect_families(settings, observe)
    emit(found.model_dump_json(indent=2) + "\n") if json else show(*fates.families(found))
    covered = {fate.model: getattr(fate, settings.coverage).share for fate in found.converted}
    way_on = _WAY_ON if settings.coverage != "full" else None
    _check({**dict.fromkeys((fate.model for fate in found.families), 0.0), **covered}, settings, way_on)


def _check(shares: Mapping[str, float], settings: InspectSettings, way_on: str | None) -> None:
    """Refuse models of which spikes drive less than --strict asks for; `way_on` may help."""
    if settings.strict is None:
        return
    below = [model for model, share in shares.items() if 100 * share < settings.strict]
    if below:
        more = f", and too little of {len(below) - 1} more" if len(below) > 1 else ""
        raise UnsupportedModelError(
            f"spikes drive {100 * shares[below[0]]:.2f} % of the multiply-accumulates of {below[0]}{more}, "
            f"below --strict {settings.strict:g} %" + (f"; {way_on}" if way_on else "")
        )
