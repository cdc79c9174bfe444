"""The teacher of a run: loaded, and trained or fine-tuned first if it does not know the data, once for all runs."""

import torch

from ann2snn_distill.config import FitSettings, NetworkSettings
from ann2snn_distill.data.datasets import Dataset
from ann2snn_distill.events import Event, Note, Observer
from ann2snn_distill.locks import locked
from ann2snn_distill.pipeline.lesson import Lesson, trained
from ann2snn_distill.pipeline.teacher_cache import Taught, cached_path, read_cached, resume_folder, write_cached
from ann2snn_distill.recipes import recipe_for
from ann2snn_distill.teacher import LoadedNetwork, load_network

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
    lesson = Lesson(loaded, settings, fit_settings, dataset, device, epochs)
    path = cached_path(
        settings, fit_settings, dataset, loaded, epochs=epochs, augmentation=lesson.augmentation, given=lesson.given
    )
    resume = resume_folder(path)
    once = _without_repeats(observe)
    cached = None if resume.folder.exists() else read_cached(path, loaded, once)
    if cached is None:
        with locked(path.with_suffix(".lock"), waiting=lambda seconds: once(Note(_WAITING))):
            cached = read_cached(path, loaded, once)  # another run may have trained it meanwhile
            if cached is None:
                network, seconds = trained(lesson, resume, observe)
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
