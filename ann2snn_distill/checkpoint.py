"""student.safetensors: the SNN's weights and, in the metadata, the header that rebuilds it.

The header is JSON under the metadata key `snn_distill`; reading it touches no tensor and executes nothing.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from ann2snn_distill.errors import BadInputError
from ann2snn_distill.files import write_atomically

FORMAT_VERSION = 1
METADATA_KEY = "snn_distill"

_LENGTH_BYTES = 8  # a safetensors file starts with the length of its JSON, little-endian
_MAX_JSON_BYTES = 100_000_000  # the format's own limit

_Positive = Annotated[int, Field(ge=1)]
_Scale = Annotated[float, Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class NeuronHeader(_Part):
    """The neuron equation and its constants."""

    name: Literal["lif", "if"]
    decay: float = Field(ge=0, le=1, description="membrane kept per timestep, unitless")
    v_init: float = Field(lt=1, description="initial membrane, in thresholds")
    reset: Literal["soft", "soft-detached", "hard"]
    surrogate_width: _Scale = Field(description="width of the surrogate slope, in thresholds")


class EvaluationNumerics(_Part):
    """The numerics under which the reported accuracy was measured: spikes flip with them."""

    dtype: Literal["float32"]
    tf32: Literal[False]
    batch_size: _Positive
    channels_last: bool
    device_kind: str = Field(description="cpu or cuda")
    device_name: str


class SnnHeader(_Part):
    """Everything but the weights that rebuilds and evaluates an SNN."""

    format_version: _Positive = FORMAT_VERSION
    model: str = Field(description="the teacher's timm architecture")
    student: str = Field(description="the student's timm architecture")
    dataset: str = Field(description="name, or the whole path of a folder")
    classes: tuple[str, ...] = Field(min_length=1, description="names, in the order of the logits")
    img_size: _Positive = Field(description="image side, pixels")
    mean: tuple[float, float, float] = Field(description="subtracted from pixels in 0..1, a channel")
    std: tuple[_Scale, _Scale, _Scale] = Field(description="divides them, a channel")
    timesteps: _Positive
    neuron: NeuronHeader
    cuts: tuple[str, ...] = Field(description="names of the cuts between stages")
    coverage: str = Field(description="where neurons stand: activations")
    maxpool: str = Field(description="what became of max pooling: keep or avg")
    stem: Literal["keep", "small"] = Field(description="small: no stride before the first stage")
    model_kwargs: dict[str, Any] = Field(description="keyword arguments for timm")
    thresholds: dict[str, _Scale] = Field(description="firing thresholds, by the neuron's name")
    evaluation: EvaluationNumerics
    versions: dict[str, str]
    training: dict[str, Any] = Field(description="summary: method, epochs, accuracies, teacher")


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], header: SnnHeader) -> None:
    """Write `tensors` and `header` to `path`, whole or not at all.

    Raises:
        BadInputError: the disk is full or the folder unwritable; `path` is as it was before.
    """
    plain = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    # Bytes, not save_file: its errors are not OSErrors, so a full disk would have no name.
    content = save(plain, metadata={METADATA_KEY: header.model_dump_json()})
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read_header(path: Path) -> SnnHeader:
    """Read the header of an SNN checkpoint without its tensors.

    Raises:
        BadInputError: the file is missing, damaged, foreign, or of a newer version.
    """
    try:
        _check_length(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except OSError as error:
        _refuse_unreadable(path, error)
    except SafetensorError as error:
        raise _damaged(path) from error
    if METADATA_KEY not in metadata:
        raise BadInputError(
            f"{path} is not an SNN checkpoint: it has no snn_distill header. "
            "ANN weights go to `snn-distill convert MODEL --checkpoint FILE`"
        )
    return _parse(path, metadata[METADATA_KEY])


def load_checkpoint(path: Path) -> tuple[SnnHeader, dict[str, Tensor]]:
    """Read the header and the tensors, on the CPU.

    Raises:
        BadInputError: as `read_header`.
    """
    header = read_header(path)
    try:
        return header, load_file(path)
    except OSError as error:
        _refuse_unreadable(path, error)
    except SafetensorError as error:
        raise _damaged(path) from error


def _check_length(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES + 1)
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    if len(start) <= _LENGTH_BYTES or start[-1:] != b"{" or length > _MAX_JSON_BYTES:
        raise BadInputError(f"{path} is not a safetensors file; give the student.safetensors of a run")
    if _LENGTH_BYTES + length > path.stat().st_size:
        raise _damaged(path)


def _parse(path: Path, text: str) -> SnnHeader:
    try:
        content = from_json(text)
    except ValueError as error:
        raise BadInputError(f"the snn_distill header of {path} is not JSON; write the file again") from error
    if not isinstance(content, dict):
        raise BadInputError(f"the snn_distill header of {path} is not a JSON object; write the file again")
    version = content.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BadInputError(
            f"{path} was written by a newer snn-distill "
            f"(format {version}, this one reads {FORMAT_VERSION}): upgrade with pip install -U snn-distill"
        )
    try:
        return SnnHeader.model_validate({"format_version": None, **content})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadInputError(
            f"the snn_distill header of {path} is invalid at `{field}`: {first['msg'].lower()}; "
            "write the file again with `snn-distill convert`"
        ) from error


def _damaged(path: Path) -> BadInputError:
    return BadInputError(f"{path} is truncated or damaged; copy it again, or run convert again")


def _refuse_unreadable(path: Path, error: OSError) -> NoReturn:
    if path.is_dir():
        raise BadInputError(f"{path} is a folder; give the student.safetensors in it") from error
    if not isinstance(error, FileNotFoundError):
        raise BadInputError(f"cannot read {path}: {error.strerror or error}; check its permissions") from error
    files = [file.name for file in path.parent.glob("*") if file.is_file()]
    near = get_close_matches(path.name, files) or sorted(n for n in files if n.endswith(".safetensors"))[:3]
    if near:
        way = f"near it: {', '.join(near)}"
    elif path.parent.is_dir():
        way = "its folder holds no checkpoint; give the student.safetensors of a run"
    else:
        way = f"there is no folder {path.parent} either"
    raise BadInputError(f"there is no file {path}; {way}") from error
