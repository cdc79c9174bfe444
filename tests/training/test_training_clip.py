"""Gradients are shortened together, after they are unscaled and before the update."""

import pytest
import torch
from torch import nn

from ann2snn_distill.training.gradients import Clip
from ann2snn_distill.training.state import MOMENTUM, train_state


def moved(clip, *, scaled, length):
    """How far one step of rate 1 moves the weights, by a gradient of that length."""
    network = nn.Linear(3, 4)
    state = train_state({"net": network}, opt="sgd", weight_decay=0.0, scaled=scaled, clip=clip and Clip(clip))
    state.set_learning_rate(1.0)
    before = torch.cat([p.detach().flatten() for p in network.parameters()])
    direction = torch.randn(len(before), generator=torch.Generator().manual_seed(0))
    weights = torch.cat([p.flatten() for p in network.parameters()])
    state.scaled(weights @ (direction * length / direction.norm())).backward()
    state.update()
    return float((torch.cat([p.detach().flatten() for p in network.parameters()]) - before).norm())


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("clip", "length", "kept"), [(None, 8.0, 8.0), (0.5, 8.0, 0.5), (0.5, 0.25, 0.25)])
def test_all_gradients_together_are_at_most_as_long_as_asked(clip, length, kept, scaled):
    assert moved(clip, scaled=scaled, length=length) == pytest.approx(kept * (1 + MOMENTUM), rel=1e-4)


def test_a_gradient_that_overflowed_moves_nothing_where_it_is_clipped():
    assert moved(0.5, scaled=True, length=float("inf")) == 0


def test_adaptive_clipping_shortens_the_channels_alone_whose_gradients_are_long_for_their_weights():
    network = nn.Linear(2, 3, bias=False)
    state = train_state({"net": network}, opt="sgd", weight_decay=0.0, clip=Clip(0.1, "agc"))
    state.set_learning_rate(1.0)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 1.0]]))
    before = network.weight.detach().clone()
    gradient = torch.tensor([[0.0, 0.25], [0.0, 5.0], [2.0, 0.0]])
    (network.weight * gradient).sum().backward()
    state.update()
    wanted = torch.tensor([[0.0, 0.25], [0.0, 0.5], [0.1, 0.0]])
    torch.testing.assert_close(before - network.weight.detach(), wanted * (1 + MOMENTUM))
