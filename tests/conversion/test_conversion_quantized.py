"""The ANN with the levels of its neurons' rates: values and gradients equal an ANN that rounds by itself."""

import pytest
import torch
from small_networks import images, spiking
from torch import fx
from torch.nn import functional as F

from ann2snn_distill.conversion.encoders import two_sided
from ann2snn_distill.conversion.rules import Role
from ann2snn_distill.neurons.equations import IF, LIF
from ann2snn_distill.neurons.temporal import unroll_neuron


class LevelledAnn(fx.Interpreter):
    """Runs the ANN on B rows; an activation becomes the mean of T spikes for its constant current, by autograd."""

    def __init__(self, student, timesteps):
        super().__init__(student.body, graph=student.network.sites.trace.graph)
        self.roles, self.thresholds, self.model = student.network.sites.roles, student.thresholds, student.neuron
        self.timesteps, self.levels = timesteps, {}

    def run_node(self, n):
        role = self.roles.get(n)
        x = self.env[n.args[0]] if role in (Role.NEURON, Role.NORM) else None
        if role is Role.NEURON:
            value = self._rate(x, n.name) - (self._rate(-x, n.name) if n.target is two_sided else 0)
            self.levels[n.name] = value.detach() / self.thresholds[n.name]
            return value
        if role is Role.NORM:
            norm = self.fetch_attr(n.target)
            return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
        return super().run_node(n)

    def _rate(self, current, name):
        threshold = torch.tensor(self.thresholds[name], dtype=current.dtype)
        spikes = unroll_neuron(current, threshold, self.timesteps, static=True, model=self.model)
        return spikes.unflatten(0, (self.timesteps, -1)).mean(0)


@pytest.mark.parametrize("neuron", [IF, LIF._replace(decay=0.6)], ids=["if", "lif"])
@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv2_035"])
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("timesteps", [1, 4])
def test_quantized_training_equals_an_ann_that_rounds(neuron, name, fused, timesteps):
    student, x = spiking(name, neuron=neuron), images()
    programs = student.in_quantized_training(fused=fused)
    parameters = [parameter for parameter in student.body.parameters() if parameter.requires_grad]
    ann = LevelledAnn(student, timesteps)
    wanted = ann.run(x)
    found = programs.rate(x, timesteps, programs.observe(x, timesteps))[-1]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)
    expected = torch.autograd.grad(wanted.square().mean(), parameters)
    gradients = torch.autograd.grad(found.square().mean(), parameters)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    for theirs, ours in zip(expected, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9 * largest)


@pytest.mark.parametrize("timesteps", [1, 4])
def test_an_integrate_and_fire_ann_rounds_to_t_plus_one_levels(timesteps):
    student, x = spiking("test_resnet", neuron=IF), images()
    ann = LevelledAnn(student, timesteps)
    ann.run(x)
    levels = torch.cat([value.flatten() for value in ann.levels.values()]) * timesteps
    assert set(levels.round(decimals=6).unique().tolist()) == set(range(timesteps + 1))


def test_moving_input_is_still_behind_the_first_neuron():
    student, timesteps = spiking("test_resnet", static_input=False), 3
    frames = torch.cat([images(), images().flip(0), images().roll(1, 2)])
    programs = student.in_quantized_training(fused=False)
    outputs = programs.rate(frames, timesteps, programs.observe(frames, timesteps))
    assert len(outputs[-1]) == len(images())
    assert all(pair.static_output for pair in programs.pairs)
