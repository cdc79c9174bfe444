"""`eval`: a student rebuilt from its file alone, measured again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ann2snn_distill.checkpoint import EvaluationNumerics, SnnHeader, load_checkpoint
from ann2snn_distill.conversion.student import SpikingNetwork
from ann2snn_distill.data.datasets import Dataset, load_dataset
from ann2snn_distill.data.splits import Split, images_fingerprint, spread
from ann2snn_distill.errors import BadInputError
from ann2snn_distill.evaluation.accuracy import top1_at
from ann2snn_distill.events import Caution, Note, Observer
from ann2snn_distill.pipeline.class_order import renamed
from ann2snn_distill.pipeline.machine import choose_device, device_name
from ann2snn_distill.pipeline.measuring import (
    ACTIVITY_IMAGES,
    Measured,
    evaluation_batches,
    measured_beside,
    numerics,
    silent_neurons,
)
from ann2snn_distill.pipeline.students import student_from_header
from ann2snn_distill.pipeline.watching import Watched
from ann2snn_distill.reporting.report import Report, StudentResult, TeacherResult, TrainingResult
from ann2snn_distill.reporting.versions import versions


@dataclass(frozen=True)
class Evaluated:
    """What was measured, and what the file says of the same test split: percent by timestep, empty for another one."""

    report: Report
    reported: Mapping[str, float]


def evaluate(
    path: Path,
    *,
    dataset: str | None,
    data_dir: Path | None,
    timesteps: int | None,
    device: str,
    batch_size: int | None,
    workers: int,
    skip_bad_images: bool,
    observe: Observer,
) -> Evaluated:
    """Measure the student in `path` on its own data set, or on another with the same classes.

    Raises:
        BadInputError: the file, the data or the device is unusable, or the classes differ.
    """
    header, tensors = load_checkpoint(path)
    chosen = choose_device(device)
    student = student_from_header(header, tensors).to(chosen)
    data = load_dataset(
        dataset or header.dataset, data_dir=data_dir, img_size=header.img_size, skip_bad_images=skip_bad_images
    )
    _check_classes(header, data)
    told = header.evaluation
    batch_size = batch_size or (told.batch_size if told.device_kind == chosen.type else None)
    how = numerics(chosen, img_size=header.img_size, batch_size=batch_size)
    same = _has_same_test(header, data)
    names = renamed(header.classes, data, where="the file", so="the accuracy means nothing unless they are the same")
    warnings = [*data.warnings, *names, *_other_images(header, data, same), *_elsewhere(header, how)]
    for text in warnings:
        observe(Caution(text))
    steps = timesteps or header.timesteps
    observe(Note(f"{header.student} on {data.name}: {len(data.test):,} test images, T = {steps}"))
    measured = _measured(
        student, data.test, steps, header=header, how=how, device=chosen, workers=workers, observe=observe
    )
    silent = silent_neurons(measured)
    for text in silent:
        observe(Caution(text))
    report = _report(header, data, measured, steps=steps, same=same, device=chosen, warnings=(*warnings, *silent))
    return Evaluated(report, header.training.get("test_top1_at", {}) if same else {})


def _measured(
    student: SpikingNetwork,
    test: Split,
    steps: int,
    *,
    header: SnnHeader,
    how: EvaluationNumerics,
    device: torch.device,
    workers: int,
    observe: Observer,
) -> Measured:
    """Measure accuracy on the whole test split, and activity on a sample of it."""
    whole, sample = (
        evaluation_batches(
            split,
            how,
            img_size=header.img_size,
            mean=header.mean,
            std=header.std,
            device=device,
            workers=workers,
        )
        for split in (test, spread(test, ACTIVITY_IMAGES))
    )
    watched = Watched("test images", len(test), whole, observe)
    return measured_beside(top1_at(student, watched, steps), student, sample, steps)


def _report(
    header: SnnHeader,
    data: Dataset,
    measured: Measured,
    *,
    steps: int,
    same: bool,
    device: torch.device,
    warnings: tuple[str, ...],
) -> Report:
    """Return the report; the teacher's accuracy is in it only where it is of the `same` test split."""
    summary, accuracy = header.training, measured.top1_at[str(steps)]
    teacher_top1 = summary.get("teacher_top1") if same else None
    return Report(
        model=header.model,
        student=StudentResult(model=header.student, top1=accuracy, top1_at=measured.top1_at),
        dataset=data.name,
        timesteps=steps,
        method=summary.get("method"),
        neuron=header.neuron.name,
        seed=summary.get("seed"),
        versions=versions(),
        device=device_name(device),
        teacher=TeacherResult(top1=teacher_top1, source=summary.get("teacher_source")),
        drop=None if teacher_top1 is None else teacher_top1 - accuracy,
        branches=None,
        coverage=measured.coverage,
        layers=measured.layers,
        energy=measured.energy,
        training=TrainingResult(
            **{name: summary.get(name) for name in ("epochs", "images_per_second", "seconds", "peak_memory_mib")}
        ),
        warnings=warnings,
    )


def _has_same_test(header: SnnHeader, data: Dataset) -> bool:
    """Return whether the test split is the one that the file was measured on.

    Files of earlier releases have no fingerprint: there the data set's name decides.
    """
    told = header.training.get("test_fingerprint")
    return data.name == Path(header.dataset).name if told is None else told == images_fingerprint(data.test)


def _other_images(header: SnnHeader, data: Dataset, same: bool) -> list[str]:
    """Return a sentence if a data set of the file's name has other test images than the file was measured on."""
    if same or data.name != Path(header.dataset).name:
        return []
    return [
        f"the test images of {data.name} are not those that the file was measured on: this accuracy cannot be "
        "compared with the file's, nor with its teacher's"
    ]


def _elsewhere(header: SnnHeader, how: EvaluationNumerics) -> list[str]:
    """Return a sentence if the file was measured on another kind of device."""
    told = header.evaluation.device_kind
    if how.device_kind == told:
        return []
    return [
        f"the file was measured on {told} and this is {how.device_kind}: spikes flip "
        "with numerics, so the last digits may differ"
    ]


def _check_classes(header: SnnHeader, data: Dataset) -> None:
    if len(data.classes) != len(header.classes):
        raise BadInputError(
            f"the file knows {len(header.classes)} classes and {data.name} has {len(data.classes)}; "
            "give the --dataset that it was made for"
        )
