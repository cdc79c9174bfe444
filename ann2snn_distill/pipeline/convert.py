"""`convert`, as one page: teacher -> partition -> student -> fit -> evaluate -> save -> report."""

from collections.abc import Iterable

import torch

from ann2snn_distill.checkpoint import load_checkpoint, save_checkpoint
from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.conversion.network import StagedAnn, partitioned
from ann2snn_distill.conversion.student import SpikingNetwork
from ann2snn_distill.data.batches import train_batches
from ann2snn_distill.data.splits import ImageSplit, Split, spread
from ann2snn_distill.distillation.branches import HybridBranches
from ann2snn_distill.errors import BadInputError
from ann2snn_distill.evaluation.accuracy import top1
from ann2snn_distill.evaluation.alignment import branch_scores
from ann2snn_distill.events import Caution, Event, Note, Observer
from ann2snn_distill.files import write_text
from ann2snn_distill.pipeline.gates import check_gates
from ann2snn_distill.pipeline.guards import deterministic, interruptible
from ann2snn_distill.pipeline.measuring import ACTIVITY_IMAGES, evaluation_batches, measure, numerics, silent_neurons
from ann2snn_distill.pipeline.objectives import epoch_metrics, objective_of
from ann2snn_distill.pipeline.outputs import (
    FREE_SETTINGS,
    MARKDOWN_FILE,
    REPORT_FILE,
    RESUME_FOLDER,
    STUDENT_FILE,
    prepare_output,
    write_metrics,
)
from ann2snn_distill.pipeline.planning import Prepared, prepare
from ann2snn_distill.pipeline.students import new_student, student_from_header
from ann2snn_distill.pipeline.summary import run_report, student_header
from ann2snn_distill.pipeline.teacher_cache import Taught
from ann2snn_distill.pipeline.teachers import augmentation_of, execution_of, interval_of, ready_teacher
from ann2snn_distill.reporting.markdown import to_markdown
from ann2snn_distill.reporting.report import Report, dumps
from ann2snn_distill.training.fit import FitResult, Plan, Schedule, fit
from ann2snn_distill.training.resume import ResumeFolder
from ann2snn_distill.training.state import TrainState, train_state

_CALIBRATION_IMAGES = 256
_PROBE_IMAGES = 64


def convert(settings: ConvertSettings, observe: Observer) -> Report:
    """Run a conversion and write its files to the output folder.

    Raises:
        GateMissedError: an accuracy gate was missed; all files are written.
        InterruptedRunError: Ctrl-C or SIGTERM; the state after the present step is kept.
        SnnDistillError: anything else that the user can act on.
    """
    cautions: list[str] = []
    observe = _collecting(observe, cautions)
    run = prepare(settings)
    prepare_output(run.folder, run.settings)
    with interruptible(f"go on with --resume {run.folder}"), deterministic(run.settings.deterministic):
        report = _finished(run, observe) or _run(run, observe, cautions)
    check_gates(run.settings, report)
    return report


def _run(run: Prepared, observe: Observer, cautions: list[str]) -> Report:
    for text in run.dataset.warnings:
        observe(Caution(text))
    taught = ready_teacher(run.loaded, run.settings, run.settings, run.dataset, run.device, observe)
    teacher = StagedAnn(partitioned(taught.network.module, img_size=run.dataset.img_size)).to(run.device)
    student = new_student(run.settings, taught.network, _calibration(run, taught), seed=run.settings.seed)
    student = student.to(run.device)
    branches = _branches(run, student, teacher)
    for text in run.inspected.warnings:
        observe(Caution(text))
    state, result = _fit(run, student, branches, taught, observe)
    return _conclude(run, taught, student, branches, teacher, state, result, cautions, observe)


