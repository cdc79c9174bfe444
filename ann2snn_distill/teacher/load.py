"""A trained network from timm's weights or from a file, or an untrained one from a seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from timm.models import split_model_name_tag
from torch import Tensor, nn

from ann2snn_distill.errors import BadInputError, UsageError
from ann2snn_distill.recipes import SMALL_IMAGE
from ann2snn_distill.teacher.conversions import conversion, other_epsilon
from ann2snn_distill.teacher.files import TensorFile, read_tensors
from ann2snn_distill.teacher.limits import finite_limits
from ann2snn_distill.teacher.matching import Target, WeightMatch, match_by_name, match_by_order
from ann2snn_distill.teacher.names import is_hub_name, resolve_model_name
from ann2snn_distill.teacher.networks import classifier_names, create, fit_to_images
from ann2snn_distill.teacher.normalisation import Normalisation
from ann2snn_distill.teacher.stem import Stem, chosen_stem

_CHANNELS = 3


@dataclass(frozen=True)
class LoadedNetwork:
    """A network and all that rebuilds it.

    Attributes:
        module: float32, eval mode; images (B, C, img_size, img_size) to logits (B, classes).
        name: timm name, or hf-hub:org/name.
        classes: number of logits.
        img_size: side of the images, pixels.
        stem: "small" where strides were taken out of it (or that was asked for by name).
        model_kwargs: keyword arguments for timm.
        mean: by which images in 0..1 are normalised, a channel.
        std: the same.
        source: "timm:TAG", the hub name, "checkpoint:FILE" or "random".
        trained: every weight, the classifier's too, came from timm or the file.
        match: how the weights were found; None for random ones.
        class_names: of the classifier that came from a file, in its order, where the file says them.
    """

    module: nn.Module
    name: str
    classes: int
    img_size: int
    stem: Stem
    model_kwargs: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    trained: bool
    match: WeightMatch | None = field(default=None)
    class_names: tuple[str, ...] | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know of where the weights came from."""
        return self.match.warnings if self.match else ()


def load_network(
    name: str,
    *,
    classes: int,
    img_size: int,
    data_mean: Sequence[float],
    data_std: Sequence[float],
    stem: Literal["auto", "keep", "small"] = "auto",
    model_kwargs: Mapping[str, Any] | None = None,
    pretrained: bool | None = None,
    checkpoint: Path | None = None,
    checkpoint_match: Literal["name", "order"] = "name",
    seed: int = 0,
) -> LoadedNetwork:
    """Build a timm network and give it timm's weights, a file's, or random ones.

    `pretrained` None means: for images above 64 px without a checkpoint. What is random comes from `seed` and
    leaves torch's global generator as it was. Images are normalised as a checkpoint says; as timm's weights want it
    where those, or another checkpoint for images above 64 px, are loaded; otherwise by the data's mean and deviation.

    Raises:
        UsageError: an unknown name, a refused keyword or image size, flags that exclude each other.
        BadInputError: weights that cannot be had, or a file that cannot be read, does not fit or holds NaN.
    """
    name = resolve_model_name(name)
    if checkpoint is not None and pretrained:
        raise UsageError("--pretrained and --checkpoint exclude each other; give one of them")
    if checkpoint is None and checkpoint_match != "name":
        raise UsageError(f"--checkpoint-match {checkpoint_match} says how a file is read; give --checkpoint FILE, too")
    large = img_size > SMALL_IMAGE
    fetch = pretrained if pretrained is not None else large and checkpoint is None
    kwargs = dict(model_kwargs or {})
    module = create(name, classes=classes, img_size=img_size, model_kwargs=kwargs, seed=seed, pretrained=fetch)
    match = _timm_match(module, classes) if fetch else None
    asked = chosen_stem(stem, img_size=img_size)
    changes = fit_to_images(module, name=name, classes=classes, img_size=img_size, stem=asked, model_kwargs=kwargs)
    used: Stem = asked if changes or stem != "auto" else "keep"
    source = _timm_source(module, name) if fetch else "random"
    normalised = Normalisation(mean=tuple(data_mean), std=tuple(data_std))
    class_names = None
    if fetch or (checkpoint is not None and large):
        normalised = _timm_normalisation(module) or normalised
    if checkpoint is not None:
        file = read_tensors(checkpoint)
        target = _target(module, name=name, classes=classes, stem=used)
        match = _load_file(module, file, target=target, by_order=checkpoint_match == "order")
        source = f"checkpoint:{checkpoint.name}"
        normalised = file.normalisation or normalised
        class_names = _class_names(file, match)
    return LoadedNetwork(
        module=module,
        name=name,
        classes=classes,
        img_size=img_size,
        stem=used,
        model_kwargs=kwargs,
        mean=normalised.mean,
        std=normalised.std,
        source=source,
        trained=match is not None and not match.rebuilt,
        match=match,
        class_names=class_names,
    )


