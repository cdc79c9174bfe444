"""What a finished run says of itself: the header of the student's file, and the report."""

from ann2snn_distill.checkpoint import SnnHeader
from ann2snn_distill.conversion.student import SpikingNetwork
from ann2snn_distill.data.splits import images_fingerprint
from ann2snn_distill.evaluation.alignment import HybridScores
from ann2snn_distill.pipeline.machine import device_name
from ann2snn_distill.pipeline.measuring import Measured, numerics
from ann2snn_distill.pipeline.planning import Prepared
from ann2snn_distill.pipeline.students import is_same_network, neuron_header, student_stem
from ann2snn_distill.pipeline.teacher_cache import Taught
from ann2snn_distill.reporting.report import BranchResult, Report, StudentResult, TeacherResult, TrainingResult
from ann2snn_distill.reporting.versions import versions
from ann2snn_distill.teacher import local_form
from ann2snn_distill.training.fit import FitResult


def student_header(run: Prepared, taught: Taught, student: SpikingNetwork, result: FitResult) -> SnnHeader:
    """Return the header of a trained student's file, before its accuracies are measured."""
    settings, network = run.settings, taught.network
    name = run.student_name
    architecture, arguments = local_form(name, network.model_kwargs if is_same_network(settings) else {})
    return SnnHeader(
        format_version=1 if student.decays is None else 2,
        model=network.name,
        student=architecture,
        dataset=str(settings.dataset),
        classes=run.dataset.classes,
        img_size=run.dataset.img_size,
        mean=network.mean,
        std=network.std,
        timesteps=settings.timesteps,
        neuron=neuron_header(settings.neuron_name, student.neuron),
        cuts=tuple(stage.name for stage in student.stages[:-1]),
        coverage=settings.coverage,
        maxpool=settings.maxpool,
        stem=student_stem(settings, network),
        model_kwargs=arguments,
        thresholds=student.thresholds,
        decays=student.decays,
        evaluation=numerics(run.device, img_size=run.dataset.img_size),
        versions=versions(),
        training={
            "method": settings.method,
            "seed": settings.seed,
            "epochs": settings.epochs,
            "train_timesteps": settings.trained_timesteps,
            "seconds": result.seconds,
            "images_per_second": result.images_per_second,
            "peak_memory_mib": result.peak_memory_mib,
            "teacher_source": network.source,
            "test_fingerprint": images_fingerprint(run.dataset.test),
        },
    )


def run_report(
    run: Prepared,
    taught: Taught,
    measured: Measured,
    scores: HybridScores,
    result: FitResult,
    cautions: list[str],
) -> Report:
    """Return the report of a finished run."""
    accuracy = measured.top1_at[str(run.settings.timesteps)]
    return Report(
        model=taught.network.name,
        student=StudentResult(model=run.student_name, top1=accuracy, top1_at=measured.top1_at),
        dataset=run.dataset.name,
        timesteps=run.settings.timesteps,
        method=run.settings.method,
        neuron=run.settings.neuron_name,
        seed=run.settings.seed,
        versions=versions(),
        device=device_name(run.device),
        teacher=TeacherResult(top1=scores.teacher_top1, source=taught.network.source),
        drop=scores.teacher_top1 - accuracy,
        branches=tuple(BranchResult(name=s.name, top1=s.top1, cosine=s.cosine) for s in scores.branches),
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
