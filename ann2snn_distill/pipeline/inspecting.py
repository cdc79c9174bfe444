"""`inspect`: the fate of every layer, on random weights."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ann2snn_distill.checkpoint import SnnHeader, read_header_and_index
from ann2snn_distill.config import InspectSettings
from ann2snn_distill.conversion.coverage import coverage
from ann2snn_distill.conversion.network import Partitioned
from ann2snn_distill.conversion.partition import Stage, default_branches
from ann2snn_distill.conversion.rules import Role
from ann2snn_distill.errors import BadInputError, UsageError
from ann2snn_distill.events import Observer
from ann2snn_distill.pipeline.costing import training_cost
from ann2snn_distill.pipeline.students import has_averages, student_network
from ann2snn_distill.reporting.inspection import Inspection, LayerFate, StageFate
from ann2snn_distill.reporting.report import CoverageResult
from ann2snn_distill.teacher import build_blueprint, check_rebuild, chosen_stem, native_side, resolve_model_name


def inspect(
    target: str, *, settings: InspectSettings, observe: Observer, coverage: Literal["full"] | None = None
) -> Inspection:
    """Return the stages, layers and coverage of a timm model, or of the student in a file.

    Args:
        target: timm name, or the path of a student.
        settings: what was asked for.
        observe: told nothing, since nothing takes long.
        coverage: as if it were converted with that one, whatever settings or file have.

    Raises:
        UsageError: a setting is given that the file has otherwise.
        SnnDistillError: there is no such model or file, or it cannot be converted or built here.
    """
    del observe
    instead = {} if coverage is None else {"coverage": coverage}
    if Path(target).suffix == ".safetensors":
        path = Path(target)
        header, index = read_header_and_index(path)
        decided = _decided(header)
        _refuse_decided(path, settings, decided)
        try:
            check_rebuild(
                header.student,
                classes=len(header.classes),
                img_size=header.img_size,
                stem=header.stem,
                model_kwargs=header.model_kwargs,
                shapes=index.shapes,
            )
            rebuilt = settings.model_copy(update={**decided, **instead, **_timesteps(header, settings)})
            return _inspected(header.student, rebuilt, cuts=header.cuts)
        except UsageError as error:  # the user did not choose these values: the file did
            raise BadInputError(f"the network of {path} cannot be built here: {error}") from error
    return _inspected(target, settings.model_copy(update=instead))


def _inspected(target: str, settings: InspectSettings, *, cuts: Sequence[str] = ()) -> Inspection:
    name = resolve_model_name(target)
    size, stem = network_form(name, settings.img_size, settings.stem)
    module = build_blueprint(
        name, classes=settings.classes, img_size=size, stem=stem, model_kwargs=settings.model_kwargs
    )
    maxpool, covering = settings.maxpool, settings.coverage
    network = student_network(module, img_size=size, maxpool=maxpool, coverage=covering, cuts=cuts)
    found = inspection(network, module, name=name, img_size=size, classes=settings.classes)
    cost = training_cost(network, module, img_size=size, settings=settings)
    return found.model_copy(update={"training": cost, "placement": covering})


def inspection(network: Partitioned, module: nn.Module, *, name: str, img_size: int, classes: int) -> Inspection:
    """Return what there is to know about a partitioned student."""
    found = coverage(network.sites)
    branches = default_branches(network.stages)
    stage_of = {node.name: stage.name for stage in network.stages for node in stage.nodes}
    return Inspection(
        model=name,
        img_size=img_size,
        classes=classes,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        stages=tuple(_stage(network, stage, branch=stage.name in branches) for stage in network.stages),
        layers=tuple(
            LayerFate(
                name=fate.name,
                path=fate.path,
                kind=fate.operation,
                role=fate.role.value,
                stage=stage_of[fate.name],
                binary_input=fate.binary_input,
                macs=fate.macs or None,
            )
            for fate in found.layers
        ),
        coverage=CoverageResult(spiking_macs=found.spiking_macs, total_macs=found.total_macs, share=found.share),
        share_after_first=found.share_after_first,
        product_macs=found.product_macs,
        warnings=tuple(warnings_of(network)),
    )


def warnings_of(network: Partitioned) -> list[str]:
    """Return what a user of this network should know before training."""
    texts = []
    if not default_branches(network.stages):
        texts.append("the network has no cut to guide at: guidance acts on the logits alone")
    analog = [fate for fate in coverage(network.sites).layers if fate.role is Role.ANALOG]
    pools = [fate.path for fate in analog if "pool" in fate.operation.lower()]
    if pools:
        replaced = "--maxpool avg replaces them" if has_averages(network) else "--maxpool avg cannot replace these"
        texts.append(
            f"max pools work on spikes ({len(pools)}, {pools[0]} first): neuromorphic chips may lack them; {replaced}"
        )
    others = Counter(fate.operation for fate in analog if "pool" not in fate.operation.lower())
    if others:
        named = ", ".join(f"{operation} ({count})" for operation, count in others.items())
        texts.append(
            f"operations on analog values stay under every --coverage: {named}; neuromorphic chips may lack them"
        )
    return texts


def _stage(network: Partitioned, stage: Stage, *, branch: bool) -> StageFate:
    sites = network.sites
    return StageFate(
        name=stage.name,
        path=sites.trace.paths[stage.output],
        channels=stage.channels,
        reduction=stage.reduction,
        parameters=sum(parameter.numel() for parameter in _parameters(network, stage)),
        neurons=sum(sites.roles.get(node) is Role.NEURON for node in stage.nodes),
        branch=branch,
    )


def _parameters(network: Partitioned, stage: Stage) -> set[nn.Parameter]:
    """Return the parameters of the stage's modules, and those that its operations read by name."""
    body = network.body
    found: set[nn.Parameter] = set()
    for node in stage.nodes:
        owner, _, name = str(node.target).rpartition(".")
        if node.op == "call_module":
            found.update(body.get_submodule(str(node.target)).parameters())
        elif node.op == "get_attr" and name in (own := body.get_submodule(owner)._parameters):
            found.add(own[name])  # type: ignore[arg-type]
    return found


