"""A small teacher and student whose weights, norms and statistics are away from every trivial value."""

import pytest
import timm
import torch
from torch import nn

from ann2snn_distill.conversion.network import StagedAnn, partitioned
from ann2snn_distill.conversion.student import SpikingNetwork, uniform_thresholds
from ann2snn_distill.neurons.equations import LIF
from ann2snn_distill.teacher import build_network

SIDE, CLASSES = 32, 10


KEYWORDS = {
    "test_vit": {"img_size": SIDE},
    "swin_tiny_patch4_window7_224": {
        "img_size": SIDE, "window_size": 4, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2),
    },
}  # fmt: skip


def build(name, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(name, num_classes=CLASSES, **KEYWORDS.get(name, {})).double()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.uniform_(0.6, 1.6)
                    module.bias.normal_(mean=0.1, std=0.3)
                    module.running_mean.normal_(std=0.3)
                    module.running_var.uniform_(0.5, 2.0)
    return model.eval()


@pytest.fixture(scope="session")
def model():
    """Name, seed -> a perturbed timm model in float64."""
    return build


@pytest.fixture(scope="session")
def ann():
    """Name, seed, named cuts -> its staged form."""
    return lambda name, seed=0, cuts=(): StagedAnn(partitioned(build(name, seed), img_size=SIDE, cuts=cuts)).eval()


@pytest.fixture(scope="session")
def snn():
    """Name, seed, named cuts, threshold of all neurons -> an SNN of it."""

    def make(name, seed=1, cuts=(), threshold=0.5):
        cut = partitioned(build(name, seed), img_size=SIDE, cuts=cuts)
        return SpikingNetwork(cut, LIF, thresholds=uniform_thresholds(cut.sites.neuron_names(), threshold)).double()

    return make


@pytest.fixture(scope="session")
def resnet18():
    """ResNet-18 for small images in its stages, whose values and operations are counted by hand."""
    with torch.device("cpu"):
        model = build_network("resnet18", classes=CLASSES, img_size=SIDE, stem="small", model_kwargs={})
    return partitioned(model, img_size=SIDE)


@pytest.fixture
def batch():
    """Images (4, 3, 32, 32) and one-hot targets (4, 10)."""
    x = torch.randn(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return x, torch.eye(CLASSES)[torch.tensor([3, 0, 7, 3])]
