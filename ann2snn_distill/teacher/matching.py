"""Which tensor of a file is which of the network's."""

from dataclasses import dataclass
from typing import Literal

import timm
from torch import Tensor

from ann2snn_distill.errors import BadInputError, UsageError
from ann2snn_distill.teacher.files import TensorFile
from ann2snn_distill.teacher.renaming import Rename, Tensors, best_names, fits

_COUNTER = "num_batches_tracked"
_KINDS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class WeightMatch:
    """Where a network's weights came from; names are the network's, but those in `unused`.

    Attributes:
        loaded: tensors taken from the file or from timm.
        rebuilt: the classifier's tensors, random again since the classes differ.
        unused: the file's tensors left over.
        unwrapped: the keys under which the file's tensors lay.
        stripped: the prefix that was taken off the file's names.
        how: by name, by order, or by timm's own loading.
        converted: whether foreign tensors were renamed or reshaped for this architecture.
        classes: classes of the network.
        warnings: what a user should know of the file.
    """

    loaded: tuple[str, ...]
    rebuilt: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    unwrapped: str | None = None
    stripped: str | None = None
    how: Literal["name", "order", "timm"] = "name"
    converted: bool = False
    classes: int = 0
    warnings: tuple[str, ...] = ()

    def summary(self) -> str:
        """One sentence: how many tensors matched, what was unwrapped, stripped, rebuilt and left over."""
        ways = {"name": "matched by name", "order": "matched by order", "timm": "loaded by timm"}
        notes = [
            f"taken from {self.unwrapped!r}" if self.unwrapped else "",
            f"prefix {self.stripped!r} stripped" if self.stripped else "",
            "converted from foreign names" if self.converted else "",
        ]
        noted = ", ".join(note for note in notes if note)
        total = len(self.loaded) + len(self.rebuilt)
        text = f"{len(self.loaded)} of {total} tensors {ways[self.how]}{f' ({noted})' if noted else ''}"
        if self.rebuilt:
            text += f"; classifier rebuilt for {self.classes} classes"
        if self.unused:
            text += f"; {len(self.unused)} of the file's left over"
        return text


@dataclass(frozen=True)
class Target:
    """A network that waits for weights.

    Attributes:
        name: of the network, for messages.
        tensors: its state, in order.
        classifiers: paths of the modules whose outputs are logits.
        classes: number of logits.
        stem: its stem, for messages.
        rename: what makes the names of foreign checkpoints of this architecture timm's.
    """

    name: str
    tensors: Tensors
    classifiers: tuple[str, ...]
    classes: int
    stem: Literal["keep", "small"]
    rename: Rename

    def is_classifier(self, name: str) -> bool:
        """Whether a tensor belongs to a module whose outputs are logits."""
        return any(name.startswith(f"{path}.") for path in self.classifiers)


def match_by_name(file: TensorFile, target: Target) -> tuple[dict[str, Tensor], WeightMatch]:
    """Pair tensors that share name and shape, prefixes stripped where that pairs more of them.

    Raises:
        BadInputError: a tensor of the network other than a classifier of another size is without partner.
    """
    named, stripped, converted = best_names(file.tensors, target.tensors, target.rename)
    loaded = {name: named[name] for name, own in target.tensors.items() if fits(named.get(name), own)}
    absent = [name for name in target.tensors if name not in loaded]
    rebuilt = _rebuilt(absent, named, target)
    counters = [name for name in absent if name.endswith(_COUNTER) and name not in named]
    problems = [name for name in absent if name not in rebuilt and name not in counters]
    if problems:
        raise BadInputError(_misfit(problems, named, file=file, target=target))
    match = WeightMatch(
        loaded=tuple(loaded),
        rebuilt=tuple(rebuilt),
        unused=tuple(name for name in named if name not in target.tensors),
        unwrapped=file.unwrapped,
        stripped=stripped,
        converted=converted,
        classes=target.classes,
    )
    return loaded, match


