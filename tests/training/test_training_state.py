"""How fast the modules of a state move."""

import pytest
import torch
from torch import nn

from ann2snn_distill.training.state import train_state

RATE = 0.1


@pytest.mark.parametrize("opt", ["sgd", "adamw"])
@pytest.mark.parametrize("share", [0.1, 1.0, 3.0])
def test_a_module_with_a_share_of_the_learning_rate_moves_by_that_share(opt, share):
    torch.manual_seed(0)
    first = nn.Linear(4, 3).double()
    second = nn.Linear(4, 3).double()
    second.load_state_dict(first.state_dict())
    start = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    state = train_state({"student": first, "branches": second}, opt=opt, weight_decay=0.05, shares={"branches": share})
    state.set_learning_rate(RATE)
    x = torch.randn(5, 4, dtype=torch.float64)
    (first(x).square().sum() + second(x).square().sum()).backward()
    state.update()
    for name, before in start.items():
        moved, of_it = (module.state_dict()[name] - before for module in (first, second))
        assert moved.abs().max() > 0.01 * RATE
        torch.testing.assert_close(of_it, share * moved)
