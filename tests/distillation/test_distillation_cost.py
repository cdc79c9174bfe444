"""Counted work against figures made by hand for ResNet-18 on 32 px images with a 3x3 stem of stride 1."""

import pytest

from ann2snn_distill.distillation.cost import step_flop, work

MACS = 555_422_720
"""3*9*64*32^2 + 4*64*9*64*32^2 + per later stage c at side s: (c/2*9 + 3*c*9 + c/2)*c*s^2, and 512*10."""
STEM = 3 * 9 * 64 * 32**2
STAGES = [
    4 * 64 * 9 * 64 * 32**2,
    *((c // 2 * 9 + 3 * c * 9 + c // 2) * c * s**2 for c, s in ((128, 16), (256, 8), (512, 4))),
]


def test_the_work_of_a_step_is_that_of_its_passes(resnet18):
    assert STEM + sum(STAGES) + 5120 == MACS
    found = work(resnet18)
    assert (found.total, found.static) == (MACS, STEM)
    entries = [[stage.name for stage in resnet18.stages].index(name) for name in ("layer1", "layer2", "layer3")]
    tails = sum(sum(STAGES[first:]) + 5120 for first in (1, 2, 3))
    spikes = 4 * (MACS - STEM) + STEM
    flop = {
        name: step_flop(name, found, found, entries=entries, timesteps=4) for name in ("ann", "rate", "bptt", "hybrid")
    }
    assert flop == {
        "ann": 6 * MACS,
        "rate": 2 * (spikes + 2 * MACS),
        "bptt": 6 * spikes,
        "hybrid": 2 * (spikes + 2 * MACS + MACS + 2 * tails),
    }
    sampled = step_flop("hybrid", found, found, entries=entries, timesteps=4, sampled=True)
    assert sampled == flop["hybrid"] - 4 * (tails - tails // 3)
    assert flop["hybrid"] / 1e9 == pytest.approx(10.99, abs=0.03)  # counted elsewhere, stem at every timestep
