"""Time and memory of a training step."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from ann2snn_distill.training.step import Step

WARMUP_STEPS = 5


@dataclass(frozen=True)
class Timing:
    """Milliseconds of the timed steps: median, 10th and 90th percentile."""

    median: float
    low: float
    high: float


def time_step(step: Step, x: Tensor, target_BK: Tensor, *, steps: int) -> Timing:
    """Run warm-up steps, then time `steps` of them, each by device events, or by the clock on a CPU."""
    for _ in range(WARMUP_STEPS):
        step(x, target_BK)
    measure = _by_events if x.is_cuda else _by_clock
    found = sorted(measure(step, x, target_BK) for _ in range(steps))
    return Timing(found[len(found) // 2], found[len(found) // 10], found[-1 - len(found) // 10])


def _by_events(step: Step, x: Tensor, target_BK: Tensor) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step(x, target_BK)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _by_clock(step: Step, x: Tensor, target_BK: Tensor) -> float:
    started = time.perf_counter()
    step(x, target_BK)
    return 1000 * (time.perf_counter() - started)
