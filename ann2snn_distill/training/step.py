"""One training step, pure: loss parts, backward, update. Plain, compiled, or captured in a CUDA graph."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Timer
from types import MappingProxyType

import torch
from torch import Tensor

from ann2snn_distill.collector import uncollected
from ann2snn_distill.distillation.objectives import Objective
from ann2snn_distill.training.state import TrainState

Step = Callable[[Tensor, Tensor], None]

AUTOCAST_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Execution:
    """How steps run: on which device, in which precision, compiled and captured or not, in how many pieces.

    Attributes:
        device: where they run.
        amp: whether under autocast.
        compiled: whether compiled.
        captured: whether recorded once and replayed, which CUDA alone can do.
        pieces: of a batch, whose gradients are averaged.
        dtype: autocast's.
    """

    device: torch.device
    amp: bool
    compiled: bool
    captured: bool = False
    pieces: int = 1
    dtype: torch.dtype = torch.bfloat16

    @property
    def scaled(self) -> bool:
        """Whether gradients are so narrow in range that the loss is scaled for them."""
        return self.amp and self.dtype is torch.float16

    @property
    def replayed(self) -> bool:
        """Whether steps are replayed from a CUDA graph."""
        return self.captured and self.device.type == "cuda"

    @property
    def fast(self) -> bool:
        """Whether networks run in their fast form, neurons with all that drives them as one kernel."""
        return self.device.type == "cuda" and (self.compiled or self.captured)


_UPHILL_SHARE = 4
"""One image in so many finds the way uphill: as good as all of them, at a quarter of the cost (arXiv 2110.08529)."""

_SLOW_SECONDS = 60.0
"""ResNet-18 compiles in less; a network of hundreds of layers does not."""

_WARMUP_STEPS = 3
"""Steps before a capture, so that every lazy initialisation is over (PyTorch's notes on CUDA graphs)."""


class LossTotals:
    """Sums of the loss parts of `steps` steps on the device, read once an epoch."""

    def __init__(self, device: torch.device):
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, parts: dict[str, Tensor]) -> None:
        """Add one step's parts, without a device sync."""
        for name, value in parts.items():
            if name not in self._sums:
                self._sums[name] = torch.zeros((), device=self._device)
            self._sums[name] += value.detach()

    def count(self) -> None:
        """Note that a step was made."""
        self.steps += 1

    def sums(self) -> dict[str, float]:
        """Return the sum of every part since the last reset; waits for the device."""
        return {name: float(value) for name, value in self._sums.items()}

    def reset(self, sums: Mapping[str, float] = MappingProxyType({}), *, steps: int = 0) -> None:
        """Start again, in place: from zero, or from the `sums` of `steps` steps that were made before."""
        self.steps = steps
        for name in (*self._sums, *sums):
            if name not in self._sums:
                self._sums[name] = torch.zeros((), device=self._device)
            self._sums[name].fill_(sums.get(name, 0.0))

    def means(self) -> dict[str, float]:
        """Return the mean of every part since the last reset; waits for the device."""
        if not self._sums:
            return {}
        values = torch.stack(list(self._sums.values())).tolist()
        return {name: value / max(self.steps, 1) for name, value in zip(self._sums, values, strict=True)}


def plain_step(
    objective: Objective,
    state: TrainState,
    totals: LossTotals,
    *,
    amp: bool,
    device: torch.device,
    pieces: int = 1,
    dtype: torch.dtype = torch.bfloat16,
) -> Step:
    """Return the step `(x, target) -> None`.

    Args:
        objective: the loss parts of a batch.
        state: what is updated. Where it has a radius, the first of the images say which way is uphill, and their losses
            are the ones that are counted.
        totals: where the loss parts are added.
        amp: autocast; membranes, statistics and losses stay in float32.
        device: where it runs.
        pieces: the batch is cut in so many pieces whose gradients are averaged.
        dtype: autocast's.
    """

    def differentiate(x: Tensor, target_BK: Tensor, pieces: int, count: Callable[[dict[str, Tensor]], None]) -> None:
        for piece, piece_target in zip(x.chunk(pieces), target_BK.chunk(pieces), strict=True):
            with torch.autocast(device.type, dtype, enabled=amp):
                parts = objective(piece, piece_target)
            state.scaled(parts["loss"] / pieces).backward()
            count({name: value.detach() / pieces for name, value in parts.items()})

    def step(x: Tensor, target_BK: Tensor) -> None:
        state.optimizer.zero_grad(set_to_none=True)
        if state.radius:
            some, parts = uphill_share(len(x), pieces)
            differentiate(x[:some], target_BK[:some], parts, totals.add)
            with state.uphill():
                differentiate(x, target_BK, pieces, lambda parts: None)
        else:
            differentiate(x, target_BK, pieces, totals.add)
        state.update()
        state.update_average()

    return step


def uphill_share(images: int, pieces: int) -> tuple[int, int]:
    """Return how many of a batch's images find the way uphill, the first ones, and in how many pieces."""
    parts = max(pieces // _UPHILL_SHARE, 1)
    return min(max(images // _UPHILL_SHARE, 2), parts * (images // pieces)), parts  # a batch norm may need two


def ready_step(
    objective: Objective,
    state: TrainState,
    totals: LossTotals,
    how: Execution,
    *,
    x: Tensor,
    target_BK: Tensor,
    note: Callable[[str], None] = lambda text: None,
) -> Step:
    """Return the step as `how` wants it; the state is as before.

    Args:
        objective: the loss parts of a batch, not compiled.
        state: what is updated.
        totals: where the loss parts are added.
        how: device, precision, compilation, capture, pieces.
        x: an example batch; every later one has its shape and layout.
        target_BK: its targets.
        note: told what compiling took.
    """
    if how.compiled:
        torch.compiler.reset()  # every objective shares its code, which is compiled eight times and then run as it is
        objective = torch.compile(objective, dynamic=False)
    step = plain_step(objective, state, totals, amp=how.amp, device=how.device, pieces=how.pieces, dtype=how.dtype)
    if not how.replayed:
        return step
    started = time.perf_counter()
    with _told_if_slow(note) if how.compiled else nullcontext(), uncollected():
        step = captured_step(step, state, totals, x=x, target_BK=target_BK)
    note(f"step {'compiled and ' if how.compiled else ''}captured in {time.perf_counter() - started:.0f} s")
    return step


@contextmanager
def _told_if_slow(note: Callable[[str], None]) -> Iterator[None]:
    """Say, once and from a thread of its own, that a compilation takes long, and what can be done about it."""
    text = f"the step still compiles after {_SLOW_SECONDS:.0f} s; --no-torchcompile starts at once, at a lower speed"
    timer = Timer(_SLOW_SECONDS, note, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def captured_step(step: Step, state: TrainState, totals: LossTotals, *, x: Tensor, target_BK: Tensor) -> Step:
    """Capture `step` in a CUDA graph; state and totals are as before when this returns.

    Args:
        step: the step to capture; it must not wait for the device.
        state: restored after the warm-up.
        totals: restored after the warm-up.
        x: an example batch; every later one has its shape and layout.
        target_BK: its targets.
    """
    saved, sums, steps = state.snapshot(), totals.sums(), totals.steps
    example, example_target = x.clone(), target_BK.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARMUP_STEPS):
            step(example, example_target)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread pins the next images' memory
        step(example, example_target)
    state.restore(saved)
    totals.reset(sums, steps=steps)

    def replay(x: Tensor, target_BK: Tensor) -> None:
        example.copy_(x)
        example_target.copy_(target_BK)
        graph.replay()

    return replay
