"""What every call site of a network is to an SNN: a closed world, written as a value.

A rule book maps module classes (the nearest base class wins), functions and methods to a role, or to a function
that decides it from the number of data operands. One meaning has one entry in each of the three tables.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from torch import fx, nn

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


def selection(operands: int) -> Role:
    """Return the role of reading at an index: it moves values, unless the data choose the index."""
    return Role.SHAPE if operands == 1 else Role.ANALOG


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

    def is_leaf(self, module: nn.Module) -> bool:
        """Return whether a module stays one call site: it has a rule and hides no other, or it is PyTorch's own."""
        if any(base in self.modules for base in type(module).__mro__) and not any(True for _ in module.children()):
            return True
        containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
        return type(module).__module__.startswith("torch.nn") and not isinstance(module, containers)

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
