"""How much memory a training step will take, before it does."""

from collections.abc import Sequence

from ann2snn_distill.conversion.network import Partitioned
from ann2snn_distill.distillation.cost import sizes, step_bytes
from ann2snn_distill.training.state import TrainState

_MIB = 2**20


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
