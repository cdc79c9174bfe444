"""`convert`, as one page: teacher -> partition -> student -> fit -> evaluate -> save -> report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ann2snn_distill.checkpoint import SnnHeader, load_checkpoint, save_checkpoint
from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.conversion.network import StagedAnn, partitioned
from ann2snn_distill.conversion.student import SpikingNetwork
from ann2snn_distill.data.batches import train_batches
from ann2snn_distill.data.datasets import Dataset, load_dataset
from ann2snn_distill.data.splits import ImageSplit
from ann2snn_distill.distillation.branches import HybridBranches, choose_positions
from ann2snn_distill.evaluation.accuracy import top1
from ann2snn_distill.evaluation.alignment import BranchScore, branch_scores
from ann2snn_distill.events import Caution, Event, Note, Observer
from ann2snn_distill.files import write_text
from ann2snn_distill.pipeline.gates import check_gates
from ann2snn_distill.pipeline.inspecting import inspection, warnings_of
from ann2snn_distill.pipeline.machine import choose_device, device_name
from ann2snn_distill.pipeline.measuring import Measured, evaluation_batches, measure, numerics
from ann2snn_distill.pipeline.objectives import epoch_metrics, objective_of
from ann2snn_distill.pipeline.outputs import (
    MARKDOWN_FILE,
    REPORT_FILE,
    RESUME_FOLDER,
    STUDENT_FILE,
    prepare_output,
    resolve_output,
    write_config,
    write_metrics,
)
from ann2snn_distill.pipeline.students import neuron_header, new_student, student_from_header, student_network
from ann2snn_distill.pipeline.teachers import (
    Taught,
    augmentation_of,
    execution_of,
    load_teacher,
    ready_teacher,
    teacher_epochs,
)
from ann2snn_distill.recipes import recipe_for, resolved_fit, resolved_neuron
from ann2snn_distill.reporting.markdown import to_markdown
from ann2snn_distill.reporting.report import (
    BranchResult,
    Report,
    StudentResult,
    TeacherResult,
    TrainingResult,
    dumps,
)
from ann2snn_distill.reporting.versions import versions
from ann2snn_distill.teacher import build_network, resolve_model_name
from ann2snn_distill.training.fit import FitResult, Plan, fit
from ann2snn_distill.training.resume import ResumeFolder
from ann2snn_distill.training.state import TrainState, train_state

_CALIBRATION_IMAGES = 256
_IDENTITY = {
    *("output", "overwrite", "resume", "checkpoint_interval", "min_accuracy", "max_drop"),
    *("device", "workers", "download", "data_dir"),
}
"""Settings that do not change what a run computes, so that a resumed run may have others."""


@dataclass(frozen=True)
class Prepared:
    """Everything a run knows before its first step."""

    settings: ConvertSettings
    dataset: Dataset
    device: torch.device
    folder: Path


def convert(settings: ConvertSettings, observe: Observer) -> Report:
    """Run a conversion and write its files to the output folder.

    Raises:
        GateMissedError: an accuracy gate was missed; all files are written.
        SnnDistillError: anything else that the user can act on.
    """
    cautions: list[str] = []
    observe = _collecting(observe, cautions)
    run = _prepare(settings)
    prepare_output(run.folder, run.settings)
    write_config(run.folder, run.settings)
    if (run.folder / REPORT_FILE).exists():
        return _finished(run, observe)
    taught = ready_teacher(run.settings, run.settings, run.dataset, run.device, observe)
    teacher = StagedAnn(partitioned(taught.network.module, img_size=run.dataset.img_size)).to(run.device)
    student = new_student(run.settings, taught.network, _calibration(run, taught), seed=run.settings.seed).to(
        run.device
    )
    branches = _branches(run, student, teacher, taught)
    for text in warnings_of(student.network):
        observe(Caution(text))
    state, result = _fit(run, student, branches, taught, observe)
    return _conclude(run, taught, student, branches, teacher, state, result, cautions)


def plan(settings: ConvertSettings, observe: Observer) -> dict[str, Any]:
    """Return what `convert` would do, without training or writing."""
    del observe
    run = _prepare(settings)
    loaded = load_teacher(run.settings, run.dataset)
    name = run.settings.student or loaded.name
    module = loaded.module
    if name != loaded.name:
        module = build_network(
            name, classes=loaded.classes, img_size=loaded.img_size, stem=loaded.stem, model_kwargs={}
        )
    network = student_network(
        module, img_size=loaded.img_size, maxpool=run.settings.maxpool, coverage=run.settings.coverage
    )
    found = inspection(network, module, name=name, img_size=loaded.img_size, classes=loaded.classes)
    teacher = partitioned(loaded.module, img_size=loaded.img_size)
    positions = choose_positions(
        network.stages, teacher.stages, run.settings.branches, same_network=name == loaded.name
    )
    batch = run.settings.batch_size or 1
    return {
        "output": str(resolve_output(settings)),
        "device": device_name(run.device),
        "teacher": {
            "source": loaded.source,
            "trained first": f"{teacher_epochs(run.settings, run.settings, run.dataset, loaded)} epochs",
        },
        "data": {
            "train": len(run.dataset.train),
            "test": len(run.dataset.test),
            "classes": len(run.dataset.classes),
            "steps an epoch": len(run.dataset.train) // batch,
        },
        "stages": [{"name": s.name, "channels": s.channels, "neurons": s.neurons} for s in found.stages],
        "branches": [position.name for position in positions],
        "coverage": found.coverage.model_dump(),
        "settings": run.settings.model_dump(mode="json", exclude_none=True),
        "warnings": list(found.warnings),
    }


def _prepare(settings: ConvertSettings) -> Prepared:
    resolve_model_name(settings.model)
    if settings.student is not None:
        resolve_model_name(settings.student)
    device = choose_device(settings.device)
    dataset = load_dataset(
        str(settings.dataset),
        data_dir=settings.data_dir,
        img_size=settings.img_size,
        val_split=settings.val_split,
        limit=settings.limit,
        seed=settings.seed,
        download=settings.download,
    )
    recipe = recipe_for(img_size=dataset.img_size, images=len(dataset.train))
    open_settings = resolved_fit(
        settings, recipe, img_size=dataset.img_size, cuda=device.type == "cuda"
    ) | resolved_neuron(settings)
    resolved = settings.model_copy(update={**open_settings, "img_size": dataset.img_size})
    return Prepared(resolved, dataset, device, resolve_output(settings))


def _calibration(run: Prepared, taught: Taught) -> torch.Tensor:
    how = numerics(torch.device("cpu"), img_size=run.dataset.img_size, batch_size=_CALIBRATION_IMAGES)
    batches = evaluation_batches(
        run.dataset.train,
        how,
        img_size=run.dataset.img_size,
        mean=taught.network.mean,  # type: ignore[arg-type]
        std=taught.network.std,  # type: ignore[arg-type]
        device=torch.device("cpu"),
        workers=0,
    )
    return next(iter(batches))[0]


def _branches(run: Prepared, student: SpikingNetwork, teacher: StagedAnn, taught: Taught) -> HybridBranches:
    wanted = run.settings.branches if run.settings.method == "hybrid" else "none"
    same = (run.settings.student or taught.network.name) == taught.network.name
    positions = choose_positions(student.stages, teacher.stages, wanted, same_network=same)
    with torch.random.fork_rng():
        torch.manual_seed(run.settings.seed)
        return HybridBranches(student.stages, teacher, positions, img_size=run.dataset.img_size).to(run.device)


def _fit(
    run: Prepared, student: SpikingNetwork, branches: HybridBranches, taught: Taught, observe: Observer
) -> tuple[TrainState, FitResult]:
    settings, dataset = run.settings, run.dataset
    assert settings.epochs and settings.batch_size and settings.lr and settings.weight_decay is not None  # noqa: PT018
    channels_last = run.device.type == "cuda"
    if channels_last:
        for module in (student, branches, branches.teacher):
            module.to(memory_format=torch.channels_last)
    batches = train_batches(
        dataset.train,
        classes=len(dataset.classes),
        img_size=dataset.img_size,
        mean=taught.network.mean,  # type: ignore[arg-type]
        std=taught.network.std,  # type: ignore[arg-type]
        batch_size=settings.batch_size * settings.grad_accum_steps,
        augmentation=augmentation_of(settings, dataset),
        device=run.device,
        seed=settings.seed + 1,
        workers=settings.workers,
        channels_last=channels_last,
    )
    modules: dict[str, torch.nn.Module] = {"student": student.body}
    if branches.positions:
        modules["branches"] = branches
    state = train_state(modules, opt=settings.opt, weight_decay=settings.weight_decay, average_decay=settings.model_ema)
    identity = settings.model_dump(mode="json", exclude=_IDENTITY) | {"teacher": taught.network.source}
    result = fit(
        f"{settings.method} {student_name(run, taught)}",
        objective_of(settings, student, branches),
        batches,
        state,
        plan=Plan(settings.epochs, settings.warmup_epochs or 0.0, settings.lr, settings.checkpoint_interval),
        execution=execution_of(settings, run.device),
        resume=ResumeFolder(run.folder / RESUME_FOLDER, identity=identity),
        observe=observe,
        metrics=epoch_metrics(
            student,
            branches,
            timesteps=settings.timesteps,
            probe=_probe(run, taught),
            validation=_split_batches(run, taught, "val"),
        ),
    )
    write_metrics(run.folder, result.history)
    return state, result


def student_name(run: Prepared, taught: Taught) -> str:
    """Return the student's architecture."""
    return run.settings.student or taught.network.name


