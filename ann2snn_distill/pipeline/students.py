"""Building the student: from settings and a teacher, or from a file's header."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache

from timm.layers import RmsNorm, RmsNorm2d
from timm.models import split_model_name_tag
from torch import Tensor, nn

from ann2snn_distill.checkpoint import NeuronHeader, SnnHeader
from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.conversion.calibration import activation_names, thresholds_of_ann, thresholds_of_snn
from ann2snn_distill.conversion.canonical import average_pooled, can_be_averaged
from ann2snn_distill.conversion.equalizing import equalize, has_depthwise
from ann2snn_distill.conversion.network import Partitioned, partitioned
from ann2snn_distill.conversion.rules import describe
from ann2snn_distill.conversion.signals import is_maxpool
from ann2snn_distill.conversion.sites import Sites
from ann2snn_distill.conversion.student import SpikingNetwork, uniform_thresholds
from ann2snn_distill.distillation.positions import named_cuts
from ann2snn_distill.errors import BadInputError, SnnDistillError, UnsupportedModelError, UsageError
from ann2snn_distill.neurons.equations import NeuronModel
from ann2snn_distill.pipeline.decays import decays_of
from ann2snn_distill.teacher import (
    LoadedNetwork,
    Stem,
    build_blueprint,
    build_network,
    chosen_stem,
    rebuilt_network,
    resolve_model_name,
)
from ann2snn_distill.teacher.names import is_hub_name

_OTHER_NORMS = (nn.LayerNorm, nn.GroupNorm, RmsNorm, RmsNorm2d)


def student_network(
    module: nn.Module, *, img_size: int, maxpool: str, coverage: str, cuts: Sequence[str] = ()
) -> Partitioned:
    """Partition a network as a student: with the pooling, the coverage and the further cuts asked for.

    Raises:
        UnsupportedModelError: it cannot be converted, or averages are asked for and a max pool has none.
        UsageError: an unknown value, or there can be no cut at a module of `cuts`.
    """
    if coverage not in ("activations", "full") or maxpool not in ("keep", "avg"):
        raise UsageError(f"coverage {coverage!r} with max pooling {maxpool!r} is not known to this release")
    source = average_pooled(module) if maxpool == "avg" else module
    network = partitioned(source, img_size=img_size, full_coverage=coverage == "full", cuts=cuts)
    if maxpool == "avg":
        _check_averaged(network.sites)
    return network


def has_averages(network: Partitioned) -> bool:
    """Return whether `--maxpool avg` can replace every max pool of a network that has its own."""
    sites = network.sites
    modules = [sites.module(node) for node in sites.roles if is_maxpool(sites, node)]
    return None not in modules and can_be_averaged(network.body)


def _check_averaged(sites: Sites) -> None:
    for node in sites.roles:
        if is_maxpool(sites, node):
            raise UnsupportedModelError(
                f"{sites.trace.paths[node] or 'the top level'}: {describe(node, sites.trace.body)} cannot be replaced "
                "by an average pool; give --maxpool keep"
            )


def convert_network(settings: ConvertSettings, module: nn.Module, *, img_size: int) -> Partitioned:
    """Partition a network as the student of resolved settings, cut where its branches are to stand.

    Raises:
        UsageError: --branches names a module at which there can be no cut.
    """
    maxpool, coverage = settings.maxpool, settings.coverage
    return student_network(module, img_size=img_size, maxpool=maxpool, coverage=coverage, cuts=_cuts(settings))


def guide_network(settings: ConvertSettings, teacher: LoadedNetwork) -> Partitioned:
    """Partition a teacher: at the student's cuts if the student is the same network, at its own otherwise."""
    cuts = _cuts(settings) if is_same_network(settings) else ()
    return partitioned(teacher.module, img_size=teacher.img_size, cuts=cuts, spiking=False)


def is_same_network(settings: ConvertSettings) -> bool:
    """Return whether the student has the teacher's architecture: none was named, or the same, of whatever weights."""
    return settings.student is None or _architecture(settings.student) == _architecture(settings.model)


def _architecture(name: str) -> str:
    resolved = resolve_model_name(name)
    return resolved if is_hub_name(resolved) else split_model_name_tag(resolved)[0]


def student_stem(settings: ConvertSettings, teacher: LoadedNetwork) -> Stem:
    """Return the stem of the student: the teacher's, if it is the same network, else the one that was asked for."""
    return teacher.stem if is_same_network(settings) else chosen_stem(settings.stem, img_size=teacher.img_size)


def learns_from_random(settings: ConvertSettings, *, img_size: int) -> bool:
    """Return whether the architecture is of the kind whose students were trained from random weights.

    Those are convolutional networks with batch norms and no other, and without depthwise convolutions. One that cannot
    be built is not; it is refused elsewhere, with its reason.
    """
    return _learns_from_random(settings.model, json.dumps(settings.model_kwargs, default=str), img_size)


