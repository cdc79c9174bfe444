"""`eval`: a student rebuilt from its file alone, measured again."""

from pathlib import Path

from ann2snn_distill.checkpoint import SnnHeader, load_checkpoint
from ann2snn_distill.data.datasets import Dataset, load_dataset
from ann2snn_distill.data.splits import spread
from ann2snn_distill.errors import BadInputError
from ann2snn_distill.evaluation.accuracy import top1_at
from ann2snn_distill.events import Caution, Note, Observer
from ann2snn_distill.pipeline.machine import choose_device, device_name
from ann2snn_distill.pipeline.measuring import (
    ACTIVITY_IMAGES,
    evaluation_batches,
    measured_beside,
    numerics,
    silent_neurons,
)
from ann2snn_distill.pipeline.students import student_from_header
from ann2snn_distill.reporting.report import Report, StudentResult, TeacherResult, TrainingResult
from ann2snn_distill.reporting.versions import versions


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
) -> Report:
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
    steps = timesteps or header.timesteps
    warnings = [*data.warnings, *_renamed(header, data)]
    how = numerics(chosen, img_size=header.img_size, batch_size=batch_size or header.evaluation.batch_size)
    for text in warnings:
        observe(Caution(text))
    if how.device_kind != header.evaluation.device_kind:
        warnings.append(
            f"the file was measured on {header.evaluation.device_kind} and this is {how.device_kind}: spikes flip "
            "with numerics, so the last digits may differ"
        )
        observe(Caution(warnings[-1]))
    observe(Note(f"{header.student} on {data.name}: {len(data.test)} test images, {steps} timesteps"))
    whole, sample = (
        evaluation_batches(
            split,
            how,
            img_size=header.img_size,
            mean=header.mean,
            std=header.std,
            device=chosen,
            workers=workers,
        )
        for split in (data.test, spread(data.test, ACTIVITY_IMAGES))
    )
    measured = measured_beside(top1_at(student, whole, steps), student, sample, steps)
    for text in silent_neurons(measured):
        warnings.append(text)
        observe(Caution(text))
    accuracy = measured.top1_at[str(steps)]
    summary = header.training
    same_data = data.name == Path(header.dataset).name
    teacher_top1 = summary.get("teacher_top1") if same_data else None
    return Report(
        model=header.model,
        student=StudentResult(model=header.student, top1=accuracy, top1_at=measured.top1_at),
        dataset=data.name,
        timesteps=steps,
        method=summary.get("method"),
        neuron=header.neuron.name,
        seed=summary.get("seed"),
        versions=versions(),
        device=device_name(chosen),
        teacher=TeacherResult(top1=teacher_top1, source=summary.get("teacher_source")),
        drop=None if teacher_top1 is None else teacher_top1 - accuracy,
        branches=None,
        coverage=measured.coverage,
        layers=measured.layers,
        energy=measured.energy,
        training=TrainingResult(
            **{name: summary.get(name) for name in ("epochs", "images_per_second", "seconds", "peak_memory_mib")}
        ),
        warnings=tuple(warnings),
    )


def _renamed(header: SnnHeader, data: Dataset) -> list[str]:
    """Return a sentence if the classes have other names, as far as it is worth one; their number is the same."""
    pairs = list(zip(header.classes, data.classes, strict=True))
    other = [(number, pair) for number, pair in enumerate(pairs) if pair[0] != pair[1]]
    if not other:
        return []
    number, (ours, theirs) = other[0]
    return [
        f"{len(other)} of {len(pairs)} classes of {data.name} have other names than in the file (class {number} is "
        f"{theirs[:100]!r} there and {ours[:100]!r} in the file): the accuracy means nothing unless they are the same"
    ]


def _check_classes(header: SnnHeader, data: Dataset) -> None:
    if len(data.classes) != len(header.classes):
        raise BadInputError(
            f"the file knows {len(header.classes)} classes and {data.name} has {len(data.classes)}; "
            "give the --dataset that it was made for"
        )
