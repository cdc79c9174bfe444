"""The distillation of a run: its networks on the device, its data, and the training itself."""

from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ann2snn_distill.conversion.network import StagedAnn
from ann2snn_distill.conversion.student import SpikingNetwork
from ann2snn_distill.data.batches import ClosableBatches, TrainBatches, train_batches
from ann2snn_distill.data.splits import ImageSplit, Split, spread
from ann2snn_distill.distillation.branches import HybridBranches
from ann2snn_distill.distillation.fitting import fit_projections
from ann2snn_distill.evaluation.accuracy import top1
from ann2snn_distill.evaluation.totals import exact_float32
from ann2snn_distill.events import Caution, Note, Observer
from ann2snn_distill.files import file_digest
from ann2snn_distill.pipeline.averaging import renew_statistics
from ann2snn_distill.pipeline.fitting import augmentation_of, execution_of, images_a_step, interval_of, piece_of
from ann2snn_distill.pipeline.machine import memory_mib
from ann2snn_distill.pipeline.measuring import evaluation_batches, numerics
from ann2snn_distill.pipeline.memory import USABLE, explained
from ann2snn_distill.pipeline.objectives import Validation, epoch_metrics, spans_of
from ann2snn_distill.pipeline.outputs import FREE_SETTINGS, RESUME_FOLDER, write_metrics
from ann2snn_distill.pipeline.planning import Prepared
from ann2snn_distill.pipeline.starting import first_student
from ann2snn_distill.pipeline.students import guide_network
from ann2snn_distill.pipeline.teacher_cache import Taught
from ann2snn_distill.teacher.networks import seeded
from ann2snn_distill.tensorfile import tensors_digest
from ann2snn_distill.training.fit import Conclude, EpochMetrics, FitResult, Plan, Schedule, fit
from ann2snn_distill.training.gradients import Clip
from ann2snn_distill.training.resume import ResumeFolder
from ann2snn_distill.training.state import TrainState, train_state

_CALIBRATION_IMAGES = 256
_PROBE_IMAGES = 64
_FEW_GUESSES = 0.99
"""So great a share of right images is no guess, however few they are."""
_KNOWN = 0.99
"""A teacher that has so great a share of the training images right needs no labels beside its guidance."""
_WEIGHTS = "teacher_weights"
_FITTED_IMAGES = 64
"""Calibration images at once while projections are fitted: T times as many rows are in memory."""


@dataclass(frozen=True)
class Distillation:
    """A run with its networks on its device; the data are normalised as its teacher's were."""

    run: Prepared
    taught: Taught
    teacher: StagedAnn
    student: SpikingNetwork
    branches: HybridBranches

    def evaluation(self, split: Split) -> Iterable[tuple[Tensor, Tensor]]:
        """Return the batches of a split as accuracy is measured on them."""
        workers = 0 if isinstance(split, ImageSplit) else self.run.settings.workers
        return _batches_of(self.run, self.taught, split, self.run.device, workers=workers)

    def training(self) -> ClosableBatches:
        """Return the training batches."""
        settings, dataset = self.run.settings, self.run.dataset
        return train_batches(
            dataset.train,
            classes=len(dataset.classes),
            img_size=dataset.img_size,
            mean=self.taught.network.mean,  # type: ignore[arg-type]
            std=self.taught.network.std,  # type: ignore[arg-type]
            batch_size=images_a_step(settings),
            augmentation=augmentation_of(settings, dataset),
            device=self.run.device,
            seed=settings.seed + 1,
            workers=settings.workers,
            channels_last=self.run.device.type == "cuda",
        )

    def fresh_state(self) -> TrainState:
        """Return what is trained: the student, and the projections of its branches."""
        settings = self.run.settings
        assert settings.weight_decay is not None
        modules: dict[str, nn.Module] = {"student": self.student.body}
        clip = Clip(settings.clip_grad, settings.clip_mode or "norm") if settings.clip_grad else None
        if self.branches.positions:
            modules["branches"] = self.branches
        return train_state(
            modules, opt=settings.opt, weight_decay=settings.weight_decay, average_decay=settings.model_ema,
            scaled=execution_of(settings, self.run.device).scaled, clip=clip, radius=settings.sam,
            shares={"branches": settings.projection_lr},
        )  # fmt: skip

    def begin(self) -> None:
        """Fit the projections, if that was asked for: the first thing that is done to what is trained."""
        run = self.run
        if run.settings.projection_init == "fitted" and self.branches.positions:
            images = _first_images(run, self.taught, _CALIBRATION_IMAGES).to(run.device)
            with exact_float32():
                fit_projections(
                    self.student, self.branches, images.split(_FITTED_IMAGES), run.settings.trained_timesteps
                )

    def conclusion(self, state: TrainState, batches: TrainBatches) -> Conclude:
        """Return what is done after the last step: averaged weights get statistics of their own."""
        settings, img_size = self.run.settings, self.run.dataset.img_size

        def conclude() -> None:
            if state.average:
                renew_statistics(
                    self.student, state, batches, epoch=settings.epochs or 0, timesteps=settings.trained_timesteps,
                    img_size=img_size,
                )  # fmt: skip

        return conclude

    def metrics(self, state: TrainState) -> EpochMetrics:
        """Return what is measured after an epoch."""
        settings, val = self.run.settings, self.run.dataset.val
        held_out = None
        if val is not None:
            held_out = Validation(
                batches=self.evaluation(val), interval=settings.val_interval, epochs=settings.epochs or 0
            )
        return epoch_metrics(
            self.student,
            self.branches,
            state,
            timesteps=settings.timesteps,
            probe=_first_images(self.run, self.taught, _PROBE_IMAGES).to(self.run.device),
            validation=held_out,
        )