def _probe(run: Prepared, taught: Taught) -> torch.Tensor:
    return _calibration(run, taught).to(run.device)


def _split_batches(run: Prepared, taught: Taught, name: str) -> Any:
    split = run.dataset.val if name == "val" else run.dataset.test
    if split is None:
        return None
    return evaluation_batches(
        split,
        numerics(run.device, img_size=run.dataset.img_size),
        img_size=run.dataset.img_size,
        mean=taught.network.mean,  # type: ignore[arg-type]
        std=taught.network.std,  # type: ignore[arg-type]
        device=run.device,
        workers=run.settings.workers if not isinstance(split, ImageSplit) else 0,
    )


def _conclude(
    run: Prepared,
    taught: Taught,
    student: SpikingNetwork,
    branches: HybridBranches,
    teacher: StagedAnn,
    state: TrainState,
    result: FitResult,
    cautions: list[str],
) -> Report:
    """Save the student, measure the very file that was saved, and write the report."""
    test = _split_batches(run, taught, "test")
    teacher_top1 = top1(teacher, test)
    evaluated = state.evaluated()
    tensors = {name: evaluated[name] for name in student.body.state_dict()}
    header = _header(run, taught, student, result, teacher_top1)
    path = run.folder / STUDENT_FILE
    save_checkpoint(path, tensors, header)
    saved = student_from_header(*load_checkpoint(path)).to(run.device)
    measured = measure(saved, test, run.settings.timesteps)
    scores = branch_scores(saved, branches, test, run.settings.timesteps) if branches.positions else ()
    training = {**header.training, "test_top1_at": measured.top1_at}
    save_checkpoint(path, tensors, header.model_copy(update={"training": training}))
    report = _report(run, taught, measured, scores, result, teacher_top1, cautions)
    write_text(run.folder / MARKDOWN_FILE, to_markdown(report))
    write_text(run.folder / REPORT_FILE, dumps(report))
    ResumeFolder(run.folder / RESUME_FOLDER, identity={}).remove()
    check_gates(run.settings, report)
    return report


