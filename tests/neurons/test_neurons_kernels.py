"""The Triton kernels compute what the plain equations do, for every reset, layout, dtype and kind of term."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ann2snn_distill.neurons.equations import LIF
from ann2snn_distill.neurons.fused import Term, channel_moments, observe_drive, observe_terms

TOLERANCE = {"torch.float64": 1e-12, "torch.float32": 1e-5, "torch.bfloat16": 1e-2, "torch.float16": 2e-3}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton has no build for this platform")
def test_kernels_equal_the_plain_equations_when_interpreted():
    """In a process of its own, since Triton chooses its interpreter when it is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    program = Path(__file__).with_name("interpreted_kernels.py")
    ran = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    cases = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(cases) > 200
    assert {case[1] for case in cases} == set(TOLERANCE)
    wrong = [case for case in cases if not case[3] <= TOLERANCE[case[1]]]
    assert not wrong, wrong[:5]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton has no build for this platform")
def test_places_in_activations_of_more_than_two_thousand_million_values_do_not_wrap():
    """By the compiler's text, without a device: the values of one timestep are counted in 32 bits, places in 64."""
    text = _compiled(T=3, CHANNELS_LAST=True, RESET=1)
    assert re.search(r"extsi %count\S* : i32 to i64", text)
    assert not re.search(r"muli %count\S*, .* : i32", text)


def _compiled(**constants):
    from triton import compile as compiled
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.language import float32

    from ann2snn_distill.neurons import kernels

    constants |= dict.fromkeys(("y_ptr", "y_affine_ptr", "decay_ptr")) | {"X_AFFINE": True, "WIDE": float32}
    constants |= dict.fromkeys(("X_STATIC", "HAS_Y", "Y_AFFINE", "Y_STATIC", "OWN_DECAY"), False)
    constants |= {"ROWS": 8, "COLUMNS": 128}
    counts = dict.fromkeys(("rows", "columns", "channels", "count"), "i32")
    pointers = {name: "*bf16" for name in kernels._drive_kernel.arg_names if name.endswith("_ptr")}
    pointers |= dict.fromkeys(("x_affine_ptr", "threshold_ptr"), "*fp32")
    names = kernels._drive_kernel.arg_names
    kinds = {**dict.fromkeys(names, "fp32"), **counts, **pointers, **dict.fromkeys(constants, "constexpr")}
    source = ASTSource(
        fn=kernels._drive_kernel,
        signature={name: kinds[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    return compiled(source, target=GPUTarget("cuda", 90, 32)).asm["ttir"]


@pytest.mark.parametrize("static", [False, True])
def test_the_operations_declare_the_outputs_that_they_return(static):
    """Shapes, strides and dtypes of the compiler's view; a wrong one would be memory read wrongly."""
    x = torch.randn(6 if static else 12, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    y = torch.randn(12, 4, 5, 5)
    maps = torch.randn(3, 4)
    arguments = (x, maps, y, None, torch.tensor(1.0), 2, [static, False], [0.2, 0.0, 1.0], "soft-detached")
    for own_decay in (None, torch.tensor(0.4)):
        torch.library.opcheck(observe_drive, (*arguments, own_decay))
    torch.library.opcheck(channel_moments, (x,))


def test_records_have_the_width_of_the_activations_and_a_static_mean_is_the_input_itself():
    x = torch.randn(3, 4, 5, 5).bfloat16()
    term = Term(x, torch.randn(3, 4), static=True)
    learning = LIF._replace(decay=torch.tensor(0.2))
    emitted, record, (mean,) = observe_terms((term,), torch.tensor(1.0), 4, model=learning)
    assert emitted.shape == (12, 4, 5, 5)
    assert {emitted.dtype, *(value.dtype for value in record)} == {torch.bfloat16}
    assert mean is x
