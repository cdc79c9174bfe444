"""A program for TRITON_INTERPRET=1: the kernels against the plain equations, on a CPU; one line a case."""

import itertools
import json

import torch

from ann2snn_distill.neurons import kernels
from ann2snn_distill.neurons.equations import SLOPE, NeuronModel
from ann2snn_distill.neurons.fused import _outputs, is_channels_last, observe_drive

MODELS = [
    NeuronModel(0.2, 0.0, "soft-detached", 1.0),
    NeuronModel(1.0, 0.5, "soft", 0.5),
    NeuronModel(0.7, 0.1, "hard", 2.0),
]
SHAPES = [(3, 5, 6, 7), (2, 64, 4, 4), (2, 130, 3, 3), (4, 9), (2, 7, 1, 1)]
TERMS = ["x", "a(x)", "a(x) + y", "a(x) + a(y)", "x + y"]


def images(rows, shape, dtype, *, channels_last, generator):
    x = torch.randn(rows, *shape[1:], generator=generator, dtype=torch.float64).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if channels_last and x.ndim == 4 else x


def distance(ours, theirs):
    return float((ours.double() - theirs.double()).norm() / (theirs.double().norm() + 1e-30)) if theirs.numel() else 0.0


def drive_case(shape, terms, model, *, timesteps, static, dtype, channels_last, own_decay):
    generator = torch.Generator().manual_seed(0)
    made = {"dtype": dtype, "channels_last": channels_last, "generator": generator}
    x = images(shape[0] * (1 if static[0] else timesteps), shape, **made)
    y = images(shape[0] * (1 if static[1] else timesteps), shape, **made) if "y" in terms else None
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    maps = [torch.randn(3, shape[1], generator=generator).to(wide) if f"a({name})" in terms else None for name in "xy"]
    threshold = torch.tensor(0.7, dtype=wide)
    decay = torch.tensor(0.4, dtype=wide) if own_decay else None
    parameters = [model.decay, model.v_init, model.surrogate_width]
    wanted = observe_drive(x, maps[0], y, maps[1], threshold, timesteps, list(static), parameters, model.reset, decay)
    found = _outputs((x, maps[0], y, maps[1]), timesteps, list(static), decay)
    for output in found:
        output.fill_(float("nan"))
    kernels.launch_drive(
        (x, maps[0], y, maps[1]), threshold, found, timesteps=timesteps, static=static,
        model=(model.decay, model.v_init, model.reset, SLOPE / model.surrogate_width), own_decay=decay,
        channels_last=is_channels_last(found[1]),
    )  # fmt: skip
    return max(distance(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))


def moments_case(shape, dtype):
    generator = torch.Generator().manual_seed(1)
    x = images(shape[0], shape, dtype, channels_last=True, generator=generator) * 0.1 + 5
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    mean, var = (torch.full((shape[1],), float("nan"), dtype=wide) for _ in range(2))
    kernels.launch_moments(x, mean, var)
    var64, mean64 = torch.var_mean(x.double(), [0, 2, 3], correction=0)
    return max(distance(mean, mean64), distance(var, var64))


def main():
    cases = itertools.product(SHAPES, TERMS, MODELS, [(False, False), (True, False), (True, True)])
    for index, (shape, terms, model, static) in enumerate(cases):
        timesteps, channels_last = (1, 4)[index % 2], bool(index // 2 % 2)
        dtype = (torch.float64, torch.float32, torch.bfloat16, torch.float16)[index * 7 // 3 % 4]
        own_decay = index % 5 < 2
        error = drive_case(
            shape, terms, model, timesteps=timesteps, static=static, dtype=dtype, channels_last=channels_last,
            own_decay=own_decay,
        )  # fmt: skip
        name = f"{shape} {terms} {model.reset} {static} {channels_last} {own_decay}"
        print(json.dumps(["drive", str(dtype), name, error]))
    for shape, dtype in itertools.product(
        [(3, 5, 6, 7), (9, 64, 8, 8), (2, 130, 3, 3)], [torch.float64, torch.float32]
    ):
        print(json.dumps(["moments", str(dtype), str(shape), moments_case(shape, dtype)]))


if __name__ == "__main__":
    main()
