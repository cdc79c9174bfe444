"""Where a training that diverged stopped being finite: replayed from its last good state, step by step, in plain code.

Steps depend on their number alone, so the replay meets the same images, rates and draws.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ann2snn_distill.training.loop import Loop, own_generators
from ann2snn_distill.training.resume import Restart
from ann2snn_distill.training.step import LossTotals, plain_step, uphill_share


def where_it_began(loop: Loop, good: Restart) -> str | None:
    """Return the step and the layer of the first value that is not finite, or None where the replay has none.

    Args:
        loop: the training; its state is worthless afterwards.
        good: the state to start from, in the loop's present epoch.
    """
    stop = loop.steps_made - good.epoch * loop.batches.steps_per_epoch
    loop.go_to(good)
    with own_generators(loop.execution.device):
        return _replayed(loop, good, stop)


def _replayed(loop: Loop, good: Restart, stop: int) -> str | None:
    how = loop.execution
    totals = LossTotals(how.device)
    step = plain_step(
        loop.objective, loop.state, totals, amp=how.amp, device=how.device, pieces=how.pieces, dtype=how.dtype
    )
    first = good.part.steps
    for number, (x, target_BK) in enumerate(loop.batches.epoch(good.epoch, first), first):
        before = loop.state.snapshot()
        loop.prepare(number)
        step(x, target_BK)
        if not _is_finite(loop, totals):
            loop.state.restore(before)
            loop.prepare(number)
            return f"step {number + 1}, {_culprit(loop, x, target_BK)}"
        if number + 1 == stop:
            break
    return None


def _is_finite(loop: Loop, totals: LossTotals) -> bool:
    return all(math.isfinite(value) for value in totals.sums().values()) and loop.state.is_finite()


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _culprit(loop: Loop, x: Tensor, target_BK: Tensor) -> str:
    """Make the step again, looking at every value."""
    state, pieces = loop.state, loop.execution.pieces
    state.optimizer.zero_grad(set_to_none=True)
    if state.radius:
        some, parts = uphill_share(len(x), pieces)
        found = _first_seen(loop, x[:some], target_BK[:some], parts) or _seen_uphill(loop, x, target_BK)
    else:
        found = _first_seen(loop, x, target_BK, pieces)
    return found or "in the update of the weights"


def _seen_uphill(loop: Loop, x: Tensor, target_BK: Tensor) -> str | None:
    with loop.state.uphill():
        found = _first_seen(loop, x, target_BK, loop.execution.pieces)
    return found and f"{found}, {loop.state.radius:g} uphill of the weights"


def _first_seen(loop: Loop, x: Tensor, target_BK: Tensor, pieces: int) -> str | None:
    """Differentiate, and look at every value: forwards, then at the gradients from the last layer on."""
    how = loop.execution
    names = {id(tensor): name.rpartition(".")[0] for name, tensor in loop.state.tensors().items()}
    for piece, piece_target in zip(x.chunk(pieces), target_BK.chunk(pieces), strict=True):
        watch = _Watch(names)
        with watch, torch.autocast(how.device.type, how.dtype, enabled=how.amp):
            parts = loop.objective(piece, piece_target)
        if watch.found is not None:
            return watch.found
        loop.state.scaled(parts["loss"] / pieces).backward()
    for name, tensor in reversed(loop.state.tensors().items()):
        if tensor.grad is not None and not _all_finite([tensor.grad]):
            return f"in the gradient of {name}"
    return None


class _Watch(TorchFunctionMode):
    """Finds the first operation whose result is not finite, and the layer at which or after which it stands."""

    found: str | None

    def __init__(self, names: Mapping[int, str]):
        super().__init__()
        self._names = names
        self._layer = "the input"
        self.found = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.found is None:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            layers = [self._names[id(tensor)] for tensor in tensors if id(tensor) in self._names]
            self._layer = layers[0] if layers else self._layer
            if not _all_finite(leaf for leaf in tree_leaves(result) if _is_number(leaf)):
                place = f"in {self._layer}" if layers else f"after {self._layer}"
                self.found = f"{place} ({getattr(func, '__name__', func)})"
        return result


def _is_number(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
