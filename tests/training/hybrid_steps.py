"""Some hybrid steps of a small ResNet from one start, plain or in the fast form: what the two are compared by."""

import timm
import torch
from torch.nn import functional as F

from ann2snn_distill.conversion.folding import folded
from ann2snn_distill.conversion.network import StagedAnn, partitioned
from ann2snn_distill.conversion.student import SpikingNetwork, uniform_thresholds
from ann2snn_distill.distillation.branches import HybridBranches
from ann2snn_distill.distillation.losses import branch_weights
from ann2snn_distill.distillation.objectives import HybridObjective
from ann2snn_distill.distillation.positions import choose_positions
from ann2snn_distill.evaluation.totals import exact_float32
from ann2snn_distill.neurons.equations import NeuronModel
from ann2snn_distill.training.state import train_state
from ann2snn_distill.training.step import LossTotals, captured_step, plain_step

LIF = NeuronModel(0.2, 0.0, "soft-detached", 1.0)
IF = NeuronModel(1.0, 0.5, "soft", 1.0)
TIMESTEPS, BATCH = 4, 16


def made(dtype, device, *, size, fast, autocast=None, neuron=LIF, learn_decay=False, clip=None, radius=0.0):
    """A fresh hybrid objective and its state, always the same; plain, or fused with a folded teacher."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=10).eval()
    network = partitioned(model, img_size=size)
    thresholds = uniform_thresholds(network.sites.neuron_names(), 1.0)
    decays = dict.fromkeys(thresholds, neuron.decay) if learn_decay else None
    student = SpikingNetwork(network, neuron, thresholds=thresholds, decays=decays, learn_decay=learn_decay)
    student.to(device, dtype)
    teacher = StagedAnn(partitioned(model, img_size=size)).to(device)
    positions = choose_positions(student.stages, teacher.stages, "auto", same_network=True)
    branches = HybridBranches(student.stages, teacher, positions).to(device)
    teacher.to(dtype)
    branches.to(dtype)
    objective = HybridObjective(
        student.in_training_fused if fast else student.in_training,
        branches,
        folded(teacher.network, dtype=autocast or dtype) if fast else teacher,
        branch_weights(len(positions), "uniform"),
        timesteps=TIMESTEPS,
        alpha=0.5,
        temperature=1.0,
    )
    modules = {"student": student.body, "branches": branches}
    scaled = autocast is torch.float16
    state = train_state(
        modules, opt="sgd", weight_decay=5e-4, average_decay=0.9, scaled=scaled, clip=clip, radius=radius
    )
    state.set_learning_rate(0.05)
    if scaled:
        state.tensors()["scaler.scale"].fill_(256.0)  # none of these steps overflows
    return objective, state


def batches(dtype, device, *, size, steps):
    """Random images and one-hot targets, always the same."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(BATCH, 3, size, size, generator=generator).to(device, dtype)
        yield x, F.one_hot(torch.randint(10, (BATCH,), generator=generator), 10).float().to(device)


def trained(dtype, device, *, size, steps, compiled, captured=False, fused=None, autocast=None, **student):
    """Make some steps; return the state, the loss parts of each step, and the gradients of the last by name."""
    torch.compiler.reset()
    objective, state = made(
        dtype, device, size=size, fast=compiled if fused is None else fused, autocast=autocast, **student
    )
    totals = LossTotals(device)
    objective = torch.compile(objective, dynamic=False) if compiled else objective
    how = {"amp": autocast is not None, "dtype": autocast or torch.bfloat16}
    step = plain_step(objective, state, totals, **how, device=device)
    losses = []
    with exact_float32():
        for index, (x, target) in enumerate(batches(dtype, device, size=size, steps=steps)):
            if captured and index == 0:
                step = captured_step(step, state, totals, x=x, target_BK=target)
            totals.reset()
            step(x, target)
            totals.count()
            losses.append(totals.means())
        gradients = {
            f"{prefix}.{name}": parameter.grad.clone()
            for prefix, module in state.modules.items()
            for name, parameter in module.named_parameters()
            if parameter.grad is not None
        }
        return state.snapshot(), losses, gradients
