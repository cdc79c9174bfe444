"""`inspect`: the fate of every layer, on random weights."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ann2snn_distill.checkpoint import read_header_and_index
from ann2snn_distill.config import InspectSettings
from ann2snn_distill.conversion.coverage import coverage
from ann2snn_distill.conversion.network import Partitioned
from ann2snn_distill.conversion.partition import Stage, default_branches
from ann2snn_distill.conversion.rules import Role
from ann2snn_distill.errors import BadInputError, UsageError
from ann2snn_distill.events import Observer
from ann2snn_distill.pipeline.costing import training_cost
from ann2snn_distill.pipeline.students import student_network
from ann2snn_distill.reporting.inspection import Inspection, LayerFate, StageFate
from ann2snn_distill.reporting.report import CoverageResult
from ann2snn_distill.teacher import build_blueprint, check_rebuild, chosen_stem, resolve_model_name


def inspect(target: str, *, settings: InspectSettings, observe: Observer) -> Inspection:
    """Return the stages, layers and coverage of a timm model, or of the student in a file."""
    del observe
    if Path(target).suffix == ".safetensors":
        path = Path(target)
        try:
            rebuilt, cuts = _from_file(path, settings)
            return _inspected(str(rebuilt.model), rebuilt, cuts=cuts)
        except UsageError as error:  # the user did not choose these values: the file did
            raise BadInputError(f"the network of {path} cannot be built here: {error}") from error
    return _inspected(target, settings)


def _inspected(target: str, settings: InspectSettings, *, cuts: Sequence[str] = ()) -> Inspection:
    name = resolve_model_name(target)
    size, stem = network_form(name, settings.img_size, settings.stem, settings.model_kwargs)
    module = build_blueprint(
        name, classes=settings.classes, img_size=size, stem=stem, model_kwargs=settings.model_kwargs
    )
    maxpool, covering = settings.maxpool, settings.coverage
    network = student_network(module, img_size=size, maxpool=maxpool, coverage=covering, cuts=cuts)
    found = inspection(network, module, name=name, img_size=size, classes=settings.classes)
    return found.model_copy(update={"training": training_cost(network, module, img_size=size, settings=settings)})


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
        texts.append(
            f"max pools work on spikes ({len(pools)}, {pools[0]} first): neuromorphic chips may lack them; "
            "--maxpool avg replaces them"
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
    own = {sites.trace.body.get_submodule(str(n.target)) for n in stage.nodes if n.op == "call_module"}
    return StageFate(
        name=stage.name,
        path=sites.trace.paths[stage.output],
        channels=stage.channels,
        reduction=stage.reduction,
        parameters=sum(parameter.numel() for module in own for parameter in module.parameters(recurse=False)),
        neurons=sum(sites.roles.get(node) is Role.NEURON for node in stage.nodes),
        branch=branch,
    )


def _from_file(path: Path, settings: InspectSettings) -> tuple[InspectSettings, tuple[str, ...]]:
    """Return the settings that a file's header stands for, and its cuts."""
    header, index = read_header_and_index(path)
    check_rebuild(
        header.student,
        classes=len(header.classes),
        img_size=header.img_size,
        stem=header.stem,
        model_kwargs=header.model_kwargs,
        shapes=index.shapes,
    )
    rebuilt = settings.model_copy(
        update={
            "model": header.student,
            "img_size": header.img_size,
            "model_kwargs": header.model_kwargs,
            "stem": header.stem,
            "classes": len(header.classes),
            "timesteps": header.timesteps,
            "coverage": header.coverage,
            "maxpool": header.maxpool,
        }
    )
    return rebuilt, header.cuts


def network_form(
    name: str, img_size: int | None, stem: Literal["auto", "keep", "small"], model_kwargs: Mapping[str, Any]
) -> tuple[int, Literal["keep", "small"]]:
    """Return image side (pixels) and stem where there is no data set to give them: the timm model's own side."""
    import timm

    if img_size is None:
        configuration = timm.get_pretrained_cfg(name.removeprefix("timm/"))
        native = getattr(configuration, "input_size", None) or (3, 224, 224)
        img_size = int(model_kwargs.get("img_size", native[-1]))
    return img_size, chosen_stem(stem, img_size=img_size)
