"""`snn-distill inspect`: the fate of every layer, before any training."""

from collections.abc import Mapping, Sequence

from ann2snn_distill.cli import fates
from ann2snn_distill.cli.options import Json, with_flags
from ann2snn_distill.cli.output import emit, show
from ann2snn_distill.cli.render import observing
from ann2snn_distill.cli.resolve import Positional
from ann2snn_distill.config import InspectSettings
from ann2snn_distill.errors import SnnDistillError, UnsupportedModelError


@with_flags(InspectSettings, positional=Positional("model", "MODEL|CKPT", unless="all"))
def inspect(settings: InspectSettings, *, json: Json = False) -> None:
    """Show the fate of every layer, without training."""
    _all(settings, json=json) if settings.model is None else _one(settings.model, settings, json=json)


def _one(model: str, settings: InspectSettings, *, json: bool) -> None:
    from ann2snn_distill import pipeline

    with observing() as observe:
        found = pipeline.inspect(model, settings=settings, observe=observe)
    emit(found.model_dump_json(indent=2) + "\n") if json else show(*fates.inspection(found))
    shares = {found.model: found.coverage.share or 0.0}
    if _below(shares, settings):
        full = None if found.placement == "full" else {found.model: _full_share(model, settings)}
        raise _too_little(shares, full, settings)


def _full_share(model: str, settings: InspectSettings) -> float:
    """Return the share that spikes would drive under full coverage; 0 where the network does not have it."""
    from ann2snn_distill import pipeline

    try:
        with observing() as observe:
            found = pipeline.inspect(model, settings=settings, observe=observe, coverage="full")
    except SnnDistillError:
        return 0.0
    return found.coverage.share or 0.0


def _all(settings: InspectSettings, *, json: bool) -> None:
    from ann2snn_distill import pipeline

    with observing() as observe:
        found = pipeline.inspect_families(settings, observe)
    emit(found.model_dump_json(indent=2) + "\n") if json else show(*fates.families(found))
    covered = {fate.model: getattr(fate, settings.coverage).share for fate in found.converted}
    shares = {**dict.fromkeys((fate.model for fate in found.families), 0.0), **covered}
    if _below(shares, settings):
        full = {fate.model: fate.full.share for fate in found.converted if fate.full is not None}
        raise _too_little(shares, None if settings.coverage == "full" else full, settings)


def _below(shares: Mapping[str, float], settings: InspectSettings) -> list[str]:
    """Return the models of which spikes drive less than --strict asks for."""
    return [model for model, share in shares.items() if 100 * share < (settings.strict or 0.0)]


def _too_little(
    shares: Mapping[str, float], full: Mapping[str, float] | None, settings: InspectSettings
) -> UnsupportedModelError:
    """Say that --strict is not met, and what helps; `full` are the shares under full coverage, if that is not it."""
    below = _below(shares, settings)
    more = f", and too little of {len(below) - 1} more" if len(below) > 1 else ""
    return UnsupportedModelError(
        f"spikes drive {100 * shares[below[0]]:.2f} % of the multiply-accumulates of {below[0]}{more}, "
        f"below --strict {settings.strict:g} %; {_way_on(below, full, settings)}"
    )


def _way_on(below: Sequence[str], full: Mapping[str, float] | None, settings: InspectSettings) -> str:
    ask_less = "ask for less, or choose another model"
    if full is None:
        return f"full coverage is the most there is: {ask_less}"
    enough = [model for model in below if model not in _below({model: full.get(model, 0.0)}, settings)]
    if len(below) > 1:
        return f"--coverage full is enough for {len(enough) or 'none'} of them"
    share = f"converted with --coverage full it is {100 * full.get(below[0], 0.0):.2f} %"
    return share if enough else f"{share}, too little as well: {ask_less}"