def _header(
    run: Prepared, taught: Taught, student: SpikingNetwork, result: FitResult, teacher_top1: float
) -> SnnHeader:
    settings, network = run.settings, taught.network
    name = student_name(run, taught)
    return SnnHeader(
        model=network.name,
        student=name,
        dataset=str(settings.dataset),
        classes=run.dataset.classes,
        img_size=run.dataset.img_size,
        mean=network.mean,
        std=network.std,
        timesteps=settings.timesteps,
        neuron=neuron_header(settings.neuron, student.neuron),
        cuts=tuple(stage.name for stage in student.stages[:-1]),
        coverage=settings.coverage,
        maxpool=settings.maxpool,
        stem=network.stem,
        model_kwargs=network.model_kwargs if name == network.name else {},
        thresholds=student.thresholds,
        evaluation=numerics(run.device, img_size=run.dataset.img_size),
        versions=versions(),
        training={
            "method": settings.method,
            "seed": settings.seed,
            "epochs": settings.epochs,
            "seconds": result.seconds,
            "images_per_second": result.images_per_second,
            "peak_memory_mib": result.peak_memory_mib,
            "teacher_top1": teacher_top1,
            "teacher_source": network.source,
        },
    )


def _report(
    run: Prepared,
    taught: Taught,
    measured: Measured,
    scores: tuple[BranchScore, ...],
    result: FitResult,
    teacher_top1: float,
    cautions: list[str],
) -> Report:
    accuracy = measured.top1_at[str(run.settings.timesteps)]
    return Report(
        model=taught.network.name,
        student=StudentResult(model=student_name(run, taught), top1=accuracy, top1_at=measured.top1_at),
        dataset=run.dataset.name,
        timesteps=run.settings.timesteps,
        method=run.settings.method,
        neuron=run.settings.neuron,
        seed=run.settings.seed,
        versions=versions(),
        device=device_name(run.device),
        teacher=TeacherResult(top1=teacher_top1, source=taught.network.source),
        drop=teacher_top1 - accuracy,
        branches=tuple(BranchResult(name=s.name, top1=s.top1, cosine=s.cosine) for s in scores),
        coverage=measured.coverage,
        layers=measured.layers,
        energy=measured.energy,
        training=TrainingResult(
            epochs=run.settings.epochs,
            images_per_second=result.images_per_second,
            seconds=result.seconds,
            peak_memory_mib=result.peak_memory_mib,
        ),
        warnings=tuple(cautions),
    )


def _finished(run: Prepared, observe: Observer) -> Report:
    observe(Note(f"{run.folder} holds a complete run; nothing to do"))
    return Report.model_validate_json((run.folder / REPORT_FILE).read_text(encoding="utf-8"))


def _collecting(observe: Observer, cautions: list[str]) -> Observer:
    def both(event: Event) -> None:
        if isinstance(event, Caution):
            cautions.append(event.text)
        observe(event)

    return both
