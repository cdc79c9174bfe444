"""The rule book of the commands: what each operation of timm's networks is to an SNN.

One meaning, whichever way it is written: as a module, a function, or a method.
"""

import operator

import torch
from timm.layers import (
    AvgPool2dSame,
    BlurPool2d,
    LayerScale,
    LayerScale2d,
    RmsNorm,
    RmsNorm2d,
    SimpleNorm,
    SimpleNorm2d,
    activations,
    activations_me,
)
from torch import nn
from torch.nn import functional as F

from ann2snn_distill.conversion.proxies import assigned
from ann2snn_distill.conversion.rules import Role, Rule, RuleBook, product, selection

_NEURON_MODULES = (
    nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.Mish,
    activations.GELU, activations.GELUTanh, activations.QuickGELU, activations.PReLU, activations.Swish,
    activations.Mish, activations.HardSwish, activations.HardMish, activations_me.SwishMe, activations_me.MishMe,
    activations_me.HardSwishMe, activations_me.HardMishMe,
)  # fmt: skip
_NEURON_FUNCTIONS = (
    F.relu, torch.relu, F.relu6, F.silu, F.gelu, F.hardswish, F.leaky_relu, F.prelu, torch.prelu, F.elu, F.celu,
    F.selu, F.mish,
)  # fmt: skip
_NEURON_METHODS = ("relu", "prelu")

_LINEAR_MODULES = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear, nn.AvgPool1d, nn.AvgPool2d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, AvgPool2dSame, BlurPool2d, nn.Upsample, nn.Fold, LayerScale,
    LayerScale2d,
)  # fmt: skip
_LINEAR_FUNCTIONS = (
    F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.interpolate, F.fold, torch.mean,
    torch.sum, operator.add, operator.sub, operator.neg, torch.add, torch.sub, torch.neg,
)  # fmt: skip
_LINEAR_METHODS = ("mean", "sum", "add", "sub", "neg")

_PRODUCT_FUNCTIONS = (
    operator.mul, torch.mul, operator.truediv, torch.div, operator.matmul, torch.matmul, torch.bmm, torch.einsum,
    torch.baddbmm, torch.addcmul, F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d,
)  # fmt: skip
_PRODUCT_METHODS = ("mul", "div", "matmul", "bmm", "addcmul")

_ANALOG_MODULES = (
    nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.Softmax, nn.LayerNorm,
    nn.GroupNorm, nn.InstanceNorm2d, nn.LocalResponseNorm, RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d, nn.RNNBase,
    activations.Sigmoid, activations.HardSigmoid, activations.Tanh, activations_me.HardSigmoidMe,
)  # fmt: skip
_ANALOG_FUNCTIONS = (
    F.max_pool1d, F.max_pool2d, F.adaptive_max_pool2d, torch.max_pool2d, torch.amax, torch.amin, torch.maximum,
    torch.minimum, torch.clamp, torch.where, F.sigmoid, torch.sigmoid, F.hardsigmoid, torch.tanh, F.tanh, F.softmax,
    torch.softmax, F.layer_norm, F.group_norm, F.rms_norm, torch.rms_norm, F.normalize, F.glu,
    F.scaled_dot_product_attention, operator.pow, torch.pow, torch.square, torch.sqrt, torch.rsqrt, torch.exp,
    torch.abs, torch.var, torch.std,
)  # fmt: skip
_ANALOG_METHODS = (
    "amax", "amin", "max", "min", "clamp", "sigmoid", "tanh", "softmax", "pow", "square", "sqrt", "rsqrt", "exp",
    "abs", "norm", "var", "std",
)  # fmt: skip

_SHAPE_MODULES = (
    nn.Identity, nn.Flatten, nn.Unflatten, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.PixelShuffle,
    nn.PixelUnshuffle, nn.ChannelShuffle, nn.Unfold,
)  # fmt: skip
_SHAPE_FUNCTIONS = (
    torch.flatten, torch.cat, torch.concat, torch.stack, torch.split, torch.chunk, torch.permute, torch.reshape,
    torch.transpose, torch.unbind, torch.squeeze, torch.unsqueeze, torch.roll, torch.flip, torch.repeat_interleave,
    torch.tile, torch.narrow, F.pad, F.unfold, F.pixel_shuffle, F.pixel_unshuffle, F.channel_shuffle, assigned,
)  # fmt: skip
_SHAPE_METHODS = (
    "flatten", "unflatten", "view", "view_as", "reshape", "reshape_as", "permute", "transpose", "contiguous", "split",
    "chunk", "unbind", "squeeze", "unsqueeze", "clone", "expand", "expand_as", "roll", "flip", "repeat",
    "repeat_interleave", "tile", "narrow", "unfold", "to", "float", "type_as",
)  # fmt: skip
_SELECTION_FUNCTIONS = (operator.getitem, torch.index_select, torch.gather)
_SELECTION_METHODS = ("index_select", "gather")


def _book() -> RuleBook:
    modules: dict[type[nn.Module], Rule] = {
        **dict.fromkeys(_SHAPE_MODULES, Role.SHAPE),
        **dict.fromkeys(_NEURON_MODULES, Role.NEURON),
        **dict.fromkeys(_LINEAR_MODULES, Role.SYNAPSE),
        **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), Role.NORM),
        **dict.fromkeys(_ANALOG_MODULES, Role.ANALOG),
    }
    functions: dict[object, Rule] = {
        **dict.fromkeys(_NEURON_FUNCTIONS, Role.NEURON),
        **dict.fromkeys(_LINEAR_FUNCTIONS, Role.SYNAPSE),
        **dict.fromkeys(_PRODUCT_FUNCTIONS, product),
        **dict.fromkeys(_ANALOG_FUNCTIONS, Role.ANALOG),
        **dict.fromkeys(_SHAPE_FUNCTIONS, Role.SHAPE),
        **dict.fromkeys(_SELECTION_FUNCTIONS, selection),
    }
    methods: dict[str, Rule] = {
        **dict.fromkeys(_NEURON_METHODS, Role.NEURON),
        **dict.fromkeys(_LINEAR_METHODS, Role.SYNAPSE),
        **dict.fromkeys(_PRODUCT_METHODS, product),
        **dict.fromkeys(_ANALOG_METHODS, Role.ANALOG),
        **dict.fromkeys(_SHAPE_METHODS, Role.SHAPE),
        **dict.fromkeys(_SELECTION_METHODS, selection),
    }
    return RuleBook(modules, functions, methods)  # type: ignore[arg-type]


STANDARD_RULES = _book()
"""What converts; everything else is refused by name."""
