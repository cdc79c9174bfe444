"""Whether a data set's classes are those of a ready classifier, in its order: teachers' files name them, others not."""

from collections.abc import Sequence

from timm.data import ImageNetInfo

from ann2snn_distill.data.splits import Dataset
from ann2snn_distill.teacher import LoadedNetwork

_IMAGENET = "imagenet-1k"
_CLASSES = 1_000


def order_warnings(loaded: LoadedNetwork, data: Dataset) -> tuple[str, ...]:
    """Return a warning where the classes may be others than those of the classifier that was kept, or nothing.

    They are where the teacher's file names others. Where it names none, 1,000 classes are taken for ImageNet's; their
    names say so by WordNet ids, with or without more behind each, and by indices from 0 or 1 in their order.
    """
    classes = data.classes
    if loaded.trained and loaded.class_names is not None:
        return renamed(
            loaded.class_names,
            data,
            where=loaded.source,
            so="unless they are the same, give another --checkpoint, or none",
        )
    if not loaded.trained or len(classes) != _CLASSES or _are_imagenets(classes) or _are_indices(classes):
        return ()
    return (
        f"the class folders of {data.name} ({classes[0]} first) are named neither by ImageNet's WordNet ids nor by "
        f"indices in order, so their alphabetical order was taken for that of the 1,000 classes in {loaded.source}; "
        "if it is another, the teacher knows nothing: name the folders so that it is the same",
    )


def renamed(known: Sequence[str], data: Dataset, *, where: str, so: str) -> tuple[str, ...]:
    """Return a sentence if as many classes have other names than the ones that are known from `where`."""
    pairs = list(zip(known, data.classes, strict=True))
    other = [(number, pair) for number, pair in enumerate(pairs) if pair[0] != pair[1]]
    if not other:
        return ()
    number, (ours, theirs) = other[0]
    return (
        f"{len(other)} of {len(pairs)} classes of {data.name} have other names than in {where} (class {number} is "
        f"{theirs[:100]!r} there and {ours[:100]!r} in {where}): {so}",
    )


def _are_imagenets(classes: Sequence[str]) -> bool:
    return all(map(str.startswith, classes, ImageNetInfo(_IMAGENET).label_names()))


def _are_indices(classes: Sequence[str]) -> bool:
    if not all(name.isdecimal() for name in classes):
        return False
    first = int(classes[0])
    return first in (0, 1) and [int(name) for name in classes] == list(range(first, first + len(classes)))
