"""Batch norm over time is nn.BatchNorm2d on the folded batch; its rate pass is BPTT under a constant upstream."""

import pytest
import torch
from torch import nn

from ann2snn_distill.neurons.norm import (
    NormState,
    observe_norm_eval,
    observe_norm_train,
    unroll_norm_eval,
    unroll_norm_train,
)
from ann2snn_distill.neurons.rate import norm_eval_rate, norm_train_rate

EXACT = {"rtol": 1e-12, "atol": 1e-12}
EPS, MOMENTUM = 1e-3, 0.2
T, B, C = 4, 3, 5

each_affine = pytest.mark.parametrize("affine", [True, False])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_norm(affine=True):
    norm = nn.BatchNorm2d(C, eps=EPS, momentum=MOMENTUM, affine=affine).double()
    norm.running_mean.copy_(random(C, seed=1))
    norm.running_var.copy_(random(C, seed=2).exp())
    if affine:
        with torch.no_grad():
            norm.weight.copy_(random(C, seed=3))
            norm.bias.copy_(random(C, seed=4))
    return norm


def state_of(norm):
    return NormState(norm.weight, norm.bias, norm.running_mean, norm.running_var)


def inputs(static):
    """Return x (B or TB, ...) and the folded batch (TB, ...) that it stands for."""
    if static:
        x = 2 * random(B, C, 4, 2, seed=5) + 1
        return x, torch.cat([x] * T)
    x = 2 * random(T * B, C, 4, 2, seed=5) + 1
    return x, x


def mean(x):
    return x.unflatten(0, (T, B)).mean(0)


@each_affine
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("through_time", [False, True])
def test_training_norm_is_batch_norm_on_the_folded_batch(affine, static, through_time):
    ours, torchs = batch_norm(affine), batch_norm(affine)
    before = ours.running_var.clone()
    x, folded = inputs(static)
    run = unroll_norm_train if through_time else observe_norm_train
    y = run(x, state_of(ours), T, static=static, eps=EPS, momentum=MOMENTUM)
    y = y if through_time else y[0]
    expected = torchs(folded)
    torch.testing.assert_close(y, expected[: len(y)], **EXACT)
    torch.testing.assert_close(ours.running_mean, torchs.running_mean, **EXACT)
    torch.testing.assert_close(ours.running_var, torchs.running_var, **EXACT)
    assert not torch.allclose(ours.running_var, before)


@each_affine
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("through_time", [False, True])
def test_eval_norm_is_batch_norm_and_moves_nothing(affine, static, through_time):
    norm = batch_norm(affine).eval()
    saved = {name: value.clone() for name, value in norm.state_dict().items()}
    x, folded = inputs(static)
    if through_time:
        y = unroll_norm_eval(x, state_of(norm), eps=EPS)
    else:
        y, _ = observe_norm_eval(x, state_of(norm), T, static=static, eps=EPS)
    torch.testing.assert_close(y, norm(folded)[: len(y)], **EXACT)
    assert all(torch.equal(norm.state_dict()[name], value) for name, value in saved.items())


@each_affine
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_rate_norm_is_bptt_through_the_folded_norm_under_a_constant_upstream(affine, static, training):
    """Error of y's mean over time; a shift common to all timesteps is what reaches the layer before."""
    upstream = random(B, C, 4, 2, seed=6)
    x, folded = inputs(static)
    reference = batch_norm(affine).train(training)
    shift = torch.zeros(B, C, 4, 2, dtype=torch.float64, requires_grad=True)
    output = mean(reference(folded + torch.cat([shift] * T)))
    parameters = [shift, *reference.parameters()]
    wanted = torch.autograd.grad((output * upstream).sum(), parameters)

    norm = batch_norm(affine)
    state = state_of(norm)
    if training:
        _, record = observe_norm_train(x, state, T, static=static, eps=EPS, momentum=MOMENTUM)
    else:
        _, record = observe_norm_eval(x, state, T, static=static, eps=EPS)
    ignored = torch.full((B, C, 4, 2), float("nan"), dtype=torch.float64, requires_grad=True)
    answer = (norm_train_rate if training else norm_eval_rate)(ignored, state, record)
    found = torch.autograd.grad((answer * upstream).sum(), [ignored, *norm.parameters()])

    torch.testing.assert_close(answer, output, **EXACT)
    assert len(found) == len(wanted) == (3 if affine else 1)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


def test_the_unrolled_norms_gradient_is_batch_norms():
    x, _ = inputs(static=False)
    weights = random(*x.shape, seed=7)
    reference, norm = batch_norm(), batch_norm()
    inputs_of = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    wanted = torch.autograd.grad((reference(inputs_of[0]) * weights).sum(), [inputs_of[0], *reference.parameters()])
    y = unroll_norm_train(inputs_of[1], state_of(norm), T, static=False, eps=EPS, momentum=MOMENTUM)
    found = torch.autograd.grad((y * weights).sum(), [inputs_of[1], *norm.parameters()])
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


def test_bfloat16_input_is_normalised_in_float32():
    x = inputs(static=False)[0].to(torch.bfloat16)
    norm, wide = batch_norm().float(), batch_norm().float()
    y, record = observe_norm_train(x, state_of(norm), T, static=False, eps=EPS, momentum=MOMENTUM)
    assert y.dtype is torch.bfloat16
    assert record.input_B.dtype is torch.float32
    torch.testing.assert_close(y.float(), wide(x.float()), rtol=2**-8, atol=1e-6)
    torch.testing.assert_close(norm.running_var, wide.running_var)
    rate = torch.zeros(B, C, 4, 2, dtype=torch.bfloat16, requires_grad=True)
    answer = norm_train_rate(rate, state_of(norm), record)
    answer.float().square().sum().backward()
    assert answer.dtype is torch.bfloat16
    assert rate.grad.dtype is torch.bfloat16
