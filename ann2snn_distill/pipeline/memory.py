"""How much memory a training step will take, before it does, and which batch fits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ann2snn_distill.conversion.network import Partitioned
from ann2snn_distill.distillation.footprint import footprint, peak_values
from ann2snn_distill.distillation.positions import Position
from ann2snn_distill.errors import BadInputError
from ann2snn_distill.training.step import Execution

MIB = 2**20
USABLE = 0.9
"""Share of a device's memory that a planned step may take."""

_WORKSPACE_MIB = 100
"""What CUDA's libraries take for themselves: ResNet-18's measured peaks less what is counted (docs/performance.md)."""
_PLAIN = 2.5
"""Activations of the plain step over those of the compiled one: measured 2.1 at T=4, 3.2 at T=16.

It is taken for a step that is captured and not compiled, too: measured 1.04 for ResNet-18, of other norms nothing.
"""


@dataclass(frozen=True)
class StepMemory:
    """Estimated peak of a training step, MiB: what it takes at any batch, and what one image adds."""

    fixed_mib: float
    image_mib: float

    def of(self, images: int) -> float:
        """Return the peak for so many images."""
        return self.fixed_mib + images * self.image_mib

    def largest_batch(self, available_mib: float) -> int:
        """Return how many images fit; 0 where not even one does."""
        return max(int((available_mib - self.fixed_mib) / self.image_mib), 0)


def step_memory(
    method: str,
    student: Partitioned,
    teacher: Partitioned,
    *,
    positions: Sequence[Position],
    timesteps: int,
    execution: Execution,
    sampled: bool = False,
    learn_decay: bool = False,
    opt: str = "sgd",
    copies: int = 0,
    data_bytes: int = 0,
) -> StepMemory:
    """Estimate the peak of a training step: weights, gradients, optimiser, activations, data.

    Args:
        method: hybrid, rate, bptt or ann.
        student: the SNN's network; the trained one for ann.
        teacher: the ANN.
        positions: of the branches.
        timesteps: T; ann has none.
        execution: device, precision, compilation.
        sampled: whether each image takes one of the branches.
        learn_decay: whether the student's neurons learn their decays.
        opt: sgd or adamw.
        copies: of the student's weights: a moving average, and the place that a gradient uphill is taken from.
        data_bytes: images that lie on the device.
    """
    cuda = execution.device.type == "cuda"
    own = parameters_of(student)
    trained = own + _projected(student, teacher, positions)
    moved = 4 * (trained * (2 if opt == "sgd" else 3) + own * copies)  # weights, the optimiser's moments, copies
    copy = 2 if execution.amp else 0
    snapshot = moved if execution.replayed else 0  # precedes a capture
    fixed = data_bytes + moved + snapshot + trained * (4 + copy)
    if method == "hybrid":
        fixed += parameters_of(teacher) * (4 + copy)
    entries = [position.teacher for position in positions]
    values = peak_values(
        method,
        footprint(student),
        footprint(teacher),
        entries=entries,
        timesteps=timesteps,
        sampled=sampled,
        learn_decay=learn_decay,
    )
    width = 2 if execution.amp else 4
    return StepMemory(
        fixed / MIB + (_WORKSPACE_MIB if cuda else 0),
        values * width * (1.0 if cuda and execution.compiled else _PLAIN) / MIB,
    )


def parameters_of(network: Partitioned) -> int:
    """Count a network's parameters."""
    return sum(parameter.numel() for parameter in network.sites.trace.body.parameters())


def _projected(student: Partitioned, teacher: Partitioned, positions: Sequence[Position]) -> int:
    pairs = ((student.stages[p.student].channels, teacher.stages[p.teacher].channels) for p in positions)
    return sum((channels + 1) * wanted for channels, wanted in pairs)


def in_pieces(memory: StepMemory, images: int, available_mib: float) -> tuple[int, int]:
    """Cut a step of `images` into the fewest equal pieces that fit; return images a piece, and pieces.

    Raises:
        BadInputError: not even one image fits.
    """
    largest = memory.largest_batch(available_mib)
    if largest < 1:
        raise BadInputError(
            f"a step of one image takes about {memory.of(1):,.0f} MiB, and {available_mib:,.0f} may be used; "
            "choose a smaller --img-size or model, or fewer --timesteps"
        )
    pieces = next(n for n in range(1, images + 1) if images % n == 0 and images // n <= largest)
    return images // pieces, pieces


@contextmanager
def explained(memory: StepMemory, images: int, pieces: int, total_mib: float) -> Iterator[None]:
    """Turn a device out of memory into an error that names what fits.

    Args:
        memory: the estimate for the step.
        images: of a piece.
        pieces: of a step.
        total_mib: the device's memory.

    Raises:
        BadInputError: the device ran out of memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise BadInputError(
            f"the device's {total_mib:,.0f} MiB are too few for {images} images at once "
            f"({memory.of(images):,.0f} MiB estimated); {_way_on(memory, images, pieces, total_mib)}"
        ) from error


def _way_on(memory: StepMemory, images: int, pieces: int, total_mib: float) -> str:
    fitting = min(memory.largest_batch(USABLE * total_mib), images // 2)
    if fitting < 1:
        return "choose a smaller --img-size or model, or fewer --timesteps"
    parts = next(n for n in range(1, images + 1) if images % n == 0 and images // n <= fitting)
    return (
        f"--overwrite --batch-size {images // parts} --grad-accum-steps {pieces * parts} takes the same images a step "
        f"in about {memory.of(images // parts):,.0f} MiB"
    )
