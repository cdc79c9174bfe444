"""The teacher of a run: loaded, and trained or fine-tuned first if it does not know the data, once for all runs."""

from contextlib import closing
from dataclasses import dataclass, replace

import torch

from ann2snn_distill.config import BenchSettings, ConvertSettings, FitSettings, NetworkSettings
from ann2snn_distill.data.batches import Augmentation, ClosableBatches, train_batches
from ann2snn_distill.data.datasets import Dataset, ImageSplit
from ann2snn_distill.distillation.objectives import AnnObjective
from ann2snn_distill.events import Event, Note, Observer
from ann2snn_distill.locks import locked
from ann2snn_distill.pipeline.guards import enough_images
from ann2snn_distill.pipeline.teacher_cache import Taught, cached_path, read_cached, resume_folder, write_cached
from ann2snn_distill.recipes import CROP_PADDING, TUNING_LR, recipe_for, resolved_fit
from ann2snn_distill.teacher import LoadedNetwork, load_network
from ann2snn_distill.training.fit import Execution, Interval, Plan, Schedule, Span, fit
from ann2snn_distill.training.resume import ResumeFolder
from ann2snn_distill.training.state import train_state
from ann2snn_distill.training.step import AUTOCAST_DTYPES

_WAITING = "teacher: another run trains it; waiting for that"


def ready_teacher(
    loaded: LoadedNetwork,
    settings: NetworkSettings,
    fit_settings: FitSettings,
    dataset: Dataset,
    device: torch.device,
    observe: Observer,
) -> Taught:
    """Return a loaded teacher that knows the data: as it is, from the cache, or trained now.

    Args:
        loaded: as `load_teacher` gives it.
        settings: which network, from which weights; the seed and the workers of its training.
        fit_settings: resolved; how it is trained.
        dataset: what it has to know.
        device: where it is trained.
        observe: told of progress.
    """
    if loaded.match is not None:
        observe(Note(f"teacher: {loaded.match.summary()}"))
    if loaded.trained:
        return Taught(loaded, None, 0, 0.0)
    epochs = teacher_epochs(settings, fit_settings, dataset, loaded)
    lesson = _Lesson(loaded, settings, fit_settings, dataset, device, epochs)
    path = cached_path(settings, fit_settings, dataset, loaded, epochs=epochs, augmentation=lesson.augmentation)
    resume = resume_folder(path)
    once = _without_repeats(observe)
    cached = None if resume.folder.exists() else read_cached(path, loaded, once)
    if cached is None:
        with locked(path.with_suffix(".lock"), waiting=lambda seconds: once(Note(_WAITING))):
            cached = read_cached(path, loaded, once)  # another run may have trained it meanwhile
            if cached is None:
                network, seconds = _trained(lesson, resume, observe)
                taught = Taught(network, path, epochs, seconds)
                write_cached(path, taught)
                resume.remove()
                return taught
            resume.remove()  # a training may be killed after its last file
    observe(Note(f"teacher: taken from {path} ({epochs} epochs on {dataset.name})"))
    return cached


def _without_repeats(observe: Observer) -> Observer:
    told: list[Event] = []

    def tell(event: Event) -> None:
        if event not in told:
            told.append(event)
            observe(event)

    return tell


def load_teacher(settings: NetworkSettings, dataset: Dataset) -> LoadedNetwork:
    """Load the network for a data set's classes and images, before any training."""
    return load_network(
        settings.model,
        classes=len(dataset.classes),
        img_size=dataset.img_size,
        data_mean=dataset.mean,
        data_std=dataset.std,
        stem=settings.stem,
        model_kwargs=settings.model_kwargs,
        pretrained=settings.pretrained,
        checkpoint=settings.checkpoint,
        checkpoint_match=settings.checkpoint_match,
        seed=settings.seed,
    )


def teacher_epochs(
    settings: NetworkSettings, fit_settings: FitSettings, dataset: Dataset, loaded: LoadedNetwork
) -> int:
    """Return how many epochs the teacher is trained: as asked for, or by the recipe; 0 where it knows the data."""
    if loaded.trained:
        return 0
    recipe = recipe_for(img_size=dataset.img_size, images=len(dataset.train))
    default = recipe.teacher_epochs if loaded.source == "random" else recipe.tuning_epochs
    return fit_settings.teacher_epochs or default


def augmentation_of(settings: FitSettings, dataset: Dataset) -> Augmentation:
    """Return the augmentation of resolved settings; streamed images have no padded crop, but a random resized one."""
    resident = isinstance(dataset.train, ImageSplit)
    return Augmentation(
        flip=dataset.mirror_safe,
        crop_padding=round(CROP_PADDING * dataset.img_size) if resident else 0,
        policy=settings.aa or "none",
        cutout=settings.cutout or 0,
        mixup=settings.mixup or 0.0,
        cutmix=settings.cutmix or 0.0,
        mixup_prob=1.0 if settings.mixup_prob is None else settings.mixup_prob,
        mixup_off_epoch=settings.mixup_off_epoch,
        smoothing=settings.smoothing,
    )


