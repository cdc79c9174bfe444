"""Networks from a file's header: nothing is fetched, and nothing is built that the file's own tensors contradict.

A header is a stranger's: a few bytes of it could ask for a network of terabytes, or of a billion layers. So the
network is first made of meta tensors, which have shapes and no memory, and of no more layers than the file can fill.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ann2snn_distill.errors import BadInputError, UnsupportedModelError, UsageError, first_line
from ann2snn_distill.teacher.names import is_hub_name, resolve_model_name
from ann2snn_distill.teacher.networks import build_network, create, fit_to_images
from ann2snn_distill.teacher.stem import Stem

_LARGEST_VALUE = 2**30
"""Numbers in one activation of one image; an attention over 1,024 px in patches of 16 has 2**28."""

_MOST_OPERATIONS = 2 * 10**13
"""Operations of one image (a multiply-accumulate is two), those of finding the stem included."""

_SPARE_PARAMETERS, _SPARE_MODULES, _SPARE_VALUES = 1_000, 10_000, 1_000_000
"""What timm makes and drops again while it builds, such as a classifier of another size."""


class _TooLargeError(Exception):
    """The header asks for more than its file holds."""


def rebuilt_network(
    name: str,
    *,
    classes: int,
    img_size: int,
    stem: Stem,
    model_kwargs: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
) -> nn.Module:
    """Build the network of a header, with random weights.

    Args:
        name: timm's name of the architecture.
        classes: number of logits.
        img_size: side of the images, pixels.
        stem: as it was adapted.
        model_kwargs: keyword arguments for timm.
        shapes: of the file's tensors, by name: the network's must be the same.

    Raises:
        BadInputError: they are not, or the name is a hub's.
        UsageError: timm does not know the name, or refuses a keyword or the image size.
    """
    check_rebuild(name, classes=classes, img_size=img_size, stem=stem, model_kwargs=model_kwargs, shapes=shapes)
    return build_network(name, classes=classes, img_size=img_size, stem=stem, model_kwargs=model_kwargs)


def check_rebuild(
    name: str,
    *,
    classes: int,
    img_size: int,
    stem: Stem,
    model_kwargs: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """See that a header describes the network whose tensors are in its file, without making that network.

    Raises:
        BadInputError: it does not, or its name is a hub's.
        UsageError: timm does not know the name, or refuses a keyword or the image size.
    """
    if is_hub_name(resolve_model_name(name)):
        raise BadInputError(f"the file names the network {name}, which would have to be fetched; convert it again")
    if model_kwargs.get("in_chans", 3) != 3:
        raise BadInputError("the file's network takes images of other than 3 channels, which no data set here has")
    try:
        work = FlopCounterMode(display=False)
        with _at_most(len(shapes)), work, _Bounded(), torch.no_grad():
            with torch.device("meta"):
                network = _untrainable(name, classes=classes, img_size=img_size, model_kwargs=model_kwargs)
            network = _fitted(
                network, name,
                classes=classes, img_size=img_size, stem=stem, model_kwargs=model_kwargs,
                most=2 * sum(map(math.prod, shapes.values())) + _SPARE_VALUES,
            )  # fmt: skip
            _check_work(work.get_total_flops())
    except UnsupportedModelError as error:  # no model of the user's choice: the file's
        raise BadInputError(f"the file's network cannot be built: {error}") from error
    except Exception as error:
        cause = _too_large(error)
        if cause is None:
            raise
        raise BadInputError(f"the file's header describes a network {cause}, and its tensors do not") from error
    _compare({key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}, shapes)


def _fitted(
    network: nn.Module,
    name: str,
    *,
    classes: int,
    img_size: int,
    stem: Stem,
    model_kwargs: Mapping[str, Any],
    most: int,
) -> nn.Module:
    """Fit a meta network to the images; one of at most `most` values that PyTorch cannot run there on the CPU.

    It cannot run a few architectures before its 2.14.
    """
    try:
        with torch.device("meta"):
            fit_to_images(network, name=name, classes=classes, img_size=img_size, stem=stem, model_kwargs=model_kwargs)
        return network
    except UsageError as error:
        if _too_large(error):
            raise
        if sum(tensor.numel() for tensor in network.state_dict().values()) > most:
            raise _TooLargeError("of more values") from error
        network = _untrainable(name, classes=classes, img_size=img_size, model_kwargs=model_kwargs)
        fit_to_images(network, name=name, classes=classes, img_size=img_size, stem=stem, model_kwargs=model_kwargs)
        return network


def _untrainable(name: str, *, classes: int, img_size: int, model_kwargs: Mapping[str, Any]) -> nn.Module:
    """Call timm; PyTorch's counter of operations fails where a module takes a view of a parameter, as CaiT's do."""
    network = create(name, classes=classes, img_size=img_size, model_kwargs=model_kwargs, seed=0, pretrained=False)
    return network.requires_grad_(False)


def _check_work(operations: int) -> None:
    if operations > _MOST_OPERATIONS:
        raise _TooLargeError(f"of {operations:.1e} operations an image")


def _compare(own: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    missing = [name for name in own if name not in found]
    extra = [name for name in found if name not in own]
    other = [name for name in own if name in found and own[name] != found[name]]
    if other:
        first = other[0]
        raise BadInputError(
            f"{len(other)} tensors of the file have another shape than the network of its header (first: {first} is "
            f"{found[first]} and should be {own[first]}); header and tensors do not belong together: convert again"
        )
    if missing or extra:
        what = f"{len(missing)} missing, {len(extra)} too many, first: {(missing + extra)[0][:100]}"
        raise BadInputError(
            f"the tensors of the file are not the model's ({what}); it is damaged, or was written with another version "
            "of timm: convert again"
        )


@contextmanager
def _at_most(tensors: int) -> Iterator[None]:
    """Stop a constructor that makes far more parameters or modules than there are tensors."""
    left = {"layers": 2 * tensors + _SPARE_PARAMETERS, "modules": 20 * tensors + _SPARE_MODULES}

    def count(kind: str) -> None:
        left[kind] -= 1
        if left[kind] < 0:
            raise _TooLargeError(f"of more {kind}")

    handles = (
        register_module_parameter_registration_hook(lambda *_: count("layers")),
        register_module_module_registration_hook(lambda *_: count("modules")),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Bounded(TorchFunctionMode):
    """Refuses activations of a size that no image of the header's needs; on meta tensors they cost nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not isinstance(result, nn.Parameter) and result.numel() > _LARGEST_VALUE:
            raise _TooLargeError(f"with {result.numel():.1e} numbers in one value")
        return result


def _too_large(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, _TooLargeError):
            return first_line(error)
        error = error.__cause__ or error.__context__
    return None
