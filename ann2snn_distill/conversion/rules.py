"""What every call site of a network is to an SNN: a closed world, written as a value.

A rule book maps module classes (the nearest base class wins), functions and methods to a role, or to a function
that decides it from the number of data operands. One meaning has one entry in each of the three tables.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from timm.layers import BlurPool2d, Conv2dSame, LayerScale, LayerScale2d, StdConv2d
from torch import fx, nn
from torch.nn import functional as F

from ann2snn_distill.errors import UnsupportedModelError


class Role(Enum):
    """The fate of a call site.

    NEURON: a nonlinearity that becomes a spiking neuron. SYNAPSE: linear over time, runs on spikes and on rates
    alike. NORM: batch norm. ANALOG: does not commute with the mean over time, so its mean is recorded. SHAPE: moves
    values without arithmetic.
    """

    NEURON = "neuron"
    SYNAPSE = "synapse"
    NORM = "norm"
    ANALOG = "analog"
    SHAPE = "shape"


class Kind(Enum):
    """What flows out of a node: data of the batch, sizes of tensors, or constants of the network."""

    DATA = "data"
    SIZE = "size"
    CONSTANT = "constant"


Rule = Role | Callable[[int], Role]
"""A role, or the role for a number of data operands."""


def product(operands: int) -> Role:
    """Return the role of a product: linear in one data operand, analog in two."""
    return Role.SYNAPSE if operands == 1 else Role.ANALOG


@dataclass(frozen=True)
class RuleBook:
    """The known operations; `extended` returns a new book and changes nothing."""

    modules: Mapping[type[nn.Module], Rule]
    functions: Mapping[Callable[..., Any], Rule]
    methods: Mapping[str, Rule]

    def extended(
        self,
        *,
        modules: Mapping[type[nn.Module], Rule] | None = None,
        functions: Mapping[Callable[..., Any], Rule] | None = None,
        methods: Mapping[str, Rule] | None = None,
    ) -> "RuleBook":
        """Return a book in which the given rules join and override these."""
        return replace(
            self,
            modules={**self.modules, **(modules or {})},
            functions={**self.functions, **(functions or {})},
            methods={**self.methods, **(methods or {})},
        )

    def role(self, node: fx.Node, *, body: nn.Module, operands: int, path: str) -> Role:
        """Return the role of a data call site with that many data operands.

        Raises:
            UnsupportedModelError: no rule knows the operation; names path, type and remedy.
        """
        rule = self._rule(node, body)
        if rule is None:
            raise UnsupportedModelError(
                f"no rule for {describe(node, body)} at {path or 'the top level'}; choose another model, or extend "
                "the rule book (docs/design.md)"
            )
        return rule if isinstance(rule, Role) else rule(operands)

    def _rule(self, node: fx.Node, body: nn.Module) -> Rule | None:
        if node.op == "call_module":
            bases = type(body.get_submodule(str(node.target))).__mro__
            return next((self.modules[base] for base in bases if base in self.modules), None)
        if node.op == "call_function":
            return self.functions.get(node.target)  # type: ignore[arg-type]
        return self.methods.get(str(node.target))


def describe(node: fx.Node, body: nn.Module) -> str:
    """Return the operation's name as a person knows it: a class, a function or a method."""
    if node.op == "call_module":
        return type(body.get_submodule(str(node.target))).__name__
    if node.op == "call_function":
        return getattr(node.target, "__name__", str(node.target))
    return str(node.target)


_NEURONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.LeakyReLU, nn.ELU, nn.Mish)
_NEURON_FUNCTIONS = (
    F.relu, F.relu_, torch.relu, torch.relu_, F.relu6, F.silu, F.gelu, F.hardswish, F.leaky_relu, F.elu, F.mish,
)  # fmt: skip
_LINEAR = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv2dSame, StdConv2d, nn.Linear, nn.AvgPool1d, nn.AvgPool2d, BlurPool2d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.Upsample, LayerScale, LayerScale2d,
)  # fmt: skip
_LINEAR_FUNCTIONS = (
    F.linear, F.conv2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.interpolate, torch.mean, torch.sum,
    operator.add, operator.sub, operator.neg, torch.add, torch.sub,
)  # fmt: skip
_PRODUCTS = (operator.mul, torch.mul, operator.matmul, torch.matmul, operator.truediv, torch.div)
_MAXPOOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool2d)
_SHAPES = (
    torch.flatten, torch.cat, torch.concat, torch.stack, torch.split, torch.chunk, torch.permute, torch.reshape,
    torch.transpose, torch.unbind, torch.squeeze, torch.unsqueeze, operator.getitem, F.pad,
)  # fmt: skip

STANDARD_RULES = RuleBook(
    modules={
        **dict.fromkeys(_NEURONS, Role.NEURON),
        **dict.fromkeys(_LINEAR, Role.SYNAPSE),
        **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), Role.NORM),
        **dict.fromkeys(_MAXPOOLS, Role.ANALOG),
        **dict.fromkeys((nn.Identity, nn.Flatten, nn.Unflatten, nn.ZeroPad2d), Role.SHAPE),
    },
    functions={
        **dict.fromkeys(_NEURON_FUNCTIONS, Role.NEURON),
        **dict.fromkeys(_LINEAR_FUNCTIONS, Role.SYNAPSE),
        **dict.fromkeys(_PRODUCTS, product),
        **dict.fromkeys((F.max_pool2d, torch.max_pool2d, F.adaptive_max_pool2d), Role.ANALOG),
        **dict.fromkeys(_SHAPES, Role.SHAPE),
    },
    methods={
        **dict.fromkeys(("relu", "relu_"), Role.NEURON),
        **dict.fromkeys(("mean", "sum", "add", "sub"), Role.SYNAPSE),
        **dict.fromkeys(("mul", "div", "matmul"), product),
        **dict.fromkeys(
            (
                "flatten", "view", "reshape", "permute", "transpose", "contiguous", "split", "chunk", "unbind",
                "squeeze", "unsqueeze", "clone", "expand",
            ),
            Role.SHAPE,
        ),
    },
)  # fmt: skip
"""What converts today; everything else is refused by name."""
