"""`convert`, as one page: teacher -> partition -> student -> fit -> evaluate -> save -> report."""

from dataclasses import replace
from pathlib import Path

from ann2snn_distill.checkpoint import load_checkpoint, save_checkpoint
from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.data.splits import spread
from ann2snn_distill.errors import BadInputError
from ann2snn_distill.evaluation.accuracy import top1
from ann2snn_distill.evaluation.alignment import BranchScore, hybrid_scores
from ann2snn_distill.events import Caution, Event, Note, Observer, OutputChosen
from ann2snn_distill.files import write_text
from ann2snn_distill.pipeline.distilling import Distillation, distilled, new_distillation, teacher_doubt
from ann2snn_distill.pipeline.fitting import piece_of
from ann2snn_distill.pipeline.gates import check_gates
from ann2snn_distill.pipeline.guards import deterministic, interruptible
from ann2snn_distill.pipeline.measuring import ACTIVITY_IMAGES, Measured, measured_beside, silent_neurons
from ann2snn_distill.pipeline.outputs import (
    HTML_FILE,
    MARKDOWN_FILE,
    REPORT_FILE,
    RESUME_FOLDER,
    STUDENT_FILE,
    alone_in,
    check_output,
    check_same_run,
    make_output,
    prepare_output,
)
from ann2snn_distill.pipeline.planning import Prepared, prepare
from ann2snn_distill.pipeline.signs import failure_signs, foreknown
from ann2snn_distill.pipeline.students import student_from_header
from ann2snn_distill.pipeline.summary import run_report, student_header
from ann2snn_distill.pipeline.teachers import ready_teacher
from ann2snn_distill.pipeline.watching import Watched
from ann2snn_distill.reporting.html_report import to_html_report
from ann2snn_distill.reporting.markdown import to_markdown
from ann2snn_distill.reporting.report import Report, dumps
from ann2snn_distill.training.fit import FitResult
from ann2snn_distill.training.resume import ResumeFolder
from ann2snn_distill.training.state import TrainState


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
    run = replace(run, folder=make_output(run.folder, settings))
    observe(OutputChosen(run.folder))
    way_on = f"go on with --resume {run.folder}"
    with interruptible(way_on), alone_in(run.folder), deterministic(run.settings.deterministic):
        check_output(run.folder, settings)  # once more: another run may have ended there meanwhile
        check_same_run(run.folder, run.settings)
        prepare_output(run.folder, run.settings)
        report = _finished(run, observe) or _run(run, observe, cautions)
    check_gates(run.settings, report)
    return report


def _run(run: Prepared, observe: Observer, cautions: list[str]) -> Report:
    for text in run.warnings:
        observe(Caution(text))
    if run.settings.trained_timesteps > run.settings.timesteps:
        observe(Note(_longer_training(run.settings)))
    taught = ready_teacher(run.loaded, run.settings, run.settings, run.dataset, run.device, observe)
    work = new_distillation(run, taught)
    if (doubt := teacher_doubt(work)) is not None:
        observe(Caution(doubt))
    state, result = distilled(work, observe)
    return _conclude(work, state, result, cautions, observe)


def _longer_training(settings: ConvertSettings) -> str:
    unrolled, run = settings.trained_timesteps, settings.timesteps
    return f"trained with {unrolled} timesteps, of which the SNN runs the first {run} (--train-timesteps)"


def _conclude(
    work: Distillation, state: TrainState, result: FitResult, cautions: list[str], observe: Observer
) -> Report:
    """Save the student, measure the very file that was saved, and write the report."""
    run, path = work.run, work.run.folder / STUDENT_FILE
    test = Watched("test images", len(run.dataset.test), work.evaluation(run.dataset.test), observe)
    evaluated = state.evaluated()
    tensors = {name: evaluated[name] for name in work.student.weight_names()}
    with state.as_evaluated():
        header = student_header(run, work.taught, work.student, result)
    save_checkpoint(path, tensors, header)
    saved = student_from_header(*load_checkpoint(path)).to(run.device)
    scores = hybrid_scores(saved, work.branches, test, run.settings.timesteps)
    sample = work.evaluation(spread(run.dataset.test, ACTIVITY_IMAGES))
    measured = measured_beside(scores.top1_at, saved, sample, run.settings.timesteps)
    signs = (*_signs(run, result, scores.branches, measured), *_foreknown(work, scores.teacher_top1, observe))
    for text in (*silent_neurons(measured), *signs):
        observe(Caution(text))
    training = {
        **header.training,
        "spiking_share": measured.coverage.share,
        "teacher_top1": scores.teacher_top1,
        "test_top1_at": measured.top1_at,
    }
    save_checkpoint(path, tensors, header.model_copy(update={"training": training}))
    report = run_report(run, work.taught, measured, scores, result, cautions)
    _write(run.folder, report, result)
    return report


def _signs(run: Prepared, result: FitResult, scores: tuple[BranchScore, ...], measured: Measured) -> list[str]:
    return failure_signs(
        result.history,
        scores,
        measured.top1_at[str(run.settings.timesteps)],
        peak_mib=result.peak_memory_mib,
        estimated_mib=run.memory.of(piece_of(run.settings)),
    )


def _foreknown(work: Distillation, test_top1: float, observe: Observer) -> list[str]:
    val, test = work.run.dataset.val, work.run.dataset.test
    if val is None or work.taught.epochs:  # what this data set's training images taught has not seen the held-out ones
        return []
    held_out = top1(work.teacher, Watched("the teacher on held-out images", len(val), work.evaluation(val), observe))
    return foreknown(held_out, test_top1, held_out_images=len(val), test_images=len(test))


def _write(folder: Path, report: Report, result: FitResult) -> None:
    write_text(folder / MARKDOWN_FILE, to_markdown(report))
    write_text(folder / HTML_FILE, to_html_report(report, result.history))
    write_text(folder / REPORT_FILE, dumps(report))  # the last: it says that the run is complete
    ResumeFolder(folder / RESUME_FOLDER, identity={}).remove()


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
