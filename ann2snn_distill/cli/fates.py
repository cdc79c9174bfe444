"""Inspections as tables on stdout."""

from collections import defaultdict
from collections.abc import Iterator

from rich.console import RenderableType

from ann2snn_distill.cli.output import table
from ann2snn_distill.cli.results import share
from ann2snn_distill.reporting.inspection import CoveredFate, Families, FamilyFate, Inspection, LayerFate


def inspection(found: Inspection) -> Iterator[RenderableType]:
    """Lay out the stages, the layers by role, and each layer that computes."""
    yield f"{found.model}, {found.img_size} px, {found.classes} classes, {found.parameters:,} parameters"
    stage_columns = ("stage", "path", "channels", "reduction", "parameters", "neurons", "branch")
    yield table(
        "stages",
        stage_columns,
        (
            (s.name, s.path, s.channels, s.reduction, s.parameters, s.neurons, "yes" if s.branch else "no")
            for s in found.stages
        ),
    )
    layer_columns = ("layer", "type", "role", "stage", "input", "multiply-accumulates")
    yield table(
        "layers",
        layer_columns,
        (
            (layer.name, layer.kind, layer.role, layer.stage, _input(layer), layer.macs)
            for layer in found.layers
            if layer.role != "shape"
        ),
    )
    yield table("roles", ("role", "layers", "binary input", "multiply-accumulates"), _roles(found.layers))
    yield from _coverage(found)
    yield from _training(found)
    yield from (f"warning: {text}" for text in found.warnings)


def families(found: Families) -> Iterator[RenderableType]:
    """Lay out one line a family, and the reasons of those that are refused."""
    columns = (
        "family", "model", "px", "parameters", "GMAC", "products", "branches",
        "neurons", "spiking, %", "neurons, full", "spiking, %", "after the first layer, %",
    )  # fmt: skip
    yield table("families", columns, (_family(fate) for fate in found.converted))
    yield f"{len(found.converted)} of {len(found.families)} families of timm {found.timm} can be converted"
    yield from (f"{fate.family} ({fate.model}): {fate.refused}" for fate in found.families if fate.refused)


def _family(fate: FamilyFate) -> tuple[object, ...]:
    assert fate.activations is not None and fate.full is not None  # noqa: PT018 - those of what is not refused
    return (
        fate.family, fate.model, fate.img_size, fate.parameters, _giga(fate.total_macs), _giga(fate.product_macs),
        len(fate.branches), *_covered(fate.activations), *_covered(fate.full), 100 * fate.full.share_after_first,
    )  # fmt: skip


def _covered(fate: CoveredFate) -> tuple[int, float]:
    return fate.neurons, 100 * fate.share


def _giga(count: int | None) -> float | None:
    return None if count is None else count / 1e9


def _coverage(found: Inspection) -> Iterator[str]:
    yield f"spiking coverage: {share(found.coverage)} of multiply-accumulates are driven by spikes"
    if found.share_after_first is not None:
        yield f"after the first layer, which reads the image: {100 * found.share_after_first:.2f} %"
    if found.product_macs:
        yield f"products of two activations, as in attention, come on top: {found.product_macs:,} multiply-accumulates"


def _training(found: Inspection) -> Iterator[str]:
    if found.training is not None:
        cost = found.training
        yield (
            f"a training step of {cost.batch_size} images at T={cost.timesteps}, on a GPU with the default branches: "
            f"about {cost.memory_mib:,.0f} MiB, {cost.gflop_per_image:,.2f} GFLOP an image"
        )


def _input(layer: LayerFate) -> str:
    return {True: "binary", False: "analog", None: "-"}[layer.binary_input]


def _roles(layers: tuple[LayerFate, ...]) -> list[tuple[object, ...]]:
    groups: dict[str, list[LayerFate]] = defaultdict(list)
    for layer in layers:
        groups[layer.role].append(layer)
    return [
        (role, len(group), sum(x.binary_input is True for x in group), sum(x.macs or 0 for x in group))
        for role, group in groups.items()
    ]
