"""What training a student would take, from its network alone: no data, no weights, no device."""

import torch
from torch import nn

from ann2snn_distill.config import InspectSettings
from ann2snn_distill.conversion.network import Partitioned, partitioned
from ann2snn_distill.distillation.cost import step_flop, work
from ann2snn_distill.distillation.positions import choose_positions
from ann2snn_distill.pipeline.memory import step_memory
from ann2snn_distill.recipes import LARGE, SMALL, SMALL_IMAGE
from ann2snn_distill.reporting.inspection import TrainingCost
from ann2snn_distill.training.step import Execution

_ON_A_GPU = Execution(torch.device("cuda"), amp=True, compiled=True, captured=True)
"""How `convert` runs a step on a GPU unless told otherwise; no GPU is asked for."""


def training_cost(student: Partitioned, module: nn.Module, *, img_size: int, settings: InspectSettings) -> TrainingCost:
    """Estimate a step of the guided training under a teacher of the student's own architecture, as if on a GPU.

    Args:
        student: the partitioned student.
        module: the network it was made of, which is the teacher's, too.
        img_size: image side, pixels.
        settings: timesteps, and images a step or None for the recipe's.
    """
    plain = settings.coverage == "activations" and settings.maxpool == "keep"
    named = [stage.name for stage in student.stages if stage.named]
    teacher = student if plain else partitioned(module, img_size=img_size, cuts=named, spiking=False)
    positions = choose_positions(student.stages, teacher.stages, "auto", same_network=True)
    timesteps, batch = settings.timesteps, settings.batch_size or _recipe_batch(img_size)
    memory = step_memory("hybrid", student, teacher, positions=positions, timesteps=timesteps, execution=_ON_A_GPU)
    entries = [position.teacher for position in positions]
    flop = step_flop("hybrid", work(student), work(teacher), entries=entries, timesteps=timesteps)
    return TrainingCost(timesteps=timesteps, batch_size=batch, memory_mib=memory.of(batch), gflop_per_image=flop / 1e9)


def _recipe_batch(img_size: int) -> int:
    return (LARGE if img_size > SMALL_IMAGE else SMALL).batch_size
