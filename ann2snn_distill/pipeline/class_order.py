"""Whether a folder's classes stand in the order that a ready classifier gives them: no file of weights names them."""

from collections.abc import Sequence

from timm.data import ImageNetInfo

from ann2snn_distill.data.splits import Dataset
from ann2snn_distill.teacher import LoadedNetwork

_IMAGENET = "imagenet-1k"
_CLASSES = 1_000


def order_warnings(loaded: LoadedNetwork, data: Dataset) -> tuple[str, ...]:
    """Return a warning where 1,000 classes were taken for ImageNet's and their names do not say so, or nothing.

    They say so by WordNet ids, with or without more behind each, and by indices from 0 or 1 in their order.
    """
    classes = data.classes
    if not loaded.trained or len(classes) != _CLASSES or _are_imagenets(classes) or _are_indices(classes):
        return ()
    return (
        f"the class folders of {data.name} ({classes[0]} first) are named neither by ImageNet's WordNet ids nor by "
        f"indices in order, so their alphabetical order was taken for that of the 1,000 classes in {loaded.source}; "
        "if it is another, the teacher knows nothing: name the folders so that it is the same",
    )


def _are_imagenets(classes: Sequence[str]) -> bool:
    return all(map(str.startswith, classes, ImageNetInfo(_IMAGENET).label_names()))


def _are_indices(classes: Sequence[str]) -> bool:
    if not all(name.isdecimal() for name in classes):
        return False
    first = int(classes[0])
    return first in (0, 1) and [int(name) for name in classes] == list(range(first, first + len(classes)))
