"""One layer, convolution -> norm -> neuron: its rate gradients are BPTT's when the error is constant in time."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ann2snn_distill.neurons.equations import IF, LIF
from ann2snn_distill.neurons.norm import NormState, observe_norm_train
from ann2snn_distill.neurons.rate import neuron_rate, norm_train_rate
from ann2snn_distill.neurons.temporal import observe_neuron

B, T = 2, 4
THRESHOLD = torch.tensor(0.6, dtype=torch.float64)


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def averaged_over_time(error_TB):
    return torch.cat([error_TB.unflatten(0, (T, B)).mean(0)] * T)


@pytest.mark.parametrize("model", [LIF, IF, LIF._replace(reset="hard")], ids=["lif", "if", "hard"])
def test_weight_gradient_is_bptt_with_time_averaged_error(by_autograd, model):
    """BPTT has an error for every timestep; rate-BP has their mean, behind the neuron and behind the norm."""
    frames = (random(T * B, 3, 6, 6, seed=0) > 0).double()
    weight = (random(4, 3, 3, 3, seed=1) / 3).requires_grad_()
    norm = nn.BatchNorm2d(4).double()
    upstream = random(B, 4, 6, 6, seed=2)

    convolved = F.conv2d(frames, weight, padding=1)
    current = norm(convolved)
    shift = torch.zeros(B, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    spikes = by_autograd(current.detach().unflatten(0, (T, B)) + shift, THRESHOLD, model)
    (summed_error,) = torch.autograd.grad((THRESHOLD * spikes.mean(0) * upstream).sum(), shift)
    error_TB = torch.cat([summed_error / T] * T)
    behind, *of_norm = torch.autograd.grad(current, [convolved, *norm.parameters()], error_TB, retain_graph=True)
    wanted = [*torch.autograd.grad(convolved, weight, averaged_over_time(behind)), *of_norm]

    ours = nn.BatchNorm2d(4).double()
    state = NormState(ours.weight, ours.bias, ours.running_mean, ours.running_var)
    with torch.no_grad():
        x, record = observe_norm_train(
            F.conv2d(frames, weight, padding=1), state, T, static=False, eps=ours.eps, momentum=0.1
        )
        _, neuron = observe_neuron(x, THRESHOLD, T, static=False, model=model)
    rate = frames.unflatten(0, (T, B)).mean(0)
    output = neuron_rate(norm_train_rate(F.conv2d(rate, weight, padding=1), state, record), *neuron)
    found = torch.autograd.grad((output * upstream).sum(), [weight, *ours.parameters()])

    torch.testing.assert_close(output, THRESHOLD * spikes.mean(0).detach(), rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(found, wanted, strict=True):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("model", [LIF, IF], ids=["lif", "if"])
def test_a_static_image_makes_one_layers_rate_gradient_bptts_exactly(by_autograd, model):
    """With a constant current every e_t meets the same input, so only their sum matters."""
    image = random(B, 3, 6, 6, seed=3)
    weight = (random(4, 3, 3, 3, seed=4) / 3).requires_grad_()
    upstream = random(B, 4, 6, 6, seed=5)
    decay = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    model = model._replace(decay=decay)
    norm = nn.BatchNorm2d(4).double()
    current = norm(F.conv2d(torch.cat([image] * T), weight, padding=1)).unflatten(0, (T, B))
    output = THRESHOLD * by_autograd(current, THRESHOLD, model).mean(0)
    wanted = torch.autograd.grad((output * upstream).sum(), [weight, decay, *norm.parameters()])

    ours = nn.BatchNorm2d(4).double()
    state = NormState(ours.weight, ours.bias, ours.running_mean, ours.running_var)
    with torch.no_grad():
        x, record = observe_norm_train(
            F.conv2d(image, weight, padding=1), state, T, static=True, eps=ours.eps, momentum=0.1
        )
        _, neuron = observe_neuron(x, THRESHOLD, T, static=True, model=model)
    rate = neuron_rate(norm_train_rate(F.conv2d(image, weight, padding=1), state, record), *neuron, decay)
    found = torch.autograd.grad((rate * upstream).sum(), [weight, decay, *ours.parameters()])
    torch.testing.assert_close(rate, output, rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(found, wanted, strict=True):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)
