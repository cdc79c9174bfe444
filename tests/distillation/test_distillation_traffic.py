"""Counted traffic against figures made by hand for ResNet-18 on 32 px images with a 3x3 stem of stride 1."""

import itertools

import pytest

from ann2snn_distill.distillation.traffic import Counts, Traffic, flow, step_traffic

SIDES = [64 * 32**2, 128 * 16**2, 256 * 8**2, 512 * 4**2]
"""Values of a feature in each of the four stages."""
NEURONS = 5 * SIDES[0] + 4 * sum(SIDES[1:])
SHORTCUTS = sum(SIDES[1:])
NORMS = NEURONS + SHORTCUTS
SUMMANDS = NEURONS + 2 * sum(SIDES)
INPUTS = 3 * 32**2 + 4 * SIDES[0] + sum(2 * before + 3 * side for before, side in itertools.pairwise(SIDES))
ENTRIES = (1, 2, 3)
T = 4


@pytest.fixture(scope="module")
def counted(resnet18):
    assert [resnet18.stages[entry].name for entry in ENTRIES] == ["layer1", "layer2", "layer3"]
    return flow(resnet18)


def behind(stages):
    """Inputs, outputs and neurons of the ANN behind its first `stages` stages."""
    pairs = list(itertools.pairwise(SIDES))[stages - 1 :]
    neurons = 4 * sum(side for _, side in pairs)
    outputs = sum(5 * side for _, side in pairs) + 10
    return sum(2 * before + 3 * side for before, side in pairs) + 512, outputs, neurons


def test_the_counts_are_those_of_the_layers(counted):
    assert counted.all == Counts(INPUTS + 512, NORMS + 10, NEURONS, SUMMANDS, NORMS)
    assert counted.static == Counts(3 * 32**2, SIDES[0], SIDES[0], SIDES[0], SIDES[0])  # the stem
    for entry in ENTRIES:
        found = counted.behind[entry]
        assert (found.inputs, found.outputs, found.neurons) == behind(entry)


def test_the_traffic_of_each_method_is_that_of_its_passes(counted):
    found = {
        name: step_traffic(name, counted, counted, entries=ENTRIES, timesteps=T)
        for name in ("ann", "rate", "bptt", "hybrid")
    }
    once = INPUTS + 512 + NORMS + 10
    stem = 3 * 32**2 + SIDES[0]
    assert found["ann"] == Traffic(3 * once, 2 * NORMS + NEURONS + 3 * NEURONS + 5 * NORMS)
    assert found["bptt"] == Traffic(T * 3 * once, T * (7 * NORMS + 6 * NEURONS))
    spikes = T * (NORMS - SIDES[0]) + SIDES[0] + T * (SUMMANDS - SIDES[0]) + SIDES[0] + T * NEURONS
    assert found["rate"] == Traffic(
        T * (once - stem) + stem + 2 * once, spikes + 2 * NEURONS + NORMS + 3 * NEURONS + 5 * NORMS
    )
    weighted = sum(2 * (i + o) for i, o, _ in map(behind, ENTRIES)) + once
    others = sum(5 * n for _, _, n in map(behind, ENTRIES)) + 2 * NEURONS
    assert found["hybrid"] == found["rate"] + Traffic(weighted, others)
    sampled = step_traffic("hybrid", counted, counted, entries=ENTRIES, timesteps=T, sampled=True)
    tails = Traffic(weighted - once, others - 2 * NEURONS)
    assert sampled == found["rate"] + Traffic(once, 2 * NEURONS) + tails // 3


def test_only_the_spike_pass_moves_more_at_more_timesteps(counted):
    def total(method, timesteps):
        moved = step_traffic(method, counted, counted, entries=ENTRIES, timesteps=timesteps)
        return moved.weighted + moved.others

    assert (
        total("hybrid", 16) - total("hybrid", 8)
        == total("rate", 16) - total("rate", 8)
        == 8 * (total("rate", 2) - total("rate", 1))
    )
    assert total("bptt", 16) == 8 * total("bptt", 2)
