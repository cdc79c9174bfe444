"""Counted activations against figures made by hand for ResNet-18 on 32 px images with a 3x3 stem of stride 1."""

import pytest

from ann2snn_distill.conversion.network import partitioned
from ann2snn_distill.distillation.footprint import footprint, peak_values
from ann2snn_distill.teacher import build_network

LAYERS = [5 * 64 * 32**2, 4 * 128 * 16**2, 4 * 256 * 8**2, 4 * 512 * 4**2]
"""Values of neurons: the stem with the first stage, and four a stage after it."""
NEURONS = sum(LAYERS)
NORMS = NEURONS + sum(LAYERS[1:]) // 4
"""One a neuron, and one in each shortcut that changes the channels."""
LARGEST = 64 * 32**2
ENTRIES = (1, 2, 3)
TAILS = sum(sum(LAYERS[first:]) for first in (1, 2, 3))


@pytest.fixture(scope="module")
def counted(resnet18):
    assert [resnet18.stages[entry].name for entry in ENTRIES] == ["layer1", "layer2", "layer3"]
    return footprint(resnet18)


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        ("ann", NEURONS + NORMS),
        ("rate", 2 * NEURONS + NORMS),
        ("hybrid", 2 * NEURONS + NORMS + TAILS),
        ("bptt", 4 * (3 * NEURONS + NORMS)),
    ],
)
def test_a_step_keeps_its_records_and_passes_three_of_the_largest(counted, method, kept):
    copies = 4 if method == "bptt" else 1
    found = peak_values(method, counted, counted, entries=ENTRIES, timesteps=4)
    assert found == kept + 3 * LARGEST * copies


@pytest.mark.parametrize(("method", "more"), [("rate", NEURONS), ("hybrid", NEURONS), ("bptt", 4 * 2 * NEURONS)])
def test_learnt_decays_take_a_record_more_and_through_time_a_membrane(counted, method, more):
    plain, learning = (
        peak_values(method, counted, counted, entries=ENTRIES, timesteps=4, learn_decay=learnt)
        for learnt in (False, True)
    )
    assert learning - plain == more


def test_a_tail_keeps_what_its_analog_operations_read_and_write():
    kwargs = {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 16)}
    network = build_network("convnext_atto", classes=10, img_size=32, stem="keep", model_kwargs=kwargs)
    stages = partitioned(network, img_size=32)
    behind = dict(zip((stage.name for stage in stages.stages), footprint(stages).behind, strict=True))
    # the norm over 2x2 px in front of the last stage, over one pixel the block's and the head's, and an activation
    # four times as wide as the block
    assert behind["stages.2"] == 2 * 16 * 2 * 2 + 2 * 16 + 2 * 16 + 4 * 16


def test_sampled_branches_keep_a_third_of_the_tails(counted):
    both = [
        peak_values("hybrid", counted, counted, entries=ENTRIES, timesteps=4, sampled=sampled)
        for sampled in (False, True)
    ]
    assert both[0] - both[1] == TAILS - TAILS // 3


def test_records_do_not_grow_with_time_but_the_widest_layer_passes_through_it(counted):
    def step(method, timesteps):
        return peak_values(method, counted, counted, entries=ENTRIES, timesteps=timesteps)

    assert step("hybrid", 1) == step("hybrid", 2) == step("hybrid", 4)
    assert step("ann", 1) == step("ann", 16)
    assert step("bptt", 8) == 4 * step("bptt", 2)
    # at the last neuron of layer1.1, which reads a convolution's output and the shortcut and writes spikes, over 16
    # timesteps; five neurons and five norms are recorded with it
    assert step("hybrid", 16) == (3 * 16 + 2 * 5 + 5) * LARGEST
    assert step("hybrid", 16) < step("hybrid", 32) < 2 * step("hybrid", 16)
