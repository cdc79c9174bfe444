"""Convolutions that read their whole input: the same values, gradients and names by one matrix product."""

import timm
import torch
from torch import nn

from ann2snn_distill.conversion.folding import folded
from ann2snn_distill.conversion.network import StagedAnn, partitioned
from ann2snn_distill.conversion.whole_input import WholeInputConv2d, WholeInputs
from ann2snn_distill.teacher.networks import build_network


def linearized(network, image):
    """The network after one look at it."""
    with torch.no_grad(), WholeInputs(network) as seen:
        network(image)
    seen.linearize()
    return network


def test_it_gives_a_convolutions_values_and_gradients():
    plain, whole = nn.Conv2d(3, 5, (4, 6)).double(), WholeInputConv2d(3, 5, (4, 6)).double()
    whole.load_state_dict(plain.state_dict())
    x_BCHW = torch.randn(2, 3, 4, 6, dtype=torch.float64).to(memory_format=torch.channels_last)
    found = []
    for module in (plain, whole):
        x = x_BCHW.clone().requires_grad_()
        y = module(x)
        y.square().sum().backward()
        found.append((y, x.grad, module.weight.grad, module.bias.grad))
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected)


def test_only_plain_convolutions_that_read_their_whole_input_in_every_call_become_products():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.whole = nn.Conv2d(3, 3, 4), nn.Conv2d(3, 2, 4)
            self.padded, self.grouped = nn.Conv2d(3, 3, 4, padding=1), nn.Conv2d(3, 3, 4, groups=3)
            self.pointwise, self.unused = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 4)

        def forward(self, x):
            parts = (self.shared(x), self.padded(x), self.grouped(x), self.pointwise(self.grouped(x)))
            return self.whole(x), self.shared(torch.cat([x, x], 2)), parts

    network = linearized(Twice(), torch.randn(1, 3, 4, 4))
    assert [name for name, module in network.named_modules() if type(module) is WholeInputConv2d] == ["whole"]
    assert all(not module._forward_pre_hooks for module in network.modules())


def test_vggs_classifier_is_a_product_in_teacher_and_student_and_answers_as_timms():
    built = {"classes": 10, "img_size": 32, "stem": "keep", "model_kwargs": {"mlp_ratio": 1 / 64}}
    network = build_network("vgg11_bn", **built)
    assert [name for name, module in network.named_modules() if type(module) is WholeInputConv2d] == ["pre_logits.fc1"]
    reference = timm.create_model("vgg11_bn", num_classes=10, mlp_ratio=1 / 64).eval()
    reference.load_state_dict(network.state_dict())
    x_BCHW = torch.randn(2, 3, 32, 32)
    parts = partitioned(network, img_size=32)
    assert type(parts.body.get_submodule("pre_logits.fc1")) is WholeInputConv2d
    with torch.no_grad():
        torch.testing.assert_close(network(x_BCHW), reference(x_BCHW))


def test_a_norm_behind_one_is_folded_into_it():
    class Folds(nn.Sequential):
        feature_info = ()

    torch.manual_seed(0)
    network = Folds(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    network[3].running_mean.uniform_(-1, 1)
    x_BCHW = torch.randn(2, 3, 4, 4)
    network = linearized(network.eval(), x_BCHW)
    parts = partitioned(network, img_size=4)
    teacher, plain = folded(parts, dtype=torch.float32), StagedAnn(parts).eval()
    for found, wanted in zip(teacher.features(x_BCHW), plain.features(x_BCHW), strict=True):
        torch.testing.assert_close(found, wanted)
    norms = [module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == []
