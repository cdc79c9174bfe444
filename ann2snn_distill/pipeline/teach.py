"""`teach`: the teacher alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ann2snn_distill.config import TeachSettings
from ann2snn_distill.conversion.network import partitioned
from ann2snn_distill.data.batches import device_bytes
from ann2snn_distill.data.splits import Dataset
from ann2snn_distill.errors import BadInputError, UsageError
from ann2snn_distill.evaluation.accuracy import top1
from ann2snn_distill.events import Caution, Observer
from ann2snn_distill.files import write_atomically
from ann2snn_distill.pipeline.class_order import order_warnings
from ann2snn_distill.pipeline.fitting import execution_of
from ann2snn_distill.pipeline.guards import deterministic, interruptible
from ann2snn_distill.pipeline.lesson import TEACHERS_OWN
from ann2snn_distill.pipeline.machine import choose_device
from ann2snn_distill.pipeline.measuring import evaluation_batches, numerics
from ann2snn_distill.pipeline.memory import StepMemory, step_memory
from ann2snn_distill.pipeline.outputs import alone_in
from ann2snn_distill.pipeline.planning import dataset_of, fitted
from ann2snn_distill.pipeline.refusing import check_fit
from ann2snn_distill.pipeline.teachers import load_teacher, ready_teacher
from ann2snn_distill.pipeline.watching import Watched
from ann2snn_distill.recipes import recipe_for, resolved_fit
from ann2snn_distill.teacher import LoadedNetwork
from ann2snn_distill.teacher.classes import classes_metadata
from ann2snn_distill.teacher.normalisation import Normalisation

TEACHER_FILE = "teacher.safetensors"


def teach(settings: TeachSettings, observe: Observer) -> dict[str, Any]:
    """Train or fine-tune a teacher, or take it from the cache, and measure it on the test split.

    Raises:
        InterruptedRunError: Ctrl-C or SIGTERM; the state after the present step is kept.
        SnnDistillError: anything else that the user can act on.
    """
    _check_epochs(settings)
    device = choose_device(settings.device)
    way_on = "give the same command again to go on"
    with interruptible(way_on), deterministic(settings.deterministic), _target(settings) as target:
        return _teach(settings, device, target, observe)


def _teach(settings: TeachSettings, device: torch.device, target: Path | None, observe: Observer) -> dict[str, Any]:
    data = dataset_of(settings)
    for text in data.warnings:
        observe(Caution(text))
    resolved = _resolved(settings, data, device)
    check_fit(resolved, data)
    loaded = load_teacher(resolved, data)
    for text in (*loaded.warnings, *order_warnings(loaded, data)):
        observe(Caution(text))
    if resolved.teacher_epochs:
        loaded = replace(loaded, trained=False)  # asked to train, it is not taken as it is
    if settings.batch_size == "auto":
        resolved = fitted(resolved, _memory(resolved, loaded, data, device), device)
    taught = ready_teacher(loaded, resolved, resolved, data, device, observe)
    accuracy = _accuracy(taught.network, data, device, workers=settings.workers, observe=observe)
    if target is not None:
        _write(target, taught.network, data.classes)
    return {
        "model": taught.network.name,
        "dataset": data.name,
        "top1": accuracy,
        "source": taught.network.source,
        "path": str(target or taught.path or settings.checkpoint or ""),
        "epochs": taught.epochs,
        "seconds": taught.seconds,
    }


def _resolved(settings: TeachSettings, data: Dataset, device: torch.device) -> TeachSettings:
    recipe = recipe_for(img_size=data.img_size, images=len(data.train))
    defaults = resolved_fit(settings, recipe, img_size=data.img_size, cuda=device.type == "cuda")
    left_open = {name: getattr(settings, name) for name in TEACHERS_OWN}  # which depend on where the weights start
    own = {"img_size": data.img_size, "teacher_epochs": settings.teacher_epochs or settings.epochs}
    return settings.model_copy(update={**defaults, **left_open, **own})


def _accuracy(network: LoadedNetwork, data: Dataset, device: torch.device, *, workers: int, observe: Observer) -> float:
    """Return the top-1 accuracy on the test split; the network stays on the device."""
    batches = evaluation_batches(
        data.test,
        numerics(device, img_size=data.img_size),
        img_size=data.img_size,
        mean=network.mean,  # type: ignore[arg-type]
        std=network.std,  # type: ignore[arg-type]
        device=device,
        workers=workers,
    )
    return top1(network.module.to(device).eval(), Watched("test images", len(data.test), batches, observe))


def _write(target: Path, network: LoadedNetwork, classes: Sequence[str]) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.module.state_dict().items()}
    normalised = Normalisation(mean=network.mean, std=network.std).metadata()
    content = save(tensors, metadata={**normalised, **classes_metadata(classes)})
    write_atomically(target, lambda path: path.write_bytes(content))


def _memory(settings: TeachSettings, loaded: LoadedNetwork, data: Dataset, device: torch.device) -> StepMemory:
    network = partitioned(loaded.module, img_size=data.img_size, spiking=False)
    execution = execution_of(settings, device)
    return step_memory(
        "ann", network, network, positions=(), timesteps=1, execution=execution, opt=settings.opt,
        copies=int(settings.model_ema > 0), data_bytes=device_bytes(data.train),
    )  # fmt: skip


def _check_epochs(settings: TeachSettings) -> None:
    """Refuse two numbers of epochs."""
    if None not in (settings.epochs, settings.teacher_epochs) and settings.epochs != settings.teacher_epochs:
        raise UsageError(
            f"--epochs {settings.epochs} and --teacher-epochs {settings.teacher_epochs} both say how long; give one"
        )


@contextmanager
def _target(settings: TeachSettings) -> Iterator[Path | None]:
    """Give the file to write, in a folder that exists and that no other run writes to, or None without --output."""
    if settings.output is None:
        yield None
        return
    target = settings.output / TEACHER_FILE
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"cannot make {target.parent}: {error.strerror}; choose another --output") from error
    with alone_in(target.parent):
        if target.exists() and not settings.overwrite:
            raise UsageError(f"{target} exists; give --overwrite, or another --output")
        yield target
