"""student.safetensors: the SNN's weights and, in the metadata, the header that rebuilds it.

The header is JSON under the metadata key `snn_distill`; reading it touches no tensor and executes nothing.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor
from typing_extensions import TypedDict

from ann2snn_distill.config.arguments import ModelKwargs
from ann2snn_distill.config.kinds import Scale
from ann2snn_distill.errors import BadInputError
from ann2snn_distill.files import write_atomically
from ann2snn_distill.tensorfile import TensorIndex, named_field, read_index, read_whole, strict_json, tensors_digest

FORMAT_VERSION = 2
"""The newest format; a file is written in the oldest that can say it, so that earlier releases read what they can."""

METADATA_KEY = "snn_distill"

CHECKSUM_KEY = "snn_distill_checksum"

_WRITE_AGAIN = "write the file again with `snn-distill convert`"

_KNOWN_KEYS = {METADATA_KEY, CHECKSUM_KEY, "format"}
"""`format` is what other writers of safetensors add."""

_Positive = Annotated[int, Field(ge=1)]
_Percent = Annotated[float, Field(ge=0, le=100)]
_Name = Annotated[str, Field(min_length=1, max_length=200)]
_Shown = Annotated[str, Field(max_length=1000)]
_Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
_Deviation = Annotated[float, Field(ge=1e-6, le=1e6)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class NeuronHeader(_Part):
    """The neuron equation and its constants."""

    name: Literal["lif", "if"]
    decay: float = Field(ge=0, le=1, description="membrane kept per timestep, unitless")
    v_init: float = Field(lt=1, description="initial membrane, in thresholds")
    reset: Literal["soft", "soft-detached", "hard"]
    surrogate_width: Scale = Field(description="width of the surrogate slope, in thresholds")


class EvaluationNumerics(_Part):
    """The numerics under which the reported accuracy was measured: spikes flip with them."""

    dtype: Literal["float32"]
    tf32: Literal[False]
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    channels_last: bool
    device_kind: str = Field(description="cpu or cuda")
    device_name: str


class TrainingSummary(TypedDict, total=False):
    """What is known of the training; other keys are for people alone."""

    __pydantic_config__ = ConfigDict(extra="allow", allow_inf_nan=False)  # type: ignore[misc]

    method: str | None
    seed: int | None
    epochs: Annotated[int, Field(ge=0)] | None
    seconds: Annotated[float, Field(ge=0)] | None
    images_per_second: Annotated[float, Field(ge=0)] | None
    peak_memory_mib: Annotated[float, Field(ge=0)] | None
    teacher_top1: Annotated[_Percent | None, Field(description="percent of the test split")]
    teacher_source: str | None
    spiking_share: Annotated[float | None, Field(ge=0, le=1, description="multiply-accumulates that spikes drive")]
    test_fingerprint: Annotated[
        str | None, Field(max_length=100, description="digest of the test split's images and labels")
    ]
    test_top1_at: Annotated[dict[str, _Percent], Field(description="percent of the test split, by timestep")]


class SnnHeader(_Part):
    """Everything but the weights that rebuilds and evaluates an SNN."""

    format_version: _Positive = 1
    model: _Name = Field(description="the teacher's timm architecture")
    student: _Name = Field(description="the student's timm architecture")
    dataset: str = Field(
        min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f]+$", description="name, or the whole path of a folder"
    )
    classes: tuple[_Shown, ...] = Field(
        min_length=1, max_length=100_000, description="names, in the order of the logits"
    )
    img_size: Annotated[int, Field(ge=1, le=1024)] = Field(description="image side, pixels")
    mean: tuple[_Mean, _Mean, _Mean] = Field(description="subtracted from pixels in 0..1, a channel")
    std: tuple[_Deviation, _Deviation, _Deviation] = Field(description="divides them, a channel")
    timesteps: Annotated[int, Field(ge=1, le=1024)]
    neuron: NeuronHeader
    cuts: tuple[_Shown, ...] = Field(description="names of the cuts between stages")
    coverage: _Name = Field(description="where neurons stand: activations or full")
    maxpool: _Name = Field(description="what became of max pooling: keep or avg")
    stem: Literal["keep", "small"] = Field(description="small: no stride before the first stage")
    model_kwargs: ModelKwargs = Field(description="keyword arguments for timm")
    thresholds: dict[str, Scale] = Field(description="firing thresholds, by the neuron's name")
    decays: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = Field(
        None, description="decays that were learnt or differ by stage, by the neuron's name; only in format 2"
    )
    evaluation: EvaluationNumerics
    versions: dict[str, str]
    training: TrainingSummary = Field(description="summary: method, epochs, accuracies, teacher")


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
    text = header.model_dump_json(exclude={"decays"} if header.decays is None else None)
    content = save(plain, metadata={METADATA_KEY: text, CHECKSUM_KEY: tensors_digest(text, plain)})
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read_header(path: Path) -> SnnHeader:
    """Read the header of an SNN checkpoint without its tensors.

    Raises:
        BadInputError: the file is missing, truncated, damaged, foreign, or of a newer version.
    """
    return read_header_and_index(path)[0]


def read_header_and_index(path: Path) -> tuple[SnnHeader, TensorIndex]:
    """Read the header, and the shapes of the tensors, without the tensors.

    Raises:
        BadInputError: as `read_header`.
    """
    try:
        index = read_index(path)
    except OSError as error:
        _refuse_unreadable(path, error)
    if METADATA_KEY not in index.metadata:
        raise BadInputError(
            f"{path} is not an SNN checkpoint: it has no snn_distill header. "
            "ANN weights go to `snn-distill convert MODEL --checkpoint FILE`; `inspect MODEL` needs none"
        )
    header = _parse(path, index.metadata[METADATA_KEY])
    unknown = sorted(index.metadata.keys() - _KNOWN_KEYS)
    if unknown:
        raise BadInputError(f"{path} is damaged: its metadata has the unknown key {unknown[0][:100]!r}; {_WRITE_AGAIN}")
    return header, index


def load_checkpoint(path: Path) -> tuple[SnnHeader, dict[str, Tensor]]:
    """Read the header and the tensors, on the CPU.

    Raises:
        BadInputError: as `read_header`, or the checksum does not match. Files of the first days have none.
    """
    header, index = read_header_and_index(path)
    try:
        _, tensors = read_whole(path)
    except OSError as error:
        _refuse_unreadable(path, error)
    except SafetensorError as error:
        raise _damaged(path) from error
    told = index.metadata.get(CHECKSUM_KEY)
    if told is not None and told != tensors_digest(index.metadata[METADATA_KEY], tensors):
        raise BadInputError(f"{path} is damaged: its checksum does not match; copy it again from where it came")
    return header, tensors


def _parse(path: Path, text: str) -> SnnHeader:
    try:
        content = strict_json(text)
    except ValueError as error:
        raise BadInputError(f"the snn_distill header of {path} is not JSON ({error}); {_WRITE_AGAIN}") from error
    if not isinstance(content, dict):
        raise BadInputError(f"the snn_distill header of {path} is not a JSON object; {_WRITE_AGAIN}")
    version = content.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BadInputError(
            f"{path} was written by a newer snn-distill "
            f"(format {version:.6g}, this one reads {FORMAT_VERSION}): upgrade with pip install -U snn-distill"
        )
    try:
        return SnnHeader.model_validate({"format_version": None, **content})
    except ValidationError as error:
        first = error.errors()[0]
        field = named_field(first["loc"])
        raise BadInputError(
            f"the snn_distill header of {path} is invalid at `{field}`: {first['msg'].lower()[:200]}; {_WRITE_AGAIN}"
        ) from error


def _damaged(path: Path) -> BadInputError:
    return BadInputError(f"{path} is damaged; copy it again, or run convert again")


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
