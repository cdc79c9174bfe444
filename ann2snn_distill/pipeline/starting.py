"""Students that go on from the file of another: its weights, thresholds and decays, and its neuron if none is named."""

from pathlib import Path

from torch import Tensor

from ann2snn_distill.checkpoint import SnnHeader, load_checkpoint, read_header, read_header_and_index
from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.conversion.calibration import activation_names
from ann2snn_distill.conversion.network import Partitioned
from ann2snn_distill.conversion.student import SpikingNetwork, uniform_thresholds
from ann2snn_distill.errors import UsageError
from ann2snn_distill.pipeline.decays import decays_of
from ann2snn_distill.pipeline.students import (
    convert_network,
    load_weights,
    neuron_model,
    new_student,
    student_module,
    student_stem,
)
from ann2snn_distill.teacher import LoadedNetwork, local_form


def found_neuron(settings: ConvertSettings) -> dict[str, object] | None:
    """Return the neuron in the file to go on from, by the names of the settings; None where there is no such file.

    Raises:
        BadInputError: it is no student's file, or damaged.
        UsageError: a decay is given or to be learnt, and its neurons have none.
    """
    if settings.started_from is None:
        return None
    neuron = read_header(settings.started_from).neuron
    leaky = settings.learn_decay or settings.stage_decays or settings.decay not in (None, 1.0)
    if neuron.name == "if" and settings.neuron is None and leaky:
        raise UsageError(
            f"--init {settings.started_from} has if neurons, which keep their whole membrane; give --neuron lif, or "
            "none of --decay, --learn-decay and --stage-decays"
        )
    return neuron.model_dump(exclude={"name"}) | {"neuron": neuron.name}


def check_start(settings: ConvertSettings, teacher: LoadedNetwork, network: Partitioned) -> None:
    """See that the file to go on from, if there is one, is of this student.

    Args:
        settings: resolved settings.
        teacher: the classes, images and stem that the student shares; the weights do not matter.
        network: the student, partitioned.

    Raises:
        BadInputError: the file is no student's, or damaged.
        UsageError: it is of another network, or of one with neurons elsewhere.
    """
    if settings.started_from is None:
        return
    header, index = read_header_and_index(settings.started_from)
    pairs = {
        "network": (header.student, local_form(settings.student or teacher.name, {})[0]),
        "classes": (len(header.classes), teacher.classes),
        "image side": (header.img_size, teacher.img_size),
        "stem": (header.stem, student_stem(settings, teacher)),
        "coverage": (header.coverage, settings.coverage),
        "max pooling": (header.maxpool, settings.maxpool),
    }
    other = [f"its {name} is {found}, not {wanted}" for name, (found, wanted) in pairs.items() if found != wanted]
    if settings.learn_decay and {0.0, 1.0} & set((header.decays or {}).values()):
        other.append("it has decays of 0 or 1, and --learn-decay starts strictly between them")
    shapes = {name: tuple(tensor.shape) for name, tensor in network.body.state_dict().items()}
    if not other and (index.shapes, set(header.thresholds)) != (shapes, set(network.sites.neuron_names())):
        other = ["its layers are others; it was written under another version of timm, or with other --model-kwargs"]
    if other:
        raise UsageError(f"--init {settings.started_from} is no file of this student: {', '.join(other)}")


def first_student(settings: ConvertSettings, teacher: LoadedNetwork, calibration: Tensor) -> SpikingNetwork:
    """Return the student that training starts from: a new one, or that of the file to go on from (on the CPU).

    Args:
        settings: resolved settings.
        teacher: the trained teacher, whose module is not changed.
        calibration: normalised images (B, 3, H, W) on which a new student's thresholds are calibrated.

    Raises:
        BadInputError: the file is damaged, or its tensors are not the student's.
    """
    if settings.started_from is None:
        return new_student(settings, teacher, calibration, seed=settings.seed)
    module = student_module(settings, teacher, seed=settings.seed)
    return _restored(settings, settings.started_from, convert_network(settings, module, img_size=teacher.img_size))


def _restored(settings: ConvertSettings, path: Path, network: Partitioned) -> SpikingNetwork:
    """Return the student with what the file has, but for thresholds and another decay that the settings name."""
    header, tensors = load_checkpoint(path)
    thresholds = dict(header.thresholds)
    if settings.threshold is not None:
        thresholds |= uniform_thresholds(activation_names(network.sites), settings.threshold)
    load_weights(network.body, tensors)
    return SpikingNetwork(
        network,
        neuron_model(settings),
        thresholds=thresholds,
        decays=_decays(settings, header, network),
        learn_decay=bool(settings.learn_decay),
    )


def _decays(settings: ConvertSettings, header: SnnHeader, network: Partitioned) -> dict[str, float] | None:
    asked = decays_of(settings, network)
    if settings.stage_decays or settings.neuron == "if" or settings.decay != header.neuron.decay:
        return asked
    return header.decays or asked
