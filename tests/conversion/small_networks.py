"""timm networks for 32 px images whose weights and statistics are away from every trivial value."""

import timm
import torch
from torch import nn

from ann2snn_distill.conversion.network import partitioned
from ann2snn_distill.conversion.student import SpikingNetwork, uniform_thresholds
from ann2snn_distill.neurons.equations import LIF

IMAGE, CLASSES = 32, 10

NETWORKS = {
    "test_resnet": {},
    "resnet18": {},
    "resnet26": {},
    "resnetv2_18": {},
    "resnetv2_50": {},
    "vgg11_bn": {"mlp_ratio": 1 / 64},
    "mobilenetv2_050": {},
    "densenet121": {},
    "regnetx_002": {},
    "res2net50_14w_8s": {},
}
"""Name -> keywords that keep it small; every depth is the original's."""

SMALL = {
    "test_resnet": {},
    "densenet121": {"block_config": (2, 2), "growth_rate": 8},
    "mobilenetv2_035": {},
}
"""Networks that compile in seconds."""


class Block(nn.Module):
    """A module of any operation, such as a function, which the trace looks through."""

    def __init__(self, operation):
        super().__init__()
        self.operation = operation

    def forward(self, x):
        return self.operation(x)


def network(name, keywords=None, *, seed=0, dtype=torch.float64):
    """A timm model in eval mode; every norm, bias and running statistic is perturbed."""
    keywords = NETWORKS.get(name, {}) if keywords is None else keywords
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(name, num_classes=CLASSES, **keywords).to(dtype)
        with torch.no_grad():
            for module in model.modules():
                perturb(module)
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eps, module.momentum = 1e-3, 0.2
    return model.eval()


def perturb(module):
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.weight.uniform_(0.6, 1.6)
        module.running_mean.normal_(std=0.3)
        module.running_var.uniform_(0.5, 2.0)
    if isinstance(getattr(module, "bias", None), nn.Parameter):
        module.bias.normal_(mean=0.1, std=0.3)


def spiking(name, keywords=None, *, neuron=LIF, threshold=0.5, dtype=torch.float64, **options):
    """An SNN of a perturbed network."""
    return spiking_form(network(name, keywords, dtype=dtype), neuron=neuron, threshold=threshold, **options)


def spiking_form(model, *, neuron=LIF, threshold=0.5, **options):
    """An SNN of any network, in its dtype."""
    cut = partitioned(model, img_size=IMAGE)
    names = cut.sites.neuron_names()
    if options.get("learn_decay"):
        options["decays"] = {name: 0.3 + 0.5 * index / len(names) for index, name in enumerate(names)}
    student = SpikingNetwork(cut, neuron, thresholds=uniform_thresholds(names, threshold), **options)
    return student.to(next(model.parameters()).dtype)


def images(count=3, *, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, IMAGE, IMAGE, generator=generator, dtype=torch.float64).to(dtype)


def labels(count=3):
    return torch.arange(count) % CLASSES
