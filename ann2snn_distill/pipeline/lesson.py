"""The training of a teacher: by the recipe of the data, and by what `teach` was asked for in its place."""

from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import nn

from ann2snn_distill.config import ConvertSettings, FitSettings, NetworkSettings
from ann2snn_distill.data.batches import Augmentation, ClosableBatches, train_batches
from ann2snn_distill.data.datasets import Dataset
from ann2snn_distill.distillation.objectives import AnnObjective
from ann2snn_distill.events import Observer
from ann2snn_distill.pipeline.fitting import augmentation_of, execution_of, images_a_step, interval_of
from ann2snn_distill.pipeline.guards import enough_images
from ann2snn_distill.recipes import TUNING_LR, recipe_for, resolved_fit
from ann2snn_distill.teacher import LoadedNetwork
from ann2snn_distill.training.fit import Plan, Schedule, Span, fit
from ann2snn_distill.training.resume import ResumeFolder
from ann2snn_distill.training.state import TrainState, train_state

TEACHERS_OWN = ("lr", "weight_decay", "warmup_epochs", "model_ema")
"""Settings that `teach` takes for the teacher, and `convert` for its student alone."""


@dataclass(frozen=True)
class Lesson:
    """A training of a teacher: the network, and everything that determines what becomes of it."""

    loaded: LoadedNetwork
    settings: NetworkSettings
    fit_settings: FitSettings
    dataset: Dataset
    device: torch.device
    epochs: int

    @property
    def augmentation(self) -> Augmentation:
        """Of the images; what `convert` was asked for about mixup is its student's."""
        augmentation = augmentation_of(self.fit_settings, self.dataset)
        if isinstance(self.fit_settings, ConvertSettings):
            return replace(augmentation, mixup=0.0, mixup_off_epoch=0)
        return augmentation

    @property
    def tuned(self) -> bool:
        """Whether the network has other weights than random ones."""
        return self.loaded.source != "random"

    @property
    def given(self) -> dict[str, float]:
        """What was asked for in place of the recipe's optimisation, by `teach`; `convert` asks that of its student."""
        if isinstance(self.fit_settings, ConvertSettings):
            return {}
        asked = {name: getattr(self.fit_settings, name) for name in TEACHERS_OWN}
        return {name: value for name, value in asked.items() if value != FitSettings.model_fields[name].default}

    @property
    def slower(self) -> str:
        """What a user can lower the learning rate by."""
        if isinstance(self.fit_settings, ConvertSettings):
            return "a smaller --batch-size (the teacher's learning rate follows it)"
        return "a smaller --lr"

    @property
    def schedule(self) -> Schedule:
        """Epochs and learning rates: a network with other weights than random ones is fine-tuned at a lower one."""
        peak = self._by_recipe("lr") * (TUNING_LR if self.tuned else 1.0)
        chosen = {"lr": peak, "warmup_epochs": 0.05 * self.epochs} | self.given
        return Schedule(self.epochs, chosen["warmup_epochs"], chosen["lr"], seed=self.settings.seed)

    def state(self, module: nn.Module) -> TrainState:
        """Return what is trained."""
        return train_state(
            {"teacher": module},
            opt=self.fit_settings.opt,
            weight_decay=self.given.get("weight_decay", self._by_recipe("weight_decay")),
            average_decay=self.given.get("model_ema", 0.0),
            scaled=execution_of(self.fit_settings, self.device).scaled,
        )

    def _by_recipe(self, name: str) -> float:
        """Return what the recipe says for a teacher from random weights, at the batch that is asked for."""
        recipe = recipe_for(img_size=self.dataset.img_size, images=len(self.dataset.train))
        defaults = FitSettings(**self.fit_settings.model_dump(include={"batch_size", "grad_accum_steps", "opt"}))
        value = resolved_fit(defaults, recipe, img_size=self.dataset.img_size, cuda=False)[name]
        assert isinstance(value, float)
        return value

    def batches(self) -> ClosableBatches:
        """Return the training images, augmented."""
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


def trained(lesson: Lesson, resume: ResumeFolder, observe: Observer) -> tuple[LoadedNetwork, float]:
    """Return the network, trained or fine-tuned, and the seconds that it took."""
    loaded, fit_settings, device = lesson.loaded, lesson.fit_settings, lesson.device
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    module = loaded.module.to(device).to(memory_format=layout).train()
    execution = execution_of(fit_settings, device)
    state = lesson.state(module)
    with enough_images(), closing(lesson.batches()) as batches:
        result = fit(
            f"teacher {loaded.name}",
            (Span(lesson.epochs, AnnObjective(module)),),
            batches,
            state,
            plan=Plan(
                lesson.schedule,
                interval_of(fit_settings),
                remedy=f"try {lesson.slower}, or --no-amp",
            ),
            execution=execution,
            resume=resume,
            observe=observe,
        )
    way = f"{'fine-tuned' if lesson.tuned else 'trained'} for {lesson.epochs} epochs on {lesson.dataset.name}"
    with state.as_evaluated():
        copy = deepcopy(module)
    copy = copy.cpu().to(memory_format=torch.contiguous_format).eval()
    return replace(loaded, module=copy, source=f"{loaded.source}, {way}", trained=True), result.seconds


def _triple(values: tuple[float, ...]) -> tuple[float, float, float]:
    first, second, third = values
    return first, second, third
