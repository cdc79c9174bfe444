"""Names under which a file's tensors fit a network: prefixes off, or converted."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

PREFIXES = ("module.", "model.", "backbone.", "net.", "_orig_mod.")

Tensors = Mapping[str, Tensor]
Rename = Callable[[dict[str, Tensor]], Mapping[str, Any]]


def best_names(theirs: Tensors, own: Tensors, rename: Rename) -> tuple[Tensors, str | None, bool]:
    """Return a file's tensors under the names that fit most of a network's.

    With them: the prefix that was stripped, and whether `rename` converted them. The simplest way wins among
    equals: names as they are, then without a prefix, then converted by `rename`.
    """

    def score(named: Tensors) -> int:
        return sum(fits(named.get(name), tensor) for name, tensor in own.items())

    plain = [(_strip(theirs, prefix), prefix or None, False) for prefix in _prefixes(theirs)]
    best = max(plain, key=lambda candidate: score(candidate[0]))
    if score(best[0]) == len(own):
        return best
    renamed = [
        (tensors, prefix, True) for named, prefix, _ in plain if (tensors := _converted(named, rename)) is not None
    ]
    return max([best, *renamed], key=lambda candidate: score(candidate[0]))


def fits(tensor: Tensor | None, own: Tensor) -> bool:
    """Whether a file's tensor is there and has the shape of the network's."""
    return tensor is not None and tensor.shape == own.shape


def _converted(named: Tensors, rename: Rename) -> Tensors | None:
    try:
        converted = rename(dict(named))
    except Exception:  # a conversion written for other files may raise anything; then it does not apply
        return None
    return {name: value for name, value in converted.items() if isinstance(value, Tensor)}


def _prefixes(tensors: Tensors) -> Iterator[str]:
    """Every chain of known prefixes that some name starts with, the empty one first."""
    chains = [""]
    for chain in chains:  # grows while it is read
        yield chain
        longer = (chain + prefix for prefix in PREFIXES)
        chains.extend(prefix for prefix in longer if any(name.startswith(prefix) for name in tensors))


def _strip(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    """Without the prefix where a name has it, which wins over a name that never had one."""
    bare = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    return bare | {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name not in bare}