def _calibration(run: Prepared, taught: Taught, *, images: int = _CALIBRATION_IMAGES) -> torch.Tensor:
    how = numerics(torch.device("cpu"), img_size=run.dataset.img_size, batch_size=images)
    batches = evaluation_batches(
        spread(run.dataset.train, images),
        how,
        img_size=run.dataset.img_size,
        mean=taught.network.mean,  # type: ignore[arg-type]
        std=taught.network.std,  # type: ignore[arg-type]
        device=torch.device("cpu"),
        workers=0,
    )
    return next(iter(batches))[0]


def _branches(run: Prepared, student: SpikingNetwork, teacher: StagedAnn) -> HybridBranches:
    with torch.random.fork_rng():
        torch.manual_seed(run.settings.seed)
        return HybridBranches(student.stages, teacher, run.positions).to(run.device)


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
    identity = settings.model_dump(mode="json", exclude=set(FREE_SETTINGS)) | {
        "teacher": taught.network.source,
        "data": dataset.fingerprint,
    }
    execution = execution_of(settings, run.device)
    result = fit(
        f"{settings.method} {run.student_name}",
        objective_of(settings, student, branches, execution),
        batches,
        state,
        plan=Plan(
            Schedule(settings.epochs, settings.warmup_epochs or 0.0, settings.lr, seed=settings.seed),
            interval_of(settings),
            remedy="start again with --overwrite and a lower --lr",
        ),
        execution=execution,
        resume=ResumeFolder(run.folder / RESUME_FOLDER, identity=identity),
        observe=observe,
        metrics=epoch_metrics(
            student,
            branches,
            timesteps=settings.timesteps,
            probe=_probe(run, taught),
            validation=None if run.dataset.val is None else _split_batches(run, taught, run.dataset.val),
        ),
        record=lambda lines: write_metrics(run.folder, lines),
    )
    return state, result


def _probe(run: Prepared, taught: Taught) -> torch.Tensor:
    return _calibration(run, taught, images=_PROBE_IMAGES).to(run.device)


def _split_batches(run: Prepared, taught: Taught, split: Split) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
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
    observe: Observer,
) -> Report:
    """Save the student, measure the very file that was saved, and write the report."""
    test = _split_batches(run, taught, run.dataset.test)
    teacher_top1 = top1(teacher, test)
    evaluated = state.evaluated()
    tensors = {name: evaluated[name] for name in student.body.state_dict()}
    header = student_header(run, taught, student, result, teacher_top1)
    path = run.folder / STUDENT_FILE
    save_checkpoint(path, tensors, header)
    saved = student_from_header(*load_checkpoint(path)).to(run.device)
    sample = _split_batches(run, taught, spread(run.dataset.test, ACTIVITY_IMAGES))
    measured = measure(saved, test, sample, run.settings.timesteps)
    for text in silent_neurons(measured):
        observe(Caution(text))
    scores = branch_scores(saved, branches, test, run.settings.timesteps) if branches.positions else ()
    training = {**header.training, "test_top1_at": measured.top1_at}
    save_checkpoint(path, tensors, header.model_copy(update={"training": training}))
    report = run_report(run, taught, measured, scores, result, teacher_top1, cautions)
    write_text(run.folder / MARKDOWN_FILE, to_markdown(report))
    write_text(run.folder / REPORT_FILE, dumps(report))
    ResumeFolder(run.folder / RESUME_FOLDER, identity={}).remove()
    return report


def _finished(run: Prepared, observe: Observer) -> Report | None:
    path = run.folder / REPORT_FILE
    if not path.exists():
        return None
    observe(Note(f"{run.folder} holds a complete run; nothing to do"))
    ResumeFolder(run.folder / RESUME_FOLDER, identity={}).remove()  # a run may be killed after its last file
    try:
        return Report.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"{path} cannot be read; remove it and run the command again, or give --overwrite"
        ) from error


def _collecting(observe: Observer, cautions: list[str]) -> Observer:
    def both(event: Event) -> None:
        if isinstance(event, Caution):
            cautions.append(event.text)
        observe(event)

    return both