@lru_cache(maxsize=256)
def _learns_from_random(name: str, model_kwargs: str, img_size: int) -> bool:
    keywords = json.loads(model_kwargs)
    try:
        network = build_blueprint(name, classes=2, img_size=img_size, stem="keep", model_kwargs=keywords)
    except SnnDistillError:
        return False
    kinds = [type(module) for module in network.modules()]
    normed = any(issubclass(kind, nn.BatchNorm2d) for kind in kinds)
    return normed and not any(issubclass(kind, _OTHER_NORMS) for kind in kinds) and not has_depthwise(network)


def _cuts(settings: ConvertSettings) -> tuple[str, ...]:
    return named_cuts(settings.branches) if settings.method == "hybrid" else ()


def student_module(settings: ConvertSettings, teacher: LoadedNetwork, *, seed: int) -> nn.Module:
    """Return the ANN from which the student is made: the teacher's own with its weights, or one from `seed`.

    Raises:
        UsageError: --init teacher, and the student is another network.
    """
    name, same = settings.student or teacher.name, is_same_network(settings)
    if settings.init == "teacher":
        if not same:
            raise UsageError(f"--init teacher copies weights, and {name} is not {teacher.name}; give --init scratch")
        return teacher.module
    return build_network(
        name,
        classes=teacher.classes,
        img_size=teacher.img_size,
        stem=student_stem(settings, teacher),
        model_kwargs=teacher.model_kwargs if same else {},
        seed=seed,
    )


def new_student(settings: ConvertSettings, teacher: LoadedNetwork, calibration: Tensor, *, seed: int) -> SpikingNetwork:
    """Return the student that training starts from, on the device of the calibration images.

    Args:
        settings: resolved settings.
        teacher: the trained teacher, whose module is not changed.
        calibration: normalised images (B, 3, H, W) on which thresholds are calibrated.
        seed: of the random weights.
    """
    module = student_module(settings, teacher, seed=seed)
    network = convert_network(settings, module, img_size=teacher.img_size)
    network.body.to(calibration.device)
    model, decays = neuron_model(settings), decays_of(settings, network)
    calibrate = thresholds_of_ann if settings.init == "teacher" else thresholds_of_snn
    thresholds = calibrate(network.sites, calibration, settings.trained_timesteps, neuron=model, decays=decays or {})
    if settings.equalize:
        equalize(
            network.sites,
            calibration,
            settings.trained_timesteps,
            thresholds=thresholds,
            neuron=model,
            decays=decays or {},
        )
    if settings.threshold is not None:
        thresholds |= uniform_thresholds(activation_names(network.sites), settings.threshold)
    return SpikingNetwork(network, model, thresholds=thresholds, decays=decays, learn_decay=bool(settings.learn_decay))


def student_from_header(header: SnnHeader, tensors: Mapping[str, Tensor]) -> SpikingNetwork:
    """Rebuild a student from its file.

    Raises:
        BadInputError: its network cannot be built here, or the tensors are not the model's.
    """
    network = _network_of(header, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    neuron = header.neuron
    model = NeuronModel(neuron.decay, neuron.v_init, neuron.reset, neuron.surrogate_width)
    student = SpikingNetwork(network, model, thresholds=header.thresholds, decays=header.decays)
    load_weights(student.body, tensors)
    return student.eval()


def _network_of(header: SnnHeader, shapes: Mapping[str, tuple[int, ...]]) -> Partitioned:
    try:
        module = rebuilt_network(
            header.student,
            classes=len(header.classes),
            img_size=header.img_size,
            stem=header.stem,
            model_kwargs=header.model_kwargs,
            shapes=shapes,
        )
        return student_network(
            module, img_size=header.img_size, maxpool=header.maxpool, coverage=header.coverage, cuts=header.cuts
        )
    except UsageError as error:  # the user did not choose these values: the file did
        raise BadInputError(
            f"the file's network cannot be built here: {error} (the file was written with timm "
            f"{header.versions.get('timm', 'of unknown version')})"
        ) from error


def neuron_model(settings: ConvertSettings) -> NeuronModel:
    """Return the neuron of resolved settings."""
    assert settings.decay is not None and settings.v_init is not None and settings.reset is not None  # noqa: PT018
    assert settings.surrogate_width is not None
    return NeuronModel(settings.decay, settings.v_init, settings.reset, settings.surrogate_width)


def neuron_header(name: str, model: NeuronModel) -> NeuronHeader:
    """Return the header's form of a neuron."""
    return NeuronHeader(
        name="if" if name == "if" else "lif",
        decay=float(model.decay),
        v_init=model.v_init,
        reset=model.reset,
        surrogate_width=model.surrogate_width,
    )


def load_weights(body: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Write a file's tensors, of the body's names and shapes, into a student's body.

    Raises:
        BadInputError: they are of another type, or not finite.
    """
    own = body.state_dict()
    wrong = [name for name in own if tensors[name].dtype != own[name].dtype]
    if wrong:
        first = wrong[0]
        raise BadInputError(
            f"{len(wrong)} tensors of the file are of another type (first: {first} is {tensors[first].dtype}, not "
            f"{own[first].dtype}); convert again"
        )
    unusable = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if unusable:
        raise BadInputError(f"the file holds weights that are not finite (first: {unusable[0]}); convert again")
    body.load_state_dict(dict(tensors))
