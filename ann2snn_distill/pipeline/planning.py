"""Everything about a conversion that is settled, and may be refused, before its first step."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ann2snn_distill.config import ConvertSettings, FitSettings, NetworkSettings
from ann2snn_distill.conversion.equalizing import has_depthwise
from ann2snn_distill.conversion.network import Partitioned
from ann2snn_distill.data.batches import device_bytes
from ann2snn_distill.data.datasets import Dataset, load_dataset
from ann2snn_distill.distillation.positions import Position, choose_positions
from ann2snn_distill.errors import BadInputError, UnsupportedModelError, UsageError
from ann2snn_distill.events import Note, Observer
from ann2snn_distill.pipeline.class_order import order_warnings
from ann2snn_distill.pipeline.decays import decays_of
from ann2snn_distill.pipeline.doubting import doubts
from ann2snn_distill.pipeline.fitting import execution_of, images_a_step, piece_of
from ann2snn_distill.pipeline.inspecting import inspection
from ann2snn_distill.pipeline.machine import choose_device, device_name, memory_mib
from ann2snn_distill.pipeline.memory import USABLE, StepMemory, in_pieces, step_memory
from ann2snn_distill.pipeline.outputs import check_output, check_same_run, resolve_output
from ann2snn_distill.pipeline.refusing import check_equalized, check_fit, check_spans
from ann2snn_distill.pipeline.settling import settled
from ann2snn_distill.pipeline.starting import check_start
from ann2snn_distill.pipeline.students import (
    convert_network,
    guide_network,
    is_same_network,
    student_module,
    student_stem,
)
from ann2snn_distill.pipeline.teachers import load_teacher, teacher_epochs
from ann2snn_distill.recipes import resolved_equalize
from ann2snn_distill.reporting.inspection import Inspection
from ann2snn_distill.teacher import LoadedNetwork, check_rebuild, local_form, resolve_model_name


@dataclass(frozen=True)
class Prepared:
    """What a run knows before its first step.

    Attributes:
        settings: resolved, every default filled in.
        dataset: the data.
        device: where it runs.
        folder: where it writes.
        loaded: the teacher, before any training of it.
        positions: where hybrid branches will stand.
        inspected: the fate of the student's layers.
        memory: what a step of the distillation will take, by estimate.
    """

    settings: ConvertSettings
    dataset: Dataset
    device: torch.device
    folder: Path
    loaded: LoadedNetwork
    positions: tuple[Position, ...]
    inspected: Inspection
    memory: StepMemory

    @property
    def warnings(self) -> list[str]:
        """What a user should know before the first step."""
        return [
            *self.dataset.warnings,
            *self.loaded.warnings,
            *order_warnings(self.loaded, self.dataset),
            *self.inspected.warnings,
            *doubts(self.settings, self.loaded),
        ]

    @property
    def student_name(self) -> str:
        """The student's architecture."""
        return self.settings.student or self.loaded.name


def prepare(settings: ConvertSettings) -> Prepared:
    """Resolve the settings and refuse what cannot work, before anything is trained or written.

    Raises:
        SnnDistillError: names, folders, data, device, network or branches do not fit.
    """
    folder = resolve_output(settings)
    check_output(folder, settings)
    resolve_model_name(settings.model)
    if settings.student is not None:
        settings = settings.model_copy(update={"student": resolve_model_name(settings.student)})
    device = choose_device(settings.device)
    dataset = dataset_of(settings)
    resolved = settled(settings, dataset, device)
    check_fit(resolved, dataset)
    check_spans(resolved)
    check_equalized(resolved)
    loaded = load_teacher(resolved, dataset)
    student, inspected = _student(resolved, loaded)
    resolved = resolved.model_copy(update=resolved_equalize(resolved, depthwise=has_depthwise(student.body)))
    decays_of(resolved, student)  # refuses what the student does not have
    check_start(resolved, loaded, student)
    teacher = guide_network(resolved, loaded)
    wanted = resolved.branches if resolved.method == "hybrid" else "none"
    positions = choose_positions(student.stages, teacher.stages, wanted, same_network=is_same_network(resolved))
    memory = _memory(resolved, dataset, device, student, teacher, positions)
    if settings.batch_size == "auto":
        resolved = fitted(resolved, memory, device)
    check_same_run(folder, resolved)
    return Prepared(resolved, dataset, device, folder, loaded, positions, inspected, memory)


