"""The defaults of a conversion that data, device and architecture decide."""

from pathlib import Path

import torch

from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.data.datasets import NAMES, Dataset
from ann2snn_distill.pipeline.starting import found_neuron
from ann2snn_distill.pipeline.students import is_same_network, learns_from_random
from ann2snn_distill.recipes import (
    recipe_for,
    resolved_clip,
    resolved_fit,
    resolved_guidance,
    resolved_init,
    resolved_neuron,
    resolved_timesteps,
)


def settled(settings: ConvertSettings, dataset: Dataset, device: torch.device) -> ConvertSettings:
    """Return `settings` with every default filled in that data and device decide."""
    recipe = recipe_for(img_size=dataset.img_size, images=len(dataset.train))
    start = resolved_init(
        settings,
        recipe,
        same_network=is_same_network(settings),
        random_fits=lambda: learns_from_random(settings, img_size=dataset.img_size),
    )
    settings = settings.model_copy(update=start)
    fit = resolved_fit(settings, recipe, img_size=dataset.img_size, cuda=device.type == "cuda")
    measures = {"img_size": dataset.img_size, "dataset": _lasting_name(str(settings.dataset))}
    neuron = resolved_neuron(settings, found_neuron(settings))
    taught = resolved_guidance(settings, recipe) | resolved_timesteps(settings, recipe)
    return settings.model_copy(update={**fit, **taught, **resolved_clip(settings), **neuron, **measures})


def _lasting_name(dataset: str) -> str:
    """Return a name that `eval` finds from any folder: a data set's own, or the whole path of a folder."""
    return dataset if dataset in NAMES else str(Path(dataset).resolve())
