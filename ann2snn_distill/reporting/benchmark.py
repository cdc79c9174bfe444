"""What `bench` measures: training steps by method, timesteps and batch size."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ann2snn_distill.config.kinds import AmpDtypeName

BenchMethod = Literal["hybrid", "rate", "bptt", "ann"]

_Positive = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class StepTime(_Part):
    """One method at one T and batch size; what was not measured is null, and `failure` says why."""

    method: BenchMethod
    timesteps: _Positive | None = Field(description="null for the ANN")
    batch_size: _Positive
    milliseconds: float | None = Field(None, description="median of the timed steps")
    low: float | None = Field(None, description="their 10th percentile, milliseconds")
    high: float | None = Field(None, description="their 90th percentile, milliseconds")
    images_per_second: float | None = Field(None, description="batch size over the median")
    peak_memory_mib: float | None = Field(
        None, description="allocated on the GPU by this case, warm-up included; null on a CPU"
    )
    estimated_memory_mib: float | None = Field(None, description="what the estimate before training says")
    ratio_to_ann: float | None = Field(None, description="time over the ANN's at this batch size")
    gflop_per_image: float = Field(description="arithmetic of convolutions and linear layers, two a multiply-add")
    tflops_per_second: float | None = Field(None, description="that arithmetic over the median")
    weighted_mib_per_image: float = Field(description="least that convolutions and linear layers read and write")
    other_mib_per_image: float = Field(description="least that everything else reads and writes")
    setup_seconds: float | None = Field(None, description="building, compiling, capturing")
    failure: str | None = None


class DataTime(_Part):
    """How fast training batches come by themselves, augmented, on the device."""

    dataset: str
    batch_size: _Positive
    images: _Positive = Field(description="timed: an epoch, or what came in its first 30 seconds")
    images_per_second: float
    workers: int | None = Field(description="processes that decode; null for images that stay on the device")


class Benchmark(_Part):
    """All rows of one process, and what they depend on."""

    model: str
    img_size: _Positive
    classes: _Positive
    branches: tuple[str, ...]
    steps: _Positive = Field(description="timed steps a row, after warm-up")
    amp: bool
    amp_dtype: AmpDtypeName | None = Field(description="autocast's type; null without")
    compiled: bool
    captured: bool = Field(description="whether steps are replayed from a CUDA graph")
    device: str
    versions: dict[str, str]
    rows: tuple[StepTime, ...]
    data: tuple[DataTime, ...] = Field((), description="with --dataset, one a batch size")