def _memory(
    settings: ConvertSettings,
    dataset: Dataset,
    device: torch.device,
    student: Partitioned,
    teacher: Partitioned,
    positions: Sequence[Position],
) -> StepMemory:
    methods = [settings.method, *(["bptt"] if settings.finish_epochs else [])]
    parts = [
        step_memory(
            method,
            student,
            teacher,
            positions=positions,
            timesteps=settings.trained_timesteps,
            execution=execution_of(settings, device),
            sampled=settings.sampled_branches,
            learn_decay=bool(settings.learn_decay),
            opt=settings.opt,
            copies=(settings.model_ema > 0) + (settings.sam > 0),
            data_bytes=device_bytes(dataset.train),
        )
        for method in methods
    ]
    return StepMemory(max(part.fixed_mib for part in parts), max(part.image_mib for part in parts))


FitOf = TypeVar("FitOf", bound=FitSettings)


def fitted(settings: FitOf, memory: StepMemory, device: torch.device) -> FitOf:
    """Return resolved settings whose step takes the same images in pieces that fit in the device's memory."""
    images, pieces = in_pieces(memory, images_a_step(settings), USABLE * memory_mib(device))
    return settings.model_copy(update={"batch_size": images, "grad_accum_steps": pieces})


def dataset_of(settings: NetworkSettings) -> Dataset:
    """Load the data that settings name."""
    return load_dataset(
        str(settings.dataset),
        data_dir=settings.data_dir,
        img_size=settings.img_size,
        val_split=settings.val_split,
        limit=settings.limit,
        seed=settings.seed,
        download=settings.download,
        skip_bad_images=settings.skip_bad_images,
    )


def plan(settings: ConvertSettings, observe: Observer) -> dict[str, Any]:
    """Return what `convert` would do, without training or writing."""
    run = prepare(settings)
    loaded, settings, found = run.loaded, run.settings, run.inspected
    if loaded.match is not None:
        observe(Note(f"teacher: {loaded.match.summary()}"))
    return {
        "output": str(run.folder),
        "device": device_name(run.device),
        "teacher": {
            "source": loaded.source,
            "trained first": f"{teacher_epochs(settings, settings, run.dataset, loaded)} epochs",
        },
        "data": {
            "train": len(run.dataset.train),
            "test": len(run.dataset.test),
            "classes": len(run.dataset.classes),
            "steps an epoch": len(run.dataset.train) // images_a_step(settings),
        },
        "memory": {
            "step, MiB (estimate)": round(run.memory.of(piece_of(settings))),
            "device, MiB": round(memory_mib(run.device)),
        },
        "stages": [{"name": s.name, "channels": s.channels, "neurons": s.neurons} for s in found.stages],
        "branches": [position.name for position in run.positions],
        "coverage": found.coverage.model_dump(),
        "settings": settings.model_dump(mode="json", exclude_none=True),
        "warnings": run.warnings,
    }


def _check_file(settings: ConvertSettings, loaded: LoadedNetwork, module: nn.Module) -> None:
    """See that the file of a student with `module`'s weights can be read again, before anything is trained for it."""
    name, kwargs = local_form(settings.student or loaded.name, loaded.model_kwargs if is_same_network(settings) else {})
    try:
        check_rebuild(
            name,
            classes=loaded.classes,
            img_size=loaded.img_size,
            stem=student_stem(settings, loaded),
            model_kwargs=kwargs,
            shapes={key: tuple(tensor.shape) for key, tensor in module.state_dict().items()},
        )
    except (BadInputError, UsageError) as error:
        raise UnsupportedModelError(
            f"the file that {name} would be saved in could not be read again: {error}"
        ) from error


def _student(settings: ConvertSettings, loaded: LoadedNetwork) -> tuple[Partitioned, Inspection]:
    name = settings.student or loaded.name
    module = student_module(settings, loaded, seed=settings.seed)
    network = convert_network(settings, module, img_size=loaded.img_size)
    _check_file(settings, loaded, module)
    found = inspection(network, module, name=name, img_size=loaded.img_size, classes=loaded.classes)
    return network, found