def _decided(header: SnnHeader) -> dict[str, Any]:
    """Return the settings that a student's file decides, by name."""
    return {
        "img_size": header.img_size,
        "model_kwargs": header.model_kwargs,
        "stem": header.stem,
        "classes": len(header.classes),
        "coverage": header.coverage,
        "maxpool": header.maxpool,
    }


def _refuse_decided(path: Path, settings: InspectSettings, decided: Mapping[str, Any]) -> None:
    """See that what was given is what the file has.

    Raises:
        UsageError: it is not; the text names each flag and the file's value.
    """
    given = settings.model_fields_set & decided.keys()
    other = [name for name in decided if name in given and getattr(settings, name) not in (decided[name], "auto")]
    if other:
        has = " and ".join(f"{name.replace('_', '-')} {_shown(decided[name])}" for name in other)
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in other)
        raise UsageError(f"{path} decides this itself: it has {has}; leave out {flags}")


def _shown(value: object) -> object:
    return (
        value if not isinstance(value, dict) else ",".join(f"{key}={inner}" for key, inner in value.items()) or "none"
    )


def _timesteps(header: SnnHeader, settings: InspectSettings) -> dict[str, int]:
    """Return the file's timesteps unless others were given: a student runs, and is trained, at any T."""
    return {} if "timesteps" in settings.model_fields_set else {"timesteps": header.timesteps}


def network_form(
    name: str, img_size: int | None, stem: Literal["auto", "keep", "small"]
) -> tuple[int, Literal["keep", "small"]]:
    """Return image side (pixels) and stem where there is no data set to give them: the model's own side.

    Raises:
        BadInputError: a hub repository's configuration cannot be had.
    """
    if img_size is None:
        img_size = native_side(name)
    return img_size, chosen_stem(stem, img_size=img_size)
