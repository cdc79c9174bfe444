"""The estimate of a step's memory: against measured peaks, and what a user is told by it."""

import json
from dataclasses import replace

import pytest
import torch

from ann2snn_distill.conversion.network import StagedAnn, partitioned
from ann2snn_distill.conversion.student import SpikingNetwork, uniform_thresholds
from ann2snn_distill.distillation.branches import HybridBranches
from ann2snn_distill.distillation.positions import choose_positions
from ann2snn_distill.errors import BadInputError
from ann2snn_distill.neurons.equations import LIF
from ann2snn_distill.pipeline.memory import StepMemory, explained, in_pieces, step_memory
from ann2snn_distill.teacher import build_network
from ann2snn_distill.training.state import train_state
from ann2snn_distill.training.step import Execution

GPU = Execution(torch.device("cuda"), amp=True, compiled=True, captured=True)
CPU = Execution(torch.device("cpu"), amp=False, compiled=False)
TEN_A_IMAGE = StepMemory(fixed_mib=100.0, image_mib=10.0)


def network_of(name, size):
    return partitioned(build_network(name, classes=10, img_size=size, stem="small", model_kwargs={}), img_size=size)


@pytest.mark.parametrize(
    ("method", "timesteps", "batch", "measured_mib"),
    [("hybrid", 4, 512, 2634), ("hybrid", 4, 128, 983), ("ann", 1, 512, 1686)],
)
def test_the_estimate_is_near_the_peaks_measured_on_an_h100(method, timesteps, batch, measured_mib):
    """The peaks of docs/performance.md: `snn-distill bench resnet18 --img-size 32`, compiled, bfloat16."""
    network = network_of("resnet18", 32)
    positions = choose_positions(network.stages, network.stages, "auto", same_network=True)
    memory = step_memory(method, network, network, positions=positions, timesteps=timesteps, execution=GPU)
    assert memory.of(batch) == pytest.approx(measured_mib, rel=0.05)


@pytest.mark.parametrize("opt", ["sgd", "adamw"])
@pytest.mark.parametrize("averaged", [False, True])
def test_the_fixed_part_is_the_weights_as_they_are_trained(opt, averaged):
    network = network_of("test_resnet", 16)
    positions = choose_positions(network.stages, network.stages, "auto", same_network=True)
    memory = step_memory(
        "hybrid", network, network, positions=positions, timesteps=2, execution=CPU, opt=opt, copies=int(averaged)
    )
    teacher = StagedAnn(network)
    student = SpikingNetwork(
        network_of("test_resnet", 16), LIF, thresholds=uniform_thresholds(network.sites.neuron_names(), 1.0)
    )
    branches = HybridBranches(student.stages, teacher, positions)
    state = train_state(
        {"student": student.body, "branches": branches}, opt=opt, weight_decay=0.0, average_decay=0.9 * averaged
    )
    trained = [p for module in state.modules.values() for p in module.parameters()]
    small = ("running_", "num_batches_tracked", "optimizer.step.", "threshold")
    moved = sum(t.numel() for name, t in state.tensors().items() if not any(part in name for part in small))
    gradients = sum(p.numel() for p in trained)
    frozen = sum(p.numel() for p in teacher.parameters())
    assert memory.fixed_mib * 2**20 == pytest.approx(4 * (moved + gradients + frozen), abs=0.5)


def test_the_largest_batch_is_the_last_that_fits():
    assert TEN_A_IMAGE.largest_batch(200) == 10
    assert TEN_A_IMAGE.of(10) == 200
    assert TEN_A_IMAGE.largest_batch(199) == 9
    assert TEN_A_IMAGE.largest_batch(50) == 0


@pytest.mark.parametrize(
    ("images", "available", "expected"),
    [
        (64, 10_000, (64, 1)),
        (64, 740, (64, 1)),
        (64, 739, (32, 2)),
        (64, 200, (8, 8)),
        (60, 200, (10, 6)),
        (7, 120, (1, 7)),
    ],
)
def test_a_step_is_cut_into_the_fewest_equal_pieces_that_fit(images, available, expected):
    assert in_pieces(TEN_A_IMAGE, images, available) == expected


