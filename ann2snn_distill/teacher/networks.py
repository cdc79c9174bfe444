"""Networks from timm, built from a name and a few numbers, so that a saved file rebuilds the same."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import nn
from torch.overrides import TorchFunctionMode

from ann2snn_distill.conversion.whole_input import WholeInputs
from ann2snn_distill.errors import BadInputError, UnsupportedModelError, UsageError, first_line
from ann2snn_distill.teacher.hub import wants_img_size
from ann2snn_distill.teacher.limits import finite_limits
from ann2snn_distill.teacher.names import is_hub_name, resolve_model_name
from ann2snn_distill.teacher.stem import Stem, StemChange, small_stem

_RESERVED = {
    "num_classes": "the data set sets it",
    "img_size": "--img-size sets it",
    "pretrained": "--pretrained sets it",
    "pretrained_cfg": "--pretrained and MODEL set it",
    "pretrained_cfg_overlay": "--pretrained and MODEL set it",
    "checkpoint_path": "--checkpoint sets it",
    "features_only": "the classifier is needed",
}

_COMPUTED_WITH = (torch.tensor, torch.as_tensor, torch.arange, torch.linspace)
_MOST_COMPUTED_WITH = 2**16
"""Numbers of one such tensor; a header may ask for any length."""


def build_network(
    name: str,
    *,
    classes: int,
    img_size: int,
    stem: Stem,
    model_kwargs: Mapping[str, Any],
    seed: int = 0,
) -> nn.Module:
    """Build a timm network with random weights: float32, in eval mode.

    It takes images (B, 3, img_size, img_size) to logits (B, classes); equal arguments give equal structure and weights.

    Raises:
        UsageError: the name is unknown, or timm refuses a keyword or the image size.
        UnsupportedModelError: it has no classifier.
        BadInputError: a hub repository's configuration cannot be had.
    """
    name = resolve_model_name(name)
    network = create(name, classes=classes, img_size=img_size, model_kwargs=model_kwargs, seed=seed, pretrained=False)
    fit_to_images(network, name=name, classes=classes, img_size=img_size, stem=stem, model_kwargs=model_kwargs)
    return network


def build_blueprint(
    name: str, *, classes: int, img_size: int, stem: Stem, model_kwargs: Mapping[str, Any]
) -> nn.Module:
    """Build a network as `build_network` does, on the meta device: shapes without values, in a fraction of the time.

    What PyTorch cannot run there, a few architectures before its 2.14, is built on the CPU.

    Raises:
        UsageError, UnsupportedModelError, BadInputError: as `build_network`.
    """
    try:
        with torch.device("meta"):
            return build_network(name, classes=classes, img_size=img_size, stem=stem, model_kwargs=model_kwargs)
    except UsageError:
        return build_network(name, classes=classes, img_size=img_size, stem=stem, model_kwargs=model_kwargs)


def create(
    name: str,
    *,
    classes: int,
    img_size: int,
    model_kwargs: Mapping[str, Any],
    seed: int,
    pretrained: bool,
) -> nn.Module:
    """Call timm: float32, eval mode, its own stem; what timm does not fill with weights is random by `seed`.

    Raises:
        UsageError: timm refuses a keyword or the image size.
        BadInputError: a hub repository's configuration or the pretrained weights cannot be had.
    """
    for key in model_kwargs:
        if key in _RESERVED:
            raise UsageError(f"--model-kwargs cannot set {key}: {_RESERVED[key]}")
    keywords = dict(model_kwargs)
    if wants_img_size(name):
        keywords["img_size"] = img_size
    network = _plain(name, classes=classes, keywords=keywords, seed=seed, img_size=img_size)
    if pretrained:
        network = _with_weights(name, classes=classes, keywords=keywords, seed=seed)
    return finite_limits(network.float().eval())


def fit_to_images(
    network: nn.Module,
    *,
    name: str,
    classes: int,
    img_size: int,
    stem: Stem,
    model_kwargs: Mapping[str, Any],
) -> tuple[StemChange, ...]:
    """Adapt the stem if asked, and see that images of `img_size` pixels become `classes` logits.

    Convolutions that read their whole input become matrix products. Returns what was changed in the stem.

    Raises:
        UsageError: the network does not take colour images of that side, or `model_kwargs` may be why they give others.
        UnsupportedModelError: it has no classifier.
    """
    config = getattr(network, "pretrained_cfg", None) or {}
    channels = model_kwargs.get("in_chans", config.get("input_size", (3,))[0])
    if channels != 3:
        way_on = "leave in_chans out of --model-kwargs" if "in_chans" in model_kwargs else "choose another model"
        raise UsageError(f"{name} takes {channels}-channel images, and all images here have 3 channels; {way_on}")
    changes: tuple[StemChange, ...] = ()
    try:
        if stem == "small":
            changes = small_stem(network, img_size=img_size)
        with torch.no_grad(), WholeInputs(network) as whole_inputs:
            logits_BC = network(torch.zeros(1, 3, img_size, img_size))
    except Exception as error:  # whatever a network raises, the image does not fit it
        ways_on = ["another --img-size", "--stem keep" if changes else ""]
        ways_on += ["other --model-kwargs" if model_kwargs else "", "another model"]
        raise UsageError(
            f"{name} cannot take images of {img_size} px ({first_line(error)}); "
            f"choose {' or '.join(way for way in ways_on if way)}"
        ) from error
    if not isinstance(logits_BC, torch.Tensor) or logits_BC.shape != (1, classes):
        found = tuple(logits_BC.shape) if isinstance(logits_BC, torch.Tensor) else type(logits_BC).__name__
        gives = f"{name} gives {found} instead of {classes} logits for one image"
        if model_kwargs:
            raise UsageError(f"{gives}; check --model-kwargs or choose a classification model")
        raise UnsupportedModelError(f"{gives}: it has no classifier; choose a classification model")
    whole_inputs.linearize()
    network.train().eval()  # drops what timm's attention keeps of the weights of now, which others may follow
    return changes


def classifier_names(network: nn.Module) -> tuple[str, ...]:
    """Paths of the modules whose outputs are logits, as timm names them."""
    config = getattr(network, "pretrained_cfg", None) or {}
    named = config.get("classifier") or ()
    return (named,) if isinstance(named, str) else tuple(named)


class _WithValues(TorchFunctionMode):
    """Lets the few numbers that a constructor computes with, such as widths, have values on the meta device, too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _COMPUTED_WITH and kwargs.get("device") is None and not isinstance(args[0], torch.Tensor):
            shape = func(*args, **kwargs | {"device": "meta"})
            if shape.numel() <= _MOST_COMPUTED_WITH:
                kwargs["device"] = "cpu"
        return func(*args, **kwargs)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU generator for a while; accelerators' generators are neither read nor written."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _plain(name: str, *, classes: int, keywords: Mapping[str, Any], seed: int, img_size: int) -> nn.Module:
    device = torch.get_default_device()

    def made() -> nn.Module:
        with seeded(seed):
            network: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, **keywords)
        return network.to(device)

    try:
        return made()
    except Exception as error:  # a constructor that is given a bad value may raise anything
        if device.type == "meta":
            with suppress(Exception), _WithValues():
                return made()
        raise UsageError(_refusal(name, error, keywords, img_size)) from error


