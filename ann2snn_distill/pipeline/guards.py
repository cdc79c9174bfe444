"""What holds around a whole run: how an interruption or too small a batch ends it, and which algorithms it takes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ann2snn_distill.errors import BadInputError, InterruptedRunError


@contextmanager
def interruptible(way_on: str) -> Iterator[None]:
    """Turn Ctrl-C, wherever it strikes, into an error that ends with `way_on`.

    Raises:
        InterruptedRunError: the run was interrupted.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRunError(f"interrupted; {way_on}") from None
    except InterruptedRunError as error:
        raise InterruptedRunError(f"{error}; {way_on}") from None


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Use deterministic algorithms where PyTorch has them (it warns where not), and as before on leaving."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads nothing else, and keeps what it read
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


@contextmanager
def enough_images() -> Iterator[None]:
    """Turn the refusal of an ANN's batch norm that has one value a channel into an error with a next step.

    Raises:
        BadInputError: a batch of one image came to where it is one pixel.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:  # the latter where the compiler met it
        if "more than 1 value per channel" not in str(error):
            raise
        raise BadInputError(
            "one image at once leaves a batch norm of the ANN one value a channel, which it cannot train on; "
            "choose --batch-size 2 or more"
        ) from None
