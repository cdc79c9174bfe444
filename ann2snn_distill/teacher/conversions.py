"""Foreign names of weights made timm's: by timm's own filters, and for torchvision's transformers by tables."""

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from timm.models import model_entrypoint
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ann2snn_distill.teacher.renaming import Rename

FILTERS = ("checkpoint_filter_fn", "checkpoint_filter_fn_classifier", "_filter_fn", "_filter_torchvision_pretrained")
"""What the files of timm's architectures call their conversion of foreign checkpoints."""

_VIT = (
    (r"class_token", "cls_token"),
    (r"encoder\.pos_embedding", "pos_embed"),
    (r"conv_proj\.", "patch_embed.proj."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"encoder\.ln\.", "norm."),
    (r"heads\.head\.", "head."),
    (r"(blocks\.\d+)\.ln_([12])\.", r"\1.norm\2."),
    (r"(blocks\.\d+)\.self_attention\.in_proj_", r"\1.attn.qkv."),
    (r"(blocks\.\d+)\.self_attention\.out_proj\.", r"\1.attn.proj."),
    (r"(blocks\.\d+)\.mlp\.(0|linear_1)\.", r"\1.mlp.fc1."),
    (r"(blocks\.\d+)\.mlp\.(3|linear_2)\.", r"\1.mlp.fc2."),
)

_SWIN = (
    (r"features\.0\.0\.", "patch_embed.proj."),
    (r"features\.0\.2\.", "patch_embed.norm."),
    (r"features\.([1357])\.(\d+)\.", lambda found: f"layers.{int(found[1]) // 2}.blocks.{found[2]}."),
    (r"features\.([246])\.", lambda found: f"layers.{int(found[1]) // 2}.downsample."),
    (r"head\.", "head.fc."),
    (r"(layers\.\d+\.blocks\.\d+)\.mlp\.0\.", r"\1.mlp.fc1."),
    (r"(layers\.\d+\.blocks\.\d+)\.mlp\.3\.", r"\1.mlp.fc2."),
)

_TORCHVISION: tuple[tuple[str, tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]], ...] = (
    ("encoder.layers.encoder_layer_0.self_attention.in_proj_weight", _VIT),
    ("features.1.0.attn.relative_position_bias_table", _SWIN),
)
"""A name that only these networks have, and what becomes of the beginnings of their names."""

_EPSILON = 1e-3
"""Of the norms in torchvision's MobileNetV3 and EfficientNetV2, where timm's networks have 1e-5; no file holds it."""


def conversion(network: nn.Module) -> Rename:
    """Return what makes foreign checkpoints of a network's architecture timm's.

    torchvision's names become timm's, and timm's filter, if the architecture's file has one, does the rest.
    """
    convert = _timm_filter(network)
    return from_torchvision if convert is None else lambda tensors: convert(from_torchvision(tensors))


def from_torchvision(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of torchvision's ViT or Swin timm's names; any others stay as they are."""
    for mark, table in _TORCHVISION:
        if mark in tensors:
            return {_renamed(name, table): tensor for name, tensor in tensors.items()}
    return dict(tensors)


def other_epsilon(network: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """Return a warning if a file's names are torchvision's and its norms had another epsilon than the network's."""
    if not _architecture(network).startswith(("mobilenetv3", "efficientnetv2")):
        return ()
    own = {module.eps for module in network.modules() if isinstance(module, _BatchNorm)}
    if own == {_EPSILON} or not any(re.search(r"(^|\.)features\.\d+\.(\d+\.)?block\.", name) for name in names):
        return ()
    return (
        f"the file's names are torchvision's, whose norms of this network have an epsilon of {_EPSILON:g} that no file "
        f"holds; give --model-kwargs bn_eps={_EPSILON:g}",
    )


def _renamed(name: str, table: Any) -> str:
    for beginning, new in table:
        name = re.sub(f"^{beginning}", new, name)
    return name


def _timm_filter(network: nn.Module) -> Callable[[dict[str, Tensor]], Mapping[str, Any]] | None:
    architecture = _architecture(network)
    if not architecture:
        return None
    home = vars(sys.modules[model_entrypoint(architecture).__module__])
    convert = next((home[name] for name in FILTERS if name in home), None)
    if convert is None:
        return None
    takes_network = "model" in inspect.signature(convert).parameters
    return partial(convert, model=network) if takes_network else convert


def _architecture(network: nn.Module) -> str:
    return (getattr(network, "pretrained_cfg", None) or {}).get("architecture") or ""