def test_a_step_of_which_no_image_fits_is_refused():
    with pytest.raises(BadInputError, match="a step of one image takes about 110 MiB, and 105 may be used"):
        in_pieces(TEN_A_IMAGE, 64, 105)


@pytest.mark.parametrize(
    ("memory", "pieces", "way_on"),
    [
        (TEN_A_IMAGE, 1, "--overwrite --batch-size 16 --grad-accum-steps 4 takes the same images a step in about 260"),
        (TEN_A_IMAGE, 3, "--batch-size 16 --grad-accum-steps 12 "),
        (replace(TEN_A_IMAGE, image_mib=0.1), 1, "--batch-size 32 --grad-accum-steps 2 "),  # the estimate was too low
        (replace(TEN_A_IMAGE, fixed_mib=500), 1, "choose a smaller --img-size or model"),
    ],
)
def test_a_device_out_of_memory_names_what_would_fit(memory, pieces, way_on):
    with pytest.raises(BadInputError) as found, explained(memory, 64, pieces, 300):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")
    assert "300 MiB are too few for 64 images at once" in str(found.value)
    assert way_on in str(found.value)


def test_other_errors_pass_unexplained():
    with pytest.raises(ZeroDivisionError), explained(TEN_A_IMAGE, 64, 1, 300):
        raise ZeroDivisionError


@pytest.fixture
def small_machine(monkeypatch):
    """A CPU that has room for half of a batch of 32, by the estimate of the plan."""

    def shrink(estimate_mib):
        for room in ("planning", "distilling"):
            monkeypatch.setattr(f"ann2snn_distill.pipeline.{room}.memory_mib", lambda device: estimate_mib)

    return shrink


def test_auto_cuts_the_step_and_the_run_says_what_it_takes(command, shades, tmp_path, small_machine):
    sizes = "--img-size 16 --epochs 1 --teacher-epochs 1 --timesteps 2"
    options = f"{sizes} --device cpu --workers 0 --json".split()
    run = ("convert", "test_resnet", "--dataset", shades, *options)
    whole = json.loads(command(*run, "--dry-run").out)
    assert (whole["settings"]["batch_size"], whole["settings"]["grad_accum_steps"]) == (32, 1)
    small_machine(0.9 * whole["memory"]["step, MiB (estimate)"])
    planned = json.loads(command(*run, "--batch-size", "auto", "--dry-run").out)
    assert (planned["settings"]["batch_size"], planned["settings"]["grad_accum_steps"]) == (16, 2)
    assert planned["settings"]["lr"] == whole["settings"]["lr"]
    assert planned["data"] == whole["data"]
    assert planned["memory"]["step, MiB (estimate)"] < 0.9 * planned["memory"]["device, MiB"]
    done = command(*run, "--batch-size", "auto", "--output", tmp_path / "run")
    assert done.code == 0, done.err
    assert "MiB estimated for 16 images at once" in done.err
    assert "may not fit" not in done.err
    again = command(*run, "--batch-size", "auto", "--output", tmp_path / "run", "--resume", tmp_path / "run")
    assert (again.code, again.out) == (0, done.out)
    warned = command(*run, "--output", tmp_path / "other")
    assert "warning: a step may not fit in memory; --batch-size auto" in warned.err


def test_teach_takes_auto_too(command, shades, small_machine):
    small_machine(50.0)
    options = ["--img-size", "16", "--teacher-epochs", "1", "--device", "cpu", "--batch-size", "auto", "--json"]
    done = command("teach", "test_resnet", "--dataset", shades, *options)
    assert done.code == 0, done.err


@pytest.mark.parametrize("given", ["0", "many", "-3", "1.5"])
def test_no_other_word_is_a_batch_size(command, shades, given):
    done = command("convert", "test_resnet", "--dataset", shades, f"--batch-size={given}")
    assert (done.code, done.err) == (
        2,
        f"error: --batch-size must be a whole number of at least 1, or auto, not {given}\n",
    )