def _with_weights(name: str, *, classes: int, keywords: Mapping[str, Any], seed: int) -> nn.Module:
    ways_on = "give --checkpoint FILE, or train from scratch with --no-pretrained"
    config = None if is_hub_name(name) else get_pretrained_cfg(name)
    if config is not None and not config.has_weights:
        raise BadInputError(f"timm's weights for {name} cannot be had (none exist); {ways_on}")
    try:
        with seeded(seed):
            network: nn.Module = timm.create_model(name, pretrained=True, num_classes=classes, **keywords)
    except Exception as error:  # the hub's, the connection's and timm's exceptions alike
        raise BadInputError(f"timm's weights for {name} cannot be had ({first_line(error)}); {ways_on}") from error
    return network


def _refusal(name: str, error: Exception, keywords: Mapping[str, Any], img_size: int) -> str:
    named = re.search(r"keyword argument '(\w+)'", str(error))
    given = [key for key in keywords if key != "img_size"]
    if named and named[1] in given:
        return f"{name} takes no keyword {named[1]!r} ({first_line(error)}); remove it from --model-kwargs"
    if given:
        return f"{name} refuses --model-kwargs {', '.join(given)}: {first_line(error)}"
    reason = first_line(error)
    return f"timm cannot build {name} for images of {img_size} px: {reason}; choose another --img-size"