def _target(module: nn.Module, *, name: str, classes: int, stem: Stem) -> Target:
    return Target(
        name=name,
        tensors=module.state_dict(),
        classifiers=classifier_names(module),
        classes=classes,
        stem=stem,
        rename=conversion(module),
    )


def _load_file(module: nn.Module, file: TensorFile, *, target: Target, by_order: bool) -> WeightMatch:
    tensors, match = (match_by_order if by_order else match_by_name)(file, target)
    for name, tensor in tensors.items():
        _check_values(file.path, name, tensor, target.tensors[name])
    module.load_state_dict(tensors, strict=False)
    finite_limits(module)
    return replace(match, warnings=other_epsilon(module, file.tensors))


def _class_names(file: TensorFile, match: WeightMatch) -> tuple[str, ...] | None:
    if match.rebuilt or file.classes is None:
        return None
    if len(file.classes) != match.classes:
        raise BadInputError(
            f"{file.path} is damaged: it names {len(file.classes)} classes and its classifier has {match.classes}; "
            "copy it again"
        )
    return file.classes


def _check_values(path: Path, name: str, tensor: Tensor, own: Tensor) -> None:
    """Refuse what no network computes with: NaN, infinity but for that of limits, integers of a quantized model."""
    if not own.is_floating_point():
        return
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise BadInputError(
            f"{path} holds {kind} numbers in {name}, where weights are floats; give the file of the float model"
        )
    values, unlimited = tensor.to(own.dtype), own.abs() == torch.finfo(own.dtype).max
    if not (values.isfinite() | (values.isinf() & unlimited)).all():
        raise BadInputError(
            f"{path} holds NaN or infinity in {name} (a training that diverged leaves them); give an earlier one"
        )


def _timm_match(module: nn.Module, classes: int) -> WeightMatch:
    """Say what timm loaded: it is strict, and leaves out the classifier alone, where its classes differ."""
    config: Mapping[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    names = tuple(module.state_dict())
    match = WeightMatch(loaded=names, how="timm", classes=classes)
    if config.get("num_classes") == classes:
        return match
    heads = tuple(f"{path}." for path in classifier_names(module))
    rebuilt = tuple(name for name in names if name.startswith(heads))
    return replace(match, loaded=tuple(name for name in names if name not in rebuilt), rebuilt=rebuilt)


def _timm_source(module: nn.Module, name: str) -> str:
    if is_hub_name(name):
        return name
    tag = split_model_name_tag(name)[1] or (getattr(module, "pretrained_cfg", None) or {}).get("tag")
    return f"timm:{tag or name}"


def _timm_normalisation(module: nn.Module) -> Normalisation | None:
    """Return timm's mean and deviation, or None where they are not those of colour images."""
    config: Mapping[str, Any] = getattr(module, "pretrained_cfg", None) or {}
    mean, std = tuple(config.get("mean") or ()), tuple(config.get("std") or ())
    return Normalisation(mean=mean, std=std) if len(mean) == len(std) == _CHANNELS else None