def teacher_doubt(work: Distillation) -> str | None:
    """Return a sentence if the teacher has too few training images right for what it is to teach, else None."""
    run = work.run
    split, classes = spread(run.dataset.train, _CALIBRATION_IMAGES), len(run.dataset.classes)
    batches = _batches_of(run, work.taught, split, run.device, workers=0)
    share = top1(work.teacher, batches) / 100
    chance = 1 / classes
    known = f"the teacher has {share:.1%} of {len(split)} training images right"
    if share > min(chance + 3 * (chance * (1 - chance) / len(split)) ** 0.5, _FEW_GUESSES):
        if run.settings.method != "hybrid" or run.settings.alpha != 1 or share >= _KNOWN:
            return None
        return f"{known}, and with --alpha 1 the student learns from nothing else; --alpha 0.5 adds the labels"
    remedy = (
        f"it was trained too briefly; give more than --teacher-epochs {work.taught.epochs}"
        if work.taught.epochs
        else "its weights, or the order of its classes, are others than the data's; give another --checkpoint, or none"
    )
    return f"{known}, no more than a guess has: {remedy}"


def new_distillation(run: Prepared, taught: Taught) -> Distillation:
    """Build the networks of a run on its device, around a teacher that knows the data."""
    teacher = StagedAnn(guide_network(run.settings, taught.network)).to(run.device)
    student = _calibrated(run, taught).to(run.device)
    with seeded(run.settings.seed):
        branches = HybridBranches(student.stages, teacher, run.positions).to(run.device)
    return Distillation(run, taught, teacher, student, branches)


def _calibrated(run: Prepared, taught: Taught) -> SpikingNetwork:
    """Return the student that training starts from, calibrated on the run's device, or on the CPU if it is too small.

    On two cores MobileNetV2's 256 images of 224 px take most of a minute.
    """
    images = _first_images(run, taught, _CALIBRATION_IMAGES)
    with exact_float32(), suppress(torch.OutOfMemoryError):
        return first_student(run.settings, taught.network, images.to(run.device))
    return first_student(run.settings, taught.network, images)


def distilled(work: Distillation, observe: Observer) -> tuple[TrainState, FitResult]:
    """Train the student; go on where an earlier process stopped."""
    run, settings = work.run, work.run.settings
    assert settings.epochs
    assert settings.lr
    if run.device.type == "cuda":
        for module in (work.student, work.branches, work.teacher):
            module.to(memory_format=torch.channels_last)
    state, execution = work.fresh_state(), execution_of(settings, run.device)
    _tell_memory(run, observe)
    with (
        explained(run.memory, piece_of(settings), settings.grad_accum_steps, memory_mib(run.device)),
        closing(work.training()) as batches,
    ):
        result = fit(
            f"{settings.method} {run.student_name}",
            spans_of(settings, work.student, work.branches, execution),
            batches,
            state,
            plan=Plan(
                Schedule(settings.epochs, settings.warmup_epochs or 0.0, settings.lr, seed=settings.seed),
                interval_of(settings),
                remedy=f"start again with --overwrite and a lower --lr{' or --sam' if settings.sam else ''}",
            ),
            execution=execution,
            resume=ResumeFolder(run.folder / RESUME_FOLDER, identity=_identity(work), later=(_WEIGHTS,)),
            observe=observe,
            begin=work.begin,
            conclude=work.conclusion(state, batches),
            metrics=work.metrics(state),
            record=lambda lines: write_metrics(run.folder, lines),
        )
    return state, result


def _tell_memory(run: Prepared, observe: Observer) -> None:
    images, total = piece_of(run.settings), memory_mib(run.device)
    estimate = run.memory.of(images)
    observe(Note(f"memory: about {estimate:,.0f} of {total:,.0f} MiB estimated for {images} images at once"))
    if estimate > total:
        observe(Caution(f"a step may not fit in memory; --batch-size auto keeps it below {USABLE:.0%} of the device's"))


def _identity(work: Distillation) -> dict[str, object]:
    """Return everything that determines the result: a state belongs to no other run."""
    settings = work.run.settings.model_dump(mode="json", exclude=set(FREE_SETTINGS))
    weights = {name: tensor.cpu() for name, tensor in work.taught.network.module.state_dict().items()}
    found = {
        "teacher": work.taught.network.source,
        _WEIGHTS: tensors_digest("", weights),
        "data": work.run.dataset.fingerprint,
    }
    if (start := work.run.settings.started_from) is not None:
        found["start"] = file_digest(start, "--init")
    return settings | found


def _first_images(run: Prepared, taught: Taught, images: int) -> Tensor:
    split = spread(run.dataset.train, images)
    batches = _batches_of(run, taught, split, torch.device("cpu"), workers=0, batch_size=images)
    return next(iter(batches))[0]


def _batches_of(
    run: Prepared, taught: Taught, split: Split, device: torch.device, *, workers: int, batch_size: int | None = None
) -> Iterable[tuple[Tensor, Tensor]]:
    return evaluation_batches(
        split,
        numerics(device, img_size=run.dataset.img_size, batch_size=batch_size),
        img_size=run.dataset.img_size,
        mean=taught.network.mean,  # type: ignore[arg-type]
        std=taught.network.std,  # type: ignore[arg-type]
        device=device,
        workers=workers,
    )
