"""What the Hugging Face hub says of a network that its name does not; of others timm knows it."""

from collections.abc import Mapping
from typing import Any

from timm.models import get_pretrained_cfg, load_model_config_from_hf

from ann2snn_distill.errors import BadInputError, first_line
from ann2snn_distill.teacher.names import is_hub_name

_USUAL_INPUT = (3, 224, 224)
"""Channels, height and width that timm takes for granted."""


def local_form(name: str, model_kwargs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name and keyword arguments that build the same network without the hub: what a file may name.

    Raises:
        BadInputError: a hub repository's configuration cannot be had.
    """
    if not is_hub_name(name):
        return name, dict(model_kwargs)
    _, architecture, arguments = _hub_config(name)
    return architecture, {**arguments, **model_kwargs}


def wants_img_size(name: str) -> bool:
    """Return whether the architecture is built for one image size, which timm then takes as a keyword."""
    if not is_hub_name(name):
        return bool(getattr(get_pretrained_cfg(name), "fixed_input_size", False))
    return bool(_hub_config(name)[0].get("fixed_input_size", False))


def native_side(name: str) -> int:
    """Return the side of the images that a network is made for, pixels: 224 where its configuration does not say.

    Raises:
        BadInputError: a hub repository's configuration cannot be had, or names no such size.
    """
    if is_hub_name(name):
        size = _hub_config(name)[0].get("input_size")
    else:
        size = getattr(get_pretrained_cfg(name), "input_size", None)
    try:
        return int((size or _USUAL_INPUT)[-1])
    except (TypeError, ValueError, LookupError) as error:
        raise BadInputError(f"{name} names {size!r} as the size of its images; give --img-size") from error


def _hub_config(name: str) -> tuple[Mapping[str, Any], str, Mapping[str, Any]]:
    """Return the configuration of a hub repository, its architecture, and the keyword arguments it is built with."""
    try:
        config, architecture, arguments = load_model_config_from_hf(name.removeprefix("hf-hub:"))
    except Exception as error:  # offline, missing, gated, not timm's: many libraries' exceptions
        raise BadInputError(
            f"{name} cannot be had ({first_line(error)}); check the name and the connection, "
            "or give a timm name (convert and teach take weights with --checkpoint FILE)"
        ) from error
    return config, architecture, arguments or {}
