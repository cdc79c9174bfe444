"""`bench` measures every case that it is asked for, and says which did not fit."""

import json
from unittest import mock

import pytest
import torch

from ann2snn_distill import pipeline
from ann2snn_distill.config import BenchSettings
from ann2snn_distill.events import silent

SMALL = {"model": "test_resnet", "img_size": 16, "batch_size": "4", "steps": 3, "device": "cpu"}


def test_every_case_has_a_row_and_its_ratio_to_the_ann():
    settings = BenchSettings.model_validate(SMALL | {"timesteps": "1,3"})
    found = pipeline.bench(settings, silent)
    cases = [(row.method, row.timesteps) for row in found.rows]
    assert cases == [*((m, t) for m in ("hybrid", "rate", "bptt") for t in (1, 3)), ("ann", None)]
    assert found.branches == ("layer1", "layer2", "layer3")
    ann_row = found.rows[-1]
    ann = ann_row.milliseconds
    for row in found.rows:
        assert row.low <= row.milliseconds <= row.high
        assert row.images_per_second == pytest.approx(4000 / row.milliseconds)
        assert row.ratio_to_ann == pytest.approx(row.milliseconds / ann)
        assert (row.peak_memory_mib, row.failure) == (None, None)
    for once, thrice in zip(found.rows[:6:2], found.rows[1:6:2], strict=True):
        assert ann_row.weighted_mib_per_image <= once.weighted_mib_per_image < thrice.weighted_mib_per_image
        assert ann_row.other_mib_per_image < once.other_mib_per_image < thrice.other_mib_per_image
    assert (found.steps, found.compiled, found.captured, found.device) == (3, False, False, "cpu")
    assert (found.amp, found.amp_dtype) == (False, None)


@pytest.mark.parametrize(
    ("options", "named", "shown"),
    [
        ("--amp", "bfloat16", "bfloat16 autocast"),
        ("--amp --amp-dtype float16", "float16", "float16 autocast"),
        ("--no-amp --amp-dtype float16", None, "float32"),
    ],
)
def test_steps_run_in_the_precision_that_is_named(command, options, named, shown):
    """A step under float16 has its loss scaled, as a training's has."""
    real = pipeline.bench.__globals__["ready_step"]
    seen = []

    def watched(objective, state, totals, execution, **keywords):
        seen.append((execution.amp and str(execution.dtype), state.scaler is not None))
        return real(objective, state, totals, execution, **keywords)

    small = "--img-size 16 --batch-size 4 --steps 1 --device cpu --timesteps 2 --method hybrid,ann"
    with mock.patch.dict(pipeline.bench.__globals__, {"ready_step": watched}):
        table = command("bench", "test_resnet", *small.split(), *options.split())
        found = json.loads(command("bench", "test_resnet", *small.split(), *options.split(), "--json").out)
    assert (found["amp"], found["amp_dtype"]) == (named is not None, named)
    assert f", {shown}, not compiled" in " ".join(table.out.split())
    assert seen == [(f"torch.{named}" if named else False, named == "float16")] * 4


def test_a_case_that_does_not_fit_says_so_and_the_others_go_on():
    real = pipeline.bench.__globals__["time_step"]
    calls = []

    def first_fails(*arguments, **keywords):
        calls.append(keywords["steps"])
        if len(calls) == 1:
            raise torch.OutOfMemoryError
        return real(*arguments, **keywords)

    settings = BenchSettings.model_validate(SMALL | {"timesteps": "2", "method": "rate,ann"})
    with mock.patch.dict(pipeline.bench.__globals__, {"time_step": first_fails}):
        rate, ann = pipeline.bench(settings, silent).rows
    assert (rate.failure, rate.milliseconds, rate.ratio_to_ann) == ("out of memory", None, None)
    assert (ann.failure, ann.ratio_to_ann) == (None, 1.0)


def test_the_batches_of_a_data_set_are_timed_by_themselves(shades, command, tmp_path):
    options = "--img-size 16 --batch-size 4,12 --method ann --steps 2 --device cpu --workers 0"
    done = command("bench", "test_resnet", *options.split(), "--dataset", shades, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["data"]
    assert [(row["batch_size"], row["images"], row["workers"]) for row in found] == [(4, 36, None), (12, 36, None)]
    assert all(row["images_per_second"] > 0 for row in found)
    shown = command("bench", "test_resnet", *options.split(), "--dataset", shades)
    assert "batches alone" in shown.out
    refused = command("bench", "test_resnet", "--method", "ann", "--batch-size", 64, "--steps", 1, "--img-size", 16,
                      "--device", "cpu", "--dataset", shades)  # fmt: skip
    assert (refused.code, refused.err.splitlines()[-1]) == (
        1, "error: a batch of 64 is larger than the 36 training images; choose --batch-size 36 or less",
    )  # fmt: skip


def test_streamed_batches_say_how_many_workers_they_had(shades, command):
    options = "--img-size 80 --batch-size 4 --method ann --steps 1 --device cpu --workers 1"
    done = command("bench", "test_resnet", *options.split(), "--dataset", shades, "--json")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)["data"]
    assert (row["images"], row["workers"]) == (36, 1)


def test_a_branch_is_not_measured_twice(command):
    done = command("bench", "test_resnet", "--branches", "layer1,layer1", "--method", "hybrid", "--img-size", 32)
    assert (done.code, "--branches names layer1 twice; give it once" in done.err) == (2, True)
