"""From a student on test data to the parts of a report."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ann2snn_distill.checkpoint import EvaluationNumerics
from ann2snn_distill.conversion.activity import Activity
from ann2snn_distill.conversion.coverage import Coverage, LayerFate, coverage
from ann2snn_distill.conversion.student import SpikingNetwork
from ann2snn_distill.data.batches import test_batches
from ann2snn_distill.data.splits import Split
from ann2snn_distill.evaluation.totals import exact_float32
from ann2snn_distill.pipeline.machine import device_name
from ann2snn_distill.recipes import SMALL_IMAGE
from ann2snn_distill.reporting.report import CoverageResult, EnergyResult, LayerResult

MAC_PJ = 4.6
AC_PJ = 0.9
"""Picojoules of a float32 multiply-accumulate and accumulate in 45 nm (Horowitz, ISSCC 2014)."""

ACTIVITY_IMAGES = 512
"""Images on which firing rates are measured, evenly spaced over the test split."""


@dataclass(frozen=True)
class Measured:
    """What evaluation finds: accuracy by timestep in percent, fates and activity of layers, energy."""

    top1_at: dict[str, float]
    coverage: CoverageResult
    layers: tuple[LayerResult, ...]
    energy: EnergyResult


def numerics(device: torch.device, *, img_size: int, batch_size: int | None = None) -> EvaluationNumerics:
    """Return the numerics of an evaluation: float32, no TF32, and the batch that fits the images and the device.

    On one core, at T = 4, ResNet-18 takes 104 ms for one of 250 images of 32 px and 73 for one of 32, MobileNetV2 0.8 s
    for one of 32 images of 224 px and 0.4 for one of 4: smaller membranes stay in its caches.
    """
    small, large = (32, 4) if device.type == "cpu" else (250, 32)
    return EvaluationNumerics(
        dtype="float32",
        tf32=False,
        batch_size=batch_size or (small if img_size <= SMALL_IMAGE else large),
        channels_last=False,
        device_kind=device.type,
        device_name=device_name(device),
    )


def evaluation_batches(
    split: Split,
    how: EvaluationNumerics,
    *,
    img_size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    device: torch.device,
    workers: int,
) -> Iterable[tuple[Tensor, Tensor]]:
    """Return the batches of a split as `how` wants them."""
    return test_batches(
        split,
        img_size=img_size,
        mean=mean,
        std=std,
        batch_size=how.batch_size,
        device=device,
        workers=workers,
        channels_last=how.channels_last,
    )


def measured_beside(
    top1_at: Mapping[int, float], student: SpikingNetwork, sample: Iterable[tuple[Tensor, Tensor]], timesteps: int
) -> Measured:
    """Return the accuracies beside coverage, activity and energy.

    Args:
        top1_at: accuracy by timestep, percent.
        student: the SNN.
        sample: test images on which its activity is measured.
        timesteps: T.
    """
    found = coverage(student.network.sites)
    activity = _activity(student, sample, timesteps)
    return Measured(
        {str(t): value for t, value in top1_at.items()},
        CoverageResult(spiking_macs=found.spiking_macs, total_macs=found.total_macs, share=found.share),
        tuple(_layer(fate, activity, timesteps) for fate in found.layers),
        _energy(found, activity, timesteps),
    )


def silent_neurons(measured: Measured) -> list[str]:
    """Return a sentence on the neurons that never fired, or nothing."""
    neurons = [layer for layer in measured.layers if layer.role == "neuron"]
    silent = [layer.name for layer in neurons if layer.firing_rate == 0]
    if not silent:
        return []
    return [
        f"{len(silent)} of {len(neurons)} neuron layers never fire (first: {silent[0]}), so the energy means little; "
        "try --init teacher or a lower --threshold"
    ]


def _activity(student: SpikingNetwork, batches: Iterable[tuple[Tensor, Tensor]], timesteps: int) -> dict[str, Activity]:
    totals: dict[str, Activity] = {}
    seen = 0
    with exact_float32():
        for x, _ in batches:
            for name, found in student.activity(x, timesteps).items():
                total = totals.get(name, Activity(0.0, 0.0))
                totals[name] = Activity(total.share + found.share * len(x), total.spikes + found.spikes * len(x))
            seen += len(x)
    return {name: Activity(total.share / seen, total.spikes / seen) for name, total in totals.items()}


def _layer(fate: LayerFate, activity: dict[str, Activity], timesteps: int) -> LayerResult:
    found = activity.get(fate.name)
    return LayerResult(
        name=fate.name,
        role=fate.role.value,
        firing_rate=found.share if found else None,
        binary_input=fate.binary_input,
        macs=fate.macs or None,
        synops=fate.macs * timesteps * found.spikes if fate.binary_input and found else None,
    )


def _energy(found: Coverage, activity: dict[str, Activity], timesteps: int) -> EnergyResult:
    """Spikes cost accumulates; analog inputs cost multiply-accumulates each timestep, once where they are constant."""
    picojoules = 0.0
    for fate in found.layers:
        if fate.binary_input:
            picojoules += AC_PJ * fate.macs * timesteps * activity[fate.name].spikes
        else:
            picojoules += MAC_PJ * fate.macs * (1 if fate.static else timesteps)
    return EnergyResult(
        ann_mj=MAC_PJ * (found.total_macs + found.product_macs) * 1e-9,
        snn_mj=picojoules * 1e-9,
        constants={"mac_pj": MAC_PJ, "ac_pj": AC_PJ},
    )
