"""How much memory a training will take, before it does; and the batch size that would fit."""

import os
from collections.abc import Sequence

import torch

from ann2snn_distill.conversion.network import Partitioned
from ann2snn_distill.distillation.cost import sizes, step_bytes
from ann2snn_distill.training.state import TrainState

_MIB = 2**20
_USABLE = 0.9
"""Share of the free memory that a training may plan with: the allocator's rounding and the libraries take theirs."""


def estimated_mib(
    method: str,
    student: Partitioned,
    teacher: Partitioned,
    *,
    entries: Sequence[int],
    timesteps: int,
    batch_size: int,
    state: TrainState,
    amp: bool,
) -> float:
    """Estimate the peak memory of a training step, MiB: weights, gradients, optimiser, and activations.

    Args:
        method: hybrid, rate, bptt or ann.
        student: the SNN's network.
        teacher: the ANN.
        entries: teacher stages after which branches enter.
        timesteps: T.
        batch_size: images a step, or a piece of one.
        state: what is trained.
        amp: whether activations are bfloat16.
    """
    width = 2 if amp else 4
    activations = step_bytes(
        method, sizes(student), sizes(teacher), entries=entries, timesteps=timesteps, batch_size=batch_size, width=width
    )
    trained = sum(p.numel() for module in state.modules.values() for p in module.parameters() if p.requires_grad)
    held = sum(tensor.numel() * tensor.element_size() for tensor in state.tensors().values())
    guide = sum(p.numel() for p in teacher.body.parameters())
    weights = held + trained * (4 + (width if amp else 0)) + guide * (4 + (width if amp else 0))
    return (activations + weights) / _MIB


def free_mib(device: torch.device) -> float:
    """Return the memory that a device, or the host for a CPU, could still give, MiB."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return (free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) / _MIB
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _MIB
