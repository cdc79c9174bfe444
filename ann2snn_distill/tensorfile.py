"""What a safetensors file says of itself, read strictly: nothing is believed that the file's size contradicts.

A file is the length of its index (8 bytes, little-endian), the index (JSON), and the tensors' bytes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import safe_open
from torch import Tensor

from ann2snn_distill.errors import BadInputError
from ann2snn_distill.interrupts import Interrupts

_LENGTH_BYTES = 8
_MAX_INDEX_BYTES = 100_000_000  # the format's own limit
_POINTER = b"version https://git-lfs"
_COPY = "copy it again from where it came"


@dataclass(frozen=True)
class TensorIndex:
    """The metadata of a file, and the shape of every tensor in it."""

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]


def named_field(place: Sequence[int | str]) -> str:
    """Return the name of a field of a file's JSON on one line, whatever characters its keys have; 200 at most."""
    return repr(".".join(str(part) for part in place)[:200])[1:-1]


def refuse_pointer(path: Path) -> None:
    """Refuse the text that stands for a file that Git LFS has not fetched.

    Raises:
        BadInputError: it is one.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise BadInputError(f"{path} is a pointer of Git LFS and not the file itself; fetch it with git lfs pull")


def read_index(path: Path) -> TensorIndex:
    """Read the index of a safetensors file without its tensors.

    Raises:
        BadInputError: the file is of another kind, truncated or damaged; each has its own text.
        OSError: it cannot be read.
    """
    refuse_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES + 1)
        length = int.from_bytes(start[:_LENGTH_BYTES], "little")
        if len(start) <= _LENGTH_BYTES or start[-1:] != b"{" or length > _MAX_INDEX_BYTES:
            raise BadInputError(f"{path} is not a safetensors file; give the student.safetensors of a run")
        end = _LENGTH_BYTES + length
        if end > size:
            raise _truncated(path, size, end)
        text = start[-1:] + file.read(length - 1)
    try:
        content = strict_json(text)
        metadata, shapes, total = _entries(content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInputError(f"{path} is damaged: its index of tensors cannot be read; {_COPY}") from error
    if end + total > size:
        raise _truncated(path, size, end + total)
    if end + total < size:
        raise BadInputError(f"{path} is damaged: {size - end - total:,} bytes too many follow its tensors; {_COPY}")
    return TensorIndex(metadata, shapes)


def read_whole(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a safetensors file, on the CPU; a signal waits until it is read.

    The library calls Python while it reads; what a signal's handler raises there comes out as a ValueError of its own.

    Raises:
        SafetensorError: the file is of another kind, truncated or damaged.
        OSError: it cannot be read.
    """
    interrupts = Interrupts()
    with interrupts.watched(), interrupts.held(), safe_open(path, framework="pt") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def strict_json(text: str | bytes) -> Any:
    """Parse JSON as the standard has it: no key twice in an object, no NaN, no infinity.

    Raises:
        ValueError: it is none, or it is nested too deeply or holds an integer too long to be read.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def tensors_digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of a text and of the names, dtypes, shapes and bytes of tensors on the CPU."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _entries(content: dict[str, Any]) -> tuple[dict[str, str], dict[str, tuple[int, ...]], int]:
    """Return metadata, shapes, and the end of the last tensor, in bytes after the index."""
    metadata = content.pop("__metadata__", {})
    if not all(isinstance(value, str) for value in metadata.values()):
        raise TypeError("metadata is text by name")
    shapes, ends = {}, [0]
    for name, entry in content.items():
        sizes, (begin, end) = entry["shape"], entry["data_offsets"]
        if not all(type(number) is int and 0 <= number < 2**63 for number in (*sizes, begin, end)):
            raise TypeError("sizes are whole numbers")
        shapes[name] = tuple(sizes)
        ends.append(end)
    return metadata, shapes, max(ends)


def _truncated(path: Path, size: int, wanted: int) -> BadInputError:
    return BadInputError(f"{path} is truncated: it ends after {size:,} of {wanted:,} bytes; {_COPY}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
