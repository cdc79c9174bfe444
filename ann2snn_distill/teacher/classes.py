"""Which classes a network's logits are of, in their order: teachers' files say it, as no other file of weights does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from ann2snn_distill.errors import BadInputError

_KEY = "snn_distill_classes"
_NAMES = TypeAdapter(Annotated[tuple[Annotated[str, Field(max_length=1000)], ...], Field(min_length=1)])


def classes_metadata(classes: Sequence[str]) -> dict[str, str]:
    """Return what a safetensors file says of the classes of its network."""
    return {_KEY: _NAMES.dump_json(tuple(classes)).decode()}


def read_classes(path: Path, metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the names of the classes that the metadata of a file list; None where they list none.

    Raises:
        BadInputError: what they list are no names.
    """
    if _KEY not in metadata:
        return None
    try:
        return _NAMES.validate_json(metadata[_KEY])
    except ValidationError as error:
        raise BadInputError(f"{path} is damaged: its names of classes are none; copy it again") from error
