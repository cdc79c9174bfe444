"""Averaged weights get statistics of their own: after the last step, resumed exactly, and saved with them."""

import json

import pytest
import torch
from faults import assert_same_run

from ann2snn_distill.checkpoint import load_checkpoint
from ann2snn_distill.conversion.network import partitioned
from ann2snn_distill.conversion.statistics import statistics_over
from ann2snn_distill.conversion.student import SpikingNetwork, uniform_thresholds
from ann2snn_distill.data.resident import ResidentBatches
from ann2snn_distill.errors import InterruptedRunError
from ann2snn_distill.neurons.equations import LIF
from ann2snn_distill.pipeline import averaging
from ann2snn_distill.pipeline.students import student_from_header
from ann2snn_distill.teacher import build_network
from ann2snn_distill.training.state import train_state

DIGITS = {"dataset": "digits", "limit": 48, "epochs": 2, "teacher_epochs": 1, "timesteps": 3, "lr": 0.2}


@pytest.fixture
def drawn(monkeypatch):
    """The batches that a run draws, by epoch; `drawn.stop` says after how many of which it is interrupted."""

    class Drawn(dict):
        stop = None

    seen, real = Drawn(), ResidentBatches.epoch

    def epoch(self, number, start=0):
        for step, batch in enumerate(real(self, number, start), start):
            if seen.stop == (number, step):
                raise KeyboardInterrupt
            seen.setdefault(number, []).append(batch[0])
            yield batch

    monkeypatch.setattr(ResidentBatches, "epoch", epoch)
    return seen


def test_a_run_killed_while_they_are_computed_ends_as_if_undisturbed(converting, tiny_settings, tmp_path, drawn):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = DIGITS | {"model_ema": 0.8, "val_split": 0.2}
    converting(tiny_settings(output=whole, **settings))
    drawn.stop = (2, 1)
    with pytest.raises(InterruptedRunError, match="after step 4 in epoch 2 of 2"):
        converting(tiny_settings(output=parts, resume="auto", **settings))
    drawn.stop = None
    converting(tiny_settings(output=parts, resume="auto", **settings))
    assert_same_run(whole, parts)


def test_the_saved_statistics_are_those_of_the_saved_weights_on_the_batches_of_an_epoch_more(
    converting, tiny_settings, command, tmp_path, drawn
):
    converting(tiny_settings(output=tmp_path / "run", model_ema=0.8, **DIGITS))
    assert sorted(drawn) == [0, 1, 2]
    header, tensors = load_checkpoint(tmp_path / "run" / "student.safetensors")
    found = statistics_over(student_from_header(header, tensors), drawn[2], 3)
    assert len(found) == 2 * sum(name.endswith("running_mean") for name in tensors)
    assert all(torch.equal(tensors[name], statistic) for name, statistic in found.items())
    done = command("eval", tmp_path / "run" / "student.safetensors", "--device", "cpu", "--json")
    measured, reported = (
        json.loads(text)["student"] for text in (done.out, (tmp_path / "run/report.json").read_text())
    )
    assert measured["top1_at"] == reported["top1_at"]


def test_without_an_average_no_more_batches_are_drawn(converting, tiny_settings, tmp_path, drawn):
    converting(tiny_settings(output=tmp_path / "run", **DIGITS))
    assert sorted(drawn) == [0, 1]


def test_large_batches_come_in_equal_parts_and_only_the_averages_statistics_are_written(monkeypatch):
    monkeypatch.setattr(averaging, "BATCHES", 2)
    monkeypatch.setattr(averaging, "_SMALL", 3)
    model = build_network("test_resnet", classes=3, img_size=16, stem="small", model_kwargs={}, seed=0)
    network = partitioned(model, img_size=16)
    student = SpikingNetwork(network, LIF, thresholds=uniform_thresholds(network.sites.neuron_names(), 1.0))
    state = train_state({"student": student.body}, opt="sgd", weight_decay=0.0, average_decay=0.9)
    for name, tensor in state.average.items():
        tensor.mul_(1.5 if "weight" in name else 1.0)
    before = state.snapshot()
    images = torch.randn(3, 8, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    class Batches:
        batch_size, steps_per_epoch = 8, 3

        def epoch(self, epoch, start=0):
            yield from ((x, None) for x in images * (epoch + 1))

    with state.as_evaluated():
        expected = statistics_over(student, [x for batch in 6 * images[:2] for x in batch.chunk(3)], 2)
    state.restore(before)
    for _ in range(2):  # again, as after an interruption
        averaging.renew_statistics(student, state, Batches(), epoch=5, timesteps=2, img_size=16)
        for name, tensor in state.tensors().items():
            assert torch.equal(tensor, expected.get(name.removeprefix("average."), before[name])), name