def execution_of(settings: FitSettings | BenchSettings, device: torch.device) -> Execution:
    """Return how steps of resolved settings run."""
    return Execution(
        device,
        amp=bool(settings.amp),
        compiled=bool(settings.torchcompile),
        captured=bool(settings.cuda_graph),
        pieces=settings.grad_accum_steps if isinstance(settings, FitSettings) else 1,
        dtype=AUTOCAST_DTYPES[settings.amp_dtype],
    )


def piece_of(settings: FitSettings) -> int:
    """Return the images that resolved settings take at once."""
    assert isinstance(settings.batch_size, int)
    return settings.batch_size


def images_a_step(settings: FitSettings) -> int:
    """Return the images whose gradients make one update, by resolved settings."""
    return piece_of(settings) * settings.grad_accum_steps


def interval_of(settings: FitSettings) -> Interval:
    """Return how often states are written: `2` is epochs, `5m` is minutes."""
    number = settings.checkpoint_interval.removesuffix("m")
    if number != settings.checkpoint_interval:
        return Interval(minutes=float(number))
    return Interval(epochs=int(number))


@dataclass(frozen=True)
class _Lesson:
    """A training of a teacher: the network, and everything that determines what becomes of it."""

    loaded: LoadedNetwork
    settings: NetworkSettings
    fit_settings: FitSettings
    dataset: Dataset
    device: torch.device
    epochs: int

    @property
    def augmentation(self) -> Augmentation:
        augmentation = augmentation_of(self.fit_settings, self.dataset)
        if isinstance(self.fit_settings, ConvertSettings):
            return replace(augmentation, mixup=0.0, mixup_off_epoch=0)  # which are the student's
        return augmentation

    @property
    def tuned(self) -> bool:
        """Whether the network has other weights than random ones."""
        return self.loaded.source != "random"

    @property
    def schedule(self) -> Schedule:
        peak = _rate_and_decay(self.fit_settings, self.dataset)[0] * (TUNING_LR if self.tuned else 1.0)
        return Schedule(self.epochs, 0.05 * self.epochs, peak, seed=self.settings.seed)

    def batches(self) -> ClosableBatches:
        return train_batches(
            self.dataset.train,
            classes=self.loaded.classes,
            img_size=self.loaded.img_size,
            mean=_triple(self.loaded.mean),
            std=_triple(self.loaded.std),
            batch_size=images_a_step(self.fit_settings),
            augmentation=self.augmentation,
            device=self.device,
            seed=self.settings.seed,
            workers=self.settings.workers,
            channels_last=self.device.type == "cuda",
        )


def _trained(lesson: _Lesson, resume: ResumeFolder, observe: Observer) -> tuple[LoadedNetwork, float]:
    """Return the network, trained or fine-tuned, and the seconds that it took."""
    loaded, fit_settings, dataset, device = lesson.loaded, lesson.fit_settings, lesson.dataset, lesson.device
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    module = loaded.module.to(device).to(memory_format=layout).train()
    execution = execution_of(fit_settings, device)
    decay = _rate_and_decay(fit_settings, dataset)[1]
    with enough_images(), closing(lesson.batches()) as batches:
        result = fit(
            f"teacher {loaded.name}",
            (Span(lesson.epochs, AnnObjective(module)),),
            batches,
            train_state({"teacher": module}, opt=fit_settings.opt, weight_decay=decay, scaled=execution.scaled),
            plan=Plan(
                lesson.schedule,
                interval_of(fit_settings),
                remedy="try a smaller --batch-size (the teacher's learning rate follows it), or --no-amp",
            ),
            execution=execution,
            resume=resume,
            observe=observe,
        )
    way = f"{'fine-tuned' if lesson.tuned else 'trained'} for {lesson.epochs} epochs on {dataset.name}"
    trained = module.cpu().to(memory_format=torch.contiguous_format).eval()
    return replace(loaded, module=trained, source=f"{loaded.source}, {way}", trained=True), result.seconds


def _rate_and_decay(settings: FitSettings, dataset: Dataset) -> tuple[float, float]:
    """Return learning rate and weight decay of the recipe for a teacher, at the batch that is asked for."""
    recipe = recipe_for(img_size=dataset.img_size, images=len(dataset.train))
    defaults = FitSettings(**settings.model_dump(include={"batch_size", "grad_accum_steps", "opt"}))
    resolved = resolved_fit(defaults, recipe, img_size=dataset.img_size, cuda=False)
    peak, decay = resolved["lr"], resolved["weight_decay"]
    assert isinstance(peak, float)
    assert isinstance(decay, float)
    return peak, decay


def _triple(values: tuple[float, ...]) -> tuple[float, float, float]:
    first, second, third = values
    return first, second, third
