"""`inspect --all`: one network of each of timm's families, on the meta device."""

from functools import partial

from ann2snn_distill.config import InspectSettings
from ann2snn_distill.conversion.coverage import Coverage, coverage
from ann2snn_distill.conversion.full import with_full_coverage
from ann2snn_distill.conversion.partition import default_branches
from ann2snn_distill.conversion.sites import Sites
from ann2snn_distill.errors import SnnDistillError, UsageError
from ann2snn_distill.events import Observer, PhaseDone, PhaseStarted, StepsDone
from ann2snn_distill.pipeline.inspecting import network_form
from ann2snn_distill.pipeline.students import student_network
from ann2snn_distill.processes import in_processes, usable_cpus
from ann2snn_distill.reporting.families import REPRESENTATIVES
from ann2snn_distill.reporting.inspection import CoveredFate, Families, FamilyFate
from ann2snn_distill.teacher import build_blueprint

_WORTH_A_PROCESS = 8
"""Networks for which a process is started: it imports torch and timm for as long as four of them take."""


def inspect_families(settings: InspectSettings, observe: Observer) -> Families:
    """Return what becomes of one network of each family, under both coverages.

    Raises:
        UsageError: a setting that belongs to one network.
    """
    import timm

    if settings.img_size is not None or settings.model_kwargs or settings.stem != "auto":
        raise UsageError("--all takes every model as timm makes it; leave out --img-size, --model-kwargs and --stem")
    if settings.model_fields_set & {"timesteps", "batch_size"}:
        raise UsageError("--all estimates no training; leave out --timesteps and --batch-size")
    names = {
        family: REPRESENTATIVES.get(family) or timm.list_models(module=family)[0] for family in timm.list_modules()
    }
    observe(PhaseStarted("inspecting timm's families", len(names)))
    fates = []
    fate_of = partial(_fate, classes=settings.classes, maxpool=settings.maxpool)
    for fate in in_processes(fate_of, list(names.items()), processes=_processes(len(names))):
        fates.append(fate)
        observe(StepsDone(1))
    observe(PhaseDone())
    return Families(timm=timm.__version__, families=tuple(fates))


def _processes(networks: int) -> int:
    return min(usable_cpus(), networks // _WORTH_A_PROCESS)


def _fate(family_and_name: tuple[str, str], *, classes: int, maxpool: str) -> FamilyFate:
    family, name = family_and_name
    return family_fate(family, name, classes=classes, maxpool=maxpool)


def family_fate(family: str, name: str, *, classes: int, maxpool: str) -> FamilyFate:
    """Return what becomes of one network at its own image side, or why it is refused."""
    try:
        size, stem = network_form(name, None, "keep")
        module = build_blueprint(name, classes=classes, img_size=size, stem=stem, model_kwargs={})
        network = student_network(module, img_size=size, maxpool=maxpool, coverage="activations")
    except SnnDistillError as error:
        return FamilyFate(family=family, model=name, refused=str(error))
    found = coverage(network.sites)
    plain = _covered(network.sites, found)
    full = with_full_coverage(network.sites)  # the graph is changed: nothing asks for the plain one again
    return FamilyFate(
        family=family,
        model=name,
        img_size=size,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        total_macs=found.total_macs,
        product_macs=found.product_macs,
        branches=default_branches(network.stages),
        activations=plain,
        full=_covered(full, coverage(full)),
    )


def _covered(sites: Sites, found: Coverage) -> CoveredFate:
    return CoveredFate(neurons=len(sites.neuron_names()), share=found.share, share_after_first=found.share_after_first)
