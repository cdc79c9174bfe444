"""Where neurons are inserted: calls that change nothing in the ANN and are neurons in the SNN."""

from torch import Tensor


def one_sided(x: Tensor) -> Tensor:
    """Return `x`; in the SNN a neuron, for values that are never negative."""
    return x


def two_sided(x: Tensor) -> Tensor:
    """Return `x`; in the SNN a pair of neurons, one driven by `x` and one by -x, read with opposite weights."""
    return x
