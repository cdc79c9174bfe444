"""Sharpness-aware minimisation: the weights move by the gradient that is found a radius uphill of them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ann2snn_distill.config import ConvertSettings
from ann2snn_distill.distillation.objectives import AnnObjective
from ann2snn_distill.errors import BadInputError
from ann2snn_distill.training.state import MOMENTUM, train_state
from ann2snn_distill.training.step import LossTotals, plain_step

RATE, RADIUS = 0.1, 0.7


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()


def batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    return x, F.one_hot(torch.randint(3, (20,), generator=generator), 3).double()


def stepped(pieces):
    """A network after one step, and its loss as it was counted."""
    net = network()
    state = train_state({"net": net}, opt="sgd", weight_decay=0.0, radius=RADIUS)
    state.set_learning_rate(RATE)
    totals = LossTotals(torch.device("cpu"))
    plain_step(AnnObjective(net), state, totals, amp=False, device=torch.device("cpu"), pieces=pieces)(*batch())
    totals.count()
    return net, totals.means()["loss"]


def gradients(net, images, pieces):
    parts = zip(*(tensor[:images].chunk(pieces) for tensor in batch()), strict=True)
    loss = sum(AnnObjective(net)(*part)["loss"] for part in parts) / pieces
    return loss, torch.autograd.grad(loss, list(net.parameters()))


@pytest.mark.parametrize(("pieces", "images", "first_pieces"), [(1, 5, 1), (2, 5, 1), (4, 5, 1), (5, 4, 1), (10, 4, 2)])
def test_the_weights_move_by_the_gradient_a_radius_uphill(pieces, images, first_pieces):
    """A quarter of the images, in pieces as large at most, say where that is; losses and statistics are theirs, too."""
    net, counted = stepped(pieces)
    wanted = network()
    loss, first = gradients(wanted, images, first_pieces)
    statistics = [buffer.clone() for buffer in wanted.buffers()]
    length = torch.cat([gradient.flatten() for gradient in first]).norm()
    start = [parameter.detach().clone() for parameter in wanted.parameters()]
    with torch.no_grad():
        for parameter, gradient in zip(wanted.parameters(), first, strict=True):
            parameter.add_(RADIUS * gradient / length)
    _, second = gradients(wanted, 20, pieces)
    assert counted == pytest.approx(loss.item(), rel=1e-6)
    for parameter, before, gradient in zip(net.parameters(), start, second, strict=True):
        torch.testing.assert_close(parameter.detach(), before - RATE * (1 + MOMENTUM) * gradient)
    for found, expected in zip(net.buffers(), statistics, strict=True):
        if found.is_floating_point():
            torch.testing.assert_close(found, expected)


def test_what_fails_uphill_leaves_the_network_its_own_weights():
    class FailsSecond(AnnObjective):
        calls = 0

        def __call__(self, x, target_BK):
            type(self).calls += 1
            if type(self).calls == 2:
                raise FloatingPointError
            return super().__call__(x, target_BK)

    net = network()
    state = train_state({"net": net}, opt="sgd", weight_decay=0.0, radius=RADIUS)
    before = {name: tensor.clone() for name, tensor in net.named_parameters()}
    step = plain_step(FailsSecond(net), state, LossTotals(torch.device("cpu")), amp=False, device=torch.device("cpu"))
    with pytest.raises(FloatingPointError):
        step(*batch())
    for name, tensor in net.named_parameters():
        assert torch.equal(tensor, before[name]), name


def test_weights_without_a_slope_stay_finite():
    net = nn.Linear(4, 3)
    state = train_state({"net": net}, opt="sgd", weight_decay=0.0, radius=RADIUS)
    (net.weight.sum() * 0 + net.bias.sum() * 0).backward()
    with state.uphill():
        assert net.weight.isfinite().all()
        assert net.weight.grad is None


def test_only_the_network_itself_goes_uphill():
    """Projections are not what is evaluated, and their gradients would take up a share of the radius."""
    net, beside = nn.Linear(4, 3), nn.Linear(4, 3)
    state = train_state({"net": net, "beside": beside}, opt="sgd", weight_decay=0.0, radius=RADIUS)
    own, others = nn.utils.parameters_to_vector(net.parameters()).detach(), beside.weight.detach().clone()
    (net(torch.ones(4)).sum() + beside(torch.ones(4)).sum()).backward()
    with state.uphill():
        moved = nn.utils.parameters_to_vector(net.parameters()).detach() - own
        assert moved.norm().item() == pytest.approx(RADIUS, rel=1e-5)
        assert torch.equal(beside.weight, others)


class RootedAt(nn.Module):
    """The identity; once the weights have moved, with an infinite slope."""

    def __init__(self, moved):
        super().__init__()
        self.moved = moved

    def forward(self, x):
        return x + (x - x.detach()).abs().sqrt() if self.moved() else x


@pytest.mark.parametrize(
    ("radius", "where"),
    [
        (3e38, "it began in step 1, in net.4 (linear), 3e+38 uphill of the weights; lower"),
        (0.7, "it began in step 1, in the gradient of net.1.bias, 0.7 uphill of the weights; lower"),
    ],
    ids=["values", "slopes"],
)
def test_what_is_not_finite_uphill_alone_is_named_as_uphill(trained, network, tmp_path, radius, where):
    model = network()
    start = model[0].weight.detach().clone()
    if radius < 1:
        model[2] = RootedAt(lambda: not torch.equal(model[0].weight, start))
    with pytest.raises(BadInputError) as failure:
        trained(model, tmp_path, radius=radius)
    assert where in str(failure.value)


def test_what_is_not_finite_by_the_weights_themselves_is_not(trained, network, tmp_path):
    model = network()
    model[2] = RootedAt(lambda: True)
    with pytest.raises(BadInputError, match=r"it began in step 1, in the gradient of net\.1\.bias; lower"):
        trained(model, tmp_path, radius=0.7)


def test_half_precision_gradients_that_may_overflow_are_refused():
    with pytest.raises(ValueError, match="give --amp-dtype bfloat16"):
        ConvertSettings(model="test_resnet", sam=0.05, amp_dtype="float16")
