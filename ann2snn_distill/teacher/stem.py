"""The stem for small images: no stride before the first stage.

Stem: the leaf modules that run before the first stage. First stage: the first entry of timm's `feature_info`
that is more than a cut inside the stem (the output of its first convolution, or of its container).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.layers import BlurPool2d, PatchEmbed, ScaledStdConv2d
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.padding import _ConstantPadNd, _ReflectionPadNd, _ReplicationPadNd

from ann2snn_distill.recipes import SMALL_IMAGE

Stem = Literal["keep", "small"]

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, BlurPool2d)
_PADS = (_ConstantPadNd, _ReflectionPadNd, _ReplicationPadNd)


@dataclass(frozen=True)
class StemChange:
    """One module of the stem that was changed: its path, and the change in words."""

    path: str
    change: str


def chosen_stem(stem: Literal["auto", "keep", "small"], *, img_size: int) -> Stem:
    """Return the stem that is asked for, or the one for images of that side (pixels)."""
    if stem != "auto":
        return stem
    return "keep" if img_size > SMALL_IMAGE else "small"


def small_stem(network: nn.Module, *, img_size: int) -> tuple[StemChange, ...]:
    """Take the strides out of the stem, in place, and say what was changed.

    Images are (B, 3, img_size, img_size); one empty image is run to see what the stem is.

    A strided convolution gets stride 1, and the 3x3 centre of its kernel if that was larger; strided pooling
    (and padding that serves it) becomes the identity. Networks whose parameters depend on the image size,
    with patch embeddings, or without `feature_info` stay as they are, as does what is strided but unknown.
    """
    if _is_patched(network):
        return ()
    modules = dict(network.named_modules())
    changes: list[StemChange] = []
    previous = ""
    for path in _stem_paths(network, img_size):
        module = modules[path]
        if isinstance(module, nn.Conv2d) and max(module.stride) > 1:
            changes.append(StemChange(path, _unstride(module)))
        elif isinstance(module, _POOLS) and _strided(module):
            if previous and isinstance(modules[previous], _PADS):
                network.set_submodule(previous, nn.Identity())
                changes.append(StemChange(previous, "padding removed"))
            network.set_submodule(path, nn.Identity())
            changes.append(StemChange(path, "pooling removed"))
        previous = path
    return tuple(changes)


def _unstride(conv: nn.Conv2d) -> str:
    """Stride 1, a kernel of at most 3x3; weight (O, I, kH, kW) is cropped to its centre."""
    conv.stride = (1, 1)
    if max(conv.kernel_size) <= 3:
        return "stride 1"
    if isinstance(conv, ScaledStdConv2d):  # its scale holds 1 / sqrt(fan-in)
        conv.scale *= conv.weight[0, 0].numel() ** 0.5 / 3
    top, left = ((size - 3) // 2 for size in conv.kernel_size)
    weight = conv.weight.detach()[:, :, top : top + 3, left : left + 3].clone()
    conv.weight = nn.Parameter(weight, requires_grad=conv.weight.requires_grad)
    conv.kernel_size, conv.padding, conv.dilation = (3, 3), (1, 1), (1, 1)
    return "3x3, stride 1"


def _strided(pool: nn.Module) -> bool:
    stride: Any = pool.stride
    return max(stride) > 1 if isinstance(stride, tuple | list) else int(stride) > 1


def _is_patched(network: nn.Module) -> bool:
    """Whether the network cuts images into patches, or has parameters made for one image size."""
    if _config(network).get("fixed_input_size", False):
        return True
    return any(isinstance(module, PatchEmbed) or "patch_embed" in path for path, module in network.named_modules())


def _config(network: nn.Module) -> dict[str, Any]:
    return getattr(network, "pretrained_cfg", None) or {}


def _stem_paths(network: nn.Module, img_size: int) -> list[str]:
    """Paths of the leaves that run before the first stage, in order; none where there is no stage."""
    info = getattr(network, "feature_info", None)
    entries: list[dict[str, Any]] = getattr(info, "info", info) or []
    if not entries:
        return []
    order = _execution_order(network, img_size)
    end = entries[-1]["module"]
    for entry in entries:
        inside = [index for index, path in enumerate(order) if _under(path, entry["module"])]
        if not inside:  # the entry names no module that ran (hrnet): where the stage begins is unknown
            return []
        if not _stem_only(network, entry, ran=order[: inside[-1] + 1], end=end):
            return order[: inside[0]]
    return []


def _stem_only(network: nn.Module, entry: dict[str, Any], *, ran: list[str], end: str) -> bool:
    """Whether an entry is a cut inside the stem, given the leaves that ran up to it and the last entry.

    An entry at full resolution is a stage even after a single convolution (vgg, dla): nothing was strided.
    """
    if entry["reduction"] == 1:
        return False
    modules = dict(network.named_modules())
    weighted = [path for path in ran if isinstance(modules[path], _ConvNd | nn.Linear)]
    if len(weighted) <= 1:
        return True
    first = _config(network).get("first_conv") or ""
    container = (first if isinstance(first, str) else first[0]).split(".")[0]
    return not _under(end, container) and all(_under(path, container) for path in weighted)


def _under(path: str, container: str) -> bool:
    return path == container or path.startswith(f"{container}.")


def _execution_order(network: nn.Module, img_size: int) -> list[str]:
    """Run one empty image, and list the leaf modules by their first call."""
    order: dict[str, None] = {}

    def hook(path: str) -> Callable[..., None]:
        return lambda *_: order.setdefault(path)

    leaves = [(path, module) for path, module in network.named_modules() if not list(module.children())]
    handles = [module.register_forward_pre_hook(hook(path)) for path, module in leaves]
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, img_size, img_size))
    except Exception:  # too small an image for the strides; what ran until then is the order
        if not order:
            raise
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return list(order)
