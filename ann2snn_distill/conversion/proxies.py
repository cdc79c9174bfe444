"""Proxies that know what they stand for: Python may ask them for anything that the image size settles."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx

from ann2snn_distill.errors import UnsupportedModelError

VALUE = "value"
"""Key of a traced node's meta under which its value on meta tensors stands."""


class Valued(fx.Proxy):
    """A proxy with a value: Python may ask it for anything that the image size settles."""

    @property
    def value(self) -> Any:
        """Its value on meta tensors."""
        return self.node.meta[VALUE]

    def become(self, other: fx.Proxy) -> None:
        """Stand for `other` from now on, as a tensor does that was overwritten in place."""
        self.node = other.node

    def _settled(self) -> Any:
        if isinstance(self.value, Tensor):
            raise UnsupportedModelError("its forward branches on the values of its data, which no graph can hold")
        return self.value

    def __setitem__(self, key: Any, value: Any) -> None:
        self.become(self.tracer.create_proxy("call_function", assigned, (self, key, value), {}))

    def __iadd__(self, other: Any) -> "Valued":
        self.become(self + other)
        return self

    def __isub__(self, other: Any) -> "Valued":
        self.become(self - other)
        return self

    def __imul__(self, other: Any) -> "Valued":
        self.become(self * other)
        return self

    def __itruediv__(self, other: Any) -> "Valued":
        self.become(self / other)
        return self

    def __bool__(self) -> bool:
        return bool(self._settled())

    def __int__(self) -> int:
        return int(self._settled())

    def __index__(self) -> int:
        return int(self._settled())

    def __float__(self) -> float:
        return float(self._settled())

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        read: Any = self
        return (read[position] for position in range(len(self)))

    def __contains__(self, item: Any) -> bool:
        return item in self._settled()

    def __getattr__(self, name: str) -> Any:
        return Attribute(self, name)


class Attribute(Valued):
    """An attribute of a proxy: a node once it is read, or a method once it is called."""

    def __init__(self, root: Valued, name: str):
        self.root, self.name, self.tracer = root, name, root.tracer
        self._node: fx.Node | None = None

    @property
    def node(self) -> fx.Node:
        """The node that reads it."""
        if self._node is None:
            self._node = self.tracer.create_proxy("call_function", getattr, (self.root, self.name), {}).node
        return self._node

    @node.setter
    def node(self, node: fx.Node) -> None:
        self._node = node

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it as a method."""
        return self.tracer.create_proxy("call_method", self.name, (self.root, *args), kwargs)


def assigned(x: Tensor, key: Any, value: Tensor | float) -> Tensor:
    """Return a copy of `x` in which `key` is `value`."""
    result = x.clone()
    result[key] = value
    return result
