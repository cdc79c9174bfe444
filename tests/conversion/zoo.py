"""One network of each of timm's families, small and on small images, with weights away from every trivial value."""

from dataclasses import dataclass, field

import timm
import torch
from small_networks import CLASSES, perturb
from torch import nn

from ann2snn_distill.conversion.calibration import thresholds_of_snn
from ann2snn_distill.conversion.network import partitioned
from ann2snn_distill.conversion.student import SpikingNetwork
from ann2snn_distill.neurons.equations import LIF
from ann2snn_distill.reporting.families import REPRESENTATIVES

WIDE_LIF = LIF._replace(surrogate_width=2.0)


@dataclass(frozen=True)
class Small:
    """How a family's network is made small: another name than its representative's, image side, keywords."""

    name: str | None = None
    side: int = 32
    keywords: dict = field(default_factory=dict)


SMALL = {
    "beit": Small(keywords={"embed_dim": 48, "depth": 3, "num_heads": 3}),
    "byoanet": Small("eca_botnext26ts_256", 64),
    "crossvit": Small(side=240),
    "deepseek_vit": Small(side=28, keywords={"embed_dim": 64, "depth": 2, "num_heads": 2}),
    "efficientformer": Small(side=224),
    "gemma4_vit": Small(side=96, keywords={"depth": 2}),
    "inception_resnet_v2": Small(side=96),
    "inception_v3": Small(side=96),
    "inception_v4": Small(side=96),
    "nasnet": Small(side=96, keywords={"stem_size": 24, "num_features": 384}),
    "pnasnet": Small(side=96),
    "vgg": Small("vgg11_bn", keywords={"mlp_ratio": 1 / 64}),
    "vision_transformer_sam": Small(keywords={"embed_dim": 48, "depth": 3, "num_heads": 3}),
    "naflexvit": Small(keywords={"embed_dim": 64, "depth": 2, "num_heads": 2}),
    "qwen3_vit": Small(keywords={"embed_dim": 64, "depth": 2, "num_heads": 2}),
    "xception": Small(side=64),
}
"""Families whose representative does not run on 32 px images, or is large."""

REFUSED = {"csatv2": "computes a value for every pair of a batch's images"}
"""Families that cannot be converted, and a part of the reason."""

RECURRENT = {"sequencer": {"LSTM"}}
"""Layers besides those that read the image that no spikes drive under full coverage, by family."""

FAMILIES = [family for family in REPRESENTATIVES if family not in REFUSED]

FAST = ("byobnet", "convnext", "efficientnet", "mambaout", "maxxvit", "nfnet", "resnet", "vision_transformer")
"""Converted in a second or two each: tested on every run."""

SINGLE_PRECISION = ("deepseek_vit", "efficientvit_mit", "metaformer")
"""Families that compute a part in float32, whatever their weights are."""


def side_of(family):
    return SMALL.get(family, Small()).side


def tolerance(family):
    """What separates equal results of two roads."""
    return 1e-5 if family in SINGLE_PRECISION else 1e-10


def family_network(family):
    """A float64 network in eval mode of the family."""
    small = SMALL.get(family, Small())
    name = small.name or REPRESENTATIVES[family]
    keywords = dict(small.keywords)
    if timm.get_pretrained_cfg(name).fixed_input_size:
        keywords["img_size"] = small.side
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=CLASSES, **keywords).double().eval()
        with torch.no_grad():
            for module in model.modules():
                perturb(module)
            for parameter in model.parameters():
                if not parameter.any() or (parameter.ndim == 2 and parameter.shape[0] == CLASSES):
                    nn.init.normal_(parameter, std=0.1)
    return model


def family_images(family, count=2):
    generator = torch.Generator().manual_seed(0)
    side = side_of(family)
    return torch.randn(count, 3, side, side, generator=generator, dtype=torch.float64)


def family_student(family, *, full_coverage=False, thresholds=None):
    """An SNN of the family, with thresholds that leave no neuron silent if none are given."""
    cut = partitioned(family_network(family), img_size=side_of(family), full_coverage=full_coverage)
    thresholds = thresholds or thresholds_of_snn(cut.sites, family_images(family), 3, neuron=WIDE_LIF)
    return SpikingNetwork(cut, WIDE_LIF, thresholds=thresholds).double()