def match_by_order(file: TensorFile, target: Target) -> tuple[dict[str, Tensor], WeightMatch]:
    """Pair the n-th tensor of the file with the n-th of the network, counters of batches aside.

    A fully connected layer that one of the two writes as a convolution over its whole input is reshaped.

    Raises:
        UsageError: the file does not keep the order of its network.
        BadInputError: the numbers, a shape or a kind (weight, bias, mean, variance) differ.
    """
    if not file.ordered:
        raise UsageError(
            f"{file.path} sorts its tensors by name, so --checkpoint-match order cannot pair them; "
            "give the .pth that it was made from, or use --checkpoint-match name"
        )
    problem = _order_problem(file, target)
    if problem:
        raise BadInputError(
            f"{file.path} does not fit {target.name} in order: {problem}; give the MODEL that the file was made from"
        )
    loaded, rebuilt = {}, []
    for (_, tensor), (name, own) in zip(_counted(file.tensors), _counted(target.tensors), strict=True):
        if _same_layer(tensor, own):
            loaded[name] = tensor.reshape(own.shape)
        else:
            rebuilt.append(name)
    match = WeightMatch(
        loaded=tuple(loaded),
        rebuilt=tuple(rebuilt),
        unwrapped=file.unwrapped,
        how="order",
        classes=target.classes,
    )
    return loaded, match


def _rebuilt(absent: list[str], named: Tensors, target: Target) -> list[str]:
    """The classifier's tensors, if the file's classifier has other classes or is not there at all."""
    classifier = [name for name in target.tensors if target.is_classifier(name)]
    if not any(name in named for name in classifier):
        return classifier
    return [name for name in classifier if name in absent and _other_classes(named.get(name), target.tensors[name])]


def _other_classes(tensor: Tensor | None, own: Tensor) -> bool:
    return tensor is not None and tensor.ndim == own.ndim > 0 and tensor.shape[1:] == own.shape[1:]


def _same_layer(tensor: Tensor, own: Tensor) -> bool:
    """Whether shapes are equal, or those of a vector or matrix and of the same with sides: (out, in * 7 * 7)."""
    flat = min(tensor.ndim, own.ndim) in (1, 2) and tensor.numel() == own.numel() and tensor.shape[0] == own.shape[0]
    return tensor.shape == own.shape or flat


def _counted(tensors: Tensors) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in tensors.items() if not name.endswith(_COUNTER)]


def _order_problem(file: TensorFile, target: Target) -> str | None:
    theirs, own = _counted(file.tensors), _counted(target.tensors)
    if len(theirs) != len(own):
        return f"it holds {len(theirs)} tensors, and the network {len(own)}"
    for number, ((name, tensor), (own_name, own_tensor)) in enumerate(zip(theirs, own, strict=True), 1):
        same = _same_layer(tensor, own_tensor)
        same = same or (target.is_classifier(own_name) and _other_classes(tensor, own_tensor))
        kind, own_kind = name.rpartition(".")[2], own_name.rpartition(".")[2]
        if not same or (kind in _KINDS and own_kind in _KINDS and kind != own_kind):
            return (
                f"tensor {number} is {name} {tuple(tensor.shape)} in the file "
                f"and {own_name} {tuple(own_tensor.shape)} in the network"
            )
    return None


def _misfit(problems: list[str], named: Tensors, *, file: TensorFile, target: Target) -> str:
    shapes = [
        f"{name} {tuple(named[name].shape) if name in named else 'absent'} in the file, "
        f"{tuple(target.tensors[name].shape)} in the network"
        for name in problems[:3]
    ]
    more = ", ..." if len(problems) > 3 else ""
    return (
        f"{file.path} does not fit {target.name}: {len(problems)} of {len(_counted(target.tensors))} tensors "
        f"are missing or have another shape ({'; '.join(shapes)}{more}); "
        f"{_way_on(problems, named, file=file, target=target)}"
    )


def _way_on(problems: list[str], named: Tensors, *, file: TensorFile, target: Target) -> str:
    if all(_kernel_only(named.get(name), target.tensors[name]) for name in problems):
        other = "keep" if target.stem == "small" else "small"
        return f"only the stem's kernel differs: use --stem {other}"
    if file.ordered and _order_problem(file, target) is None:
        return "all tensors fit in order: use --checkpoint-match order"
    torchvisions = f"{target.name.split('.')[0]}_tv"
    if timm.is_model(torchvisions):
        return f"give the MODEL that the file was made from (torchvision's network is {torchvisions})"
    strange = [name for name in named if name not in target.tensors]
    if 2 * len(strange) > len(named):
        return (
            f"the file's names are not the network's (it has {', '.join(strange[:2])}, ...): give the MODEL that it "
            "was made from, or save its tensors under timm's names"
        )
    return "give the MODEL that the file was made from"


def _kernel_only(tensor: Tensor | None, own: Tensor) -> bool:
    return tensor is not None and tensor.ndim == own.ndim == 4 and tensor.shape[:2] == own.shape[:2]
