"""Norms and sums inside their neuron's operation change nothing: values, gradients and running statistics."""

import pytest
import torch
import zoo
from small_networks import NETWORKS, SMALL, images, spiking

from ann2snn_distill.conversion.encoders import two_sided
from ann2snn_distill.conversion.fusion import drives
from ann2snn_distill.conversion.rules import Role
from ann2snn_distill.neurons.equations import IF, LIF

FAST = ["test_resnet", "densenet121", "mobilenetv2_035"]
SLOW = [name for name in NETWORKS if name not in FAST]
HARD = LIF._replace(reset="hard", decay=0.7)


def outcome(student, programs, x, timesteps):
    """Stage outputs, gradients of every parameter, and the running statistics afterwards."""
    buffers = {name: value.clone() for name, value in student.body.named_buffers()}
    records = programs.observe(x, timesteps)
    outputs = programs.rate(x, timesteps, records)
    parameters = [parameter for parameter in student.body.parameters() if parameter.requires_grad]
    loss = sum(output.square().mean() for output in outputs)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    moved = [value.clone() for value in student.body.buffers()]
    for name, value in student.body.named_buffers():
        value.copy_(buffers[name])
    return [output.detach() for output in outputs], gradients, moved


def assert_same(student, x, timesteps, *, tolerance=1e-9):
    plain = outcome(student, student.in_training, x, timesteps)
    fused = outcome(student, student.in_training_fused, x, timesteps)
    for wanted, found in zip(plain, fused, strict=True):
        largest = max(float(tensor.abs().max()) for tensor in wanted if tensor is not None)
        for theirs, ours in zip(wanted, found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * largest / 100)


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
@pytest.mark.parametrize("timesteps", [1, 4])
def test_fused_programs_equal_the_plain_ones(name, timesteps):
    assert_same(spiking(name, SMALL.get(name)), images(), timesteps)


@pytest.mark.parametrize("neuron", [LIF, IF, HARD], ids=["lif", "if", "hard"])
@pytest.mark.parametrize("timesteps", [2, 8])
def test_fused_programs_equal_the_plain_ones_for_every_neuron(neuron, timesteps):
    assert_same(spiking("test_resnet", neuron=neuron), images(), timesteps)


@pytest.mark.parametrize("timesteps", [2, 3])
def test_fused_programs_equal_the_plain_ones_on_moving_input(timesteps):
    student = spiking("test_resnet", static_input=False)
    frames = torch.cat([images(), images().flip(0), images().roll(1, 2)])[: timesteps * len(images())]
    assert_same(student, frames, timesteps)


def test_every_norm_and_sum_of_a_residual_network_runs_inside_a_neuron():
    network = spiking("resnet18").network
    sites = network.sites
    absorbed = [node for stage in network.stages for drive in drives(sites, stage).values() for node in drive.absorbed]
    norms = [node for node, role in sites.roles.items() if role is Role.NORM]
    assert set(norms) <= set(absorbed)
    assert len(absorbed) == len(set(absorbed))
    assert sum(node.name.startswith("add") for node in absorbed) == 8


@pytest.mark.parametrize("full_coverage", zoo.COVERAGES)
@pytest.mark.parametrize("family", zoo.EVERY)
def test_fused_programs_equal_the_plain_ones_for_every_family(family, full_coverage):
    student = zoo.family_student(family, full_coverage=full_coverage)
    assert_same(student, zoo.family_images(family), 3, tolerance=zoo.tolerance(family))


def test_pairs_of_neurons_stay_outside_the_fused_operation():
    sites = zoo.family_student("vision_transformer", full_coverage=True).network
    driven = {node for stage in sites.stages for node in drives(sites.sites, stage)}
    pairs = {node for node in sites.sites.roles if node.target is two_sided}
    assert pairs
    assert not pairs & driven
